"""The optional packages that a replication needs, asked before it begins."""

from __future__ import annotations

from personavec.studies.replicate.config import StageName
from personavec.studies.replicate.pipeline import Selection

_STAGES: dict[str, tuple[StageName, ...]] = {
    "finetune": ("finetunes", "mitigation", "real"),
    "eval": ("mitigation",),
}
"""The stages that need each extra."""


def extras_of(selection: Selection) -> list[str]:
    """The extras of the chosen stages; none where evidence may take the stages' place."""
    if selection.evidence is not None:
        return []
    return [name for name, stages in _STAGES.items() if any(map(selection.wants, stages))]
