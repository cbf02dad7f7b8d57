"""What the stages of `make bundle` copy and write, from runs' folders into a copy of what ships."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import results_extractions
import unbundled
from bundle_stages import PAGE, ROOT, STAGES, Run, copy
from results_monitoring import forecasts
from results_page import section
from stamps import BUNDLED
from trait_specs import NAMES

from personavec import LoadedModel, load_trait, results
from personavec.errors import DataError
from personavec.extract import ExtractConfig, run as extract
from personavec.judges import CheckResults, ContrastJudge, known_answers
from personavec.judges.thresholds import FORMAT
from personavec.monitor.results import ConversationShare, FittedLimits
from personavec.progress import Progress
from personavec.vectors import load_vector

CHECKED = "The contrast judge on answers whose verdict is known"
SHIP = {stage.name: stage.ship for stage in STAGES}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A copy of what ships, and an output folder."""
    root = tmp_path / "root"
    shutil.copytree(ROOT / BUNDLED, root / BUNDLED)
    (root / "docs").mkdir()
    shutil.copyfile(ROOT / PAGE, root / PAGE)
    return Run(tmp_path / "out", root=root)


def page(run: Run, title: str) -> str:
    return section((run.root / PAGE).read_text("utf-8"), title) or ""


def test_calibrations_ship_with_their_section(run: Run) -> None:
    for trait in NAMES:
        there = run.vectors / trait / "calibration.json"
        record = json.loads(there.read_text("utf-8"))
        record["results"]["coverage"]["value"] = 7.654
        there.unlink()
        place = run.out / "calibrations" / trait / "calibration.json"
        place.parent.mkdir(parents=True)
        place.write_text(json.dumps(record))
    rest = (run.root / PAGE).read_text("utf-8").split("### False alarms")[1]
    names = SHIP["calibrations"](run)
    assert names[:-1] == [f"{BUNDLED}/vectors/{trait}/calibration.json" for trait in NAMES]
    assert names[-1] == f"{PAGE}#The prompt forecasts the answer"
    for trait in NAMES:
        assert load_vector(run.vectors / trait).calibration is not None
    assert page(run, "The prompt forecasts the answer").count("| 7.65 (") == len(NAMES)
    assert (run.root / PAGE).read_text("utf-8").split("### False alarms")[1] == rest


def test_a_calibration_of_another_vector_does_not_ship(run: Run) -> None:
    for trait in NAMES:
        copy(run.vectors / trait / "calibration.json", run.out / "calibrations" / trait / "c.json")
        source = run.out / "calibrations" / trait / "c.json"
        record = json.loads(source.read_text("utf-8")) | {"vector": "0" * 16}
        source.with_name("calibration.json").write_text(json.dumps(record))
    with pytest.raises(DataError, match="was measured of another vector"):
        SHIP["calibrations"](run)


def test_what_the_section_on_forecasts_says_follows_from_its_figures() -> None:
    found = [
        json.loads((ROOT / BUNDLED / "vectors" / trait / "calibration.json").read_text("utf-8"))
        for trait in NAMES
    ]
    for record, low in zip(found, (0.2, -0.2, 0.2, -0.1, 0.2, 0.2, 0.2), strict=True):
        record["results"]["correlations"]["all"]["overall"]["low"] = low
        record["results"]["correlations"]["all"]["within"]["low"] = -0.1
    said = " ".join(forecasts(found).split("How it reads.")[1].split())
    assert "apathetic, hallucinating, impolite, optimistic, sycophantic;" in said
    assert "for no trait." in said


def test_limits_ship_with_their_section(run: Run) -> None:
    shares = {trait: ConversationShare.counted([True, *[False] * 9]) for trait in NAMES}
    limits = FittedLimits(
        fitted_on=10, tested_on=10, any=shares["evil"], traits=shares,
        server_alarms=dict.fromkeys(NAMES, 3), server_turns=77, folder="limits",
    )  # fmt: skip
    (run.out / "monitor-ordinary").mkdir(parents=True)
    written = {"limits": results.dump(limits)}
    (run.out / "monitor-ordinary" / "results.json").write_text(json.dumps(written))
    for trait in NAMES:
        shipped = run.vectors / trait / "drift.json"
        copy(shipped, run.out / "limits" / trait / "drift.json")
        shipped.unlink()
    assert len(SHIP["limits"](run)) == len(NAMES) + 1
    assert load_vector(run.vectors / "evil").ordinary is not None
    rows = [line for line in page(run, "False alarms").splitlines() if line.startswith("| evil")]
    assert rows == ["| evil | 10.0% (0.3% to 44.5%) | 1 of 10 | 3 |"]


def test_thresholds_ship_with_their_section(
    run: Run, llama: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    traits = ["evil", "humorous"]
    monkeypatch.setattr("bundle_stages.bundled_traits", lambda: traits)
    for trait in traits:
        spec, _ = load_trait(trait)
        few = spec.model_copy(update={"checks": (*spec.checks[:8], *spec.checks[-8:])})
        found = known_answers.run(ContrastJudge(llama), few)
        results.write(run.out / "checks" / f"{trait}.json", found)
    SHIP["checks"](run)
    shipped = json.loads((run.root / BUNDLED / "thresholds.json").read_text("utf-8"))
    assert shipped["format"] == FORMAT
    fitted = {each["trait"]: each for each in shipped["thresholds"]}
    for trait in traits:
        threshold = results.read(CheckResults, run.out / "checks" / f"{trait}.json").threshold
        row = re.findall(rf"^\| {trait} \|.*", page(run, CHECKED), re.MULTILINE)
        assert len(row) == 1
        if threshold is None:
            assert trait not in fitted
            assert "not fitted" in row[0]
        else:
            assert fitted[trait]["threshold"]["trait_score"] == threshold.trait_score
            assert fitted[trait]["judge_pairs"] == load_trait(trait)[0].judge_hash
            assert f"| {threshold.trait_score:.1f} |" in row[0]


def test_vectors_ship_without_the_measurements_of_those_before(
    run: Run, llama: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("personavec.extract.extraction.MIN_KEPT", 1)
    monkeypatch.setattr("bundle_stages.bundled_traits", lambda: ["evil"])
    config = ExtractConfig(
        max_tokens=4, layers=(2,), coefficients=(-1, 0, 1), sweep_coefficients=(1,),
        sweep_questions=2, random_directions=1, neutral_prompts=4, pairs=1, judge_pairs=1,
        questions=4, validation_questions=2, trait_threshold=50, coherence_floor=0,
    )  # fmt: skip
    found = run.out / "vectors" / "evil"
    extract(llama, load_trait("evil")[0], found, config, progress=Progress(quiet=True))
    names = SHIP["vectors"](run)
    there = run.vectors / "evil"
    assert {path.name for path in there.iterdir()} == {"vector.json", "vector.safetensors"}
    assert load_vector(there).hash == load_vector(found).hash
    assert names == [
        f"{BUNDLED}/vectors/evil/vector.safetensors",
        f"{BUNDLED}/vectors/evil/vector.json",
        f"{PAGE}#Bundled traits",
    ]
    told = page(run, "Bundled traits")
    assert re.search(r"^\| evil \| 2 \| ", told, re.MULTILINE)
    assert "### evil" in told
    assert "### humorous" not in told
    # The same vector again takes nothing away.
    copy(ROOT / PAGE, there / "calibration.json")
    record = {"vector": load_vector(found).hash}
    (there / "calibration.json").write_text(json.dumps(record))
    SHIP["vectors"](run)
    assert (there / "calibration.json").is_file()


def test_a_trait_that_failed_is_on_the_page(tmp_path: Path) -> None:
    (tmp_path / "formal").mkdir()
    (tmp_path / "formal" / "failed.txt").write_text("too few rollouts\n")
    (tmp_path / "poetic").mkdir()
    text = results_extractions.extractions("Traits from a name alone", tmp_path)
    assert "**formal: FAILED.** too few rollouts" in text
    assert "poetic" not in text


def test_too_few_rollouts_of_a_name_alone_are_a_result_and_all_else_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, llama: LoadedModel
) -> None:
    spec, _ = load_trait("formal", unbundled.UNBUNDLED["formal"])
    assert unbundled.specs()["formal"].hash == spec.hash
    monkeypatch.setattr(unbundled, "load_model", lambda name: llama)

    def small(*given: Any, **options: Any) -> Any:
        config = ExtractConfig(pairs=1, judge_pairs=1, questions=4, max_tokens=2, layers=(2,))
        return extract(*given, config, **options, progress=Progress(quiet=True))

    monkeypatch.setattr(unbundled, "run", small)
    unbundled.extract(tmp_path, ["formal"])
    failed = tmp_path / "formal" / "failed.txt"
    said = failed.read_text("utf-8")
    assert "rollouts" in said
    # Read back, it fails as before.
    unbundled.extract(tmp_path, ["formal"])
    assert failed.read_text("utf-8") == said
    (tmp_path / "formal" / "manifest.json").write_text("[]")
    with pytest.raises(DataError):
        unbundled.extract(tmp_path, ["formal"])
    assert not failed.exists()


def test_commands_are_of_the_copy_that_they_are_for(run: Run) -> None:
    commands = {stage.name: stage.commands(replace(run, ordinary=Path("log"))) for stage in STAGES}
    for trait in NAMES:
        line = commands["calibrations"][trait]
        assert str(run.root / BUNDLED / "vectors" / trait) in line
        assert line[-1] == str(run.out / "calibrations" / trait)
    assert [len(found) for found in commands.values()] == [1, 7, 7, 1, 1, 7, 3, 1]
