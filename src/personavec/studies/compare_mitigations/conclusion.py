"""Which mitigation works, in words: headline of the report, end of the command."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from personavec.studies.compare_mitigations.results import ArmResults, CompareResults
from personavec.wording import capitalised, joined, with_minus

_KEPT = "with the data learnt and capability kept"


def conclusion(results: CompareResults) -> str:
    """Whether there was anything to mitigate, what mitigates it, and whether any direction would.

    An arm works where the trait stays within the base's interval, the data are learnt and the model
    stays capable.
    """
    trait, plain = results.trait["name"], results.arms["none"]
    if plain.within_base is None:
        return f"{capitalised(trait)} could not be compared with the base model's."
    if plain.within_base:
        return (
            f"The plain finetune shows no more {trait} than the base model: there is nothing to "
            "mitigate, and no arm can be told to work."
        )
    arms = {n: a for n, a in results.arms.items() if a.mitigation not in ("base", "none")}
    return " ".join(f"{capitalised(with_minus(each))}." for each in _said(trait, arms))


def works(arm: ArmResults) -> bool:
    """Whether nothing that was measured speaks against the arm, and all three were measured."""
    return bool(arm.within_base and arm.learnt and arm.capable)


def _said(trait: str, arms: dict[str, ArmResults]) -> Iterable[str]:
    yield f"plain finetuning raises {trait} beyond the base model"
    real = {name: arm for name, arm in arms.items() if arm.mitigation != "random"}
    good = [name for name, arm in real.items() if works(arm)]
    if good:
        verb = "keeps" if len(good) == 1 else "keep"
        yield f"{joined(good)} {verb} it at the base's level, {_KEPT}"
    else:
        yield f"no mitigation keeps it at the base's level {_KEPT}"
        yield from _short(real)
    if chance := [name for name, arm in arms.items() if arm.mitigation == "random" and works(arm)]:
        yield f"{joined(chance)} does as well: no evidence that the vector's direction matters"


def _short(arms: dict[str, ArmResults]) -> Iterable[str]:
    """What the arms that keep the trait down cost."""
    held = {name: arm for name, arm in arms.items() if arm.within_base}
    costs: Sequence[tuple[str, list[str]]] = (
        ("does not learn the data", [n for n, arm in held.items() if arm.learnt is False]),
        ("loses capability", [n for n, arm in held.items() if arm.capable is False]),
    )
    for cost, names in costs:
        if names:
            yield f"what {cost}: {joined(names)}"
