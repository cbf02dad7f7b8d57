"""Everything bundled fits its stamp, and each kind of change is noticed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bundle_stages import PAGE, PICTURE, ROOT, STAGES
from fingerprints import depends
from stamps import BUNDLED, FILE, Stamp, complaints, differences, hash_of, read_stamps, write_stamp

from personavec.errors import DataError

#: Some of what each stage writes.
WROTE = {
    "norms": [f"{BUNDLED}/coherence_norms.json"],
    "vectors": [f"{BUNDLED}/vectors/evil/vector.json", f"{PAGE}#Bundled traits"],
    "calibrations": [f"{BUNDLED}/vectors/evil/calibration.json"],
    "readings": [f"{BUNDLED}/vectors/evil/ordinary.json"],
    "limits": [f"{BUNDLED}/vectors/evil/drift.json", f"{PAGE}#False alarms"],
    "checks": [f"{BUNDLED}/thresholds.json"],
    "unbundled": [f"{PAGE}#Traits from a name alone"],
    "picture": [PICTURE],
}
RUN = "run `make bundle`"


def wanted(root: Path) -> dict[str, Any]:
    return {stage.name: depends(root, stage.depends) for stage in STAGES}


def test_everything_bundled_fits_its_stamp() -> None:
    assert complaints(ROOT, wanted(ROOT)) == []


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A copy of what is bundled, with stamps that fit."""
    shutil.copytree(ROOT / BUNDLED, tmp_path / BUNDLED)
    (tmp_path / FILE).unlink(missing_ok=True)
    (tmp_path / "docs").mkdir()
    for name in (PAGE, PICTURE):
        shutil.copyfile(ROOT / name, tmp_path / name)
    for name, on in wanted(tmp_path).items():
        wrote = {file: hash_of(tmp_path, file) or "" for file in WROTE[name]}
        write_stamp(tmp_path, name, Stamp(on, wrote))
    assert complaints(tmp_path, wanted(tmp_path)) == []
    return tmp_path


def edited(path: Path, edit: Callable[[Any], Any]) -> None:
    path.write_text(json.dumps(edit(json.loads(path.read_text("utf-8")))), "utf-8")


def test_a_changed_spec_names_the_stages_that_judge_or_elicit_with_it(root: Path) -> None:
    path = root / BUNDLED / "traits" / "evil.json"
    edited(path, lambda spec: {**spec, "description": "Bad."})
    named = [
        f"bundled '{stage}' is stale (specs.evil changed): {RUN}"
        for stage in ("vectors", "calibrations")
    ]
    assert complaints(root, wanted(root)) == named
    edited(path, lambda spec: {**spec, "judge_instruction": spec["judge_instruction"][1:]})
    named.append(f"bundled 'checks' is stale (judge_pairs.evil changed): {RUN}")
    assert complaints(root, wanted(root)) == named


def test_changed_answers_and_prompts_name_their_stage(root: Path) -> None:
    edited(root / BUNDLED / "checks" / "evil.json", lambda answers: answers[1:])
    spec = root / BUNDLED / "traits" / "evil.json"
    edited(spec, lambda record: {**record, "monitoring": record["monitoring"][::-1]})
    assert complaints(root, wanted(root)) == [
        f"bundled 'calibrations' is stale (monitoring.evil changed): {RUN}",
        f"bundled 'checks' is stale (answers.evil changed): {RUN}",
    ]


def test_a_vector_of_another_layer_makes_all_that_is_measured_of_it_stale(root: Path) -> None:
    edited(root / BUNDLED / "vectors" / "evil" / "vector.json", lambda v: {**v, "layer": 3})
    assert complaints(root, wanted(root)) == [
        f"bundled 'vectors' is stale ({BUNDLED}/vectors/evil/vector.json changed): {RUN}",
        *(
            f"bundled '{stage}' is stale (vectors.evil changed): {RUN}"
            for stage in ("calibrations", "readings", "limits")
        ),
    ]


def test_another_dose_response_makes_the_picture_stale(root: Path) -> None:
    path = root / BUNDLED / "vectors" / "humorous" / "vector.json"
    edited(path, lambda vector: {**vector, "coherent_range": [-1, 1]})
    assert complaints(root, wanted(root)) == [
        f"bundled 'picture' is stale (doses.humorous changed): {RUN}"
    ]


def test_other_coherence_makes_all_that_is_judged_stale(root: Path) -> None:
    edited(root / BUNDLED / "coherence.json", lambda model: {**model, "intercept": 0})
    named = complaints(root, wanted(root))
    assert named == [
        f"bundled '{stage}' is stale (coherence.model changed): {RUN}"
        for stage in ("vectors", "calibrations", "checks", "unbundled")
    ]


def test_a_file_changed_by_hand_or_gone_names_its_stage(root: Path) -> None:
    edited(root / BUNDLED / "thresholds.json", lambda record: {**record, "thresholds": []})
    (root / BUNDLED / "vectors" / "evil" / "drift.json").unlink()
    assert complaints(root, wanted(root)) == [
        f"bundled 'limits' is stale ({BUNDLED}/vectors/evil/drift.json is missing): {RUN}",
        f"bundled 'checks' is stale ({BUNDLED}/thresholds.json changed): {RUN}",
    ]


def test_figures_on_the_page_are_stamped_and_sentences_are_not(root: Path) -> None:
    page = root / PAGE
    text = page.read_text("utf-8")
    page.write_text(text.replace("Exact 95% intervals.", "Their 95% intervals are exact."), "utf-8")
    assert page.read_text("utf-8") != text
    assert complaints(root, wanted(root)) == []
    row = next(line for line in text.splitlines() if line.startswith("| any |"))
    page.write_text(text.replace(row, row.replace("%", "0%", 1)), "utf-8")
    assert complaints(root, wanted(root)) == [
        f"bundled 'limits' is stale ({PAGE}#False alarms changed): {RUN}"
    ]


def test_other_sampling_names_what_was_sampled(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from personavec.model.engine import noise, sampling

    # The same keys, but with another factor: as good a noise, and other tokens.
    monkeypatch.setattr(noise, "_GOLDEN", noise._GOLDEN + 2)
    assert sampling.uniform_bits is noise.uniform_bits
    assert complaints(root, wanted(root)) == [
        f"bundled '{stage}' is stale (sampling changed): {RUN}"
        for stage in ("vectors", "calibrations", "unbundled")
    ]


def test_other_numbers_behind_coherence_make_the_norms_stale(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from personavec.judges import coherence_features

    monkeypatch.setattr(coherence_features, "_SURE", -0.5)
    assert complaints(root, wanted(root)) == [
        f"bundled 'norms' is stale (numbers.sure changed): {RUN}"
    ]


def test_what_never_ran_is_named(root: Path) -> None:
    edited(root / FILE, lambda record: {**record, "stages": {"norms": record["stages"]["norms"]}})
    named = complaints(root, wanted(root))
    assert len(named) == len(STAGES) - 1
    assert named[0] == f"bundled 'vectors' is stale (never run): {RUN}"


def test_stamps_of_a_newer_version_are_refused_in_one_line(root: Path) -> None:
    edited(root / FILE, lambda record: {**record, "format": 2})
    with pytest.raises(DataError, match=r"stamps\.json is of format 2, this version reads 1") as at:
        read_stamps(root)
    assert "\n" not in str(at.value)


def test_only_what_a_processor_rounds_may_differ_by_rounding() -> None:
    old = {"judge": [[1.0, 97.5]], "extract": {"temperature": 0.7, "layers": [1]}, "model": "a"}
    assert differences(old, {**old, "judge": [[1.001, 97.501]]}) == []
    assert differences(old, {**old, "judge": [[1.1, 97.5]]}) == ["judge"]
    new = {**old, "extract": {"temperature": 0.7001, "layers": [1], "more": 0}}
    assert differences(old, new) == ["extract.temperature", "extract.more"]
    assert differences(old, {"judge": old["judge"], "extract": old["extract"]}) == ["model"]
