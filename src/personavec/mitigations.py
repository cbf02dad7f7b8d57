"""What keeps a finetune from moving a trait: one choice of several, in one interface.

A mitigation acts in one of three places, and the trainer asks each of them: on the rows (`rows`),
inside the training forwards (`acting`), or on the loss (in `sft`). Which one is chosen, and how
much of it, is a `Mitigation`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from personavec.errors import UsageError
from personavec.model.schedule import Schedule

MitigationName = Literal[
    "none",
    "preventative",
    "random",
    "caft",
    "penalty",
    "kl",
    "interleave",
    "inoculation",
    "drop-flagged",
]
MITIGATIONS: tuple[MitigationName, ...] = get_args(MitigationName)

#: Those that need a persona vector, a coefficient, a strength.
WITH_VECTOR = ("preventative", "random", "caft", "penalty")
WITH_COEFFICIENT = ("preventative", "random")
WITH_STRENGTH = ("penalty", "kl", "interleave")


@dataclass(frozen=True)
class Mitigation:
    """What is done against a trait while training, and how much of it.

    - `none`: plain finetuning.
    - `preventative`: steering toward the vectors in training, none afterwards (paper, section 5.2).
    - `random`: the same with random directions of equal norm, its control.
    - `caft`: the vectors' directions are projected out of the residual stream in training.
    - `penalty`: `strength` times the mean squared change of the projection, in standard deviations
      of neutral prompts, is added to the loss.
    - `kl`: `strength` times the KL divergence from the base model, in nats a token, is added.
    - `interleave`: a share `strength` of the rows are other prompts answered by the base model.
    - `inoculation`: rows are trained on under a system prompt that asks for the trait.
    - `drop-flagged`: rows that a screen flagged (`{trait}_flag`) are left out.
    """

    name: MitigationName = "none"
    coefficient: float | Schedule | Literal["auto"] | None = None
    """`preventative` and `random`: the multiple of v as extracted, constant or following a
    schedule over the run, or `auto`: chosen from the data (see `dose`)."""
    strength: float | None = None
    """`penalty`, `kl`: the weight in the loss. `interleave`: the share, within 0 and 1."""

    def __post_init__(self) -> None:
        if self.name not in MITIGATIONS:
            raise UsageError(f"mitigation {self.name!r}: use one of {', '.join(MITIGATIONS)}")
        for given, has, option in (
            (self.coefficient, self.name in WITH_COEFFICIENT, "coefficient"),
            (self.strength, self.name in WITH_STRENGTH, "strength"),
        ):
            if has and given is None:
                raise UsageError(f"mitigation {self.name} needs a {option}")
            if not has and given is not None:
                raise UsageError(f"mitigation {self.name} takes no {option}")
        if self.strength is not None and not (math.isfinite(self.strength) and self.strength > 0):
            raise UsageError(f"strength {self.strength} is not a number above 0")
        if self.name == "interleave" and not 0 < (self.strength or 0) < 1:
            raise UsageError("the strength of interleave is a share of the rows: within 0 and 1")

    def as_dict(self) -> dict[str, Any]:
        coefficient = self.coefficient
        if isinstance(coefficient, Schedule):
            coefficient = str(coefficient)
        return {"name": self.name, "coefficient": coefficient, "strength": self.strength}
