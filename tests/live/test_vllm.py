"""vLLM gives what transformers gives: texts, activations, projections, steered logits.

vLLM runs in a virtual environment of its own, which `make vllm` builds; elsewhere these tests are
skipped, and fail where VLLM_REQUIRED is set. Most of them run the embedded model in float32: what
differs then is the order in which sums are rounded, and errors of a wrong position, layer or token
are a hundred times larger. In bfloat16, which holds 8 bits, the two engines' kernels round
differently at every layer, and agree to a few per cent.
"""

import copy
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import openai
import pytest
import torch
from torch import Tensor
from vllm_engines import QUESTIONS, by_id, relative_error, start_vllm

from personavec import (
    LoadedModel,
    PersonaVector,
    load_model,
    load_trait,
    load_vector,
    monitor,
    steer,
)
from personavec.errors import ModelError
from personavec.evaluate.steer import AnswerSoFar, SteerConfig, run as steer_answers
from personavec.model import (
    Action,
    Directions,
    Steering,
    chat,
    embedded_gguf,
    project_tokens,
    vector_cap,
    vector_steering,
)
from personavec.model.engine import Generation, Request, Sampling, TransformersEngine, step_loop
from personavec.model.engine.sampling import Draw
from personavec.model.engine.vllm import GROUP
from personavec.model.snapshots import snapshot_of_gguf
from personavec.model.thinking import ThinkingFormat
from personavec.monitor import gauge
from personavec.progress import Progress
from personavec.rollouts import Task, collect, load_activations
from personavec.serve import ServeConfig, server as run
from personavec.vectors import export, mean_difference, random_directions

# Warnings of vLLM and its hundred packages are theirs to mend.
pytestmark = pytest.mark.filterwarnings("ignore")

ROOT = Path(__file__).parents[2]
LLAMACPP = ROOT / ".venv-llamacpp" / "bin" / "python"
GREEDY = Sampling(max_tokens=24, temperature=0)
QUIET = Progress(quiet=True)


@pytest.fixture(scope="module")
def exact() -> LoadedModel:
    return load_model("smollm2", dtype="float32")


@pytest.fixture(scope="module")
def engine(exact: LoadedModel) -> Iterator[Any]:
    with start_vllm(exact, max_logprobs=-1) as started:
        yield started


@pytest.fixture(scope="module")
def vector() -> PersonaVector:
    return load_vector("humorous")


def mixed(loaded: LoadedModel, vector: PersonaVector) -> list[Request]:
    """Every question under other layers, coefficients, positions and vectors, and under none."""
    random = random_directions(vector.direction(), 2, seed=1)
    ways: list[tuple[Steering, ...]] = [
        (),
        vector_steering(vector, 2.0),
        vector_steering(vector, -1.5, 9, "all"),
        vector_steering(vector, 2.5, 21, "prompt"),
        (Steering(12, random[0], 1.0), Steering(20, random[1], -1.0, "all")),
        vector_steering(vector, 1.0, "all"),
        (Steering(loaded.identity.n_layers, random[0], 3.0),),
    ]
    return [
        Request(f"q{i}-w{j}", tuple(loaded.chat.prompt_ids(chat(question))), way)
        for i, question in enumerate(QUESTIONS)
        for j, way in enumerate(ways)
    ]


def agreeing(found: Sequence[object], expected: Sequence[object]) -> int:
    """Tokens until the first that differs."""
    pairs = zip(found, expected, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(found), len(expected)))


def test_one_mixed_batch_answers_and_reads_as_transformers_does(
    engine: Any, exact: LoadedModel, vector: PersonaVector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Greedy answers are the same up to the first token whose two best logits are closer than
    0.005, several times what the kernels' rounding changes a logit by; where the whole answer is
    the same, so are its means at every layer, to a thousandth of their length."""
    requests = mixed(exact, vector)
    gaps: dict[str, list[float]] = {request.id: [] for request in requests}
    choose = step_loop.choose

    def recorded(logits: Tensor, draws: Sequence[Draw]) -> Tensor:
        best = logits.topk(2).values
        for draw, gap in zip(draws, (best[:, 0] - best[:, 1]).tolist(), strict=True):
            gaps[draw.noise_key].append(gap)
        return choose(logits, draws)

    monkeypatch.setattr(step_loop, "choose", recorded)
    expected = by_id(TransformersEngine(exact).generate(requests, GREEDY, capture=True))
    found = by_id(engine.generate(requests, GREEDY, capture=True))
    assert found.keys() == expected.keys()
    same = 0
    for name, theirs in expected.items():
        ours = found[name]
        close = (n for n, gap in enumerate(gaps[name]) if gap < 0.005)
        until = next(close, len(theirs.response_ids))
        assert agreeing(ours.response_ids, theirs.response_ids) >= until, name
        assert ours.activations is not None
        assert theirs.activations is not None
        # What is read at the prompt does not depend on the answer.
        assert relative_error(ours.activations[1:], theirs.activations[1:]) < 1e-3, name
        if ours.response_ids == theirs.response_ids:
            same += 1
            assert ours.finished == theirs.finished
            assert relative_error(ours.activations, theirs.activations) < 1e-3, name
    assert same > 0.8 * len(requests)
    assert any(generation.finished for generation in found.values())
    assert not all(generation.finished for generation in found.values())


def test_steered_answers_are_shown_as_they_grow_and_coloured_alike(
    engine: Any, exact: LoadedModel, vector: PersonaVector
) -> None:
    """Every token's reading is that of the transformers engine, which streams too."""
    config = SteerConfig(coefficients=(-1.0, 0.0, 2.0), max_tokens=24, temperature=0)
    moments: dict[str, list[AnswerSoFar]] = {"vllm": [], "transformers": []}
    for name, running in (("vllm", engine), ("transformers", None)):
        show = moments[name].append
        steer_answers(exact, vector, QUESTIONS[:2], config, engine=running, show=show)
    last = {name: {m.id: m for m in found} for name, found in moments.items()}
    for id, ours in last["vllm"].items():
        growing = [len(m.pieces) for m in moments["vllm"] if m.id == id]
        assert growing == sorted(growing)
        assert len(set(growing)) > 3, "it did not come piece by piece"
        theirs = last["transformers"][id]
        same = agreeing([p.text for p in ours.pieces], [p.text for p in theirs.pieces])
        assert same > 3
        for own, other in zip(ours.pieces[:same], theirs.pieces[:same], strict=True):
            assert own.sigma == pytest.approx(other.sigma, abs=1e-2)


def test_sampling_depends_on_the_seed_and_the_id_alone(engine: Any, exact: LoadedModel) -> None:
    """Not on the others in the batch, nor on whether activations are read."""
    requests = mixed(exact, load_vector("optimistic"))[::5]
    sampling = Sampling(max_tokens=12, temperature=0.8, top_p=0.95, seed=3)
    together = by_id(engine.generate(requests, sampling))
    for request in requests[:2]:
        alone = by_id(engine.generate([request], sampling, capture=True))[request.id]
        assert alone.response_ids == together[request.id].response_ids
    other = by_id(engine.generate(requests, Sampling(12, 0.8, 0.95, seed=4)))
    assert any(other[i].response_ids != together[i].response_ids for i in other)


def test_caps_act_as_in_transformers(
    engine: Any, exact: LoadedModel, vector: PersonaVector
) -> None:
    """Beside additions and in company with requests that have none; what is read is capped."""
    cap = vector_cap(vector, 5)
    ways: list[tuple[Action, ...]] = [
        (cap,),
        (*vector_steering(vector, 1.0), cap),
        vector_steering(vector, 1.0),
        (),
    ]
    requests = [
        Request(f"{i}-{j}", tuple(exact.chat.prompt_ids(chat(question))), way)
        for i, question in enumerate(QUESTIONS)
        for j, way in enumerate(ways)
    ]
    expected = by_id(TransformersEngine(exact).generate(requests, GREEDY, capture=True))
    found = by_id(engine.generate(requests, GREEDY, capture=True))
    same = [i for i, g in found.items() if g.response_ids == expected[i].response_ids]
    assert len(same) > 0.8 * len(requests)  # in others two candidates tied
    for i in same:
        assert relative_error(found[i].activations, expected[i].activations) < 1e-3
    means = {i: float(found[i].activations[0, vector.layer] @ cap.unit) for i in found}
    assert all(
        means[f"{i}-{j}"] <= cap.ceiling + 1e-2 for i in range(len(QUESTIONS)) for j in (0, 1)
    )
    assert any(means[f"{i}-2"] > cap.ceiling for i in range(len(QUESTIONS)))


@pytest.mark.parametrize("capture", [False, True])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_overflows_fails_alone(
    engine: Any, exact: LoadedModel, vector: PersonaVector, temperature: float, capture: bool
) -> None:
    """Steered out of float32's numbers, or so far that the last norm gives 0 and all logits are
    the same. The others answer as without them."""
    prompts = [tuple(exact.chat.prompt_ids(chat(question))) for question in QUESTIONS]
    fine = [Request(f"fine {i}", prompt) for i, prompt in enumerate(prompts)]
    last = exact.identity.n_layers
    wrong = [
        Request("infinite", prompts[0], vector_steering(vector, 1e38, last, "all")),
        Request("flat", prompts[1], vector_steering(vector, 1e30, last, "response")),
    ]
    sampling = Sampling(max_tokens=6, temperature=temperature)
    alone = by_id(engine.generate(fine, sampling, capture=capture))
    together = by_id(engine.generate([*fine[:2], *wrong, *fine[2:]], sampling, capture=capture))
    for request in wrong:
        assert together[request.id].failed
        assert together[request.id].response_ids == ()
    for request in fine:
        assert not together[request.id].failed
        assert together[request.id].response_ids == alone[request.id].response_ids != ()


def test_more_sampled_prompts_than_a_step_takes(engine: Any, exact: LoadedModel) -> None:
    """Which vLLM would cut, and die of on a processor."""
    prompt = exact.chat.prompt_ids(chat(" ".join(QUESTIONS) * 30))
    steps = engine._engine.vllm_config.scheduler_config.max_num_batched_tokens
    requests = [Request(f"long-{i}", tuple(prompt)) for i in range(2 + steps // len(prompt))]
    found = by_id(engine.generate(requests, Sampling(max_tokens=3, temperature=1.0)))
    assert found.keys() == {request.id for request in requests}


def test_requests_that_share_their_noise_answer_alike(engine: Any, exact: LoadedModel) -> None:
    prompt = tuple(exact.chat.prompt_ids(chat(QUESTIONS[0])))
    requests = [Request("a", prompt, noise="n"), Request("b", prompt, noise="n")]
    found = by_id(engine.generate([*requests, Request("c", prompt)], Sampling(16, temperature=1.2)))
    assert found["a"].response_ids == found["b"].response_ids != found["c"].response_ids


def test_prompts_in_parts_are_read_and_steered_as_whole_ones(
    exact: LoadedModel, vector: PersonaVector
) -> None:
    """As vLLM takes them on accelerators, with parts of fewer tokens than any prompt has."""
    requests = mixed(exact, vector)[::4]
    texts = [np.array(request.prompt_ids, np.int32) for request in requests]
    directions = Directions(
        (vector.layer, 0), torch.stack([vector.direction(n) for n in (vector.layer, 0)])
    )
    theirs = TransformersEngine(exact)
    expected = by_id(theirs.generate(requests, GREEDY, capture=True))
    with start_vllm(
        exact, enable_chunked_prefill=True, max_num_batched_tokens=24, max_num_seqs=8
    ) as parted:
        found = by_id(parted.generate(requests, GREEDY, capture=True))
        projections = parted.project(texts, directions)
    assert min(map(len, texts)) > 24
    same = [i for i, g in found.items() if g.response_ids == expected[i].response_ids]
    assert len(same) > len(requests) / 2  # in others two candidates tied
    for i in same:
        assert relative_error(found[i].activations, expected[i].activations) < 1e-3
    for ours, others in zip(projections, theirs.project(texts, directions), strict=True):
        assert (ours - others).abs().max() < 1e-3 * others.abs().max()


def test_what_is_thought_is_no_part_of_the_response(
    engine: Any, exact: LoadedModel, vector: PersonaVector
) -> None:
    """With all up to the first full stop taken for a thought, steered and not."""
    format = copy.copy(exact.chat)
    format.thinking = ThinkingFormat(opens="<think>", closes=".", skipped="")
    thinker = replace(exact, chat=format)
    theirs, ours = TransformersEngine(thinker), copy.copy(engine)
    ours.loaded = thinker
    requests = mixed(exact, vector)[::3]
    expected = by_id(theirs.generate(requests, GREEDY, capture=True))
    found = by_id(ours.generate(requests, GREEDY, capture=True))
    assert any(g.thinking_ids and g.response_ids for g in found.values())
    for name, generation in found.items():
        other = expected[name]
        if generation.thinking_ids + generation.response_ids != (
            other.thinking_ids + other.response_ids
        ):
            continue  # two candidates tied, which another test looks at
        assert generation.response_ids == other.response_ids
        assert generation.unfinished_thought == other.unfinished_thought
        if generation.response_ids:
            assert relative_error(generation.activations, other.activations) < 1e-3


def test_the_same_vector_is_extracted(engine: Any, exact: LoadedModel) -> None:
    """Mean differences over the same elicited answers, at every layer and position."""
    spec = load_trait("optimistic")[0]
    requests = [
        Request(f"{polarity}-{i}", tuple(exact.chat.prompt_ids(chat(question, system))))
        for i, question in enumerate(spec.questions.extraction[:4])
        for polarity, system in (("pos", spec.instruction[0].pos), ("neg", spec.instruction[0].neg))
    ]
    vectors = []
    for source in (engine, TransformersEngine(exact)):
        found = by_id(source.generate(requests, Sampling(12, temperature=0), capture=True))
        sides = [
            torch.stack([g.activations for i, g in found.items() if i.startswith(side)])
            for side in ("pos", "neg")
        ]
        vectors.append(
            torch.stack([mean_difference(sides[0][:, s], sides[1][:, s]) for s in range(3)])
        )
    cosines = torch.nn.functional.cosine_similarity(*vectors, dim=-1)
    # A prompt's last token is the same under every system prompt, and so is its embedding.
    assert cosines[:2].min() > 0.999
    assert cosines[2, 1:].min() > 0.999
    assert torch.equal(vectors[0][2, 0], torch.zeros_like(vectors[0][2, 0]))


def test_projections_of_given_texts(engine: Any, exact: LoadedModel, vector: PersonaVector) -> None:
    """Every token's, at several layers, of texts long and short; within a thousandth of the
    largest."""
    texts = [
        np.array(exact.chat.prompt_ids(chat(question * times)), np.int32)
        for question in QUESTIONS
        for times in (1, 30)
    ]
    layers = (vector.layer, 0, exact.identity.n_layers, 5)
    unit = torch.stack([vector.direction(n) / vector.direction(n).norm() for n in layers])
    directions = Directions(layers, unit)
    found = engine.project(texts, directions)
    expected = TransformersEngine(exact).project(texts, directions)
    for ours, theirs in zip(found, expected, strict=True):
        error = (ours - theirs).abs().amax(0)
        assert (error < 1e-3 * theirs.abs().amax(0).clamp(min=0.1)).all()


def test_a_log_is_read_as_transformers_reads_it(
    engine: Any, exact: LoadedModel, vector: PersonaVector, tmp_path: Path
) -> None:
    """Every turn's forecast and mean, to a thousandth of a standard deviation."""
    talks = [
        {"messages": [*chat(question), {"role": "assistant", "content": f"I wonder. {question}"}]}
        for question in QUESTIONS
    ]
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps(talk) + "\n" for talk in talks), "utf-8")
    readings = []
    for source in (engine, TransformersEngine(exact)):
        out = tmp_path / source.name
        found = monitor.run(exact, [vector], log, out, engine=source, progress=QUIET)
        assert found.engine["name"] == source.name
        lines = Path(found.files.readings).read_text("utf-8").splitlines()
        readings.append([json.loads(line) for line in lines])
    assert len(readings[0]) == len(QUESTIONS)
    for ours, theirs in zip(*readings, strict=True):
        for name in ("humorous_prompt_last_sigma", "humorous_response_mean_sigma"):
            assert ours[name] == pytest.approx(theirs[name], abs=1e-3)


# Steered logits


def our_effects(loaded: LoadedModel, vector: PersonaVector, coefficient: float) -> np.ndarray:
    """Change of the next token's log-probabilities by steering every token: [prompt, token]."""
    effects = []
    with torch.inference_mode():
        for question in QUESTIONS:
            ids = torch.tensor([loaded.chat.prompt_ids(chat(question))])
            plain = loaded.model(input_ids=ids).logits[0, -1].log_softmax(-1)
            with steer(loaded.model, vector, coefficient, positions="all"):
                steered = loaded.model(input_ids=ids).logits[0, -1].log_softmax(-1)
            effects.append(steered - plain)
    return torch.stack(effects).numpy()


def vllm_effects(engine: Any, vector: PersonaVector, coefficient: float) -> np.ndarray:
    """The same from vLLM, steered and unsteered requests in one batch."""
    from safetensors.torch import save

    from personavec.model.engine.vllm_note import NOTE, SteeringTable, note_of

    chat_format = engine.loaded.chat
    table = SteeringTable(vector.n_layers, vector.hidden_size)
    ways = {"plain": (), "steered": vector_steering(vector, coefficient, positions="all")}
    prompts = [chat_format.prompt_ids(chat(question)) for question in QUESTIONS]
    notes = {
        f"{number} {way}": note_of(f"{number} {way}", len(ids), actions, table)
        for number, ids in enumerate(prompts)
        for way, actions in ways.items()
    }
    tensors = save({"table": table.rows(), "unit": torch.zeros(0, vector.hidden_size)})
    engine._engine.collective_rpc("personavec_begin", args=(tensors, []))
    for name, note in notes.items():
        params = engine.one_token()
        params.logprobs = -1
        params.extra_args = {NOTE: note}
        ids = prompts[int(name.split()[0])]
        engine._engine.add_request(name, {"prompt_token_ids": ids}, params)
    found: dict[str, np.ndarray] = {}
    while engine._engine.has_unfinished_requests():
        for output in engine._engine.step():
            if output.finished:
                (by_token,) = output.outputs[0].logprobs
                row = np.empty(len(by_token), np.float32)
                for token, entry in by_token.items():
                    row[token] = entry.logprob
                found[output.request_id] = row
    return np.stack(
        [found[f"{number} steered"] - found[f"{number} plain"] for number in range(len(QUESTIONS))]
    )


def llamacpp_effects(
    loaded: LoadedModel, vector: PersonaVector, coefficient: float, folder: Path
) -> np.ndarray:
    """The same from llama.cpp with the exported file; its logits are up to a constant ours."""
    if not list((ROOT / ".venv-llamacpp").glob(".llama-cpp-python-*")):
        pytest.skip("llama.cpp is not built; make llamacpp does")
    export(vector, folder / "v.gguf", "gguf", coefficient=coefficient)
    request = {
        "model": str(embedded_gguf()),
        "prompts": [loaded.chat.prompt_ids(chat(question)) for question in QUESTIONS],
        "vectors": [str(folder / "v.gguf")],
    }
    out = folder / "logits.npy"
    script = Path(__file__).with_name("llamacpp_logits.py")
    done = subprocess.run(
        [str(LLAMACPP), str(script), str(out)],
        input=json.dumps(request),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    plain, steered = np.load(out)
    return steered - plain


def agreement(found: np.ndarray, expected: np.ndarray) -> tuple[float, float]:
    """Correlation of two effects, each prompt's mean taken off, and the ratio of their sizes."""
    a, b = (x - x.mean(1, keepdims=True) for x in (found, expected))
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1]), float(
        np.linalg.norm(a) / np.linalg.norm(b)
    )


@pytest.mark.parametrize("coefficient", [-2.0, 2.0])
def test_steered_logits_move_as_in_transformers(
    engine: Any, exact: LoadedModel, vector: PersonaVector, coefficient: float
) -> None:
    correlation, size = agreement(
        vllm_effects(engine, vector, coefficient), our_effects(exact, vector, coefficient)
    )
    assert correlation > 0.9999
    assert abs(size - 1) < 0.001


def test_steered_logits_move_as_in_llama_cpp(
    engine: Any, exact: LoadedModel, vector: PersonaVector, tmp_path: Path
) -> None:
    """With the tolerance of test_llamacpp.py: llama.cpp's weights are quantised to 4 bits."""
    theirs = llamacpp_effects(exact, vector, 2.0, tmp_path)
    correlation, size = agreement(vllm_effects(engine, vector, 2.0), theirs)
    assert correlation > 0.95
    assert 0.85 < size < 1.15


# The server


class Running:
    """A server in a thread, an official client of it, and its service for looking inside."""

    def __init__(self, server: Any, url: str):
        self.url, self.worker = url, server.config.app.state.service.worker
        self.client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)

    def ask(self, question: str = QUESTIONS[0], *, tokens: int = 16, **more: Any) -> Any:
        """A greedy reply; what is not OpenAI's goes into `personavec`."""
        own = {key: more.pop(key) for key in ("steer", "cap", "tokens_read") if key in more}
        own["tokens"] = own.pop("tokens_read", False)
        asked = {"temperature": 0, "max_tokens": tokens, **more}
        return self.client.chat.completions.create(
            model="served",
            messages=cast(Any, chat(question)),
            extra_body={"personavec": own},
            **asked,
        )

    def idle(self) -> bool:
        """Wait until nothing runs; False if something stays."""
        for _ in range(600):
            if not (self.worker.open or self.worker.running or self.worker.waiting):
                return True
            time.sleep(0.05)
        return False


@contextmanager
def serving(
    loaded: LoadedModel, engine: Any, vectors: dict[str, PersonaVector], **settings: Any
) -> Iterator[Running]:
    given = ServeConfig(name="served", **settings)
    with run.serving(loaded, vectors, given, engine=engine) as (url, server):
        running = Running(server, url)
        with running.client:
            yield running


@pytest.fixture(scope="module")
def vectors() -> dict[str, PersonaVector]:
    return {trait: load_vector(trait) for trait in ("humorous", "optimistic")}


def said(reply: Any) -> dict[str, Any]:
    return reply.model_extra["personavec"]["choices"][0]


def same_reply(ours: Any, theirs: Any) -> None:
    """The same text and end, and readings within a thousandth of a standard deviation."""
    assert ours.choices[0].message.content == theirs.choices[0].message.content
    assert ours.choices[0].finish_reason == theirs.choices[0].finish_reason
    assert ours.usage == theirs.usage
    same_readings(ours, theirs)


def same_readings(ours: Any, theirs: Any) -> None:
    assert said(ours)["readings"]
    for a, b in zip(said(ours)["readings"], said(theirs)["readings"], strict=True):
        assert (a["trait"], a["layer"], a["n_tokens"]) == (b["trait"], b["layer"], b["n_tokens"])
        for name in ("prompt_last_sigma", "response_mean_sigma"):
            assert a[name] == pytest.approx(b[name], abs=1e-3)
        if a["tokens"] is not None:
            assert a["tokens"] == pytest.approx(b["tokens"], rel=1e-3, abs=1e-2)


ASKED: list[dict[str, Any]] = [
    {"tokens_read": True, "logprobs": True, "top_logprobs": 2},
    {"steer": [{"vector": "humorous", "coefficient": 1.0}]},
    {
        "steer": [
            {"vector": "humorous", "coefficient": 0.5, "layer": 9},
            {"vector": "optimistic", "coefficient": 0.5},
        ],
        "cap": [{"vector": "humorous", "percentile": 60}, {"vector": "optimistic"}],
    },
    {"cap": [{"vector": "humorous", "percentile": 51}], "stop": " and"},
    {"question": "Say hello.", "tokens": 40},
]


def test_replies_and_readings_are_those_of_the_transformers_server(
    engine: Any, exact: LoadedModel, vectors: dict[str, PersonaVector]
) -> None:
    """Plain, steered, capped, stopped, and ended by the model; all at once and one by one."""
    with (
        serving(exact, engine, vectors) as ours,
        serving(exact, None, vectors) as theirs,
        ThreadPoolExecutor(len(ASKED)) as pool,
    ):
        together = list(pool.map(lambda asked: ours.ask(**asked), ASKED))
        for asked, reply in zip(ASKED, together, strict=True):
            same_reply(reply, theirs.ask(**asked))
        assert len({reply.choices[0].message.content for reply in together[:4]}) == 4
        found, expected = together[0], theirs.ask(**ASKED[0])
        pairs = zip(
            found.choices[0].logprobs.content, expected.choices[0].logprobs.content, strict=True
        )
        for a, b in pairs:
            assert [top.token for top in a.top_logprobs] == [top.token for top in b.top_logprobs]
            assert a.logprob == pytest.approx(b.logprob, abs=1e-2)
        streamed = list(ours.ask(**ASKED[1], stream=True))
        text = "".join(chunk.choices[0].delta.content or "" for chunk in streamed)
        assert text == together[1].choices[0].message.content
        same_readings(streamed[-1], together[1])
        sampled = [ours.ask(temperature=0.9, seed=7).choices[0].message.content for _ in range(2)]
        assert sampled[0] == sampled[1] != together[0].choices[0].message.content


def test_clients_that_leave_free_their_places(
    engine: Any, exact: LoadedModel, vectors: dict[str, PersonaVector]
) -> None:
    with serving(exact, engine, vectors) as running:
        for _ in range(3):
            with running.ask(tokens=900, stream=True) as stream:
                next(stream)
        assert running.idle()
        assert running.ask().choices[0].message.content
        assert engine._engine.get_num_unfinished_requests() == 0


@pytest.mark.parametrize("does", ["steer -1", "cap 51", "refuse"])
def test_guards_act_as_in_the_transformers_server(
    engine: Any, exact: LoadedModel, vectors: dict[str, PersonaVector], does: str
) -> None:
    """On forecasts that differ by question: the guard acts on some and leaves the others alone."""
    gauged = gauge(list(vectors.values()), exact)
    prompts = [np.array(exact.chat.prompt_ids(chat(q)), np.int32) for q in QUESTIONS]
    values = project_tokens(exact.model, prompts, gauged.directions)
    mean, spread = gauged.prompt_last[0].tolist()
    forecasts = sorted((float(value[-1, 0]) - mean) / spread for value in values)
    line = (forecasts[2] + forecasts[3]) / 2
    guard = f"humorous>{line:.4f}sigma: {does}"
    with (
        serving(exact, engine, vectors, guard=(guard,)) as ours,
        serving(exact, None, vectors, guard=(guard,)) as theirs,
    ):
        acted = 0
        for question in QUESTIONS:
            found, expected = ours.ask(question), theirs.ask(question)
            same_reply(found, expected)
            guards = [
                [{**g, "forecast": round(g["forecast"], 2)} for g in said(reply)["guards"]]
                for reply in (found, expected)
            ]
            assert guards[0] == guards[1]
            acted += len(guards[0])
            refused = found.choices[0].finish_reason == "content_filter"
            assert refused == (does == "refuse" and bool(guards[0]))
        assert acted == 2


# In bfloat16, and what goes wrong


def test_a_dead_worker_costs_what_it_had_not_finished(
    vector: PersonaVector, tmp_path: Path
) -> None:
    """In the middle of a sweep: one line, finished answers stay, a second run does the rest. In
    bfloat16, as models are mostly run: activations agree to 5 % of their length."""
    import psutil

    loaded = load_model("smollm2", dtype="bfloat16")
    tasks = [
        Task(f"t{i}", f"{QUESTIONS[i % 5]} {i}", steering=vector_steering(vector, i / 40))
        for i in range(80)
    ]
    # Of lengths that differ, so that some finish long before others.
    sampling = Sampling(max_tokens=48, temperature=0)
    before = set(psutil.Process().children(recursive=True))
    first = start_vllm(loaded, max_num_seqs=16)
    yielded = first.generate

    def deadly(*args: Any, **kwargs: Any) -> Iterator[list[Generation]]:
        for number, group in enumerate(yielded(*args, **kwargs)):
            yield group
            if number == 0:
                for process in set(psutil.Process().children(recursive=True)) - before:
                    process.kill()

    first.generate = deadly

    def run(source: Any) -> list[Any]:
        return collect(
            loaded,
            tasks,
            sampling,
            tmp_path,
            activations=tmp_path / "activations",
            engine=source,
            progress=QUIET,
        )

    with pytest.raises(ModelError, match="run the same command again") as raised:
        run(first)
    kept = (tmp_path / "generated.jsonl").read_text("utf-8").splitlines()
    assert GROUP <= len(kept) < len(tasks)
    assert f"died after {len(kept)} of {len(tasks)} requests" in str(raised.value)
    with start_vllm(loaded, max_num_seqs=16) as second:
        rollouts = run(second)
    assert (tmp_path / "generated.jsonl").read_text("utf-8").splitlines()[: len(kept)] == kept
    assert [r.id for r in rollouts] == [task.id for task in tasks]
    answered = [r for r in rollouts if r.n_tokens]
    means = load_activations(tmp_path / "activations", [r.id for r in answered])
    by_task = {task.id: task for task in tasks}
    chosen = range(0, len(answered), 8)
    requests = [
        Request(
            answered[i].id,
            tuple(loaded.chat.prompt_ids(chat(answered[i].question))),
            by_task[answered[i].id].steering,
        )
        for i in chosen
    ]
    expected = by_id(TransformersEngine(loaded).generate(requests, sampling, capture=True))
    for i in chosen:
        theirs = expected[answered[i].id]
        assert theirs.activations is not None
        assert relative_error(means[i][1:], theirs.activations[1:]) < 0.05
        if answered[i].response_ids == theirs.response_ids:
            assert relative_error(means[i], theirs.activations) < 0.05


def personavec(*arguments: str) -> dict[str, Any]:
    command = str(Path(sys.executable).with_name("personavec"))
    done = subprocess.run([command, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_command_line_screens_with_one_engine_and_continues_with_it(
    engine: Any, tmp_path: Path
) -> None:
    """Standard output is one JSON object, whatever vLLM logs."""
    rows = [{"prompt": question, "response": "I would rather not say."} for question in QUESTIONS]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    out = tmp_path / "out"
    command = [
        *("screen", str(data), "--vectors", "humorous", "--natural", "generate", "--json"),
        *("--natural-tokens", "4", "--out", str(out)),
    ]
    found = personavec(*command, "--engine", "vllm", "--engine-arg", "max_num_seqs=8")
    assert found["engine"]["generating"]["name"] == "vllm"
    assert found["engine"]["generating"]["arguments"] == {"max_num_seqs": 8}
    assert found["engine"]["scoring"] == found["engine"]["generating"]
    # On a processor `auto` would choose the other engine, but for the run that is there.
    again = personavec(*command)
    assert again["engine"]["scoring"]["name"] == "vllm"
    assert again["traits"] == found["traits"]


def test_the_exported_request_steers_a_server(
    engine: Any, exact: LoadedModel, vector: PersonaVector, tmp_path: Path
) -> None:
    """The printed commands, as they are but for the model and the port; the server's answer is that
    of the engine with every token steered."""
    found = export(vector, tmp_path / "v.json", "vllm-lens", coefficient=2.0)
    serve, ask = found.use
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = str(snapshot_of_gguf(embedded_gguf()))
    program, verb, model, *rest = shlex.split(serve.replace("MODEL", folder))
    assert (program, verb, model) == ("vllm", "serve", folder)
    # The build for processors has another package name, by which its `vllm` command looks in vain
    # for its own version; that command runs this module.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model, *rest]
    more = ["--port", str(port), "--dtype", "float32", "--max-model-len", "512"]
    log = tmp_path / "server.log"
    # The engine, which keeps the plugin out, has set this for its own processes.
    environment = {k: v for k, v in os.environ.items() if k != "VLLM_LENS_DISABLE"}
    with log.open("wb") as sink:
        server = subprocess.Popen([*command, *more], stdout=sink, stderr=sink, env=environment)
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_for(f"{url}/health", server, log)
        body = {
            "model": folder,
            "messages": [{"role": "user", "content": "Hello"}],
            "vllm_xargs": {"apply_steering_vectors": (tmp_path / "v.json").read_text("utf-8")},
        }
        # The request that was printed, with its file read as jq reads it.
        assert (
            json.dumps({**body, "model": "MODEL", "vllm_xargs": "V"})[1:-1].split('"V"')[0] in ask
        )
        greedy = {"temperature": 0, "max_tokens": 12}
        steered, plain = (
            _post(f"{url}/v1/chat/completions", {**asked, **greedy})
            for asked in (body, {k: v for k, v in body.items() if k != "vllm_xargs"})
        )
    finally:
        server.terminate()
        server.wait(60)
    prompt = tuple(exact.chat.prompt_ids(chat("Hello")))
    requests = [
        Request("steered", prompt, vector_steering(vector, 2.0, positions="all")),
        Request("plain", prompt),
    ]
    ours = by_id(engine.generate(requests, Sampling(max_tokens=12, temperature=0)))
    assert steered == exact.chat.decode(ours["steered"].response_ids)
    assert plain == exact.chat.decode(ours["plain"].response_ids)
    assert steered != plain


def _wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    while server.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"the server ended before it answered:\n{log.read_text('utf-8')[-2000:]}")


def _post(url: str, body: dict[str, Any]) -> str:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=600) as answer:
        return json.load(answer)["choices"][0]["message"]["content"]


@pytest.mark.usefixtures("interruptible")
def test_a_server_whose_worker_died_says_so(engine: Any, tmp_path: Path) -> None:
    """As an operator runs it. vLLM's processes take no Ctrl-C; when one has died, the reply under
    way and later ones end with an error, and so does the question how the server is."""
    import psutil

    command = [str(Path(sys.executable).with_name("personavec")), "serve", "--engine", "vllm"]
    more = ["--port", "0", "--json", "--rows", "4", "--engine-arg", "max_model_len=301"]
    log = tmp_path / "server.log"
    with log.open("wb") as sink:
        server = subprocess.Popen([*command, *more], stdout=subprocess.PIPE, stderr=sink, text=True)
    assert server.stdout is not None
    try:
        url = json.loads(server.stdout.readline())["address"]
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        asked: dict[str, Any] = {"model": "smollm2", "messages": chat(QUESTIONS[1])}
        with pytest.raises(openai.BadRequestError, match="context of 300"):
            client.chat.completions.create(**asked, max_tokens=300)
        children = psutil.Process(server.pid).children(recursive=True)
        for child in children:
            child.send_signal(signal.SIGINT)
        assert client.chat.completions.create(**asked, max_tokens=4).choices[0].message.content
        stream = client.chat.completions.create(**asked, max_tokens=250, stream=True)
        next(stream)
        for child in children:
            child.kill()
        with pytest.raises(openai.APIError, match="worker died"):
            list(stream)
        with pytest.raises(openai.InternalServerError, match="must be started again"):
            client.chat.completions.create(**asked)
        with pytest.raises(urllib.error.HTTPError, match="503"):
            urllib.request.urlopen(f"{url}/healthz")
    finally:
        server.terminate()
        server.wait(60)
        server.stdout.close()
    assert server.returncode == 0
    assert "vLLM's worker died" in log.read_text("utf-8")
