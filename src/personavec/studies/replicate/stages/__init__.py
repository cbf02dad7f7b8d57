"""The stages of a replication, in the order in which they run."""

from __future__ import annotations

from typing import Any

from personavec.studies.replicate.stage import Stage
from personavec.studies.replicate.stages import (
    expression,
    extraction,
    finetunes,
    mitigation,
    monitoring,
    naturals,
    persistence,
    real,
    rows,
    sets,
)

STAGES: tuple[Stage[Any], ...] = (
    naturals.STAGE,
    extraction.STAGE,
    monitoring.STAGE,
    sets.STAGE,
    rows.STAGE,
    finetunes.STAGE,
    expression.STAGE,
    mitigation.STAGE,
    real.STAGE,
    persistence.STAGE,
)
