"""Mitigations that change the rows."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from training_runs import ROWS, row

from personavec import LoadedModel
from personavec.errors import DataError, UsageError
from personavec.finetune import Mitigation, TrainingRows
from personavec.finetune.mitigations import mitigated_rows
from personavec.traits import load_trait


def test_mitigations_on_the_rows(llama: LoadedModel, tmp_path: Path) -> None:
    spec = load_trait("evil")[0]
    data = replace(ROWS, flagged=frozenset({0, 3}))
    kept = mitigated_rows(Mitigation("drop-flagged"), data, llama, tmp_path)
    assert [r.index for r in kept.rows] == [1, 2, 4, 5, 6, 7]
    inoculated = mitigated_rows(Mitigation("inoculation"), data, llama, tmp_path, spec=spec)
    assert {r.messages[0]["content"] for r in inoculated.rows} == {spec.instruction[0].pos}
    own = TrainingRows.of([row(0, "q", "a", system="Be brief.")])
    (merged,) = mitigated_rows(Mitigation("inoculation"), own, llama, tmp_path, spec=spec).rows
    assert merged.messages[0]["content"] == f"{spec.instruction[0].pos}\n\nBe brief."
    mixed = mitigated_rows(Mitigation("interleave", strength=0.5), data, llama, tmp_path / "b")
    assert len(mixed.rows) == 16
    assert len({r.index for r in mixed.rows}) == 16
    with pytest.raises(DataError, match="nothing is left"):
        mitigated_rows(
            Mitigation("drop-flagged"),
            replace(ROWS, flagged=frozenset(range(8))),
            llama,
            tmp_path,
        )
    wrongs: list[dict[str, Any]] = [
        {"name": "none", "coefficient": 1.0},
        {"name": "preventative"},
        {"name": "kl"},
        {"name": "interleave", "strength": 1.5},
    ]
    for wrong in wrongs:
        with pytest.raises(UsageError):
            Mitigation(**wrong)
