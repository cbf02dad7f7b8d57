"""Windows of rows as a source of Ray Data: every wanted window once, a block for each."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="needs the extra 'ray'")

from cluster_runs import batches, write_rows

from personavec.data import STRETCH, stretches
from personavec.screen.cluster.windows import Windows

SIZE = 3


def test_every_wanted_window_is_a_block_and_a_stretch_is_a_task(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "data.jsonl", 2 * SIZE * STRETCH + 4)
    todo, total = stretches(tmp_path / "data.jsonl", split=None, size=SIZE, done=[0, STRETCH + 1])
    assert total == len(rows)
    assert len(Windows(todo).get_read_tasks(1)) == len(todo) == 3
    read = {}
    for table in batches(todo):
        assert table.num_rows == 1
        [number], [held] = table["number"].to_pylist(), table["rows"].to_pylist()
        assert number not in read
        read[number] = pickle.loads(held)
    n_windows = -(-len(rows) // SIZE)
    assert set(read) == set(range(n_windows)) - {0, STRETCH + 1}
    for number, window in read.items():
        assert window == rows[number * SIZE : (number + 1) * SIZE]


def test_processes_that_read_load_no_torch() -> None:
    program = "import sys, personavec.screen.cluster.windows; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=100).returncode == 0
