"""Next-token logits of llama.cpp under control vectors; run by test_llamacpp.py in an own venv.

Reads one JSON object from stdin: `model`, a GGUF file; `prompts`, lists of token ids; `vectors`,
control-vector files. Writes to the .npy named on the command line: [1 + vector, prompt, token] in
float32, without steering first.
"""

import ctypes
import json
import sys
from collections.abc import Sequence

import llama_cpp
import numpy as np
from gguf import GGUFReader


def rows_of(path: str, n_layers: int, hidden_size: int) -> np.ndarray:
    """A file's directions as llama.cpp's own loader lays them out: `direction.N` in row N - 1."""
    rows = np.zeros((n_layers - 1, hidden_size), dtype=np.float32)
    for tensor in GGUFReader(path).tensors:
        name, number = tensor.name.split(".")
        assert name == "direction"
        rows[int(number) - 1] += tensor.data
    return rows


def next_token_logits(llama: llama_cpp.Llama, prompt: Sequence[int]) -> np.ndarray:
    """Logits [token] after a prompt, from an empty cache."""
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(llama.ctx), True)
    ids = (llama_cpp.llama_token * len(prompt))(*prompt)
    failed = llama_cpp.llama_decode(llama.ctx, llama_cpp.llama_batch_get_one(ids, len(prompt)))
    assert failed == 0
    logits = llama_cpp.llama_get_logits_ith(llama.ctx, -1)
    return np.ctypeslib.as_array(logits, shape=(llama.n_vocab(),)).copy()


def main() -> None:
    request = json.load(sys.stdin)
    llama = llama_cpp.Llama(request["model"], n_ctx=512, n_threads=2, verbose=False)
    n_layers = llama_cpp.llama_model_n_layer(llama.model)
    found = []
    for path in [None, *request["vectors"]]:
        if path is not None:
            rows = rows_of(path, n_layers, llama.n_embd())
            pointer = rows.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            failed = llama_cpp.llama_set_adapter_cvec(
                llama.ctx, pointer, rows.size, rows.shape[1], 1, n_layers
            )
            assert failed == 0
        found.append([next_token_logits(llama, prompt) for prompt in request["prompts"]])
    np.save(sys.argv[1], np.array(found, dtype=np.float32))


if __name__ == "__main__":
    main()
