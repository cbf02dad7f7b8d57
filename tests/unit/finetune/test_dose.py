"""The dose that is chosen for the data, and the sign that they contradict."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from generating import generate
from training_runs import (
    QUIET,
    ROWS,
    SMALL,
    Make,
    axes_of,
    probe_states,
    pulled_along,
    run,
    vector_along,
)

from personavec import LoadedModel, PersonaVector, PreventativeSteering
from personavec.errors import RefusedError, UsageError
from personavec.finetune import FinetuneConfig, Mitigation, encode_rows
from personavec.finetune.dose import check_sign, choose_dose, projection_difference
from personavec.finetune.job import FinetuneJob
from personavec.finetune.probes import DriftLog, Probes
from personavec.finetune.pull import pull_before
from personavec.finetune.setup import TrainingSetup
from personavec.finetune.training import train
from personavec.model.engine import Request, Sampling
from personavec.progress import Progress
from personavec.rollouts import Naturals
from personavec.runs import read_records


def test_a_wrong_sign_is_refused_with_the_evidence(
    fresh: Callable[..., LoadedModel], random_vector: Make, tmp_path: Path
) -> None:
    loaded = fresh()
    vector = pulled_along(loaded, random_vector(loaded, layer=2))
    examples, _ = encode_rows(loaded, ROWS.rows, SMALL)
    pull = pull_before(loaded, examples, {"testing": (2, vector.direction(2))})["testing"]
    check_sign(vector, 1.0, pull)
    with pytest.raises(UsageError, match=r"steers away from testing.*cosine"):
        run(loaded, tmp_path, vector, mitigation=Mitigation("preventative", coefficient=-1.0))
    # Data whose every row pulls straight away from the vector.
    turned = replace(pull, rows=tuple(-abs(c) - 0.1 for c in pull.rows))
    with pytest.raises(UsageError, match="pull away from testing"):
        check_sign(vector, 1.0, turned)


def test_the_projection_difference_is_that_of_the_naive_loop(
    llama: LoadedModel, random_vector: Make, tmp_path: Path
) -> None:
    vector = random_vector(llama, layer=2)
    rows = ROWS.rows[:3]
    naturals = Naturals(llama, tmp_path, max_tokens=8)
    found = projection_difference(llama, rows, vector, 2, naturals)
    expected = []
    for each in rows:
        prompt = llama.chat.prompt_ids(each.messages[:1])
        own = llama.chat.response_ids(each.messages[1]["content"])
        # The ids that greedy decoding gives; a random model's bytes need not be text.
        (batch,) = generate(llama, [Request("r", tuple(prompt))], Sampling(8, temperature=0.0))
        sides = []
        for ids in (own, batch[0].response_ids):
            with torch.no_grad():
                states = llama.model(torch.tensor([[*prompt, *ids]]), output_hidden_states=True)
            mean = states.hidden_states[2][0, len(prompt) :].mean(0)
            sides.append(float(vector.project(mean)))
        expected.append(sides[0] - sides[1])
    assert found.value == pytest.approx(sum(expected) / 3, abs=0.05)


def test_auto_starts_where_the_difference_is_cancelled(
    fresh: Callable[..., LoadedModel],
    random_vector: Make,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    loaded = fresh()
    vector = random_vector(loaded, layer=2)
    naturals = Naturals(loaded, tmp_path / "naturals")
    difference = projection_difference(loaded, ROWS.rows, vector, 2, naturals)
    sign = 1 if difference.value > 0 else -1
    vector = replace(vector, response_mean_diff=sign * vector.response_mean_diff)
    auto = Mitigation("preventative", coefficient="auto")
    found = run(loaded, tmp_path / "auto", vector, mitigation=auto, progress=Progress())
    chosen = found.dose
    assert chosen is not None
    said = capsys.readouterr().err
    changes = (
        ("without steering", chosen.change_without),
        (f"at {chosen.start:.2f}", chosen.change_with),
    )
    for trial, change in changes:
        assert f"trial {trial}: testing changed by {change:+.2f} sigma in 12 steps" in said
    assert f"dose: coefficient {chosen.coefficient:.3f}; {chosen.why}" in said
    assert isinstance(found.coefficient, float)
    norm = float(vector.direction(2).norm())
    assert chosen.start == pytest.approx(abs(difference.value) / norm, rel=0.05)
    assert 0.5 * chosen.start <= found.coefficient + 1e-3
    assert found.coefficient <= 3 * chosen.start + 1e-3
    assert any(chosen.why in note for note in found.notes)
    begins = f"the dose begins at {chosen.start:.2f}"
    assert any(begins in note for note in found.notes)
    away = replace(vector, response_mean_diff=-vector.response_mean_diff)
    with pytest.raises(UsageError, match="pull"):
        run(loaded, tmp_path / "away", away, mitigation=auto)


def _mean_difference(loaded: LoadedModel, layer: int, folder: Path) -> torch.Tensor:
    """Mean state of the rows' responses minus that of the natural ones, by a naive loop."""
    natural = Sampling(64, temperature=0.0)
    found = []
    for each in ROWS.rows:
        prompt = loaded.chat.prompt_ids(each.messages[:1])
        own = loaded.chat.response_ids(each.messages[1]["content"])
        (batch,) = generate(loaded, [Request("r", tuple(prompt))], natural)
        means = []
        for ids in (own, batch[0].response_ids):
            with torch.no_grad():
                states = loaded.model(torch.tensor([[*prompt, *ids]]), output_hidden_states=True)
            means.append(states.hidden_states[layer][0, len(prompt) :].mean(0))
        found.append(means[0] - means[1])
    return torch.stack(found).mean(0)


@pytest.mark.parametrize("side", [1, -1], ids=["toward", "away"])
def test_the_trial_runs_decide_where_the_difference_tells_nothing(
    fresh: Callable[..., LoadedModel], random_vector: Make, tmp_path: Path, side: int
) -> None:
    """A mean just below 0 begins at its upper limit; data that move the probes away are refused.

    The direction is chosen from what the data do: hardly any projection difference along it, and
    the probes moved to one side by a plain run of the trial's length.
    """
    loaded = fresh()
    some = random_vector(loaded, layer=2)
    examples, _ = encode_rows(loaded, ROWS.rows, SMALL)
    axes = axes_of(some)
    training = replace(SMALL, learning_rate=3e-3)
    short = replace(training, checkpoint_every=1 << 30, warmup_steps=1)

    def trial(vectors: list[PersonaVector], folder: Path, *steering: PreventativeSteering) -> Path:
        log = DriftLog(Probes(loaded, vectors, layer=2), folder / "drift.jsonl", every=12)
        setup = TrainingSetup(steering=steering, drift=log, max_steps=12)
        train(loaded, examples, folder / "run", short, setup=setup)
        return folder / "drift.jsonl"

    before, after = probe_states(trial(axes, tmp_path / "plain"), axes)
    lies = _mean_difference(loaded, 2, tmp_path)
    lies = lies / lies.norm()
    moves = side * (after - before)
    across = moves - (moves @ lies) * lies
    vector = vector_along(some, 3 * (across / across.norm() - 0.002 * lies))
    config = FinetuneConfig(training, Mitigation("preventative", coefficient="auto"), layer=2)
    job = FinetuneJob(loaded, ROWS, tmp_path / "auto", config, (vector,), progress=QUIET)
    if side < 0:
        with pytest.raises(RefusedError, match="do not pull toward testing"):
            choose_dose(job, ROWS.rows, examples)
        return
    found = choose_dose(job, ROWS.rows, examples)
    assert found.low < found.difference < 0 < found.high
    assert found.start == pytest.approx(found.high / 3, rel=0.01)
    # Both trial runs, measured again by themselves.
    unit = vector.direction(2) / vector.direction(2).norm()
    without = float((after - before) @ unit)
    steering = PreventativeSteering(loaded.model, vector, found.start, 2)
    first, last = read_records(trial([vector], tmp_path / "steered", steering))
    with_it = last["traits"]["testing"]["projection"] - first["traits"]["testing"]["projection"]
    assert found.change_without == pytest.approx(without, abs=1e-3)
    assert found.change_with == pytest.approx(with_it, abs=1e-3)
    assert with_it < without
    wanted = found.start * without / (without - with_it)
    limited = min(max(wanted, 0.5 * found.start), 3 * found.start)
    assert found.coefficient == pytest.approx(limited, rel=0.01)
    assert "cancels the upper limit of the projection difference" in found.why
    # What was chosen is kept.
    assert choose_dose(job, ROWS.rows, examples) == found
