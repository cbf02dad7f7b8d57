"""Memory does not grow with the number of lengths that texts come in."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from personavec import LoadedModel

#: Prints the process's anonymous memory in MiB after 50 lengths of text, and after 150 more.
READS_MANY_LENGTHS = """
import sys
from pathlib import Path

import numpy as np
import torch

from personavec import load_model
from personavec.model.projecting import Directions, project_tokens

torch.set_num_threads(1)
loaded = load_model(sys.argv[1], dtype="bfloat16", device="cpu")
along = Directions((1,), torch.eye(1, loaded.identity.hidden_size))
for length in range(1, 201):
    project_tokens(loaded.model, [np.zeros(length, np.int32)], along)
    if length in (50, 200):
        status = Path("/proc/self/status").read_text()
        print(int(status.partition("RssAnon:")[2].split()[0]) // 1024)
"""


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or not torch.ops.mkldnn._is_mkldnn_bf16_supported(),
    reason="kernels are compiled for every shape where the processor has bfloat16",
)
def test_texts_of_ever_other_lengths_take_no_more_memory(
    fresh: Callable[..., LoadedModel], tmp_path: Path
) -> None:
    """Unbounded, kernels of 150 more lengths take hundreds of MiB even in so small a model."""
    made = fresh("llama")
    made.model.save_pretrained(tmp_path)
    made.tokenizer.save_pretrained(tmp_path)
    command = [sys.executable, "-c", READS_MANY_LENGTHS, str(tmp_path)]
    ran = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    few, many = map(int, ran.stdout.split())
    assert many - few < 60
