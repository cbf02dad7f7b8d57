"""The actors of a Ray cluster: each loads its own model, and scores rows or generates."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock

import pyarrow as pa

from personavec.data import RawRow, parts
from personavec.errors import ModelError, UsageError
from personavec.judges import ContrastJudge, Judge
from personavec.model import LoadedModel, ModelIdentity, load_model
from personavec.rollouts import Naturals
from personavec.screen import (
    Known,
    Plan,
    Probe,
    natural_projections,
    part_table,
    prepare,
    score_prepared,
)
from personavec.traits import TraitSpec


@dataclass(frozen=True, eq=False)
class WorkerSetup:
    """What every worker needs to score rows exactly as the driver would."""

    model: str
    """Name or absolute path for `load_model`."""
    identity: ModelIdentity
    """The driver's model; a worker's must be the same."""
    probe: Probe
    plan: Plan
    natural_folder: Path | None = None
    natural_tokens: int = 0
    natural_samples: int = 1
    judged: tuple[TraitSpec, ...] = ()
    """Traits that the contrast judge scores."""
    keeps_prompts: bool = False
    """Whether the prompts of rows are stored with their scores."""

    def load(self) -> LoadedModel:
        """Load the driver's model on this worker's device.

        Raises ModelError when it is another model.
        """
        date = {"today": self.identity.today} if self.identity.today else {}
        loaded = load_model(self.model, dtype=self.identity.dtype, template_args=date)
        own = replace(loaded.identity, name=self.identity.name)
        if own != self.identity:
            raise ModelError(
                f"a worker's model '{self.model}' is not the driver's: {own.as_dict()} there, "
                f"{self.identity.as_dict()} here; give all nodes the same files and versions"
            )
        return replace(loaded, identity=own)


def worker_setup(
    loaded: LoadedModel,
    probe: Probe,
    plan: Plan,
    *,
    natural_folder: Path | None = None,
    natural_tokens: int = 0,
    natural_samples: int = 1,
    judge: Judge | None = None,
    specs: Sequence[TraitSpec] = (),
) -> WorkerSetup:
    """The setup for workers that score as the driver does.

    Raises UsageError for a model or judge that workers cannot recreate by name.
    """
    if loaded.identity.arguments:
        raise UsageError("--ray loads the model by its name only, without arguments")
    if judge is not None and not isinstance(judge, ContrastJudge):
        raise UsageError("--ray supports only the contrast judge; judge the rows in one process")
    name = loaded.identity.name
    return WorkerSetup(
        model=str(Path(name).resolve()) if Path(name).exists() else name,
        identity=loaded.identity,
        probe=probe,
        plan=plan,
        natural_folder=None if natural_folder is None else natural_folder.resolve(),
        natural_tokens=natural_tokens,
        natural_samples=natural_samples,
        judged=tuple(specs) if judge is not None else (),
    )


class Scorer:
    """An actor with one model on one device, which scores windows and writes their parts."""

    def __init__(self, work: WorkerSetup, folder: Path, dataset: str):
        self._work, self._folder, self._dataset = work, folder, dataset
        self._loaded = work.load()
        self._naturals = _kept_naturals(work, self._loaded)
        self._judge = ContrastJudge(self._loaded) if work.judged else None
        self._known = Known(folder, with_prompts=work.keeps_prompts)
        self._device = Lock()

    def __call__(self, batch: pa.Table) -> pa.Table:
        return _reports(batch, self._window)

    def _window(self, number: int, raws: list[RawRow]) -> dict[str, int]:
        # Two calls run concurrently: one reads and tokenises while the other uses the device.
        fresh = [raw for raw in raws if raw not in self._known]
        window = prepare(self._loaded, fresh, self._work.plan)
        table, tokens = None, 0
        if fresh:
            with self._device:
                columns = score_prepared(
                    self._loaded,
                    window,
                    self._work.probe,
                    self._work.plan,
                    naturals=self._naturals,
                    judge=self._judge,
                    specs=self._work.judged,
                )
            table = part_table(columns, window, with_prompts=self._work.keeps_prompts)
            tokens = int(columns.sequence_tokens.sum())
        table = self._known.complete(raws, table, self._work.plan.columns)
        bad = parts.write_window(self._folder, number, raws, table, self._dataset)
        return {"rows": len(raws), "rejects": bad, "tokens": tokens}


class Generator:
    """An actor that generates the natural responses of chosen rows."""

    def __init__(self, work: WorkerSetup, rows: frozenset[int]):
        self._work, self._rows = work, rows
        self._loaded = work.load()
        self._naturals = _kept_naturals(work, self._loaded)
        self._device = Lock()

    def __call__(self, batch: pa.Table) -> pa.Table:
        return _reports(batch, self._window)

    def _window(self, number: int, raws: list[RawRow]) -> dict[str, int]:
        chosen = [raw for raw in raws if raw.index in self._rows]
        window = prepare(self._loaded, chosen, self._work.plan)
        with self._device:
            if self._naturals is not None:
                natural_projections(window, self._work.probe, self._naturals)
        return {"rows": len(chosen)}


def _kept_naturals(work: WorkerSetup, loaded: LoadedModel) -> Naturals | None:
    if work.natural_folder is None:
        return None
    return Naturals(
        loaded,
        work.natural_folder,
        max_tokens=work.natural_tokens,
        samples=work.natural_samples,
    )


def _reports(batch: pa.Table, work: Callable[[int, list[RawRow]], dict[str, int]]) -> pa.Table:
    found = zip(batch["number"].to_pylist(), batch["rows"].to_pylist(), strict=True)
    return pa.Table.from_pylist([work(number, pickle.loads(rows)) for number, rows in found])
