"""Training marks: fields that say whether a message is trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MASKED = "a response is not scored, since its training mark '{}' leaves it out"
#: A message is not trained on if one of these fields says no,
TRAINED = (
    *("weight", "loss", "train", "training", "trainable", "train_on", "loss_weight", "label"),
    "scored",  # as `Message` has it
)
#: or if one of these says yes.
MASKED_MARKS = ("masked", "mask")
#: Marks for parts of a message; they are not read.
PART_MARKS = ("train_detail", "training_detail", "loss_mask")
_NO, _YES = {"false", "no", "off", "0", "0.0"}, {"true", "yes", "on", "1", "1.0"}


def training_mark(message: Mapping[str, Any]) -> str | None:
    """The field that excludes a message from training, if it has one."""
    for name in TRAINED:
        value = message.get(name)
        if name == "label" and not isinstance(value, bool):
            continue
        if value is not None and _says(value, _NO):
            return name
    for name in MASKED_MARKS:
        value = message.get(name)
        if value is not None and _says(value, _YES):
            return name
    return None


def _says(value: Any, words: set[str]) -> bool:
    if isinstance(value, bool):
        return str(value).lower() in words
    if isinstance(value, (int, float)):
        return value == (0 if words is _NO else 1)
    return isinstance(value, str) and value.strip().lower() in words
