"""Datasets of the `datasets` library: saved in a folder, or on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from personavec.data.raw import NumberedRows
from personavec.errors import DataError, UsageError, missing_extra


def is_saved_dataset(path: Path) -> bool:
    """Is this a folder that `Dataset.save_to_disk` has written?"""
    return (path / "state.json").is_file() or (path / "dataset_dict.json").is_file()


def saved_dataset(path: Path, split: str | None) -> NumberedRows:
    """Rows of a saved dataset, or of one split of it."""
    datasets = _datasets()
    found = datasets.load_from_disk(str(path))
    if isinstance(found, datasets.DatasetDict):
        found = _one_split(found, split, str(path))
    elif split:
        raise UsageError(f"--split {split}: {path} is a dataset without splits")
    yield from enumerate(found, start=1)


def hub_dataset(name: str, split: str | None) -> NumberedRows:
    """Rows of a dataset on the hub, streamed."""
    datasets = _datasets()
    try:
        found = datasets.load_dataset(name, streaming=True)
    # The hub's client raises errors of many types: network, rights, a missing loading script.
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"{name}: no such file or folder, and no dataset of that name could be opened "
            f"({reason})"
        ) from error
    yield from enumerate(_one_split(found, split, name), start=1)


def _one_split(splits: Mapping[str, Any], split: str | None, name: str) -> Any:
    if split is None and len(splits) == 1:
        return next(iter(splits.values()))
    if split is None or split not in splits:
        wanted = f"no split '{split}'" if split else "several splits"
        raise UsageError(f"{name} has {wanted}: choose one with --split ({', '.join(splits)})")
    return splits[split]


def _datasets() -> Any:
    try:
        import datasets
    except ImportError:
        raise missing_extra("datasets") from None
    return datasets
