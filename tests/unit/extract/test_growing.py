"""`extract --more`: rollouts are added to a finished run, which keeps what it has."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from small_extraction import CONFIG, SPEC

from personavec import ExtractConfig, LoadedModel
from personavec.errors import SettingsMismatchError, TooFewRolloutsError, UsageError
from personavec.extract import ExtractResults, pipeline, questions_to_judge
from personavec.progress import Progress
from personavec.rollouts import Rollout, iter_rollouts
from personavec.runs import recorded

PER_SAMPLE = 2 * 2 * 6  # polarities, pairs, questions
Run = Callable[..., ExtractResults]


@pytest.fixture
def run(llama: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`pipeline.run` into one folder, where every response is coherent and few are enough."""
    monkeypatch.setattr(
        "personavec.judges.coherence_model.CoherenceModel.coherence", lambda *_: 90.0
    )
    for module in ("extraction", "growing"):
        monkeypatch.setattr(f"personavec.extract.{module}.MIN_KEPT", 1)

    def run(more: int | None = None, config: ExtractConfig = CONFIG) -> ExtractResults:
        return pipeline.run(llama, SPEC, tmp_path, config, more=more, progress=Progress(quiet=True))

    return run


def generated(folder: Path, stage: str) -> list[Rollout]:
    return list(iter_rollouts(folder / "run" / stage / "generated.jsonl"))


def test_a_run_grows_by_whole_samples_and_keeps_what_it_has(run: Run, tmp_path: Path) -> None:
    few = run()
    before = generated(tmp_path, "extraction")
    assert len(before) == PER_SAMPLE
    swept = generated(tmp_path, "layer-sweep")
    more = run(PER_SAMPLE + 1)
    after = generated(tmp_path, "extraction")
    assert after[:PER_SAMPLE] == before, "nothing that was there is generated again"
    assert len(after) == 3 * PER_SAMPLE, "whole samples: two for one rollout more than one has"
    assert len({rollout.id for rollout in after}) == len(after)
    assert more.settings == replace(CONFIG, samples=3)
    assert sum(counts.of for counts in more.rollouts.values()) == 3 * PER_SAMPLE
    assert any("--more" in note for note in more.notes)
    assert not any("--more" in note for note in few.notes)
    # The vector is another one, so what is steered by it is generated anew.
    assert generated(tmp_path, "layer-sweep") == swept
    again = generated(tmp_path, "added-2/layer-sweep")
    assert [r.id for r in again] == [r.id for r in swept]
    assert more.split_half_cosine != few.split_half_cosine
    # What is not steered stays.
    assert not (tmp_path / "run" / "added-2" / "system-prompts").exists()


def test_all_that_a_grown_run_has_is_what_a_larger_one_has(
    run: Run, llama: LoadedModel, tmp_path: Path
) -> None:
    run()
    grown = run(1)
    whole = pipeline.run(
        llama,
        SPEC,
        tmp_path / "whole",
        replace(CONFIG, samples=2),
        progress=Progress(quiet=True),
    )
    assert grown.split_half_cosine == whole.split_half_cosine
    assert [d.log_odds for d in grown.dose_response] == pytest.approx(
        [d.log_odds for d in whole.dose_response], abs=1e-3
    )
    assert grown.settings == whole.settings


def test_the_same_command_without_more_finds_the_grown_run_done(run: Run, tmp_path: Path) -> None:
    run()
    grown = run(1)
    n = len(generated(tmp_path, "extraction"))
    assert run().settings == grown.settings
    assert len(generated(tmp_path, "extraction")) == n


def test_adding_that_was_stopped_goes_on_and_adds_nothing_twice(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run()
    with monkeypatch.context() as patched:

        def stop(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        patched.setattr("personavec.extract.pipeline.sweep_layers", stop)
        with pytest.raises(KeyboardInterrupt):
            run(1)
    assert json.loads((tmp_path / "results.json").read_text("utf-8"))["settings"]["samples"] == 1
    assert run(1).settings.samples == 2
    assert run(1).settings.samples == 3
    assert (recorded(tmp_path) or {})["added_samples"] == 2


def test_a_run_that_kept_too_few_can_be_added_to(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("extraction", "growing"):
        monkeypatch.setattr(f"personavec.extract.{module}.MIN_KEPT", PER_SAMPLE)
    with pytest.raises(TooFewRolloutsError, match="add rollouts with --more"):
        run()
    assert not (tmp_path / "results.json").exists()
    with pytest.raises(TooFewRolloutsError):
        run(1)
    assert len(generated(tmp_path, "extraction")) == 2 * PER_SAMPLE


def test_what_cannot_be_added_to_is_one_line(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="holds no extraction to add rollouts to"):
        run(1)
    assert not (tmp_path / "manifest.json").exists()
    with monkeypatch.context() as patched:
        patched.setattr("personavec.extract.pipeline.select", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run()
    with pytest.raises(UsageError, match="has not finished; run it without --more first"):
        run(1)
    run()
    with pytest.raises(SettingsMismatchError, match=r"config\.seed was 0, now 1"):
        run(1, replace(CONFIG, seed=1))
    assert (recorded(tmp_path) or {}).get("added_samples") is None


def test_an_estimate_counts_what_would_be_added() -> None:
    assert len(questions_to_judge(SPEC, CONFIG)) == PER_SAMPLE
    assert len(questions_to_judge(SPEC, CONFIG, 1)) == PER_SAMPLE
    assert len(questions_to_judge(SPEC, CONFIG, PER_SAMPLE + 1)) == 2 * PER_SAMPLE
