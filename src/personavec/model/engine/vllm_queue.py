"""vLLM's processes, with hooks on the model's layers, and their queue of requests."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import save
from torch import Tensor

from personavec.errors import HookError, ModelError
from personavec.model import Directions, LoadedModel, Steering, chat
from personavec.model.engine.base import Sampling
from personavec.model.engine.vllm_answer import VllmAnswer, empty_sums, gathered
from personavec.model.engine.vllm_note import (
    NOTE,
    RequestNote,
    SteeringTable,
    note_of,
    request_seed,
)
from personavec.model.engine.vllm_probe import check_hooks
from personavec.model.engine.vllm_setup import (
    check_arguments,
    dead_error,
    import_vllm,
    last_line,
    may_compile,
    model_source,
    output_kind,
    set_environment,
    start,
    watch,
)


class VllmQueue:
    """vLLM running one model; `close` ends its processes.

    `arguments` are passed to vLLM: `tensor_parallel_size`, `gpu_memory_utilization` and so on.

    Raises PersonavecError if vLLM is missing, UsageError for an argument that conflicts with
    steering and capture, and ModelError if vLLM cannot load the model.
    """

    def __init__(self, loaded: LoadedModel, arguments: Mapping[str, Any] | None = None):
        self._arguments = dict(arguments or {})
        check_arguments(self._arguments)
        self.loaded = loaded
        self._source = model_source(loaded)
        set_environment(loaded.device)
        self._vllm = import_vllm()
        self._version = self._vllm.__version__
        #: A sentence that says whether the model is compiled.
        self.mode = self._start()

    def _start(self) -> str:
        """Start vLLM, compiled if it may and can be, otherwise eager; returns `mode`."""
        name = f"vLLM {self._version}"
        if not may_compile(self.loaded.device, self._arguments):
            self._launch(compiled=False)
            return f"{name} runs the model eagerly"
        try:
            self._launch(compiled=True)
        except (ModelError, HookError) as error:
            if "enforce_eager" in self._arguments:
                raise
            self._launch(compiled=False)
            cause = error.__cause__ if isinstance(error, ModelError) else None
            why = last_line(cause or error)
            return f"{name} runs the model eagerly, since compiled it fails: {why}"
        if self.compiled:
            return f"{name} runs the model compiled"
        return f"{name} runs the model eagerly, since it cannot compile it"

    def _launch(self, *, compiled: bool) -> None:
        """Start vLLM. Raises ModelError, and HookError if hooks do not act in a compiled model."""
        self._engine = start(
            self._vllm, self.loaded, self._source, self._arguments, compiled=compiled
        )
        self._died = watch(self._engine.engine_core)
        self.context = int(self._engine.model_config.max_model_len) - 1
        self.max_rows = int(self._engine.vllm_config.scheduler_config.max_num_seqs)
        self._stages, self._block = self._install()
        self.compiled = all(self._engine.collective_rpc("personavec_compiled"))
        self._begun = 0
        if self.compiled:
            self._check_hooks()

    def _check_hooks(self) -> None:
        """Check the hooks of a compiled model; vLLM is closed if they fail. Raises HookError."""
        identity = self.loaded.identity
        try:
            check_hooks(identity.n_layers, identity.hidden_size, self._probe)
        except Exception as error:
            self.close()
            if isinstance(error, dead_error()):
                raise HookError("vLLM's worker died when its hooks were checked") from error
            raise

    def _install(self) -> tuple[list[list[int]], int]:
        """Put hooks into every worker; returns the layers of each, and the number of tokens in a
        block of the prefix cache, 0 without a cache. Raises ModelError."""
        try:
            stages = self._engine.collective_rpc("personavec_install")
            (block, *_) = self._engine.collective_rpc("personavec_block")
        except Exception as error:
            self.close()
            raise ModelError(
                f"no decoder layers of '{self.loaded.identity.name}' are found in vLLM "
                f"{self._version} ({last_line(error)}); use --engine transformers"
            ) from error
        missing = set(range(self.loaded.identity.n_layers + 1)).difference(*stages)
        if missing:
            self.close()
            raise ModelError(
                f"no worker of vLLM holds layer {min(missing)} of '{self.loaded.identity.name}'; "
                "use another pipeline_parallel_size, or --engine transformers"
            )
        caching = self._engine.vllm_config.cache_config.enable_prefix_caching
        return stages, block if caching else 0

    def _probe(self, steering: tuple[Steering, ...]) -> VllmAnswer:
        """The answer to a short prompt, of one token, with sums over the prompt."""
        table = SteeringTable(self.loaded.identity.n_layers, self.loaded.identity.hidden_size)
        ids = self.loaded.chat.prompt_ids(chat("Hello."))[: self.context]
        # A worker may not have forgotten the last request yet, so this one has another name.
        name = f"probe {self._begun}"
        note = note_of(name, len(ids), steering, table, response=[len(ids), len(ids) + 1])
        self.begin(table.rows())
        self.add(name, ids, self.one_token(), note)
        outputs = []
        while not (outputs and outputs[0].finished):
            outputs = self.step()
        return replace(self.read([name])[name], token_ids=tuple(outputs[0].outputs[0].token_ids))

    @property
    def alive(self) -> bool:
        """False once one of vLLM's processes has died."""
        return not self._died.is_set()

    def close(self) -> None:
        """End vLLM's processes."""
        self._engine.engine_core.shutdown()

    # Operations on the queue; they raise `dead_error()` if a worker died

    def begin(
        self, table: Float[Tensor, "row hidden"], directions: Directions | None = None
    ) -> None:
        """Make the workers forget all requests, and send them the table and directions to use."""
        unit = torch.zeros(0, table.shape[1]) if directions is None else directions.unit
        tensors = save({"table": table, "unit": unit.float().contiguous()})
        self._begun += 1
        self._call("personavec_begin", tensors, list(directions.layers) if directions else [])

    def add(self, name: str, ids: Sequence[int], params: Any, note: RequestNote) -> None:
        """Queue a request with its note.

        A captured request shares cached blocks only with captured ones that came since `begin`,
        since the workers have sums of these.
        """
        params.extra_args = {NOTE: note}
        prompt: dict[str, Any] = {"prompt_token_ids": list(ids)}
        if note["response"] is not None:
            prompt["cache_salt"] = f"captured {self._begun}"
        self._engine.add_request(name, prompt, params)

    def step(self) -> list[Any]:
        """Wait for vLLM's next outputs."""
        return self._engine.step()

    def abort(self, names: list[str]) -> None:
        """Drop requests from the queue and the batch."""
        with contextlib.suppress(dead_error()):
            self._engine.abort_request(names)

    def read(self, names: list[str], *, keep: bool = False) -> dict[str, VllmAnswer]:
        """The workers' readings of requests, forgotten there; with `keep` without sums, and not.

        Raises HookError.
        """
        shares = self._call("personavec_peek" if keep else "personavec_take", names)
        identity = self.loaded.identity
        empty = empty_sums(identity.n_layers, identity.hidden_size)
        return gathered(names, self._stages, shares, empty)

    def _call(self, method: str, *arguments: Any) -> list[Any]:
        """Call a method of every worker's extension. Raises HookError when it fails there."""
        try:
            return self._engine.collective_rpc(method, args=arguments)
        except dead_error():
            raise
        except Exception as error:  # vLLM raises a plain Exception for any failure in a worker.
            raise HookError(f"a hook in vLLM's workers failed: {last_line(error)}") from error

    def sampling_params(
        self,
        sampling: Sampling,
        noise: str,
        new_tokens: int,
        *,
        stream: bool = False,
        top_logprobs: int | None = None,
    ) -> Any:
        """vLLM's sampling parameters, with a seed from `sampling.seed` and `noise`. With `stream`,
        tokens are returned as they are generated, otherwise all at the end."""
        greedy = sampling.temperature == 0
        return self._vllm.SamplingParams(
            max_tokens=new_tokens,
            temperature=sampling.temperature,
            top_p=1.0 if greedy else sampling.top_p,
            seed=None if greedy else request_seed(sampling.seed, noise),
            stop_token_ids=sorted(self.loaded.stop_ids),
            detokenize=False,
            logprobs=top_logprobs,
            output_kind=output_kind("DELTA" if stream else "FINAL_ONLY"),
        )

    def one_token(self) -> Any:
        """Parameters for a pass over a whole text; vLLM must generate at least one token."""
        return self._vllm.SamplingParams(
            max_tokens=1,
            temperature=0,
            detokenize=False,
            output_kind=output_kind("FINAL_ONLY"),
            skip_reading_prefix_cache=True,
        )
