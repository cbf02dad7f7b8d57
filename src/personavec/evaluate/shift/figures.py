"""From activations and answers to a trait's shift and expression."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jaxtyping import Float
from torch import Tensor

from personavec.evaluate.shift.config import ShiftConfig
from personavec.evaluate.shift.measure import MeasuredModel, layer_of
from personavec.evaluate.shift.results import ShiftFigures, ShownAnswers, TraitShift
from personavec.judges import Judge, contrast
from personavec.rollouts import Expression, paired, summarise
from personavec.stats import clustered_bootstrap
from personavec.vectors import PersonaVector, projections, random_directions

#: Questions whose answers the report shows.
_SHOWN = 4


def shift_figures(
    change: Float[Tensor, "question hidden"],
    questions: Sequence[str],
    vector: PersonaVector,
    layer: int,
    *,
    random: int = 20,
    seed: int = 0,
) -> ShiftFigures:
    """The shift along a vector, from the change of activations at every question.

    `random` is the number of random directions that it is compared with.
    """
    direction = vector.direction(layer)
    found = clustered_bootstrap(projections(change, direction).tolist(), list(questions), seed=seed)
    spread, norm = float(vector.neutral_prompt_last[layer, 1]), float(vector.residual_norm[layer])
    mean = change.mean(0)
    others = random_directions(direction, random, seed=seed)
    along = (others / others.norm(dim=-1, keepdim=True)) @ mean
    size = float(mean.norm())
    return ShiftFigures(
        layer=layer,
        shift=found.value,
        low=found.low,
        high=found.high,
        sigma=found.value / spread,
        sigma_low=found.low / spread,
        sigma_high=found.high / spread,
        norm=found.value / norm,
        norm_low=found.low / norm,
        norm_high=found.high / norm,
        random_largest=float(along.abs().max()),
        cosine=found.value / size if size else None,
        questions=len(set(questions)),
    )


def trait_shift(
    models: Mapping[str, MeasuredModel], vector: PersonaVector, config: ShiftConfig, judge: Judge
) -> TraitShift:
    """One trait's figures; `models` are `base`, `tuned` and perhaps `control`."""
    trait = vector.trait
    states = {arm: found.states[trait] for arm, found in models.items()}
    answers = {arm: found.answers[trait] for arm, found in models.items()}
    questions = list(dict.fromkeys(r.question for r in answers["base"]))

    def figures(of: str, minus: str) -> ShiftFigures:
        return shift_figures(
            states[of] - states[minus],
            questions,
            vector,
            layer_of(vector, config),
            random=config.random_directions,
            seed=config.seed,
        )

    def shown(arm: str) -> Expression:
        tells_refusals = judge.name != contrast.NAME
        return summarise(answers[arm], refusals=tells_refusals, seed=config.seed)

    controlled = "control" in models
    return TraitShift(
        **vars(figures("tuned", "base")),
        expression_base=shown("base"),
        expression_tuned=shown("tuned"),
        expression_difference=paired(answers["tuned"], answers["base"], config.seed),
        expression_control=shown("control") if controlled else None,
        control=figures("control", "base") if controlled else None,
        beyond_control=figures("tuned", "control") if controlled else None,
        expression_beyond_control=paired(answers["tuned"], answers["control"], config.seed)
        if controlled
        else None,
    )


def transcripts(models: Mapping[str, MeasuredModel], trait: str) -> tuple[ShownAnswers, ...]:
    """The first questions with every model's first answer."""
    answers = {arm: found.answers[trait] for arm, found in models.items()}
    questions = list(dict.fromkeys(r.question for r in answers["base"]))[:_SHOWN]
    return tuple(
        ShownAnswers(
            question=question,
            answers={
                arm: next(r.response for r in found if r.question == question)
                for arm, found in answers.items()
            },
        )
        for question in questions
    )
