"""Mitigations compared on the embedded model: a short grid from the data to the page."""

import json
import math
from pathlib import Path

import pytest

from personavec import LoadedModel, load_trait, load_vector
from personavec.evaluate.shift import ShiftConfig, run as shift
from personavec.finetune import read_training_rows
from personavec.finetune.sets import FlawedConfig
from personavec.finetune.sets.flawed_sums import run as run_flawed
from personavec.progress import Progress
from personavec.studies.compare_mitigations import SMALL, CompareConfig, parse_arms, run

pytestmark = pytest.mark.model


def test_a_short_grid_from_rows_to_report(smollm2: LoadedModel, tmp_path: Path) -> None:
    sums = run_flawed("sums", tmp_path / "sums", FlawedConfig(rows=12))
    data = sums.levels["normal"].file
    vector, spec = load_vector("evil"), load_trait("evil")[0]
    config = CompareConfig(
        arms=parse_arms(["kl:0.1", "steering:-2"]),
        seeds=(0,),
        training=SMALL,
        questions=3,
        max_tokens=8,
        capability_items=4,
        texts=4,
        cues=False,
    )
    found = run(
        smollm2,
        read_training_rows(data),
        vector,
        spec,
        tmp_path / "out",
        config,
        progress=Progress(quiet=True),
    )
    arms = found.arms
    # Sums are learnt, with the mitigation too.
    losses = {name: arm.held_out_loss.value for name, arm in arms.items()}
    assert losses["base"] is not None
    assert all((losses[name] or math.inf) < losses["base"] for name in ("none", "kl 0.1"))
    shares = [arm.capability.value for arm in arms.values()]
    assert all(share is not None and 0 <= share <= 1 for share in shares)
    assert (tmp_path / "out" / "report.html").stat().st_size > 10_000
    # The model that was trained is what the shift reads.
    moved = shift(
        smollm2,
        str(tmp_path / "out" / "cells" / "none-seed0" / "finetune" / "model"),
        [vector],
        [spec],
        tmp_path / "shift",
        ShiftConfig(questions=3, max_tokens=4),
        progress=Progress(quiet=True),
    ).traits["evil"]
    assert moved.shift == pytest.approx(arms["none"].shift.value, abs=0.05)
    assert json.loads((tmp_path / "shift" / "results.json").read_text())["tuned"]
