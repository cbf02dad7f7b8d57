"""A model that is ready to use: the network, its chat format and its identity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from personavec.errors import ModelError
from personavec.model.blocks import Blocks, find_blocks, input_device
from personavec.model.chat_format import ChatFormat
from personavec.model.memory import bound_kernel_caches
from personavec.model.weights import combined, hash_in_memory, hash_of_files
from personavec.runs import Settings


@dataclass(frozen=True)
class ModelIdentity:
    """The model's identity, as results and manifests record it."""

    name: str
    revision: str | None
    dtype: str
    n_layers: int
    hidden_size: int
    template_hash: str
    declared_base: str | None = None
    """The model that this one was made from, if it says so: an adapter's base."""
    arguments: Settings = field(default_factory=dict)
    """The arguments for `from_pretrained` and for the chat template."""
    weights: str | None = None
    """The content of the weights, whatever their name: the hub's commit, a hash of local files, or
    a fingerprint of parameters in memory. An adapter's includes its base's."""
    today: str | None = None
    """The date in every prompt, if the chat template writes one."""

    @property
    def lineage(self) -> tuple[str, str | None, str | None]:
        """Name, declared base and weights, which decide whether a vector is this model's."""
        return self.name, self.declared_base, self.weights

    def as_dict(self) -> Settings:
        return asdict(self)


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model ready to use: the network, its chat format, and who it is."""

    model: Any  # a transformers causal language model, wrapped or not
    tokenizer: Any
    chat: ChatFormat
    identity: ModelIdentity

    @property
    def blocks(self) -> Blocks:
        return find_blocks(self.model)

    @property
    def device(self) -> torch.device:
        return input_device(self.model)

    @property
    def stop_ids(self) -> frozenset[int]:
        """The tokens that end a response: those that end a turn, and that of the template."""
        found = stop_ids(self.model, self.tokenizer)
        return found if self.chat.turn_end is None else found | {self.chat.turn_end}

    @property
    def context(self) -> int:
        """The longest sequence the model takes, in tokens."""
        return int(getattr(self.model.config.get_text_config(), "max_position_embeddings", 1 << 20))


def adapted_weights(base: ModelIdentity, folder: str) -> str:
    """The weights of a base model with the adapter in a folder on it."""
    return combined([str(base.weights), hash_of_files(Path(folder))])


def wrap_model(
    model: Any,
    tokenizer: Any,
    *,
    name: str | None = None,
    revision: str | None = None,
    declared_base: str | None = None,
    template_args: Mapping[str, Any] | None = None,
    arguments: Mapping[str, Any] | None = None,
    weights: str | None = None,
) -> LoadedModel:
    """A LoadedModel from a transformers model and tokenizer that are already in memory.

    Results and caches identify it by its name and by `weights`, by default a fingerprint of its
    present parameters: wrap it again after training it.
    """
    bound_kernel_caches()
    model.eval()
    blocks = find_blocks(model)
    chat_format = ChatFormat(tokenizer, template_args)
    identity = ModelIdentity(
        name=name or model.config.name_or_path or type(model).__name__,
        revision=revision or getattr(model.config, "_commit_hash", None),
        dtype=str(model.get_input_embeddings().weight.dtype).removeprefix("torch."),
        n_layers=blocks.n_layers,
        hidden_size=blocks.hidden_size,
        template_hash=chat_format.template_hash,
        declared_base=declared_base,
        arguments={
            **(arguments or {}),
            # The date is recorded as `today`, whether it was given or not.
            **{key: value for key, value in (template_args or {}).items() if key != "today"},
        },
        today=chat_format.today,
        weights=weights or hash_in_memory(model),
    )
    return LoadedModel(model=model, tokenizer=tokenizer, chat=chat_format, identity=identity)


def stop_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Ids of the tokens that end a turn, from the generation config and the tokenizer.

    Raises ModelError.
    """
    named: list[Any] = []
    for found in (model.generation_config.eos_token_id, tokenizer.eos_token_id):
        if found is not None:
            named.extend(found if isinstance(found, (list, tuple)) else [found])
    if not named:
        raise ModelError("neither the model nor its tokenizer names an end-of-turn token")
    for token in named:
        if type(token) is not int or abs(token) >= 2**31:
            raise ModelError(
                f"the model's generation_config.json names {str(token)[:40]!r} as its end-of-turn "
                "token, which is no token id; correct eos_token_id there"
            )
    return frozenset(named)
