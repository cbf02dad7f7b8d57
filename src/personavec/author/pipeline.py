"""Write a trait spec: from a name and a description, by a strong model behind an endpoint.

Written, then checked: `lint` looks for what may mislead, and a probe on a subject model counts
what each pair and question elicits. What falls through is rewritten with that evidence, for a
number of rounds. The result is a spec file, meant to be read and edited.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from personavec import __version__
from personavec.author.config import AuthorConfig
from personavec.author.probe import counts, evidence, probe, weak_entries
from personavec.author.prompts import Asking, draft_messages, rewrite, to_replace, write
from personavec.errors import EndpointError
from personavec.judges import ContrastJudge, CostEstimate, Endpoint, estimate, total, unwritten
from personavec.model import LoadedModel
from personavec.model.engine import Sampling
from personavec.progress import Progress
from personavec.rollouts import Rollout
from personavec.runs import MANIFEST, atomic_write, claim, lock
from personavec.traits import Flaw, TraitSpec, flaws, load_trait, template_spec

SPEC_FILE = "spec.json"
UNUSABLE_FILE = "unusable-answer.txt"


def run(
    endpoint: Endpoint,
    name: str,
    description: str,
    out: Path,
    config: AuthorConfig | None = None,
    *,
    subject: LoadedModel | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write a spec into `out / "spec.json"`; returns a summary.

    With a `subject`, the spec is probed on it. A killed run is continued by calling again; a
    finished one is left as it is, with whatever was edited since. Raises SpecError for a name or
    description that no spec can have, EndpointError when the endpoint fails or gives nothing
    usable (the last such answer is kept), SettingsMismatchError when `out` holds another spec.
    """
    config = config or AuthorConfig()
    progress = progress or Progress()
    template_spec(name, description)  # refuses what no spec can be made from
    name, description = name.strip(), description.strip()
    settings = _settings(endpoint, name, description, config, subject)
    with lock(out):
        if (out / MANIFEST).exists():
            claim(out, settings)
        if not (out / SPEC_FILE).exists():
            _write(endpoint, name, description, out, config, subject, progress, settings)
        return _summary(out / SPEC_FILE)


def most_asked(
    endpoint: Endpoint, name: str, description: str, config: AuthorConfig | None = None
) -> CostEstimate:
    """What a spec takes of the endpoint at most, where every answer can be used.

    Every round is counted as if it showed the author a whole draft and had it all written again.
    Raises SpecError for a name or description that no spec can have.
    """
    config = config or AuthorConfig()
    template_spec(name, description)
    messages = draft_messages(name.strip(), description.strip(), config.sizes)
    draft = {"messages": messages, "max_tokens": config.answer_tokens}
    shown = {"role": "user", "content": unwritten(config.answer_tokens)}
    rewriting = {"messages": [*messages, shown], "max_tokens": config.answer_tokens}
    first = estimate(endpoint, [draft])
    return total([first, *(estimate(endpoint, [rewriting]) for _ in range(config.rounds))])


def _settings(
    endpoint: Endpoint,
    name: str,
    description: str,
    config: AuthorConfig,
    subject: LoadedModel | None,
) -> dict[str, Any]:
    """What decides the spec; how long and how often to try does not."""
    decides = asdict(config)
    for other in ("tries", "answer_tokens", "batch_tokens"):
        del decides[other]
    return {
        "command": "author",
        "trait": name,
        "description": description,
        "author": endpoint.identity(),
        "subject": subject.identity.as_dict() if subject else None,
        "config": decides,
    }


def _write(
    endpoint: Endpoint,
    name: str,
    description: str,
    out: Path,
    config: AuthorConfig,
    subject: LoadedModel | None,
    progress: Progress,
    settings: dict[str, Any],
) -> None:
    asking = Asking(endpoint, config.tries, config.answer_tokens, _keeper(out / UNUSABLE_FILE))
    sampling = Sampling(config.probe_tokens, config.temperature, seed=config.seed)

    def draft(number: int, make: Callable[[], TraitSpec]) -> TraitSpec:
        """A draft from disk, or made and put there."""
        path = out / f"draft-{number}.json"
        if path.exists():
            return load_trait(str(path))[0]
        label = f"rewriting, round {number}" if number else "writing"
        with progress.bar(label, 1) as bar:
            spec = _asked(make, out / UNUSABLE_FILE)
            bar.advance(1)
        # The first draft ties the folder to its settings: before it, nothing stands in the way
        # of trying another author.
        claim(out, settings, beside=UNUSABLE_FILE)
        atomic_write(path, spec.model_dump_json(indent=2))
        return spec

    def trial(spec: TraitSpec, number: int, known: dict[str, Rollout]) -> dict[str, Rollout]:
        if subject is None:
            return {}
        return probe(
            subject,
            ContrastJudge(subject, wrote_answers=True),
            spec,
            sampling,
            out / "probe" / f"round-{number}",
            known,
            batch_tokens=config.batch_tokens,
            progress=progress,
        )

    spec = draft(0, partial(write, asking, name, description, config.sizes))
    found, rollouts = _check(spec, trial(spec, 0, {}), config)
    history: list[dict[str, Any]] = []
    for number in range(1, config.rounds + 1):
        if not to_replace(found):
            break
        see = partial(evidence, spec=spec, rollouts=list(rollouts.values()))
        better = draft(number, partial(rewrite, asking, spec, found, see))
        history.append({"round": number, "replaced": _replaced(spec, better, found)})
        spec = better
        found, rollouts = _check(spec, trial(spec, number, rollouts), config)

    provenance = {
        "author": endpoint.model,
        "endpoint": endpoint.base_url,
        "date": datetime.now(UTC).date().isoformat(),
        "personavec": __version__,
        "prompts": draft_messages(name, description, config.sizes),
        "rounds": history,
        "warnings": [flaw.why for flaw in found],
        "probe": None if subject is None else _probe_record(subject, spec, rollouts, config),
    }
    final = spec.model_copy(update={"provenance": provenance})
    atomic_write(out / SPEC_FILE, final.model_dump_json(indent=2) + "\n")


def _check(
    spec: TraitSpec, rollouts: dict[str, Rollout], config: AuthorConfig
) -> tuple[list[Flaw], dict[str, Rollout]]:
    """What lint finds, and what the rollouts show where there are any."""
    found = flaws(spec)
    if rollouts:
        found += weak_entries(spec, list(rollouts.values()), config.min_share)
    return found, rollouts


def _keeper(path: Path) -> Callable[[str, str], None]:
    """Keeps the latest unusable answer, and what was wrong with it, in a file."""
    return lambda answer, why: atomic_write(path, f"{why}\n\n{answer}\n")


def _asked(make: Callable[[], TraitSpec], unusable: Path) -> TraitSpec:
    """What an author makes; a failure names the file of its last answer, if there is one."""
    unusable.unlink(missing_ok=True)
    try:
        return make()
    except EndpointError as error:
        if not unusable.exists():
            raise
        raise EndpointError(f"{error}; its last answer is in {unusable}") from error


def _replaced(before: TraitSpec, after: TraitSpec, found: Sequence[Flaw]) -> list[dict[str, Any]]:
    """What a round replaced, with the reasons; for the reader of the spec."""
    old, new = before.model_dump(mode="json"), after.model_dump(mode="json")
    for data in (old, new):
        data |= data["questions"]
    return [
        {
            "part": part,
            "index": index,
            "was": _plain_entry(old[part][index]),
            "is": _plain_entry(new[part][index]),
            "why": [flaw.why for flaw in found if (flaw.part, flaw.index) == (part, index)],
        }
        for part, index in to_replace(found)
    ]


def _plain_entry(entry: Any) -> Any:
    """A question, or a pair without its examples."""
    return {"pos": entry["pos"], "neg": entry["neg"]} if isinstance(entry, dict) else entry


def _probe_record(
    subject: LoadedModel, spec: TraitSpec, rollouts: dict[str, Rollout], config: AuthorConfig
) -> dict[str, Any]:
    return {
        "model": subject.identity.as_dict(),
        "judge": "contrast",
        "tokens": config.probe_tokens,
        "temperature": config.temperature,
        "seed": config.seed,
        "min_share": config.min_share,
        **counts(spec, list(rollouts.values())),
    }


def _summary(path: Path) -> dict[str, Any]:
    """The keys that `author --json` promises, from the spec file."""
    spec, _ = load_trait(str(path))
    made = spec.provenance
    return {
        "trait": spec.name,
        "spec": str(path),
        "hash": spec.hash,
        "author": {"model": made.get("author"), "endpoint": made.get("endpoint")},
        "rounds": len(made.get("rounds", [])),
        "replaced": sum(len(done["replaced"]) for done in made.get("rounds", [])),
        "warnings": made.get("warnings", []),
        "probe": made.get("probe"),
    }
