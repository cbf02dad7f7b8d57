"""A loaded model: the network, its chat format and its identity."""

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
    """The base model that this model declares, as an adapter does."""
    arguments: Settings = field(default_factory=dict)
    """The arguments for `from_pretrained` and for the chat template."""
    weights: str | None = None
    """Identifies the weights by content: the commit on the hub, a hash of local files, or a
    fingerprint of parameters in memory. For an adapter, it includes the base model's weights."""
    today: str | None = None
    """The date in every prompt, if the chat template writes one."""

    @property
    def lineage(self) -> tuple[str, str | None, str | None]:
        """Name, declared base and weights, by which a vector is matched to its model."""
        return self.name, self.declared_base, self.weights

    def as_dict(self) -> Settings:
        """All fields, for JSON."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A loaded model: the network, its tokenizer, its chat format and its identity."""

    model: Any  # a transformers causal language model, wrapped or not
    tokenizer: Any
    chat: ChatFormat
    identity: ModelIdentity

    @property
    def blocks(self) -> Blocks:
        """The stack of decoder blocks. Raises ModelError where none is found."""
        return find_blocks(self.model)

    @property
    def device(self) -> torch.device:
        """Where token ids go in."""
        return input_device(self.model)

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids of the tokens that end a response, including the chat template's end of turn."""
        found = stop_ids(self.model, self.tokenizer)
        return found if self.chat.turn_end is None else found | {self.chat.turn_end}

    @property
    def context(self) -> int:
        """The model's longest sequence, in tokens."""
        return int(getattr(self.model.config.get_text_config(), "max_position_embeddings", 1 << 20))


def adapted_weights(base: ModelIdentity, folder: str) -> str:
    """`ModelIdentity.weights` of a base model with the adapter in `folder`."""
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
    """Make a LoadedModel of a transformers model and tokenizer that are already in memory.

    Results and caches identify the model by its name and by `weights`, which defaults to a
    fingerprint of its current parameters; so wrap it again after training. Raises ModelError if
    the model is not a decoder-only model.
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

    Raises ModelError if there are none, or if one is not a token id.
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
                "token, which is not a token id; correct eos_token_id there"
            )
    return frozenset(named)
