"""Start vLLM with the settings that steering and capture need, and detect when it dies."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any, Literal

import torch

from personavec.errors import ModelError, UsageError, missing_extra
from personavec.model import LoadedModel
from personavec.model.engine.vllm_hooks import VISIT

#: Settings without which steering and capture would be wrong.
FIXED = {
    "scheduler_cls": "personavec.model.engine.vllm_scheduler.SaltingScheduler",
    "async_scheduling": False,  # It runs tokens past the end of a response.
    "speculative_config": None,  # Rejected draft tokens would be captured too.
    "skip_tokenizer_init": True,  # Only token ids are exchanged.
    "worker_extension_cls": "personavec.model.engine.vllm_worker.Extension",
    "disable_log_stats": True,
}


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Raise UsageError for arguments that conflict with steering and capture."""
    if "trust_remote_code" in arguments:
        raise UsageError(
            "--engine-arg trust_remote_code runs code from the model's repository, which "
            "personavec does not do; leave it out"
        )
    if ruled_out := sorted(FIXED.keys() & arguments.keys()):
        raise UsageError(
            f"--engine-arg {ruled_out[0]} is set by personavec for steering and capture; leave it "
            "out"
        )


def start(
    vllm: Any, loaded: LoadedModel, source: str, arguments: Mapping[str, Any], *, compiled: bool
) -> Any:
    """Start vLLM's engine for the model at `source`. Raises ModelError if it cannot be loaded."""
    try:
        settings = {
            "model": source,
            "dtype": loaded.identity.dtype,
            "max_model_len": loaded.context + 1,
            **_room(loaded.device),
            **arguments,
            **FIXED,
            "enforce_eager": not compiled,
            "trust_remote_code": False,
        }
        if compiled:
            settings["compilation_config"] = keeping_hooks(arguments.get("compilation_config"))
        if loaded.device.type == "cpu":
            settings = {
                **_whole_prompts(settings["max_model_len"]),
                "block_size": 32,  # By default 128, which is more than many prompts share.
                **settings,
            }
        return vllm.LLMEngine.from_engine_args(vllm.EngineArgs(**settings))
    except Exception as error:  # vLLM and the libraries below it raise errors of any type.
        given = ", ".join(f"{k}={v}" for k, v in arguments.items())
        raise ModelError(
            f"vLLM {vllm.__version__} cannot load '{loaded.identity.name}'"
            f"{f' with {given}' if given else ''} ({last_line(error)}); check each "
            "--engine-arg, see vLLM's own messages with --debug, or use --engine transformers"
        ) from error


def may_compile(device: torch.device, arguments: Mapping[str, Any]) -> bool:
    """Whether vLLM compiles the model: as `arguments` say, otherwise unless it runs on a CPU.

    On a CPU compiling takes a minute or more even for a small model.
    """
    return not arguments.get("enforce_eager", device.type == "cpu")


def keeping_hooks(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """vLLM's compilation settings `given`, with those under which compiled graphs keep the hooks.

    A hook runs between pieces that are compiled, and captured as CUDA graphs, one by one.
    """
    from vllm.config import (  # pyright: ignore[reportMissingImports]
        CompilationConfig,
        CompilationMode,
    )

    default = CompilationConfig(mode=CompilationMode.VLLM_COMPILE)
    default.set_splitting_ops_for_v1(all2all_backend="")
    return {
        **(given or {}),
        "splitting_ops": [*default.splitting_ops, VISIT],
        "cudagraph_mode": "PIECEWISE",
    }


def set_environment(device: torch.device) -> None:
    """Set environment variables for vLLM; those that are already set are kept."""
    found = {
        # This process has threads, so forking is not safe.
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "VLLM_LOGGING_STREAM": "ext://sys.stderr",  # Standard output belongs to --json.
        "VLLM_NO_USAGE_STATS": "1",
        # One token more than the context is generated but never run, so it needs no position.
        "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1",
        # The hooks read the batch of the first of vLLM's two model runners, not of the second.
        "VLLM_USE_V2_MODEL_RUNNER": "0",
        # Such graphs do not run the hooks.
        "VLLM_USE_BREAKABLE_CUDAGRAPH": "0",
        # If installed, that plugin would change vLLM's settings.
        "VLLM_LENS_DISABLE": "1",
        # By default, attention in float32 rounds its factors to TF32 on a GPU.
        "TRITON_F32_DEFAULT": "ieee",
    }
    if device.type == "cpu":
        cores = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []
        found["VLLM_CPU_KVCACHE_SPACE"] = "4"  # GiB
        if cores:
            found["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, cores))
    for key, value in found.items():
        os.environ.setdefault(key, value)


def _room(device: torch.device) -> dict[str, float]:
    """On an accelerator: vLLM takes four fifths of what is free beside the transformers model."""
    if device.type != "cuda":
        return {}
    free, total = torch.cuda.mem_get_info(device)
    return {"gpu_memory_utilization": min(0.9, 0.8 * free / total)}


def _whole_prompts(context: int) -> dict[str, int]:
    """Settings that disable chunked prefill.

    After a chunk of a sampled request's prompt, vLLM rewinds its random generator. CPU generators
    do not support this, and the worker dies.
    """
    return {"enable_chunked_prefill": False, "max_num_batched_tokens": max(context, 2048)}


def model_source(loaded: LoadedModel) -> str:
    """The folder or hub id from which transformers loaded the model, for vLLM to load.

    Raises UsageError for an adapter, and for a model that was created in memory.
    """
    if loaded.identity.declared_base:
        raise UsageError(
            f"--engine vllm cannot run the adapter {loaded.identity.name}: merge it into its base "
            "model and save that, or use --engine transformers"
        )
    source = loaded.model.config.name_or_path
    if not source:
        raise UsageError(
            f"--engine vllm cannot run {loaded.identity.name}, which was made in memory: save it, "
            "and load it from its folder"
        )
    return source


def import_vllm() -> Any:
    """The module `vllm`. Raises PersonavecError if vLLM is missing."""
    try:
        import vllm  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise missing_extra("vllm") from error
    return vllm


def watch(client: Any) -> threading.Event:
    """An event that is set once vLLM's core process has died; it also ends pending calls.

    vLLM's client only marks itself dead, so a pending call would wait forever.
    """
    from vllm.v1.engine.core_client import SyncMPClient  # pyright: ignore[reportMissingImports]

    died = threading.Event()
    if not isinstance(client, SyncMPClient):  # vLLM runs in this process.
        return died
    resources, outputs, calls = client.resources, client.outputs_queue, client.utility_results

    def wait() -> None:
        while not resources.engine_dead:
            time.sleep(0.5)
        died.set()
        outputs.put_nowait(dead_error()())
        for call in list(calls.values()):
            if not call.done():
                call.set_exception(dead_error()())

    threading.Thread(target=wait, daemon=True, name="personavec-vllm-watch").start()
    return died


def dead_error() -> type[Exception]:
    """The exception that vLLM raises once one of its processes has died."""
    from vllm.v1.engine.exceptions import EngineDeadError  # pyright: ignore[reportMissingImports]

    return EngineDeadError


def output_kind(name: Literal["DELTA", "FINAL_ONLY"]) -> Any:
    """vLLM's output kind: tokens as they are generated (DELTA), or all at the end."""
    from vllm.sampling_params import RequestOutputKind  # pyright: ignore[reportMissingImports]

    return RequestOutputKind[name]


def last_line(error: BaseException) -> str:
    """The last line of an error's message, at most 300 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]
