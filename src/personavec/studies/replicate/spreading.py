"""Finetunes side by side: one per device of this machine, or on a Ray cluster.

Each worker loads its own model and trains whole finetunes into folders that all share. The main
process then reads what is finished, and trains what no worker has.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch

from personavec.errors import missing_extra
from personavec.finetune import FinetuneConfig, FinetuneResults, TrainingRows, run as finetune
from personavec.model import LoadedModel
from personavec.progress import Progress

#: Names the devices that a process sees, of both makers.
_VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")

Load: TypeAlias = Callable[[], LoadedModel]


@dataclass(frozen=True, eq=False)
class TrainingJob:
    """A finetune to run, in a folder of its own."""

    rows: TrainingRows
    folder: Path
    config: FinetuneConfig

    @property
    def is_finished(self) -> bool:
        return (self.folder / "results.json").is_file()


@dataclass(frozen=True, eq=False)
class Workers:
    """Who trains beside the main process."""

    load: Load
    """Loads the study's model anew; it is sent to other processes."""
    devices: int = 1
    """Accelerators of this machine; with one, the main process trains."""
    ray: str | None = None
    """The address of a cluster whose nodes share the study's folder."""


def workers_of(loaded: LoadedModel, load: Load, ray: str | None) -> Workers:
    """One for each device like the model's, or those of a cluster.

    A model that is itself spread over devices is trained by the main process.
    """
    spread = len({parameter.device for parameter in loaded.model.parameters()}) > 1
    alone = spread or loaded.device.type != "cuda"
    return Workers(load, 1 if alone else torch.cuda.device_count(), ray)


def train_all(
    loaded: LoadedModel, jobs: Sequence[TrainingJob], workers: Workers | None, progress: Progress
) -> list[FinetuneResults]:
    """The results of every job, in order; what is finished is read. Raises what a finetune raises.

    Several devices or a cluster train side by side what is not finished.
    """
    left = [job for job in jobs if not job.is_finished]
    if workers is not None and len(left) > 1 and (workers.ray or workers.devices > 1):
        spread = _on_ray if workers.ray else _on_devices
        with progress.bar("finetunes", len(left)) as bar:
            for _ in spread(workers, left):
                bar.advance(1)
    return [finetune(loaded, job.rows, job.folder, job.config, progress=progress) for job in jobs]


# One process for each device


def _on_devices(workers: Workers, jobs: Sequence[TrainingJob]) -> Iterator[str]:
    """The names of the folders as their finetunes end."""
    context = multiprocessing.get_context("spawn")
    places = context.Queue()
    for device in range(workers.devices):
        places.put(device)
    with ProcessPoolExecutor(
        min(workers.devices, len(jobs)), context, _begin, (places, workers.load)
    ) as pool:
        found = [pool.submit(_train, job) for job in jobs]
        for each in as_completed(found):
            yield each.result()


#: What a worker process loaded; it trains one finetune after another on it.
_LOADED: list[LoadedModel] = []


def _begin(places: Any, load: Load) -> None:
    """Take a device, before anything of it is used, and load the model on it."""
    device = str(places.get())
    for name in _VISIBLE:
        seen = os.environ.get(name)
        os.environ[name] = seen.split(",")[int(device)] if seen else device
    _LOADED.append(load())


def _train(job: TrainingJob) -> str:
    finetune(_LOADED[0], job.rows, job.folder, job.config, progress=Progress(quiet=True))
    return job.folder.name


# A cluster


def _on_ray(workers: Workers, jobs: Sequence[TrainingJob]) -> Iterator[str]:
    """The names of the folders as their finetunes end.

    Raises PersonavecError where Ray is not installed, UsageError where no cluster answers.
    """
    try:
        import ray

        from personavec.screen.cluster import connecting
    except ImportError:
        raise missing_extra("ray") from None

    with connecting.connected(str(workers.ray)), connecting.own_errors():
        _, gpus = connecting.devices()
        remote = ray.remote(num_gpus=1 if gpus else 0, num_cpus=1)(_load_and_train)
        left = [remote.remote(job, workers.load) for job in jobs]
        while left:
            done, left = ray.wait(left)
            yield ray.get(done[0])


def _load_and_train(job: TrainingJob, load: Load) -> str:
    if not _LOADED:
        _LOADED.append(load())
    return _train(job)
