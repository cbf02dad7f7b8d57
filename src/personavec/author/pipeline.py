"""Write a trait spec: from a name and a description, by a strong model behind an endpoint.

`_write` is the numbered list of `docs/author.md`: a draft is written, checked by `lint`, tried on
a subject model, and its flawed entries are rewritten with that evidence, for a number of rounds.
The result is a spec file, meant to be read and edited.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from personavec import __version__
from personavec.author.config import AuthorConfig
from personavec.author.drafting import Drafting
from personavec.author.prompts import draft_messages, to_replace
from personavec.author.results import (
    AuthorResult,
    Provenance,
    Replacement,
    RewritingRound,
    SpecAuthor,
)
from personavec.judges import CostEstimate, Endpoint, estimate, total, unwritten
from personavec.model import LoadedModel
from personavec.progress import Progress
from personavec.results import dump
from personavec.runs import MANIFEST, atomic_write, claim, lock
from personavec.traits import Flaw, TraitSpec, load_trait, template_spec
from personavec.wording import duration, plural

SPEC_FILE = "spec.json"


def run(
    endpoint: Endpoint,
    name: str,
    description: str,
    out: Path,
    config: AuthorConfig | None = None,
    *,
    subject: LoadedModel | None = None,
    progress: Progress | None = None,
) -> AuthorResult:
    """Write a spec into `out / "spec.json"`.

    With a `subject`, the spec is probed on it. A killed run continues when it is called again; a
    finished one is left as it is, with whatever was edited since. Raises SpecError for a name or
    description that no spec can have, EndpointError when the endpoint fails or gives nothing
    usable (the last such answer is kept), SettingsMismatchError when `out` holds another spec.
    """
    template_spec(name, description)  # Raises SpecError for what no spec can be made from.
    drafting = Drafting(
        endpoint=endpoint,
        name=name.strip(),
        description=description.strip(),
        out=out,
        config=config or AuthorConfig(),
        subject=subject,
        progress=progress or Progress(),
    )
    with lock(out):
        if (out / MANIFEST).exists():
            claim(out, drafting.settings())
        if not (out / SPEC_FILE).exists():
            atomic_write(out / SPEC_FILE, _write(drafting).model_dump_json(indent=2) + "\n")
        return _result(out / SPEC_FILE)


def _write(drafting: Drafting) -> TraitSpec:
    config, tried = drafting.config, drafting.subject is not None
    drafting.progress.stages(
        "a draft",
        "trying it" if tried else "",
        f"up to {plural(config.rounds, 'round')} of rewriting{' and trying' * tried}",
    )
    # 1. Written.
    begun = drafting.begun
    if not begun:
        drafting.progress.say(
            f"how long it takes is known once {drafting.endpoint.model} has written the draft"
        )
    start = time.monotonic()
    spec = drafting.write()
    # 2. Checked and 3. tried.
    rollouts = drafting.probe(0, spec, {})
    found = drafting.flaws(spec, rollouts)
    if to_replace(found) and config.rounds and not begun:
        left = duration(config.rounds * (time.monotonic() - start))
        drafting.progress.say(f"about {left} more at most, if every round takes as long as this")
    # 4. Rewritten: only what is replaced is tried again.
    rounds: list[RewritingRound] = []
    for number in range(1, drafting.config.rounds + 1):
        if not to_replace(found):
            break
        better = drafting.rewrite(number, spec, found, rollouts)
        rounds.append(RewritingRound(round=number, replaced=_replaced(spec, better, found)))
        spec = better
        rollouts = drafting.probe(number, spec, rollouts)
        found = drafting.flaws(spec, rollouts)
    provenance = Provenance(
        author=drafting.endpoint.model,
        endpoint=drafting.endpoint.base_url,
        date=datetime.now(UTC).date().isoformat(),
        personavec=__version__,
        prompts=tuple(draft_messages(drafting.name, drafting.description, drafting.config.sizes)),
        rounds=tuple(rounds),
        warnings=tuple(flaw.why for flaw in found),
        probe=drafting.probe_result(spec, rollouts),
    )
    return spec.model_copy(update={"provenance": dump(provenance)})


def most_asked(
    endpoint: Endpoint, name: str, description: str, config: AuthorConfig | None = None
) -> CostEstimate:
    """The cost of a spec at most, if every answer is usable.

    Every round is counted as if it showed the author a whole draft and had all of it rewritten.
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


def _replaced(
    before: TraitSpec, after: TraitSpec, found: Sequence[Flaw]
) -> tuple[Replacement, ...]:
    """What a round replaced, with the reasons."""
    old, new = before.model_dump(mode="json"), after.model_dump(mode="json")
    for data in (old, new):
        data |= data["questions"]
    return tuple(
        {
            "part": part,
            "index": index,
            "was": _plain_entry(old[part][index]),
            "is": _plain_entry(new[part][index]),
            "why": [flaw.why for flaw in found if (flaw.part, flaw.index) == (part, index)],
        }
        for part, index in to_replace(found)
    )


def _plain_entry(entry: Any) -> str | dict[str, str]:
    """A question, or a pair without its examples."""
    return {"pos": entry["pos"], "neg": entry["neg"]} if isinstance(entry, dict) else entry


def _result(path: Path) -> AuthorResult:
    """What is said of a finished spec, from its file."""
    spec, _ = load_trait(str(path))
    made = Provenance.of(spec, path)
    return AuthorResult(
        trait=spec.name,
        spec=path,
        hash=spec.hash,
        author=SpecAuthor(model=made.author, endpoint=made.endpoint),
        rounds=len(made.rounds),
        replaced=sum(len(done.replaced) for done in made.rounds),
        warnings=made.warnings,
        probe=made.probe,
    )
