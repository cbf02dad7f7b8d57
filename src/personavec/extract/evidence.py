"""What an extraction's rollouts say, as numbers with intervals: the `results.json`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from personavec.extract import validation
from personavec.extract.validation import Dose
from personavec.judges import COHERENCE_FLOOR
from personavec.model import LoadedModel
from personavec.rollouts import Rollout
from personavec.stats import Interval, auc_interval, clustered_bootstrap
from personavec.traits import Origin, TraitSpec
from personavec.vectors import (
    Estimator,
    agreement,
    largest_coordinate,
    projections,
    question_differences,
    split_half_cosine,
)

#: One coordinate holding more of the vector's squared norm than this is a massive activation.
MASSIVE_SHARE = 0.5
#: Random splits of the split-half cosine: a logistic regression takes its time.
_SPLITS: dict[Estimator, int] = {"mean": 200, "logistic": 25}


@dataclass(frozen=True, eq=False)
class Evidence:
    """Everything that an extraction found, before it is summarised.

    Means are those of responses at the selected layer, of the kept extraction rollouts and of
    the held-out ones under system prompts.
    """

    rollouts: list[Rollout]
    pos_means: Float[Tensor, "pos hidden"]
    neg_means: Float[Tensor, "neg hidden"]
    vectors: Float[Tensor, "layer hidden"]
    mean_diff: Float[Tensor, "layer hidden"]
    estimator: Estimator
    residual_norm: Float[Tensor, " layer"]
    layer: int
    sweep: list[Dose]
    doses: list[Dose]
    by_dose: dict[float, list[Rollout]]
    ends: tuple[float, float]
    control: list[dict[str, Any]]
    prompted: list[Rollout]
    held_out: list[Rollout]
    held_out_means: Float[Tensor, "row hidden"]
    test_questions: Sequence[str]

    @property
    def kept_questions(self) -> tuple[list[str], list[str]]:
        """The questions of the kept positive and of the kept negative rollouts."""
        pos, neg = (
            [r.question for r in self.rollouts if r.kept and r.polarity == polarity]
            for polarity in ("pos", "neg")
        )
        return pos, neg


def summarise(
    evidence: Evidence, trait_threshold: float, coherence_floor: float, seed: int
) -> dict[str, Any]:
    """The measured part of `results.json`."""
    direction = evidence.vectors[evidence.layer]
    dose_size = float(direction.norm() / evidence.residual_norm[evidence.layer])
    by_polarity = {
        polarity: [r for r in evidence.rollouts if r.polarity == polarity]
        for polarity in ("pos", "neg")
    }
    unsteered = next(dose for dose in evidence.doses if dose.coefficient == 0)
    halves = (evidence.pos_means, evidence.neg_means, *evidence.kept_questions)
    return {
        "rollouts": {polarity: _counts(group) for polarity, group in by_polarity.items()},
        "log_odds": {
            polarity: [r.log_odds for r in group if r.log_odds is not None]
            for polarity, group in by_polarity.items()
        },
        "mean_log_odds": {
            **{polarity: _mean_log_odds(group, seed) for polarity, group in by_polarity.items()},
            "unsteered": _mean_log_odds(evidence.by_dose[unsteered.coefficient], seed),
        },
        "coherence_dropped_share": {
            polarity: _incoherent_share(group, trait_threshold, coherence_floor)
            for polarity, group in by_polarity.items()
        },
        "sweep": [dose.as_dict() for dose in evidence.sweep],
        "layer": evidence.layer,
        "estimator": evidence.estimator,
        "coherence_floor": COHERENCE_FLOOR,
        "dose_response": [
            {**dose.as_dict(), "relative_dose": abs(dose.coefficient) * dose_size}
            for dose in evidence.doses
        ],
        "control": evidence.control,
        "prompted": {
            polarity: _mean_log_odds([r for r in evidence.prompted if r.polarity == polarity], seed)
            for polarity in ("pos", "neg")
        },
        "coherent_range": list(evidence.ends),
        "wrong_way": _wrong_way(evidence.by_dose, evidence.ends, seed),
        "split_half_cosine": _interval(
            split_half_cosine(
                *halves,
                estimator=evidence.estimator,
                n=_SPLITS[evidence.estimator],
                seed=seed,
            )
        ),
        "question_agreement": _interval(_agreement(evidence, seed)),
        "separability_auc": _interval(_separability(evidence, seed)),
        "relative_norm": (evidence.vectors.norm(dim=-1) / evidence.residual_norm).tolist(),
        "massive": _massive(evidence),
        "transcripts": _transcripts(
            evidence.by_dose, evidence.ends, evidence.prompted, evidence.test_questions
        ),
        "verdict": validation.verdict(evidence.doses, evidence.control, evidence.ends),
    }


def describe_spec(spec: TraitSpec) -> dict[str, Any]:
    """A spec's hash and the sizes of its parts."""
    return {
        "hash": spec.hash,
        "pairs": len(spec.instruction),
        "judge_pairs": len(spec.judge_instruction),
        "extraction_questions": len(spec.questions.extraction),
        "evaluation_questions": len(spec.questions.evaluation),
    }


def _counts(rollouts: Sequence[Rollout]) -> dict[str, Any]:
    return {
        "of": len(rollouts),
        "kept": sum(bool(r.kept) for r in rollouts),
        "dropped": dict(Counter(r.why_dropped for r in rollouts if r.why_dropped)),
    }


def notes(loaded: LoadedModel, spec: TraitSpec, origin: Origin) -> list[str]:
    """Sentences that a reader of the result must see."""
    found = list(loaded.chat.notes)
    if origin == "template":
        found.append(
            "The trait spec was built from templates and a bundled question bank, from the "
            "trait's name and description alone; nobody has reviewed it."
        )
    if not spec.judge_instruction:
        found.append(
            "The spec has no judge pairs: each rollout was judged with the eliciting pairs it was "
            "not generated under."
        )
    return found


def _interval(interval: Interval | None) -> dict[str, float] | None:
    return asdict(interval) if interval is not None else None


def _mean_log_odds(rollouts: Sequence[Rollout], seed: int) -> dict[str, float]:
    found = validation.mean_log_odds(rollouts, seed)
    return {"log_odds": found.value, "low": found.low, "high": found.high}


def _incoherent_share(rollouts: Sequence[Rollout], threshold: float, floor: float) -> float | None:
    """The share of rollouts on the right side of the trait that coherence alone drops."""
    right = [
        r
        for r in rollouts
        if r.trait_score is not None and (r.trait_score > threshold) == (r.polarity == "pos")
    ]
    if not right:
        return None
    return sum((r.coherence or 0) < floor for r in right) / len(right)


def _wrong_way(
    by_dose: dict[float, list[Rollout]], ends: tuple[float, float], seed: int
) -> dict[str, Any] | None:
    found = validation.wrong_way(by_dose[0], by_dose[ends[1]], seed) if ends[1] > 0 else None
    if found is None:
        return None
    return {
        "share": found.value,
        "low": found.low,
        "high": found.high,
        "coefficients": [0, ends[1]],
    }


def _separability(evidence: Evidence, seed: int) -> Interval:
    """AUC of projections of evaluation-question rollouts, positive against negative prompts."""
    direction = evidence.vectors[evidence.layer]
    values = projections(evidence.held_out_means, direction).tolist()
    rows = list(zip(values, evidence.held_out, strict=True))
    pos = [(value, r.question) for value, r in rows if r.polarity == "pos"]
    neg = [(value, r.question) for value, r in rows if r.polarity == "neg"]
    return auc_interval(
        [value for value, _ in pos],
        [value for value, _ in neg],
        [question for _, question in pos],
        [question for _, question in neg],
        seed=seed,
    )


def _agreement(evidence: Evidence, seed: int) -> Interval | None:
    """Mean cosine of a question's difference with the mean of the other questions'.

    None for the logistic estimator: one question's rollouts are too few for a regression.
    """
    if evidence.estimator != "mean":
        return None
    questions, differences = question_differences(
        evidence.pos_means, evidence.neg_means, *evidence.kept_questions
    )
    if len(questions) < 2:
        return None
    return clustered_bootstrap(agreement(differences), questions, seed=seed)


def _massive(evidence: Evidence) -> dict[str, Any]:
    """Whether one coordinate rules the difference of means, and the vector in use."""
    coordinate, share = largest_coordinate(evidence.mean_diff[evidence.layer])
    return {
        "layer": evidence.layer,
        "coordinate": coordinate,
        "share": share,
        "warning": share > MASSIVE_SHARE,
        "share_in_use": largest_coordinate(evidence.vectors[evidence.layer])[1],
    }


def _transcripts(
    by_dose: dict[float, list[Rollout]],
    ends: tuple[float, float],
    prompted: Sequence[Rollout],
    questions: Sequence[str],
    n: int = 6,
) -> list[dict[str, Any]]:
    """The first questions' answers at both ends and unsteered, and under system prompts."""
    shown = sorted({ends[0], 0.0, ends[1]})
    found = []
    for question in questions[:n]:
        answers = [
            {
                "coefficient": c,
                "response": r.response,
                "log_odds": r.log_odds,
                "coherence": r.coherence,
            }
            for c in shown
            for r in by_dose[c]
            if r.question == question and r.sample == 0
        ]
        by_prompt = {
            polarity: next(
                (r.response for r in prompted if r.question == question and r.polarity == polarity),
                "",
            )
            for polarity in ("pos", "neg")
        }
        found.append({"question": question, "answers": answers, "prompted": by_prompt})
    return found


def vector_meta(results: dict[str, Any]) -> dict[str, Any]:
    """What `vector.json` records of a run's results."""
    kept = {polarity: results["rollouts"][polarity]["kept"] for polarity in ("pos", "neg")}
    return {
        "description": results["trait"]["description"],
        "model": results["model"],
        "spec_hash": results["spec"]["hash"],
        "engine": results["engine"]["name"],
        "seed": results["settings"]["seed"],
        "settings": results["settings"],
        "versions": results["versions"],
        "kept": kept,
        "coherent_range": results["coherent_range"],
        "dose_response": results["dose_response"],
        "separability_auc": results["separability_auc"],
        "split_half_cosine": results["split_half_cosine"],
        "passed": results["verdict"]["passed"],
    }
