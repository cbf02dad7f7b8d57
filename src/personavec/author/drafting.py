"""The steps of writing one spec, each kept on disk, so that a killed run continues."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from personavec.author.config import AuthorConfig
from personavec.author.probe import evidence, probe, probe_counts, weak_entries
from personavec.author.prompts import Asking, rewrite, write
from personavec.author.results import ProbeResult
from personavec.errors import EndpointError
from personavec.judges import ContrastJudge, Endpoint
from personavec.model import LoadedModel
from personavec.model.engine import Sampling
from personavec.progress import Progress
from personavec.rollouts import Rollout
from personavec.runs import Settings, atomic_write, claim
from personavec.traits import Flaw, TraitSpec, flaws, load_trait

UNUSABLE_FILE = "unusable-answer.txt"


@dataclass(frozen=True, eq=False)
class Drafting:
    """One spec being written: by whom, for what trait, and on what it is tried."""

    endpoint: Endpoint
    name: str
    description: str
    out: Path
    config: AuthorConfig
    subject: LoadedModel | None
    progress: Progress

    def settings(self) -> Settings:
        """What decides the spec, for the manifest; how long and how often to try does not."""
        decides = asdict(self.config)
        for other in ("tries", "answer_tokens", "batch_tokens"):
            del decides[other]
        return {
            "command": "author",
            "trait": self.name,
            "description": self.description,
            "author": self.endpoint.identity(),
            "subject": self.subject.identity.as_dict() if self.subject else None,
            "config": decides,
        }

    @property
    def begun(self) -> bool:
        """Whether the first draft is there already."""
        return self._path(0).exists()

    def write(self) -> TraitSpec:
        """The first draft."""
        make = partial(write, self._asking, self.name, self.description, self.config.sizes)
        return self._draft(0, "writing", make)

    def rewrite(
        self,
        round_number: int,
        spec: TraitSpec,
        found: Sequence[Flaw],
        rollouts: Mapping[str, Rollout],
    ) -> TraitSpec:
        """The spec with its flawed entries replaced; the author sees what the probe showed."""
        see = partial(evidence, spec=spec, rollouts=list(rollouts.values()))
        make = partial(rewrite, self._asking, spec, found, see)
        return self._draft(round_number, f"rewriting, round {round_number}", make)

    def probe(
        self, round_number: int, spec: TraitSpec, known: Mapping[str, Rollout]
    ) -> dict[str, Rollout]:
        """Rollouts of the spec on the subject model; none without a subject."""
        if self.subject is None:
            return {}
        config = self.config
        return probe(
            self.subject,
            ContrastJudge(self.subject, wrote_answers=True),
            spec,
            Sampling(config.probe_tokens, config.temperature, seed=config.seed),
            self.out / "probe" / f"round-{round_number}",
            known,
            batch_tokens=config.batch_tokens,
            progress=self.progress,
        )

    def flaws(self, spec: TraitSpec, rollouts: Mapping[str, Rollout]) -> list[Flaw]:
        """What lint finds, and which entries elicit too little."""
        found = flaws(spec)
        if rollouts:
            found += weak_entries(spec, list(rollouts.values()), self.config.min_share)
        return found

    def probe_result(self, spec: TraitSpec, rollouts: Mapping[str, Rollout]) -> ProbeResult | None:
        """What the spec elicited; None without a subject."""
        if self.subject is None:
            return None
        return ProbeResult(
            model=self.subject.identity.as_dict(),
            judge="contrast",
            tokens=self.config.probe_tokens,
            temperature=self.config.temperature,
            seed=self.config.seed,
            min_share=self.config.min_share,
            **vars(probe_counts(spec, list(rollouts.values()))),
        )

    def _path(self, number: int) -> Path:
        return self.out / f"draft-{number}.json"

    @property
    def _unusable(self) -> Path:
        return self.out / UNUSABLE_FILE

    @property
    def _asking(self) -> Asking:
        def keep(answer: str, why: str) -> None:
            atomic_write(self._unusable, f"{why}\n\n{answer}\n")

        return Asking(self.endpoint, self.config.tries, self.config.answer_tokens, keep)

    def _draft(self, number: int, label: str, make: Callable[[], TraitSpec]) -> TraitSpec:
        """A draft from disk, or made and written there."""
        path = self._path(number)
        if path.exists():
            return load_trait(str(path))[0]
        with self.progress.bar(label, 1) as bar:
            spec = self._asked(make)
            bar.advance(1)
        # The first draft ties the folder to its settings. Before it another author may be tried.
        claim(self.out, self.settings(), beside=UNUSABLE_FILE)
        atomic_write(path, spec.model_dump_json(indent=2))
        return spec

    def _asked(self, make: Callable[[], TraitSpec]) -> TraitSpec:
        """What the author makes; a failure names the file of its last answer, if there is one."""
        self._unusable.unlink(missing_ok=True)
        try:
            return make()
        except EndpointError as error:
            if not self._unusable.exists():
                raise
            raise EndpointError(f"{error}; its last answer is in {self._unusable}") from error
