"""Detection figures equal scikit-learn's and literal planting, and studies count what they drop."""

import math
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from personavec.errors import DataError
from personavec.studies.validate_screen import detection
from personavec.studies.validate_screen.baselines import Labelled, WordClassifier, fit
from personavec.studies.validate_screen.figures import (
    detection_figures,
    method_names,
    order_figures,
    usable,
)

# Few distinct values, so that most examples have ties.
scored_rows = st.lists(
    st.tuples(st.integers(0, 5), st.booleans(), st.integers(0, 3)), min_size=2, max_size=12
).filter(lambda rows: len({planted for _, planted, weight in rows if weight}) == 2)


def rate_weights(planted: np.ndarray, weights: np.ndarray, rate: float) -> np.ndarray:
    """Weights that make the planted rows `rate` of the whole."""
    sides = np.where(planted, rate / weights[planted].sum(), (1 - rate) / weights[~planted].sum())
    return weights * sides


@given(rows=scored_rows, rate=st.sampled_from([0.01, 0.05, 0.2, 0.5]))
def test_figures_equal_scikit_learn_on_weighted_rows(
    rows: list[tuple[int, bool, int]], rate: float
) -> None:
    scores, planted, weights = (np.array(column) for column in zip(*rows, strict=True))
    curve = detection.curve(scores, planted, weights[None])
    theirs = rate_weights(planted, weights, rate)
    assert detection.auc(curve)[0] == pytest.approx(
        roc_auc_score(planted, scores, sample_weight=theirs)
    )
    assert detection.average_precision(curve, rate)[0] == pytest.approx(
        average_precision_score(planted, scores, sample_weight=theirs)
    )


@given(rows=scored_rows, rate=st.sampled_from([0.05, 0.2, 0.5]))
def test_equal_removal_flags_the_rate_and_picks_among_ties_at_random(
    rows: list[tuple[int, bool, int]], rate: float
) -> None:
    """Flag whole scores from the top; of the last one, the share that still fits."""
    scores, planted, weights = (np.array(column) for column in zip(*rows, strict=True))
    weight = rate_weights(planted, weights, rate)
    room, hits = rate, 0.0
    for score in sorted(set(scores.tolist()), reverse=True):
        tied = scores == score
        share = min(1.0, room / weight[tied].sum()) if weight[tied].sum() else 0.0
        hits += share * weight[tied & planted].sum()
        room -= share * weight[tied].sum()
    found = detection.precision(detection.curve(scores, planted, weights[None]), rate)
    assert found[0] == pytest.approx(hits / rate, abs=1e-9)


def test_weights_give_what_literal_planting_gives_on_average() -> None:
    """Plant 20 random rows of 200 among 380 clean ones, flag 20, many times over."""
    rng = np.random.default_rng(0)
    shown, clean = rng.normal(1.5, 1, 200), rng.normal(0, 1, 380)
    precisions = []
    for _ in range(2000):
        drawn = rng.choice(shown, 20, replace=False)
        line = np.sort(np.concatenate([drawn, clean]))[-20]
        precisions.append((drawn >= line).mean())
    planted = np.repeat([True, False], [200, 380])
    curve = detection.curve(np.concatenate([shown, clean]), planted)
    # The mean over plantings of 0.45 or so has a standard error of 0.002.
    assert detection.precision(curve, 0.05)[0] == pytest.approx(np.mean(precisions), abs=0.02)


def test_a_perfect_score_finds_all_and_a_constant_one_finds_the_rate() -> None:
    planted = np.repeat([True, False], [5, 15])
    perfect, constant = detection.curve(planted, planted), detection.curve(np.ones(20), planted)
    for rate in (0.01, 0.2):
        assert detection.precision(perfect, rate)[0] == pytest.approx(1)
        assert detection.average_precision(perfect, rate)[0] == pytest.approx(1)
        assert detection.precision(constant, rate)[0] == pytest.approx(rate)
        assert detection.average_precision(constant, rate)[0] == pytest.approx(rate)
    assert detection.auc(constant)[0] == pytest.approx(0.5)


def test_a_resample_without_planted_rows_has_no_figures() -> None:
    curve = detection.curve([3, 2, 1], [True, False, False], np.array([[0, 1, 1], [1, 1, 0]]))
    for values in (detection.auc(curve), detection.precision(curve, 0.1)):
        assert math.isnan(values[0])
        assert values[1] == pytest.approx(1)


def test_missing_scores_and_empty_sides_are_refused() -> None:
    with pytest.raises(DataError, match="without a score"):
        detection.curve([1.0, math.nan], [True, False])
    with pytest.raises(DataError, match="planted rows and clean ones"):
        detection.curve([1.0, 2.0], [True, True])


# Figures from records


def record(kind: str, place: int, value: float, **more: Any) -> dict[str, Any]:
    scores = {name: value for name in ("length", "judge", "none", "last_prompt", "generate")}
    scores |= {"random_directions": [value, -value], **more}
    return {
        "id": f"{kind}/{place}",
        "kind": kind,
        "question": f"Question {place}?",
        "response": f"word{place % 3} {'cruel' if kind == 'elicited' else 'kind'}",
        "prompt": place,
        "reason": None,
        "scores": {"odd": scores},
    }


def training() -> Labelled:
    """Twelve questions, each with a planted response and a clean one."""
    return Labelled(
        responses=tuple(f"{w} number {i % 4}" for i in range(12) for w in ("cruel", "kind")),
        planted=(True, False) * 12,
        questions=tuple(f"{i}?" for i in range(12) for _ in range(2)),
        n_tokens=(3, 5) * 12,
    )


def records() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Planted rows above the neutral ones of their prompts, and those above the data's."""
    own = [record("elicited", i, 10 + i) for i in range(12)]
    own += [record("neutral", i, 5 + 0.1 * i) for i in range(12)]
    return own, [record("data", 100 + i, 0.1 * i) for i in range(30)]


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


# Baselines


def test_the_classifier_learns_words_and_says_how_it_was_chosen() -> None:
    classifier = WordClassifier(training())
    cruel, kind, neither = classifier.score(["so cruel", "so kind", "zebra"])
    assert cruel > neither > kind
    assert classifier.about().training_auc == pytest.approx(1)
    assert fit(training()).length_sign == -1
