"""What data say against what training does: correlations, parts, and one tiny study."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny_models import rollout, saved, tiny_spec

from personavec import LoadedModel, PersonaVector
from personavec.data import DataRow
from personavec.errors import DataError, UsageError
from personavec.finetune import TrainingConfig, TrainingRows
from personavec.model import chat
from personavec.progress import Progress
from personavec.results import dump
from personavec.studies import Measured
from personavec.studies.predict import (
    PredictionConfig,
    PredictionDataset,
    PredictionRecord,
    PredictionResults,
    run,
    run_parts,
)
from personavec.studies.predict.parts import parts
from personavec.studies.predict.pipeline import prediction_record
from personavec.studies.predict.row_scores import RowPredictors, RowScores

QUIET = Progress(quiet=True)
CONFIG = PredictionConfig(
    # More than one step: the first of a warmup has a learning rate of 0.
    training=TrainingConfig(rank=2, alpha=4, learning_rate=1e-2, epochs=3, batch=4, accumulation=1),
    questions=3,
    max_tokens=4,
)
SPEC = tiny_spec(evaluation=3)


def row(number: int, answer: str) -> DataRow:
    messages = (*chat(f"Ask {number}?"), {"role": "assistant", "content": answer})
    return DataRow(number, str(number), messages)


def scores(number: int, difference: float | None, judge: float = 0.0) -> RowScores:
    own = RowPredictors(projection_difference=difference, projection=0.0, judge=judge, length=1.0)
    return RowScores(row=str(number), reason=None, traits={"testing": own})


def test_parts_are_the_ends_of_a_mixed_set() -> None:
    rows = [row(n, "So.") for n in range(12)]
    differences = [scores(n, float(n), judge=float(n % 2)) for n in range(11)]
    differences.append(scores(11, None))
    found = parts(rows, differences, "testing", 3, seed=1)
    assert [r.id for r in found["high"]] == ["8", "9", "10"]
    assert [r.id for r in found["low"]] == ["0", "1", "2"]
    assert len({r.id for r in found["random"]}) == 3
    kept = parts(rows, differences, "testing", 3, judged_below=0.5)
    assert [r.id for r in kept["high"]] == ["6", "8", "10"]
    with pytest.raises(DataError, match="usable rows"):
        parts(rows, differences, "testing", 6)


def test_a_study_runs_from_rows_to_correlations(
    random_vector: Callable[..., PersonaVector],
    tmp_path: Path,
) -> None:
    base = saved(tmp_path / "base")
    vector = random_vector(base, layer=2)
    datasets = [
        PredictionDataset(name, TrainingRows.of([row(n, f"{name} {n}") for n in range(4)]), trait)
        for name, trait in (("yes", "testing"), ("maybe", "testing"), ("other", None))
    ]
    found = run(base, datasets, [vector], [SPEC], tmp_path / "out", CONFIG, progress=QUIET)
    assert [r.dataset for r in found.records] == ["yes", "maybe", "other"]
    assert all(r.shift != 0 and r.rows == 4 for r in found.records)
    kept = json.loads((tmp_path / "out" / "results.json").read_text("utf-8"))
    assert kept == json.loads(json.dumps(dump(found)))
    assert kept["format"] == PredictionResults.format
    again = run(base, datasets, [vector], [SPEC], tmp_path / "out", CONFIG, progress=QUIET)
    assert again.records == found.records
    with pytest.raises(UsageError, match="at least 3"):
        run(base, datasets[:2], [vector], [SPEC], tmp_path / "no", CONFIG, progress=QUIET)


def _measured(log_odds: np.ndarray, projections: np.ndarray) -> Measured:
    answers = tuple(
        rollout(
            f"testing-plain-q{number}-s0",
            f"{number}?",
            state="scored",
            log_odds=float(value),
            trait_score=50.0,
            coherence=90.0,
        )
        for number, value in enumerate(log_odds)
    )
    return Measured(answers, {"testing": projections.tolist()}, [], [], None)


def test_the_base_is_a_sample_too(
    llama: LoadedModel, random_vector: Callable[..., PersonaVector]
) -> None:
    """A finetune that adds 1 to whatever the base gives has no uncertainty; one whose answers have
    nothing to do with the base's has that of both."""
    rng = np.random.default_rng(0)
    vector = random_vector(llama)
    base, other, place = rng.normal(0, 3, 40), rng.normal(0, 3, 40), rng.normal(size=40)
    dataset = PredictionDataset("some", TrainingRows.of([]), "testing")

    def measured(after: np.ndarray, moved: np.ndarray) -> PredictionRecord:
        cells = _measured(after, moved), _measured(base, place)
        return prediction_record(dataset, [], *cells, vector, 0)

    same = measured(base + 1, place + 2)
    for name, by in (("expression", 1.0), ("shift", 2.0)):
        bounds = [getattr(same, f"{name}{end}") for end in ("", "_low", "_high")]
        assert bounds == pytest.approx([by] * 3)
    found = measured(other, place)
    assert found.expression_high is not None
    assert found.expression_low is not None
    width = found.expression_high - found.expression_low
    assert width == pytest.approx(2 * 1.96 * np.std(other - base) / 40**0.5, rel=0.1)
    assert width > 1.25 * 2 * 1.96 * np.std(other) / 40**0.5


def test_the_parts_of_a_set_are_finetuned_on_apart(
    random_vector: Callable[..., PersonaVector],
    tmp_path: Path,
) -> None:
    """From all rows; parts of what the judge leaves are too small here, and that is said."""
    base = saved(tmp_path / "base")
    data = TrainingRows.of([row(n, f"{n} is {n * n}.") for n in range(36)])
    vector = random_vector(base, layer=2)
    found = run_parts(base, data, vector, SPEC, tmp_path / "out", CONFIG, progress=QUIET)
    whole = {each.part: each for each in found.parts if each.rows == "all"}
    assert [whole[part].n for part in ("high", "random", "low")] == [12, 12, 12]
    high, drawn, low = (whole[p].projection_difference for p in ("high", "random", "low"))
    assert high > drawn > low
    assert all(each.expression.log_odds is not None for each in found.parts)
    left = len(found.parts) - 3
    assert (left == 3) == (not found.notes)
    again = run_parts(base, data, vector, SPEC, tmp_path / "out", CONFIG, progress=QUIET)
    assert again.parts == found.parts
