"""Figures of every method, over rows that lack some scores."""

from dataclasses import asdict

import numpy as np
import pytest
from planted_rows import record, records, training

from personavec.studies.validate_screen.baselines import fit
from personavec.studies.validate_screen.figures import (
    detection_figures,
    method_names,
    order_figures,
    usable,
)


def test_every_method_has_its_figures_and_rows_without_a_score_are_counted() -> None:
    own, clean = records()
    own[3]["scores"]["odd"]["generate"] = None
    clean[5]["reason"] = "too long"
    found = detection_figures("elicited", clean, {"odd": own}, {"odd": fit(training())}, (0.2,))
    assert found is not None
    counts = found.traits["odd"]
    assert (counts.planted, counts.clean, counts.clean_same_prompts) == (11, 41, 12)
    assert counts.left_out == 2
    assert set(found.methods) == set(method_names(1))
    methods = found.methods
    for name in ("judge", "none", "generate", "combined", "tfidf"):
        assert asdict(methods[name]["auc"]) == pytest.approx({"value": 1, "low": 1, "high": 1})
    # Planted responses were the shorter ones in training, and are the longer ones here.
    assert methods["length"]["auc"].value == 0
    # One direction that finds all, and one that finds none.
    assert methods["random_directions"]["auc"].value == pytest.approx(0.5)
    chance = methods["random"]["auc"]
    assert chance.low is not None
    assert chance.high is not None
    assert chance.low < 0.5 < chance.high
    assert methods["judge"]["precision@0.2"] == methods["judge"]["recall@0.2"]


def test_a_mean_over_natural_responses_is_one_more_method_and_what_the_judge_is_combined_with() -> (
    None
):
    own, clean = records()
    for row in (*own, *clean):
        scores = row["scores"]["odd"]
        # Both tell nothing by themselves.
        scores |= {"averaged": scores["none"], "generate": 0.0, "judge": 1.0 + row["prompt"] % 2}
    found = detection_figures("elicited", clean, {"odd": own}, {"odd": fit(training())}, (0.2,))
    assert found is not None
    assert set(found.methods) == set(method_names(4))
    aucs = {name: figures["auc"].value or 0.0 for name, figures in found.methods.items()}
    assert aucs["averaged"] == 1
    assert aucs["generate"] == 0.5
    assert aucs["combined"] > max(aucs["judge"], 0.8)


def test_averages_are_over_traits_and_a_style_without_rows_has_none() -> None:
    own, clean = records()
    wrong = [{**r, "scores": {"even": r["scores"]["odd"]}} for r in own]
    for row in wrong:
        row["scores"]["even"] = {
            **row["scores"]["even"],
            "generate": -row["scores"]["even"]["none"],
        }
    for row in clean:
        row["scores"]["even"] = row["scores"]["odd"]
    baselines = {"odd": fit(training()), "even": fit(training())}
    both = {"odd": own, "even": wrong}
    found = detection_figures("elicited", clean, both, baselines, (0.2,))
    assert found is not None
    assert found.traits["even"].methods["generate"]["auc"].value == 0
    assert found.methods["generate"]["auc"].value == pytest.approx(0.5)
    assert detection_figures("written", clean, both, baselines, (0.2,)) is None


def test_the_order_of_datasets_is_told_from_its_reverse() -> None:
    own, _ = records()
    found = order_figures(own, "odd")
    assert found is not None
    assert found.ordered
    assert found.beyond_chance
    bands = found.bands
    assert [bands[name].n for name in ("normal", "mild", "strong")] == [12, 4, 4]
    assert bands["strong"].value == pytest.approx(np.mean([18, 19, 20, 21]))
    for row in own:  # the judge sees the opposite of what the projection sees
        row["scores"]["odd"]["judge"] *= -1
    turned = order_figures(own, "odd")
    assert turned is not None
    assert not turned.ordered
    assert order_figures(own[12:], "odd") is None


def test_a_row_is_usable_with_all_its_scores() -> None:
    assert usable(record("data", 0, 1.0), "odd")
    assert not usable(record("data", 0, 1.0, random_directions=[1.0, None]), "odd")
