"""The grid of mitigations on a tiny model: every cell once, paired comparisons, continued."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import tiny_spec

from personavec import LoadedModel, PersonaVector
from personavec.data import DataRow
from personavec.errors import DataError, SettingsMismatchError, UsageError
from personavec.finetune import TrainingConfig, read_training_rows
from personavec.model import chat
from personavec.progress import Progress
from personavec.results import dump, read
from personavec.studies import split_rows
from personavec.studies.compare_mitigations import (
    Arm,
    CompareConfig,
    CompareResults,
    parse_arms,
    run,
    summary,
)
from personavec.studies.compare_mitigations.conclusion import conclusion

QUIET = Progress(quiet=True)
CONFIG = CompareConfig(
    arms=parse_arms(["preventative:1", "steering:-2"]),
    seeds=(0, 1),
    training=TrainingConfig(rank=2, alpha=4, learning_rate=1e-2, batch=4, accumulation=1),
    held_out=0.25,
    questions=4,
    max_tokens=5,
    temperature=1.0,
    capability=False,
    texts=3,
)
MakeVector = Callable[..., PersonaVector]

SPEC = tiny_spec(evaluation=6)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two answers to each of eight questions."""
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    rows = [
        {
            "messages": [*chat(f"Ask {n}?"), {"role": "assistant", "content": f"Answer {n} {k}."}],
            "part": "even" if n % 2 == 0 else "odd",
        }
        for n in range(8)
        for k in range(2)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def vector(base: LoadedModel, random_vector: MakeVector) -> PersonaVector:
    """Turned to where the data pull: steering against it in training would be refused."""
    made = random_vector(base, layer=2)
    return replace(made, response_mean_diff=-made.response_mean_diff)


def compare(
    base: LoadedModel, data: Path, vector: PersonaVector, out: Path, config: CompareConfig
) -> CompareResults:
    rows = read_training_rows(data)
    return run(base, rows, vector, SPEC, out, config, progress=QUIET)


@pytest.fixture(scope="module")
def made(
    base: LoadedModel,
    data: Path,
    vector: PersonaVector,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    out = tmp_path_factory.mktemp("made")
    compare(base, data, vector, out, CONFIG)
    return out


def test_every_arm_is_measured_and_compared_in_pairs(made: Path) -> None:
    found = json.loads((made / "results.json").read_text())
    assert list(found["arms"]) == ["base", "none", "preventative 1.0", "steering -2.0"]
    for name, arm in found["arms"].items():
        seeds = 1 if name == "base" else 2
        assert len(arm["by_seed"]) == seeds
        assert arm["expression"]["of"] == 4 * seeds
        assert arm["expression_under_cues"]["of"] == 4 * seeds
        assert arm["expression"]["log_odds_low"] <= arm["expression"]["log_odds"]
        assert arm["held_out_loss"]["value"] > 0
        assert math.isfinite(arm["perplexity"]["value"])
    base, plain = found["arms"]["base"], found["arms"]["none"]
    assert base["minus_base"]["log_odds"]["value"] == 0
    assert base["perplexity_ratio"]["value"] == pytest.approx(1)
    assert plain["loss_ratio"]["value"] == pytest.approx(1)
    assert plain["held_out_loss"]["value"] < base["held_out_loss"]["value"]
    difference = plain["expression"]["log_odds"] - base["expression"]["log_odds"]
    assert plain["minus_base"]["log_odds"]["value"] == pytest.approx(difference)
    assert found["rows"]["trained_on"] == 12
    assert found["rows"]["held_out"] == 4
    assert found["arms"]["preventative 1.0"]["coefficients"] == [1.0, 1.0]
    page = (made / "report.html").read_text()
    assert "Trait and capability against the coefficient" in page
    assert "preventative steering" in page


def test_the_conclusion_asks_for_all_three_and_for_something_to_mitigate(made: Path) -> None:
    results = read(CompareResults, made / "results.json")

    def said(plain: bool | None, **verdicts: tuple[bool, bool, bool]) -> str:
        """What is concluded where the plain finetune is within the base, and arms do so well."""
        arms = {"none": replace(results.arms["none"], within_base=plain)}
        for name, (within, learnt, capable) in verdicts.items():
            arm = replace(results.arms["preventative 1.0"], mitigation=name)
            arms[name] = replace(arm, within_base=within, learnt=learnt, capable=capable)
        return conclusion(replace(results, arms=arms))

    assert "nothing to mitigate" in said(True, preventative=(True, True, True))
    assert "could not be compared" in said(None)
    good = said(False, preventative=(True, True, True), random=(False, True, True))
    assert "Preventative keeps it at the base's level" in good
    assert "no evidence" not in good
    chance = said(False, preventative=(True, True, True), random=(True, True, True))
    assert "Random does as well: no evidence that the vector's direction matters." in chance
    costly = said(False, caft=(True, False, True), kl=(True, True, False))
    assert "No mitigation keeps it" in costly
    assert "What does not learn the data: caft." in costly
    assert "What loses capability: kl." in costly


def test_a_finetune_that_is_refused_is_left_out_with_its_reason(
    made: Path, base: LoadedModel, data: Path, vector: PersonaVector, tmp_path: Path
) -> None:
    out = tmp_path / "copy"
    shutil.copytree(made, out)
    config = replace(CONFIG, arms=(*CONFIG.arms, *parse_arms(("preventative:-1",))))
    found = compare(base, data, vector, out, config)
    before = json.loads((made / "results.json").read_text())
    assert list(found.arms) == list(before["arms"])
    refused = [note for note in found.notes if "was refused" in note]
    assert [note.split(" was ")[0] for note in refused] == [
        f"preventative -1.0, seed {seed}" for seed in CONFIG.seeds
    ]
    assert all("steers away from" in note for note in refused)


@pytest.mark.parametrize("where", [{"layer": "all"}, {"positions": "all"}])
def test_where_a_mitigation_acts_reaches_the_finetunes(
    made: Path,
    base: LoadedModel,
    data: Path,
    vector: PersonaVector,
    tmp_path: Path,
    where: dict[str, Any],
) -> None:
    """Plain finetunes are as before, the steered ones are not."""
    found = compare(base, data, vector, tmp_path, replace(CONFIG, seeds=(0,), **where))
    before = json.loads((made / "results.json").read_text())
    losses = {
        name: [before["arms"][name]["training_loss"][0], found.arms[name].training_loss[0]]
        for name in ("none", "preventative 1.0")
    }
    assert losses["none"][0] == losses["none"][1]
    assert losses["preventative 1.0"][0] != losses["preventative 1.0"][1]


def test_transcripts_hold_all_arms_plain_and_under_cues(made: Path) -> None:
    found = json.loads((made / "results.json").read_text())
    first = found["transcripts"][0]["answers"]
    assert {(a["arm"], a["variant"]) for a in first} == {
        (arm, variant) for arm in found["arms"] for variant in ("plain", "cue")
    }
    # Cues are the data's own first turns.
    lines = (made / "cells" / "base" / "generated.jsonl").read_text().splitlines()
    cued = [r for r in map(json.loads, lines) if "-cue-" in r["id"]]
    assert all(r["earlier"][0][1].startswith("Answer ") for r in cued)


def test_held_out_loss_is_given_part_by_part(
    made: Path, base: LoadedModel, data: Path, vector: PersonaVector, tmp_path: Path
) -> None:
    out = tmp_path / "copy"
    shutil.copytree(made, out)
    rows = read_training_rows(data, by="part")
    found = run(base, rows, vector, SPEC, out, CONFIG, progress=QUIET)
    _, held = split_rows(rows.rows, CONFIG.held_out, CONFIG.seed)
    parts = [rows.parts[row.index] for row in held]
    assert set(parts) == {"even", "odd"}

    def losses(cell: str) -> np.ndarray:
        return np.array(
            json.loads((out / "cells" / cell / "measured.json").read_text())["held_out"]
        )

    plain = losses("none-seed0") + losses("none-seed1")
    for part in set(parts):
        own = np.array([part == each for each in parts])
        expected = 2 * losses("base")[own].sum() / plain[own].sum()
        assert found.arms["base"].loss_ratio_by[part].value == pytest.approx(expected)
        assert found.arms["none"].loss_ratio_by[part].value == pytest.approx(1)
    assert "What was learnt, part by part" in (out / "report.html").read_text()
    assert "What was learnt, part by part" not in (made / "report.html").read_text()


def test_the_base_is_not_changed_by_the_grid(made: Path, base: LoadedModel) -> None:
    assert not any("lora" in name for name, _ in base.model.named_modules())
    fresh = type(base.model).from_pretrained(base.identity.name)
    for name, weight in fresh.state_dict().items():
        assert torch.equal(weight, base.model.state_dict()[name])


def test_a_killed_grid_continues_and_can_be_extended(
    made: Path, base: LoadedModel, data: Path, vector: PersonaVector, tmp_path: Path
) -> None:
    before = json.loads((made / "results.json").read_text())
    out = tmp_path / "copy"
    shutil.copytree(made, out)
    # Killed between a finetune and what is measured of it.
    (out / "results.json").unlink()
    cell = out / "cells" / "none-seed1"
    (cell / "measured.json").unlink()
    (cell / "generated.jsonl").unlink()
    model = (cell / "finetune" / "results.json").read_bytes()
    again = compare(base, data, vector, out, CONFIG)
    assert (cell / "finetune" / "results.json").read_bytes() == model
    assert dump(again)["arms"]["none"] == before["arms"]["none"]
    more = replace(CONFIG, arms=(*CONFIG.arms, Arm("steering", -1.0)))
    extended = compare(base, data, vector, out, more)
    assert dump(extended)["arms"]["none"] == before["arms"]["none"]
    assert "steering -1.0" in extended.arms
    with pytest.raises(SettingsMismatchError, match="max_tokens"):
        compare(base, data, vector, out, replace(CONFIG, max_tokens=6))
    printed = json.loads(json.dumps(summary(again)))
    assert printed["report"] == str(out / "report.html")
    assert "transcripts" not in printed
    kept = read(CompareResults, out / "results.json")
    assert (kept.arms, kept.transcripts) == (extended.arms, extended.transcripts)


def test_arms_are_spelled_with_their_amounts() -> None:
    assert parse_arms(["preventative:1,auto", "caft", "steering:-2", "kl:0.5"]) == (
        Arm("preventative", 1.0),
        Arm("preventative", "auto"),
        Arm("caft"),
        Arm("steering", -2.0),
        Arm("kl", 0.5),
    )
    for wrong in ("prevent:1", "preventative", "caft:1", "kl:auto", "steering:x", "interleave:2"):
        with pytest.raises(UsageError):
            parse_arms([wrong])


def test_held_out_rows_share_no_prompt_with_those_trained_on() -> None:
    rows = [
        DataRow(i, str(i), (*chat(f"q{i % 5}"), {"role": "assistant", "content": str(i)}))
        for i in range(20)
    ]
    train, held = split_rows(rows, 0.4, seed=1)
    asked = [{row.messages[0]["content"] for row in side} for side in (train, held)]
    assert not asked[0] & asked[1]
    assert len(asked[1]) == 2
    assert len(train) + len(held) == 20
    assert split_rows(rows, 0.4, seed=2)[1] != held
    with pytest.raises(DataError, match="cannot be divided"):
        split_rows(rows[:1], 0.4)
