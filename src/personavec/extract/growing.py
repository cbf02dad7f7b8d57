"""Add rollouts to a finished extraction, which keeps what it has and makes the vector anew."""

from __future__ import annotations

import math
from dataclasses import replace

from personavec.errors import UsageError
from personavec.extract.extraction import MIN_KEPT, Extraction
from personavec.plain import parse_json
from personavec.rollouts import iter_rollouts
from personavec.runs import amend, recorded
from personavec.traits import POLARITIES, TraitSpec
from personavec.wording import plural

#: The manifest's key for the samples that were added to those of the settings.
ADDED = "added_samples"


def continued(extraction: Extraction) -> Extraction:
    """The extraction with the samples that were added to the run in its folder."""
    added = (recorded(extraction.out) or {}).get(ADDED, 0)
    return replace(extraction, added_samples=added) if isinstance(added, int) else extraction


def grown(extraction: Extraction, more: int) -> Extraction:
    """The extraction with at least `more` further rollouts, in whole samples.

    One that was stopped while it was adding goes on with what it began. Call it after
    `check_can_grow` and `claim`. Raises UsageError for an extraction that has not finished.
    """
    if not _has_finished(extraction):
        if extraction.added_samples:
            extraction.progress.say("going on with the rollouts that were being added")
            return extraction
        raise UsageError(
            f"the extraction in {extraction.out} has not finished; run it without --more first"
        )
    spec = extraction.spec
    samples = samples_for(spec, more)
    extraction = replace(extraction, added_samples=extraction.added_samples + samples)
    amend(extraction.out, {ADDED: extraction.added_samples})
    extraction.progress.say(
        f"adding {plural(samples * rollouts_per_sample(spec), 'rollout')}: "
        f"{plural(samples, 'further response')} per question, pair and polarity"
    )
    return extraction


def check_can_grow(extraction: Extraction) -> None:
    """Raise UsageError where there is nothing that rollouts can be added to."""
    if extraction.adopted is not None:
        raise UsageError(
            "--more generates rollouts, which adopted ones are not mixed with; give all files that "
            "are to be adopted, and a new --out"
        )
    if recorded(extraction.out) is None:
        raise UsageError(
            f"{extraction.out} holds no extraction to add rollouts to; run it without --more first"
        )


def rollouts_per_sample(spec: TraitSpec) -> int:
    """How many rollouts one response per question, pair and polarity makes."""
    return len(POLARITIES) * len(spec.instruction) * len(spec.questions.extraction)


def samples_for(spec: TraitSpec, more: int) -> int:
    """The whole samples that hold at least `more` rollouts of the used part of a spec."""
    return math.ceil(more / rollouts_per_sample(spec))


def _has_finished(extraction: Extraction) -> bool:
    """Whether there are results of all samples, or too few of their rollouts for any."""
    try:
        results = parse_json((extraction.out / "results.json").read_bytes())
        return results["settings"]["samples"] == extraction.samples
    except FileNotFoundError:
        pass
    except (KeyError, TypeError, ValueError):
        return False
    path = extraction.out / "rollouts.jsonl"
    found = list(iter_rollouts(path)) if path.exists() else []
    kept = [sum(bool(r.kept) for r in found if r.polarity == p) for p in POLARITIES]
    complete = len(found) == extraction.samples * rollouts_per_sample(extraction.spec)
    return complete and min(kept) < MIN_KEPT
