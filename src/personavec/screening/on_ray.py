"""The same screen on a Ray cluster: windows of rows are read, scored and written by its workers.

A pipeline of Ray Data. Tasks read stretches of the input and stream their windows; actors, each
with a model of its own, score them with the code of a single process and write the same parts,
under the same names. What goes through the object store is a few windows at a time, and what
comes back to the driver is a count. A part is written whole and is known by its window's number,
so that work done twice, after a node or the driver died, leaves one part as if done once.

All nodes see the data, the output folder and a local model under the same paths.
"""

from __future__ import annotations

import os
import pickle
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, ExecutionResources
from ray.exceptions import RayError

from personavec.data import RawRow
from personavec.errors import ModelError, PersonavecError, UsageError
from personavec.judges.base import Judge
from personavec.judges.contrast import ContrastJudge
from personavec.model.loading import LoadedModel, ModelIdentity, load_model
from personavec.screening import parts
from personavec.screening.kept import Known
from personavec.screening.natural import Naturals
from personavec.screening.outputs import (
    Added,
    Files,
    Types,
    Unfit,
    changed,
    column_types,
    united_types,
    write_outputs,
)
from personavec.screening.ray_windows import Windows
from personavec.screening.score import Plan, Probe, natural_projections, prepare, score
from personavec.screening.stretches import STRETCH, Stretch, stretches
from personavec.traits import TraitSpec
from personavec.wording import plural

#: Bytes of the object store that reading may fill, for each device.
STORE_PER_DEVICE = 128 << 20
#: Rows of the input that one of the files to take away holds at most.
ROWS_PER_FILE = 1 << 16
#: The share of a processor core that reading for one core's model takes, where both share it.
_READER = 0.05


# The cluster


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Connect to a cluster for as long as the context lasts.

    `address` is that of a cluster's head node, `local` for one of this machine's own, or `auto`
    for the cluster that this machine is part of, and one of its own where it is part of none. A
    connection that the caller has opened is used and left open. Raises UsageError when there is
    no cluster at the address.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        _connect(address)
    except (OSError, ValueError, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError(
            f"--ray {address}: no cluster answers there ({reason}); give the HOST:PORT that "
            "`ray start --head` printed, or --ray alone for one on this machine"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _connect(address: str) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address == "auto":
        try:
            ray.init(address=address, **quiet)
            return
        except ConnectionError:
            address = "local"
    if address == "local":
        ray.init(address=address, include_dashboard=False, _node_ip_address="127.0.0.1", **quiet)
        return
    host, _, port = address.rpartition(":")
    # Ray itself takes minutes to find that nobody is there.
    socket.create_connection((host, int(port)), timeout=10).close()
    ray.init(address=address, **quiet)


def devices() -> tuple[int, bool]:
    """How many devices the cluster has now, and whether they are accelerators."""
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    return (gpus, True) if gpus else (max(1, int(resources.get("CPU", 1))), False)


# What workers are told


@dataclass(frozen=True, eq=False)
class Setup:
    """What every worker needs to score as the driver would."""

    model: str
    """What `load_model` takes; a path is absolute."""
    identity: ModelIdentity
    """The driver's model; a worker that finds another one is refused."""
    probe: Probe
    plan: Plan
    natural_folder: Path | None = None
    natural_tokens: int = 0
    natural_samples: int = 1
    judged: tuple[TraitSpec, ...] = ()
    """Traits that the contrast judge scores."""

    def load(self) -> LoadedModel:
        """The driver's model once more, on this worker's device.

        Raises ModelError when it is not the same.
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


def setup(
    loaded: LoadedModel,
    probe: Probe,
    plan: Plan,
    *,
    natural_folder: Path | None = None,
    natural_tokens: int = 0,
    natural_samples: int = 1,
    judge: Judge | None = None,
    specs: Sequence[TraitSpec] = (),
) -> Setup:
    """What workers need, from what the driver works with.

    Raises UsageError for a model or a judge that workers cannot make again by name.
    """
    if loaded.identity.arguments:
        raise UsageError("--ray loads the model by its name alone, without arguments")
    if judge is not None and not isinstance(judge, ContrastJudge):
        raise UsageError("--ray knows the contrast judge alone; judge the rows in one process")
    name = loaded.identity.name
    return Setup(
        model=str(Path(name).resolve()) if Path(name).exists() else name,
        identity=loaded.identity,
        probe=probe,
        plan=plan,
        natural_folder=None if natural_folder is None else natural_folder.resolve(),
        natural_tokens=natural_tokens,
        natural_samples=natural_samples,
        judged=tuple(specs) if judge is not None else (),
    )


@dataclass(frozen=True)
class Scored:
    """What a worker reports of a window."""

    rows: int
    rejects: int
    tokens: int
    """That went through the model."""


# Scoring


def score_stretches(
    work: Setup, todo: Sequence[Stretch], folder: Path, name: str
) -> Iterator[Scored]:
    """Score the windows of some stretches into `folder`; yields as they finish, in any order.

    `name` is what the dataset is called in the records of its rejects. Call it while `connected`.
    Raises what scoring raises, from whichever worker did first.
    """
    for report in pipeline(todo, _Scorer, (work, folder.resolve(), name)):
        yield Scored(report["rows"], report["rejects"], report["tokens"])


def content(source: str | Path, *, split: str | None, folder: Path) -> list[str]:
    """The hashes of a dataset's rows, read on the cluster; none where `folder` has no scores."""
    if not parts.parts(folder):
        return []
    todo, _ = stretches(source, split=split, size=parts.WINDOW)
    found = dict(_each(_hashes, list(enumerate(todo))))
    return [own for number in sorted(found) for own in found[number]]


def _hashes(number: int, stretch: Stretch) -> tuple[int, list[str]]:
    return number, [raw.hash for raw in _rows(stretch)]


def fill_naturals(
    work: Setup,
    source: str | Path,
    rows: npt.NDArray[np.int64],
    *,
    split: str | None = None,
    size: int = parts.WINDOW,
) -> Iterator[int]:
    """Generate and keep the natural responses of some rows; yields counts of rows as they come.

    Afterwards every process that shares the folder of natural responses finds them there.
    """
    todo, _ = stretches(source, split=split, size=size)
    windows = set((rows // size).tolist())
    left = [replace(s, numbers=s.numbers & windows) for s in todo if s.numbers & windows]
    for report in pipeline(left, _Generator, (work, frozenset(rows.tolist()))):
        yield report["rows"]


def write_parts(
    added: Added, files: Files, *, split: str | None = None
) -> Iterator[tuple[int, Counter[str]]]:
    """Write a dataset's files as parts, each by whichever node is free.

    Yields counts of rows, and of what is to be told of them. Columns have the same types in all
    parts. Raises DataError as `write_outputs` does.
    """
    size = max(1, ROWS_PER_FILE // STRETCH)
    todo, total = stretches(files.source, split=split, size=size)
    if total != len(added.content):
        raise changed(files.source, f"it has {plural(total, 'row')}, not {len(added.content)}")
    files = replace(files, folder=files.folder.resolve())
    types: Types = {}
    if files.format == "parquet":
        found = dict(_each(_types_of, list(enumerate(todo))))
        for number in sorted(found):  # the order of columns does not depend on who was first
            types = united_types(types, found[number])
    written: set[int] = set()
    while True:
        arguments = []
        for number, stretch in enumerate(todo):
            start, stop = min(stretch.numbers) * size, (max(stretch.numbers) + 1) * size
            arguments.append((stretch, added.slice(start, stop), files, types, number))
        try:
            for number, n, told in _each(_write_part, arguments):
                if number not in written:
                    written.add(number)
                    yield n, told
            return
        except Unfit as unfit:
            # All parts once more, with these columns as texts.
            types = types | dict.fromkeys(unfit.columns)


def _types_of(number: int, stretch: Stretch) -> tuple[int, Types]:
    return number, column_types(_rows(stretch), stretch.source)


def _write_part(
    stretch: Stretch, added: Added, files: Files, types: Types, number: int
) -> tuple[int, int, Counter[str]]:
    told = write_outputs(lambda: _rows(stretch), added, files, types=types, part=number)
    return number, len(added.index), told


def _rows(stretch: Stretch) -> Iterator[RawRow]:
    return (raw for _, window in stretch.windows() for raw in window)


def _each(work: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
    """What a function returns for all of its arguments, from tasks on the cluster, in any order."""
    remote = ray.remote(num_cpus=1)(work)
    waiting: list[Any] = []
    with _own_errors():
        for own in arguments:
            if len(waiting) >= 2 * max(1, int(ray.cluster_resources().get("CPU", 1))):
                [done], waiting = ray.wait(waiting)
                yield ray.get(done)
            waiting.append(remote.remote(*own))
        while waiting:
            [done], waiting = ray.wait(waiting)
            yield ray.get(done)


class _Scorer:
    """An actor: one model on one device, scoring windows and writing their parts."""

    def __init__(self, work: Setup, folder: Path, dataset: str):
        self._work, self._folder, self._dataset = work, folder, dataset
        self._loaded = work.load()
        self._naturals = _kept_naturals(work, self._loaded)
        self._judge = ContrastJudge(self._loaded) if work.judged else None
        self._known = Known(folder)
        self._device = Lock()

    def __call__(self, batch: pa.Table) -> pa.Table:
        return _reports(batch, self._window)

    def _window(self, number: int, raws: list[RawRow]) -> dict[str, int]:
        # Two calls run at a time: one reads and tokenises while the other has the device.
        fresh = [raw for raw in raws if raw not in self._known]
        window = prepare(self._loaded, fresh, self._work.plan)
        table, tokens = None, 0
        if fresh:
            with self._device:
                columns = score(
                    self._loaded,
                    window,
                    self._work.probe,
                    self._work.plan,
                    naturals=self._naturals,
                    judge=self._judge,
                    specs=self._work.judged,
                )
            table, tokens = parts.to_table(columns), int(columns.sequence_tokens.sum())
        table = self._known.complete(raws, table, self._work.plan.columns)
        bad = parts.write_window(self._folder, number, raws, table, self._dataset)
        return {"rows": len(raws), "rejects": bad, "tokens": tokens}


class _Generator:
    """An actor that generates the natural responses of chosen rows."""

    def __init__(self, work: Setup, rows: frozenset[int]):
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


def _kept_naturals(work: Setup, loaded: LoadedModel) -> Naturals | None:
    if work.natural_folder is None:
        return None
    return Naturals(
        loaded,
        work.natural_folder,
        max_tokens=work.natural_tokens,
        samples=work.natural_samples,
    )


# The pipeline


def _reports(batch: pa.Table, work: Callable[[int, list[RawRow]], dict[str, int]]) -> pa.Table:
    found = zip(batch["number"].to_pylist(), batch["rows"].to_pylist(), strict=True)
    return pa.Table.from_pylist([work(number, pickle.loads(rows)) for number, rows in found])


def pipeline(
    todo: Sequence[Stretch], actor: type, arguments: tuple[Any, ...]
) -> Iterator[dict[str, int]]:
    """Reports of all windows in the stretches, as they come."""
    if not todo:
        return
    n_devices, accelerated = devices()
    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # Smaller than any window, so that each is a block of its own and blocks are shared out evenly.
    context.target_max_block_size = 1
    context.execution_options.resource_limits = ExecutionResources.for_limits(
        object_store_memory=n_devices * STORE_PER_DEVICE
    )
    n_windows = sum(len(stretch.numbers) for stretch in todo)
    with DataContext.current(context):
        read = ray.data.read_datasource(
            Windows(todo),
            override_num_blocks=len(todo),
            num_cpus=1 if accelerated else _READER,
            concurrency=min(n_devices, len(todo)),
        )
        reports = read.map_batches(
            actor,
            fn_constructor_args=arguments,
            batch_size=None,
            batch_format="pyarrow",
            num_gpus=1 if accelerated else None,
            num_cpus=None if accelerated else 1 - _READER,
            compute=ActorPoolStrategy(
                min_size=1,
                initial_size=min(n_devices, n_windows),
                max_size=n_windows,
                max_concurrent_calls_per_actor=2,
                enable_true_multi_threading=True,
            ),
        )
        with _own_errors():
            for batch in reports.iter_batches(batch_size=None, batch_format="pyarrow"):
                yield from pa.table(batch).to_pylist()


@contextmanager
def _own_errors() -> Iterator[None]:
    """Raise a worker's error for the user as it was raised there."""
    try:
        yield
    except RayError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, PersonavecError):
            cause = getattr(cause, "cause", None) or cause.__cause__
        if cause is not None:
            raise cause from error
        last = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise PersonavecError(
            f"the Ray cluster could not go on ({last}); mend that, and run the same command again: "
            "what is finished is kept"
        ) from error
