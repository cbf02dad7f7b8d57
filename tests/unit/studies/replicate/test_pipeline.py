"""A tiny random model goes through every stage; what is finished is not done again."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from small_study import inputs, study, write_options
from tiny_models import saved

from personavec import LoadedModel, load_model
from personavec.cli.main import main
from personavec.errors import SettingsMismatchError
from personavec.results import read
from personavec.studies.replicate import ReplicateResults, Selection, run, spreading
from personavec.studies.replicate.evidence import fits
from personavec.studies.replicate.stage import manifests
from personavec.studies.replicate.stages import STAGES, extraction, finetunes, monitoring
from personavec.studies.replicate.stages.naturals import NaturalsResult

NAMES = [stage.name for stage in STAGES]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model on disk."""
    made = tmp_path_factory.mktemp("model")
    saved(made)
    return made


@pytest.fixture(scope="module")
def base(folder: Path) -> LoadedModel:
    return load_model(str(folder), dtype="float32")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evidence")


@pytest.fixture(scope="module")
def made(
    folder: Path, data: Path, evidence: Path, tmp_path_factory: pytest.TempPathFactory
) -> ReplicateResults:
    """A whole study at the paper's scale, of which a file of options cuts every size."""
    out = tmp_path_factory.mktemp("study")
    sources = inputs(data).sources
    given = {
        "--model": folder,
        "--dtype": "float32",
        "--scale": "paper",
        "--config": write_options(data / "sizes.toml"),
        "--chats": sources.chats,
        "--dialogues": sources.dialogues,
        "--evidence": evidence,
        "--out": out,
    }
    with pytest.raises(SystemExit) as ended:
        main(["replicate", *(str(word) for pair in given.items() for word in pair)])
    assert not ended.value.code
    return read(ReplicateResults, out / "results.json")


def states(found: ReplicateResults) -> dict[str, str]:
    return {own.name: own.state for own in found.stages}


def test_every_stage_finishes_and_leaves_its_tables(made: ReplicateResults) -> None:
    assert [(own.name, own.state, own.why) for own in made.stages] == [
        (name, "finished", None) for name in NAMES
    ]
    for stage in STAGES:
        folder = made.out / stage.name
        assert read(stage.result, folder / "results.json").stage == stage.name
        assert list(folder.glob("*.csv"))
    assert (made.out / "report.html").read_text("utf-8").count("statement-") >= 9
    assert made.settings.scale == "paper"


def test_every_statement_is_decided_by_its_stage(made: ReplicateResults) -> None:
    assert [own.number for own in made.statements] == list(range(1, 10))
    measured = {own.number for own in made.statements if own.outcome != "not run"}
    # With one set for each kind there is no correlation over sets.
    assert measured >= {1, 2, 3, 7, 8, 9}


def test_scoring_finds_the_natural_responses_that_were_made_before(
    made: ReplicateResults, base: LoadedModel, data: Path
) -> None:
    found = read(NaturalsResult, made.out / "naturals" / "results.json")
    chats = next(own for own in found.sources if own.source == "chats")
    given = inputs(data)
    kept = study(base, given, made.out).naturals(given.config.real_tokens).kept
    assert kept == chats.answered == chats.prompts


def test_tables_hold_what_the_results_hold(made: ReplicateResults) -> None:
    found = json.loads((made.out / "expression" / "results.json").read_text("utf-8"))
    with (made.out / "expression" / "expressed.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["model"] for row in rows] == [own["model"] for own in found["expressed"]]
    assert float(rows[-1]["expression_low"]) == found["expressed"][-1]["expression"]["low"]


def test_a_finished_study_runs_nothing_again(
    made: ReplicateResults, base: LoadedModel, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = counted(monkeypatch)
    again = run(study(base, inputs(data), made.out))
    assert not ran
    assert again.statements == made.statements


def test_a_fresh_folder_takes_the_evidence(
    made: ReplicateResults,
    base: LoadedModel,
    data: Path,
    evidence: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where stages are missing from it, whose files are then made from what is kept.

    The rows of flawed sets, of which some are the user's, are made again from their source.
    """
    assert not list(evidence.rglob("flawed"))
    ran = counted(monkeypatch)
    whole = run(study(base, inputs(data), tmp_path / "whole"), Selection(evidence=evidence))
    assert not ran
    assert set(states(whole).values()) == {"from evidence"}
    assert whole.statements == made.statements

    part = tmp_path / "part"
    shutil.copytree(evidence, part)
    for name in ("expression", "mitigation"):
        shutil.rmtree(part / name)
    for vector in part.glob("extraction/*/vector.safetensors"):
        vector.unlink()
    ran.clear()
    rest = run(
        study(base, inputs(data), tmp_path / "rest"),
        Selection(evidence=part, skip=("mitigation",)),
    )
    # The finetuned models are not kept, and the vectors are not there.
    assert set(ran) == {"extraction", "finetunes", "expression"}
    assert states(rest)["mitigation"] == "not run"
    assert statement(rest, 3) == statement(made, 3)
    assert statement(rest, 1) == statement(made, 1)
    assert (part / "expression" / "expressed.csv").is_file()


def test_evidence_of_other_settings_does_not_count(
    made: ReplicateResults, base: LoadedModel, data: Path, evidence: Path, tmp_path: Path
) -> None:
    given = inputs(data, answer_tokens=5)
    shared = json.loads((evidence / "naturals" / "manifest.json").read_text("utf-8"))
    own = manifests(STAGES, given, {"model": shared["model"], "judge": shared["judge"]})
    assert not any(fits(evidence / name, own[name]) for name in NAMES)
    same = manifests(STAGES, inputs(data), {"model": shared["model"], "judge": shared["judge"]})
    assert all(fits(evidence / name, same[name]) for name in NAMES)
    with pytest.raises(SettingsMismatchError, match="answer_tokens"):
        run(study(base, given, made.out))


def test_evidence_names_a_model_on_disk_without_its_folder(
    made: ReplicateResults, folder: Path, evidence: Path
) -> None:
    """Evidence is published; where a user keeps models is nobody's business."""
    vectors = list(evidence.glob("extraction/*/vector.json"))
    assert vectors
    for path in vectors:
        inside = made.out / path.relative_to(evidence)
        assert json.loads(inside.read_text("utf-8"))["model"]["name"] == str(folder)
        assert json.loads(path.read_text("utf-8"))["model"]["name"] == folder.name
    files = [p for p in evidence.rglob("*") if p.suffix in (".json", ".jsonl", ".csv", ".svg")]
    assert not any(str(folder) in path.read_text("utf-8") for path in files)


def test_a_preset_is_known_by_its_sizes(data: Path) -> None:
    """Evidence of a preset must not count for one of that name with other sizes."""
    given = inputs(data)
    own = manifests(STAGES, given, {})
    for stage, verb, config in (
        ("extraction", "extract", extraction.extract_config(given.config)),
        ("monitoring", "calibrate", monitoring.calibrate_config(given.config)),
    ):
        sizes = own[stage]["settings"][verb]
        assert set(sizes) == set(vars(config)) - {"preset", "batch_tokens"}
        assert sizes["neutral_prompts"] == config.neutral_prompts
    other = manifests(STAGES, inputs(data, extraction_preset="standard"), {})
    assert other["extraction"] != own["extraction"]
    assert other["rows"]["needs"] != own["rows"]["needs"]


def test_only_runs_what_it_needs_and_skip_says_what_is_missing(
    base: LoadedModel, tmp_path: Path
) -> None:
    given = inputs(None, flawed=("sums", "no such"))
    found = run(study(base, given, tmp_path), Selection(only=("finetunes",), skip=("sets",)))
    assert set(states(found).values()) == {"not run"}
    assert next(o.why for o in found.stages if o.name == "finetunes") == (
        "it needs the stage finetuning sets"
    )
    assert {own.outcome for own in found.statements} == {"not run"}

    chosen = Selection(only=("sets", "real"), skip=("naturals", "extraction"))
    sets = run(study(base, given, tmp_path), chosen)
    assert states(sets)["sets"] == "finished"
    assert any("no set of narrow flaws is called no such" in why for why in sets.not_done)
    assert any("--chats" in why for why in sets.not_done)


def test_a_killed_study_goes_on(
    made: ReplicateResults,
    base: LoadedModel,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed within a stage; what it had trained is not trained again."""
    out = tmp_path / "killed"
    for name in ("naturals", "extraction", "monitoring", "sets", "rows", "finetunes"):
        shutil.copytree(made.out / name, out / name)
    (out / "finetunes" / "results.json").unlink()
    for left in sorted((out / "finetunes").glob("*-seed1")):
        shutil.rmtree(left)
    trained: list[str] = []
    finetune = spreading.finetune

    def counting(loaded: LoadedModel, rows: Any, folder: Path, *more: Any, **named: Any) -> Any:
        if not (folder / "results.json").exists():
            trained.append(folder.name)
        return finetune(loaded, rows, folder, *more, **named)

    monkeypatch.setattr(spreading, "finetune", counting)
    found = run(study(base, inputs(data), out), Selection(only=("finetunes",)))
    assert trained
    assert all(name.endswith("-seed1") for name in trained)
    assert states(found)["finetunes"] == "finished"
    before = read(finetunes.FinetunesResult, made.out / "finetunes" / "results.json")
    after = read(finetunes.FinetunesResult, out / "finetunes" / "results.json")
    assert [m.loss for m in after.models] == pytest.approx([m.loss for m in before.models])


def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts the stages that run."""
    ran: Counter[str] = Counter()
    for stage in STAGES:
        # A stage is frozen, and what it runs is what is replaced.
        def counting(of: Any, stage: Any = stage, own: Any = stage.run) -> Any:
            ran[stage.name] += 1
            return own(of)

        monkeypatch.setitem(stage.__dict__, "run", counting)
    return ran


def statement(found: ReplicateResults, number: int) -> Any:
    return found.statements[number - 1]
