"""vLLM as the engine: one continuous batch in which every request has its own steering.

vLLM runs the model in processes of its own, over as many accelerators as its settings say; what
happens inside them is `vllm_worker.py`. The transformers model stays for what reads texts here:
the tokenizer, and a judge.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import threading
import time
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load, save
from torch import Tensor

from personavec.errors import HookError, ModelError, PersonavecError, UsageError, missing_extra
from personavec.model import (
    Action,
    Cap,
    Directions,
    LoadedModel,
    Steering,
    Thought,
    TokenIds,
    check_finite,
)
from personavec.model.engine.base import (
    SPANS,
    Generation,
    Request,
    Sampling,
    check_room,
    stopping_if_all_fail,
)
from personavec.model.engine.vllm_worker import NOTE

#: Finished requests that are fetched from the workers, and kept on disk, together.
GROUP = 32

#: What vLLM must be set to for steering and capture to be right.
_FIXED = {
    "enable_prefix_caching": False,  # a cached prompt has no forward to read, and may be steered
    "async_scheduling": False,  # it runs tokens past the end of a response
    "speculative_config": None,  # a draft that is turned down would be read too
    "enforce_eager": True,  # compiled graphs run no hooks
    "skip_tokenizer_init": True,  # ids come and go
    "worker_extension_cls": "personavec.model.engine.vllm_worker.Extension",
    "disable_log_stats": True,
}


def _environment(device: torch.device) -> dict[str, str]:
    """What vLLM reads from its environment. A variable that is set already stands."""
    found = {
        # This process has threads of its own, which a fork would copy in the middle of anything.
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "VLLM_LOGGING_STREAM": "ext://sys.stderr",  # standard output belongs to --json
        "VLLM_NO_USAGE_STATS": "1",
        # The token after the last one is generated and never read: it needs room, no position.
        "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1",
        # Of vLLM's two model runners the plugin knows the first.
        "VLLM_USE_V2_MODEL_RUNNER": "0",
    }
    if device.type == "cpu":
        cores = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []
        found["VLLM_CPU_KVCACHE_SPACE"] = "4"  # GiB
        if cores:
            found["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, cores))
    return found


def _whole_prompts(context: int) -> dict[str, Any]:
    """Settings under which a step takes a prompt whole or not at all.

    After a part of a sampled request's prompt vLLM sets its random generator back, which
    generators on a processor cannot do: its worker dies of it.
    """
    return {"enable_chunked_prefill": False, "max_num_batched_tokens": max(context, 2048)}


@dataclass(frozen=True, eq=False)
class _Answer:
    """What vLLM gave for one request: its tokens, and what its workers read."""

    token_ids: tuple[int, ...] = ()
    sums: Float[Tensor, "span layer hidden"] | None = None
    n_summed: int = 0
    """Response tokens in the sums."""
    projections: Float[Tensor, "token direction"] | None = None
    sound: bool | None = None
    """Could every token be chosen, or were logits NaN or infinite? None where no worker says."""

    def overflowed(self, name: str) -> bool:
        """Of a request that has run. Raises HookError where its logits were not looked at."""
        if self.sound is None:
            raise HookError(
                f"the logits of request {name} were not looked at: a hook in vLLM's workers did "
                "not fire"
            )
        return not self.sound


class VllmEngine:
    """The engine that vLLM is (`base.Engine`); `close` ends its processes.

    `arguments` are vLLM's own: `tensor_parallel_size`, `gpu_memory_utilization` and so on.

    Raises PersonavecError when vLLM or the plugin is missing, UsageError for an argument that
    steering and capture rule out, ModelError when vLLM cannot load the model.
    """

    name = "vllm"

    def __init__(self, loaded: LoadedModel, arguments: Mapping[str, Any] | None = None):
        self._arguments = dict(arguments or {})
        if "trust_remote_code" in self._arguments:
            raise UsageError(
                "--engine-arg trust_remote_code runs code from the model's repository, which "
                "personavec does not do; leave it out"
            )
        if ruled_out := sorted(_FIXED.keys() & self._arguments.keys()):
            raise UsageError(
                f"--engine-arg {ruled_out[0]} is set by personavec, as steering and capture need "
                "it; leave it out"
            )
        self.loaded = loaded
        source = model_source(loaded)
        for key, value in _environment(loaded.device).items():
            os.environ.setdefault(key, value)
        vllm = _import_vllm()
        self._version = vllm.__version__
        self._vllm = vllm
        try:
            settings = {
                "model": source,
                "dtype": loaded.identity.dtype,
                "max_model_len": loaded.context + 1,
                **self._arguments,
                **_FIXED,
                "trust_remote_code": False,
            }
            if loaded.device.type == "cpu":
                settings = {**_whole_prompts(settings["max_model_len"]), **settings}
            self._engine = vllm.LLMEngine.from_engine_args(vllm.EngineArgs(**settings))
        except Exception as error:  # vLLM and all beneath it; a process that died says little
            given = ", ".join(f"{k}={v}" for k, v in self._arguments.items())
            raise ModelError(
                f"vLLM {self._version} cannot load '{loaded.identity.name}'"
                f"{f' with {given}' if given else ''} ({last_line(error)}); check each "
                "--engine-arg, see vLLM's own messages with --debug, or use --engine transformers"
            ) from error
        self._died = _watch(self._engine.engine_core)
        self.context = int(self._engine.model_config.max_model_len) - 1
        self.max_rows = int(self._engine.vllm_config.scheduler_config.max_num_seqs)
        self._stages = self._install()

    def _install(self) -> list[list[int]]:
        """The layers of every worker, all of which must be there."""
        try:
            stages = self._engine.collective_rpc("personavec_install")
        except Exception as error:
            self.close()
            raise ModelError(
                f"the vllm-lens plugin finds no decoder layers of '{self.loaded.identity.name}' "
                f"in vLLM {self._version} ({last_line(error)}); install the vLLM that the plugin "
                "asks for, name the layers with VLLM_LENS_LAYER_PATH, or use --engine transformers"
            ) from error
        missing = set(range(self.loaded.identity.n_layers + 1)).difference(*stages)
        if missing:
            self.close()
            raise ModelError(
                f"no worker of vLLM holds layer {min(missing)} of '{self.loaded.identity.name}'; "
                "use another pipeline_parallel_size, or --engine transformers"
            )
        return stages

    @property
    def alive(self) -> bool:
        """False once a process of vLLM's has died."""
        return not self._died.is_set()

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "version": self._version, "arguments": self._arguments}

    def close(self) -> None:
        """End vLLM's processes."""
        self._engine.engine_core.shutdown()

    def __enter__(self) -> VllmEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        *,
        capture: bool = False,
        include_thinking: bool = False,
        done: Collection[str] = (),
    ) -> Iterator[list[Generation]]:
        """Generate responses, yielding them as they finish; see `base.Engine`.

        Each request has a seed of its own, from the run's seed and its noise key, so that the
        others in the batch change a result only through rounding.
        """
        with contextlib.closing(
            self._generated(
                requests, sampling, capture=capture, include_thinking=include_thinking, done=done
            )
        ) as groups:
            yield from stopping_if_all_fail(self.loaded.identity, requests, groups)

    def _generated(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        *,
        capture: bool,
        include_thinking: bool,
        done: Collection[str],
    ) -> Generator[list[Generation], None, None]:
        # A last token cut off by the length limit is read too, so one more is generated.
        new_tokens = sampling.max_tokens + capture
        check_room(requests, sampling.max_tokens, self.context)
        todo = {request.id: request for request in requests if request.id not in done}
        table = Table(self.loaded.identity.n_layers, self.loaded.identity.hidden_size)
        # Where thinking is cut off, the response is known at its end alone, and is read then.
        later = capture and not include_thinking and self.loaded.chat.thinking is not None
        asked = {}
        for request in todo.values():
            n = len(request.prompt_ids)
            wanted = [n, n + sampling.max_tokens] if capture and not later else None
            asked[request.id] = (
                request.prompt_ids,
                self.sampling_params(sampling, request.noise_key, new_tokens),
                note_of(request.id, n, request.steering, table, response=wanted),
            )
        for names in _pieces(list(asked), 8 * GROUP if later else len(asked)):
            groups = self._run({name: asked[name] for name in names}, table)
            # The queue holds one kind of request at a time: to be read again, all have finished.
            for group in [_merged(groups)] if later else groups:
                found = [self._generation(todo[i], answer, sampling) for i, answer in group.items()]
                if later:
                    found = self._read_again([todo[i] for i in group], found, table)
                elif capture:
                    read = [len(g.thinking_ids) + len(g.response_ids) for g in found]
                    found = [
                        _with_means(g, group[g.id], n) for g, n in zip(found, read, strict=True)
                    ]
                yield found

    def project(
        self, texts: Sequence[TokenIds], directions: Directions, *, batch_tokens: int | None = None
    ) -> list[Float[Tensor, "token direction"]]:
        """Every token's projection, by whole forwards; vLLM chooses its batches itself.

        Raises ActivationError on NaN or infinite activations, UsageError for a text longer than
        the context.
        """
        asked = {}
        table = Table(self.loaded.identity.n_layers, self.loaded.identity.hidden_size)
        for number, text in enumerate(texts):
            if len(text) > self.context:
                raise UsageError(
                    f"a text of {len(text)} tokens exceeds vLLM's context of {self.context}; "
                    "shorten it, raise --engine-arg max_model_len, or use --engine transformers"
                )
            note = note_of(str(number), len(text), (), table, project=0)
            asked[str(number)] = (text.tolist(), self._one_token(), note)
        found = _merged(self._run(asked, table, directions))
        out = []
        for number, text in enumerate(texts):
            values = found[str(number)].projections
            if values is None or len(values) != len(text):
                raise HookError("projections are missing: a hook in vLLM's workers did not fire")
            check_finite(values)
            out.append(values)
        return out

    # One queue

    def _run(
        self,
        asked: Mapping[str, tuple[Sequence[int], Any, dict[str, Any]]],
        table: Table,
        directions: Directions | None = None,
    ) -> Iterator[dict[str, _Answer]]:
        """Put all requests into one continuous batch; answers by id, in groups as they finish."""
        finished = 0
        under_way: set[str] = set()
        try:
            self.begin(table.rows(), directions)
            for name, (ids, params, note) in asked.items():
                self.add(name, ids, params, note)
                under_way.add(name)
            tokens: dict[str, tuple[int, ...]] = {}
            while under_way:
                for output in self.step():
                    if output.finished and output.request_id in under_way:
                        under_way.remove(output.request_id)
                        tokens[output.request_id] = tuple(output.outputs[0].token_ids)
                if tokens and (len(tokens) >= GROUP or not under_way):
                    group = self._take(tokens)
                    finished += len(group)
                    yield group
                    tokens = {}
        except dead_error() as error:
            raise ModelError(
                f"vLLM's worker died after {finished} of {len(asked)} requests; run the same "
                "command again: what is on disk is kept and the rest resumes; where it dies again, "
                "lower --engine-arg max_num_seqs, or see vLLM's own messages with --debug"
            ) from error
        finally:
            if under_way:  # the caller goes no further
                self.abort(list(under_way))

    # What a queue is made of; each raises vLLM's own error when a worker has died

    def begin(
        self, table: Float[Tensor, "row hidden"], directions: Directions | None = None
    ) -> None:
        """Have the workers forget all, and take what the next requests share."""
        unit = torch.zeros(0, table.shape[1]) if directions is None else directions.unit
        tensors = save({"table": table, "unit": unit.float().contiguous()})
        self._call("personavec_begin", tensors, list(directions.layers) if directions else [])

    def add(self, name: str, ids: Sequence[int], params: Any, note: dict[str, Any]) -> None:
        params.extra_args = {NOTE: note}
        self._engine.add_request(name, {"prompt_token_ids": list(ids)}, params)

    def step(self) -> list[Any]:
        """vLLM's next outputs; waits for them."""
        return self._engine.step()

    def abort(self, names: list[str]) -> None:
        with contextlib.suppress(dead_error()):
            self._engine.abort_request(names)

    def _call(self, method: str, *arguments: Any) -> list[Any]:
        """Call a method of every worker's extension. Raises HookError when it fails there."""
        try:
            return self._engine.collective_rpc(method, args=arguments)
        except dead_error():
            raise
        except Exception as error:  # whatever went wrong comes back as a plain one
            raise HookError(f"a hook in vLLM's workers failed: {last_line(error)}") from error

    def _take(self, tokens: Mapping[str, tuple[int, ...]]) -> dict[str, _Answer]:
        found = self.read(list(tokens))
        return {name: replace(found[name], token_ids=tokens[name]) for name in tokens}

    def read(self, names: list[str], *, keep: bool = False) -> dict[str, _Answer]:
        """What the workers read of requests, each of its own layers; it stays there to `keep` it.

        Raises HookError.
        """
        shares = self._call("personavec_peek" if keep else "personavec_take", names)
        sums: dict[int, Tensor] = {}
        counts: dict[int, int] = {}
        projections: dict[int, Tensor] = {}
        sound: dict[int, bool] = {}
        for layers, share in zip(self._stages, shares, strict=True):
            if not share:
                continue
            found, counted, looked = _opened(share)
            sound |= {int(number): own for number, own in looked.items()}
            for key, tensor in found.items():
                kind, number = key.split()
                if kind == "sums":
                    whole = sums.setdefault(int(number), self._empty_sums())
                    whole[:, layers] = tensor.transpose(0, 1)
                    counts[int(number)] = counted[number]
                else:
                    # Each stage projects at its own layers, and leaves 0 for the others.
                    so_far = projections.get(int(number))
                    projections[int(number)] = tensor if so_far is None else so_far + tensor
        return {
            name: _Answer((), sums.get(i), counts.get(i, 0), projections.get(i), sound.get(i))
            for i, name in enumerate(names)
        }

    def _empty_sums(self) -> Tensor:
        identity = self.loaded.identity
        return torch.zeros(len(SPANS), identity.n_layers + 1, identity.hidden_size)

    def sampling_params(
        self,
        sampling: Sampling,
        noise: str,
        new_tokens: int,
        *,
        stream: bool = False,
        top_logprobs: int | None = None,
    ) -> Any:
        """vLLM's own. `noise` keys the sampling beside the seed; with `stream` tokens come as they
        are made, in place of all at the end."""
        greedy = sampling.temperature == 0
        return self._vllm.SamplingParams(
            max_tokens=new_tokens,
            temperature=sampling.temperature,
            top_p=1.0 if greedy else sampling.top_p,
            seed=None if greedy else request_seed(sampling.seed, noise),
            stop_token_ids=sorted(self.loaded.stop_ids),
            detokenize=False,
            logprobs=top_logprobs,
            output_kind=_output_kind("DELTA" if stream else "FINAL_ONLY"),
        )

    def _one_token(self) -> Any:
        """A forward of the prompt, and the one token that vLLM must generate."""
        return self._vllm.SamplingParams(
            max_tokens=1,
            temperature=0,
            detokenize=False,
            output_kind=_output_kind("FINAL_ONLY"),
        )

    # Responses

    def _generation(self, request: Request, answer: _Answer, sampling: Sampling) -> Generation:
        """The response within the tokens that vLLM gave, which may be one more than asked for.

        It has failed where a token could not be chosen.
        """
        if answer.overflowed(request.id):
            return Generation(request.id, (), False, failed=True)
        ids = answer.token_ids[: sampling.max_tokens]
        finished = bool(ids) and ids[-1] in self.loaded.stop_ids
        response = list(ids[:-1] if finished else ids)
        form = self.loaded.chat.thinking
        if form is None:
            return Generation(request.id, tuple(response), finished)
        thought = Thought(form, self.loaded.chat.decode_marked, request.prompt_ids)
        for n in range(1, len(response) + 1):
            thought.read(response[:n])
        unfinished = thought.unfinished(response)
        start = len(response) if unfinished else thought.start
        return Generation(
            request.id,
            tuple(response[start:]),
            finished,
            thinking_ids=tuple(response[:start]),
            unfinished_thought=unfinished,
        )

    def _read_again(
        self, requests: Sequence[Request], found: Sequence[Generation], table: Table
    ) -> list[Generation]:
        """The generations with their means, from one more forward of each whole text."""
        asked = {}
        for request, generation in zip(requests, found, strict=True):
            if not generation.response_ids:
                continue
            n = len(request.prompt_ids)
            ids = (*request.prompt_ids, *generation.thinking_ids, *generation.response_ids)
            span = [len(ids) - len(generation.response_ids), len(ids)]
            note = note_of(request.id, n, request.steering, table, response=span)
            asked[request.id] = (ids, self._one_token(), note)
        answers = _merged(self._run(asked, table))
        return [
            _with_means(g, answers[g.id], len(g.response_ids)) if g.id in answers else g
            for g in found
        ]


def _watch(client: Any) -> threading.Event:
    """Wake whoever waits for vLLM's core process when it has died; the event is set then.

    vLLM's client notices, and marks itself as dead, but leaves a call under way waiting for ever.
    """
    from vllm.v1.engine.core_client import SyncMPClient  # pyright: ignore[reportMissingImports]

    died = threading.Event()
    if not isinstance(client, SyncMPClient):  # it runs in this process
        return died
    resources, outputs, calls = client.resources, client.outputs_queue, client.utility_results

    def watch() -> None:
        while not resources.engine_dead:
            time.sleep(0.5)
        died.set()
        outputs.put_nowait(dead_error()())
        for call in list(calls.values()):
            if not call.done():
                call.set_exception(dead_error()())

    threading.Thread(target=watch, daemon=True, name="personavec-vllm-watch").start()
    return died


def _pieces(names: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), max(1, size)):
        yield names[start : start + size]


def _merged(groups: Iterator[dict[str, _Answer]]) -> dict[str, _Answer]:
    return {name: answer for group in groups for name, answer in group.items()}


class Table:
    """The vectors that requests are steered with, each once: [row, hidden], already multiplied."""

    def __init__(self, n_layers: int, hidden: int):
        self.n_layers, self.hidden = n_layers, hidden
        self._rows: list[Tensor] = []
        self._known: dict[tuple[tuple[int, float], ...], int] = {}
        self._directions: list[Tensor] = []  # kept, so that no other takes an identity

    def steer(self, additions: Sequence[Steering]) -> list[list[Any]]:
        """[layer, row, positions] of every addition; what acts at one place is one addition."""
        places: dict[tuple[int, str], list[Steering]] = {}
        for steering in additions:
            self.check_layer(steering)
            if steering.coefficient:
                places.setdefault((steering.layer, steering.positions), []).append(steering)
        return [[layer, self._row(own), kind] for (layer, kind), own in places.items()]

    def check_layer(self, action: Action) -> None:
        """Raises UsageError where it does not exist."""
        if action.layer > self.n_layers:
            raise UsageError(
                f"layer {action.layer} does not exist: the model has layers 1 to {self.n_layers}"
            )

    def _row(self, steerings: Sequence[Steering]) -> int:
        key = tuple((id(s.direction), s.coefficient) for s in steerings)
        if key not in self._known:
            self._known[key] = len(self._rows)
            self._directions += [s.direction for s in steerings]
            added = [s.coefficient * s.direction.float().cpu() for s in steerings]
            self._rows.append(torch.stack(added).sum(0))
        return self._known[key]

    def rows(self) -> Float[Tensor, "row hidden"]:
        return torch.stack(self._rows) if self._rows else torch.zeros(0, self.hidden)


def model_source(loaded: LoadedModel) -> str:
    """What vLLM loads a model from: the folder or hub id that transformers loaded it from.

    Raises UsageError for a model that is none: an adapter, or one made in memory.
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


def request_seed(seed: int, noise_key: str) -> int:
    """The seed of one request's sampling, from the run's seed and its noise key."""
    digest = hashlib.blake2b(f"{seed}\0{noise_key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1  # vLLM's are signed


def note_of(
    name: str,
    prompt: int,
    actions: Sequence[Action],
    table: Table,
    *,
    apart: bool = False,
    response: list[int] | None = None,
    project: int | None = None,
) -> dict[str, Any]:
    """What a worker is told of a request (`vllm_worker.NOTE`).

    Additions are rows of `table`, which all share. `apart`, or with a cap among the actions, the
    request brings its own. `response` is the span whose mean is read; projected are positions
    from `project` on. Raises UsageError for a layer that does not exist.
    """
    caps = [action for action in actions if isinstance(action, Cap)]
    apart = bool(actions) and (apart or bool(caps))
    own = Table(table.n_layers, table.hidden) if apart else table
    steer = own.steer([action for action in actions if not isinstance(action, Cap)])
    for cap in caps:
        own.check_layer(cap)
    units = torch.stack([cap.unit.cpu() for cap in caps]) if caps else own.rows()[:0]
    return {
        "id": name,
        "prompt": prompt,
        "steer": steer,
        "cap": [[cap.layer, row, cap.ceiling, cap.positions] for row, cap in enumerate(caps)],
        "own": save({"table": own.rows(), "units": units}) if apart else None,
        "response": response,
        "project": project,
    }


def _with_means(generation: Generation, answer: _Answer, n_read: int) -> Generation:
    """The generation with its activations, whose response mean is over `n_read` tokens.

    It has failed where they are NaN or infinite. Raises HookError when other tokens were read.
    """
    if not generation.response_ids:
        return generation
    if answer.sums is None or answer.n_summed != n_read:
        raise HookError(
            f"vLLM's workers read {answer.n_summed} of {n_read} response tokens of request "
            f"{generation.id}: a hook did not fire"
        )
    means = answer.sums.clone()
    means[0] /= n_read
    if not torch.isfinite(means).all():
        return Generation(generation.id, (), False, failed=True)
    return replace(generation, activations=means)


def _opened(data: bytes) -> tuple[dict[str, Tensor], dict[str, int], dict[str, bool]]:
    """A worker's answer: tensors, and by request counts and whether its logits were sound."""
    size = int(np.frombuffer(data[:8], "<u8")[0])
    metadata = json.loads(data[8 : 8 + size])["__metadata__"]
    return load(data), json.loads(metadata["counts"]), json.loads(metadata["sound"])


def _output_kind(name: Literal["DELTA", "FINAL_ONLY"]) -> Any:
    from vllm.sampling_params import RequestOutputKind  # pyright: ignore[reportMissingImports]

    return RequestOutputKind[name]


def dead_error() -> type[Exception]:
    """What vLLM raises once a process of its own has died."""
    from vllm.v1.engine.exceptions import EngineDeadError  # pyright: ignore[reportMissingImports]

    return EngineDeadError


def _import_vllm() -> Any:
    try:
        import vllm  # pyright: ignore[reportMissingImports]
        import vllm_lens  # noqa: F401
    except ImportError as error:
        if sys.version_info < (3, 12):
            raise PersonavecError(
                "--engine vllm needs vLLM and its plugin vllm-lens, which asks for Python 3.12 or "
                f"later; this is Python {sys.version_info.major}.{sys.version_info.minor}: install "
                "personavec[vllm] under a later one, or use --engine transformers"
            ) from error
        raise missing_extra("vllm") from error
    return vllm


def last_line(error: BaseException) -> str:
    """What an error says, as far as one line can hold it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]
