"""Checkpoints that survive a kill, and the folder of the trained model."""

from __future__ import annotations

import json
import shutil
import zlib
from pathlib import Path

from accelerate import PartialState

from personavec.plain import parse_json
from personavec.runs import atomic_write

#: Written into a checkpoint when all of it is there: size and checksum of each file.
COMPLETE = "complete.json"
#: What a checkpoint holds of the trainer, not of the model.
_TRAINER_STATE = (
    *("optimizer*", "scheduler*", "rng_state*", "trainer_state*", "training_args*"),
    COMPLETE,
)
#: Lists in an adapter's configuration that peft makes of sets, in another order in each process.
_SETS = ("target_modules", "exclude_modules")


def mark_complete(checkpoint: Path) -> None:
    """Record that a checkpoint is whole, and what its files hold."""
    atomic_write(checkpoint / COMPLETE, json.dumps(_contents(checkpoint)))


def last_checkpoint(folder: Path, *, before: int | None = None) -> Path | None:
    """The newest whole checkpoint, of a step below `before` where it is given.

    Torn and damaged ones that are newer are removed.
    """
    steps = {path: path.name.removeprefix("checkpoint-") for path in folder.glob("checkpoint-*")}
    found = sorted(
        (
            path
            for path, step in steps.items()
            if step.isdecimal() and (before is None or int(step) < before)
        ),
        key=lambda path: int(steps[path]),
    )
    for path in reversed(found):
        if _is_whole(path):
            return path
        if PartialState().is_main_process:
            shutil.rmtree(path, ignore_errors=True)
    return None


def aside(save_to: Path) -> Path:
    """Where a model is written before its folder is renamed to `save_to`; empty."""
    found = save_to.with_name(f".{save_to.name}.tmp")
    if PartialState().is_main_process:
        shutil.rmtree(found, ignore_errors=True)
    PartialState().wait_for_everyone()
    return found


def keep_checkpoint(checkpoint: Path | None, save_to: Path, base: str) -> Path | None:
    """Make a checkpoint's model the trained model; None where there is no checkpoint."""
    if checkpoint is None:
        return None
    folder = aside(save_to)
    if PartialState().is_main_process:
        shutil.copytree(checkpoint, folder, ignore=shutil.ignore_patterns(*_TRAINER_STATE))
        publish(folder, save_to, base)
    PartialState().wait_for_everyone()
    return save_to


def publish(folder: Path, save_to: Path, base: str) -> None:
    """Tidy a saved model and rename its folder: who finds `save_to` finds all of it.

    An adapter names its base by `base`, the name under which this package loads it, and its
    configuration has the same bytes in every process.
    """
    for name in ("training_args.bin", "README.md"):
        (folder / name).unlink(missing_ok=True)
    config = folder / "adapter_config.json"
    if config.exists():
        found = json.loads(config.read_text("utf-8"))
        found["base_model_name_or_path"] = base
        for name in _SETS:
            if isinstance(found.get(name), list):
                found[name] = sorted(found[name])
        config.write_text(json.dumps(found, indent=2, sort_keys=True), "utf-8")
    shutil.rmtree(save_to, ignore_errors=True)
    folder.rename(save_to)


def _contents(checkpoint: Path) -> dict[str, list[int]]:
    """Size and checksum of every file of a checkpoint."""
    found: dict[str, list[int]] = {}
    for path in sorted(p for p in checkpoint.rglob("*") if p.is_file() and p.name != COMPLETE):
        checksum = 0
        with path.open("rb") as file:
            while block := file.read(1 << 24):
                checksum = zlib.crc32(block, checksum)
        found[str(path.relative_to(checkpoint))] = [path.stat().st_size, checksum]
    return found


def _is_whole(checkpoint: Path) -> bool:
    """Whether all of a checkpoint was written and none of it has changed."""
    try:
        return parse_json((checkpoint / COMPLETE).read_bytes()) == _contents(checkpoint)
    except (OSError, ValueError):
        return False
