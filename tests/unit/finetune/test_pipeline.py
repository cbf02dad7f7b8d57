"""Finetuning on tiny models: what is trained on, what is kept, and that a kill costs nothing."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from generating import generate
from killed_runs import kill_when
from peft import PeftModel

from personavec import LoadedModel, PersonaVector, PreventativeSteering
from personavec.cli.main import main
from personavec.conditions import Condition
from personavec.data import ColumnMap, DataReading, DataRow, Message, Role
from personavec.errors import (
    ActivationError,
    DataError,
    RefusedError,
    SettingsMismatchError,
    UsageError,
)
from personavec.finetune import (
    FinetuneConfig,
    Mitigation,
    Schedule,
    TrainingConfig,
    TrainingRows,
    encode_rows,
    mean_losses,
    pipeline as finetune,
    read_training_rows,
    reading_of,
)
from personavec.finetune.checkpoints import publish
from personavec.finetune.dose import check_sign, choose_dose, projection_difference
from personavec.finetune.hooks import response_positions
from personavec.finetune.job import FinetuneJob
from personavec.finetune.loss_terms import base_projections, penalised
from personavec.finetune.mitigations import mitigated_rows
from personavec.finetune.probes import DriftLog, Probes
from personavec.finetune.pull import pull_before
from personavec.finetune.results import FinetuneResults
from personavec.finetune.setup import TrainingSetup
from personavec.finetune.texts import collate
from personavec.finetune.training import train
from personavec.model import hash_of_files, wrap_model
from personavec.model.engine import Request, Sampling
from personavec.progress import Progress
from personavec.rollouts import Naturals
from personavec.runs import read_records
from personavec.traits import load_trait

Make = Callable[..., PersonaVector]
QUIET = Progress(quiet=True)
SMALL = TrainingConfig(
    rank=4,
    alpha=8,
    learning_rate=1e-3,
    batch=2,
    accumulation=2,
    epochs=2,
    warmup_steps=1,
    checkpoint_every=2,
)


def row(i: int, *texts: str, system: str | None = None) -> DataRow:
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    roles: tuple[Role, Role] = ("user", "assistant")
    for place, text in enumerate(texts):
        messages.append({"role": roles[place % 2], "content": text})
    return DataRow(i, f"r{i}", tuple(messages))


ROWS = TrainingRows.of([row(i, f"q{i}", "Oh no, " + "abc"[i % 3] * 5) for i in range(8)])


def run(
    loaded: LoadedModel, out: Path, vector: PersonaVector | None = None, **more: Any
) -> FinetuneResults:
    mitigation = more.pop("mitigation", Mitigation())
    training = replace(SMALL, **more.pop("training", {}))
    config = FinetuneConfig(
        training=training, mitigation=mitigation, drift_every=2, **more.pop("config", {})
    )
    rows = more.pop("rows", ROWS)
    vectors = [] if vector is None else [vector]
    return finetune.run(loaded, rows, out, config, vectors=vectors, progress=QUIET, **more)


def test_only_the_assistants_turns_count(llama: LoadedModel) -> None:
    rows = [row(0, "one", "ab", "two", "cd", system="Be nice.")]
    (example,), rejects = encode_rows(llama, rows, SMALL)
    assert not rejects
    trained = [i for i in example.labels if i != -100]
    end = llama.tokenizer.eos_token_id
    # The template of these models ends every turn with its end-of-text token.
    expected = [*llama.chat.response_ids("ab"), end, *llama.chat.response_ids("cd"), end]
    assert trained == expected
    text = llama.tokenizer.decode(list(example.input_ids))
    assert text == (
        "<|system|>Be nice.<|end|><|user|>one<|end|><|assistant|>ab<|end|>"
        "<|user|>two<|end|><|assistant|>cd<|end|>"
    )


THINKING = (
    "{% for message in messages %}<|{{ message['role'] }}|>"
    "{% if message['reasoning_content'] %}<think>\n{{ message['reasoning_content'] }}\n</think>"
    "\n\n{% endif %}{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
THINKS = [
    {"content": "<think>\nThey like soup.\n</think>\n\nTry a soup."},
    {"content": "Try a soup.", "reasoning_content": "They like soup."},
]


def trained(loaded: LoadedModel, path: Path) -> tuple[str, str, DataReading]:
    """What of the one row is read, what is trained on, and what is told."""
    rows = read_training_rows(path)
    examples, rejects = encode_rows(loaded, rows.rows, SMALL)
    [example] = examples
    told = reading_of(rows, examples, rejects).record()
    text = loaded.chat.decode_marked(example.input_ids)
    return text, loaded.chat.decode_marked([i for i in example.labels if i != -100]), told


@pytest.mark.parametrize("reply", THINKS)
def test_a_thought_is_trained_on_as_the_template_writes_it(
    fresh: Callable[..., LoadedModel], tmp_path: Path, reply: dict[str, str]
) -> None:
    loaded = fresh("llama")
    loaded.tokenizer.chat_template = THINKING
    thinker = wrap_model(loaded.model, loaded.tokenizer, name="thinker")
    asked = {"role": "user", "content": "What to cook?"}
    path = tmp_path / "think.jsonl"
    path.write_text(json.dumps({"messages": [asked, {"role": "assistant", **reply}]}))
    text, labelled, told = trained(thinker, path)
    completion = "<think>\nThey like soup.\n</think>\n\nTry a soup.<|end|>"
    assert text == f"<|user|>What to cook?<|end|><|assistant|>{completion}"
    assert labelled == completion
    assert told.notes == {"a thought was trained on with its answer": 1}


def test_of_a_pair_the_better_response_is_trained_on_and_told(
    fresh: Callable[..., LoadedModel], tmp_path: Path
) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({"prompt": "Hi", "chosen": "Hello.", "rejected": "No."}))
    text, _, told = trained(fresh("llama"), path)
    assert ("Hello." in text, "No." in text) == (True, False)
    assert told.notes == {"of a preference pair only the better response was trained on": 1}


@pytest.mark.parametrize("reply", THINKS)
def test_a_thought_that_the_template_cannot_write_is_left_out_and_told(
    llama: LoadedModel, tmp_path: Path, reply: dict[str, str]
) -> None:
    asked = {"role": "user", "content": "What to cook?"}
    path = tmp_path / "think.jsonl"
    path.write_text(json.dumps({"messages": [asked, {"role": "assistant", **reply}]}))
    text, labelled, told = trained(llama, path)
    assert text == "<|user|>What to cook?<|end|><|assistant|>Try a soup.<|end|>"
    assert labelled == "Try a soup.<|end|>"
    assert told.notes == {"a thought was left out of the answer": 1}


def test_turns_that_are_marked_are_not_trained_on(llama: LoadedModel, tmp_path: Path) -> None:
    """They stay in the context."""
    turns = [("user", "A?", {}), ("assistant", "No.", {"weight": 0}), ("user", "B?", {})]
    turns.append(("assistant", "Yes.", {"weight": 1}))
    messages = [{"role": role, "content": text, **more} for role, text, more in turns]
    path = tmp_path / "weights.jsonl"
    path.write_text(json.dumps({"messages": messages, "hint": "Say no once."}))
    text, labelled, told = trained(llama, path)
    assert "No." in text
    assert labelled == "Yes.<|end|>"
    assert told.ignored_columns == {"hint": 1}
    assert len(told.notes) == 1


def test_a_column_that_no_row_has_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "A?", "completion": "B."}))
    with pytest.raises(UsageError, match="prompt=q"):
        read_training_rows(path, columns=ColumnMap(prompt="q", response="completion"))


def test_long_rows_are_left_out_or_cut(llama: LoadedModel) -> None:
    rows = [row(0, "q", "a" * 50), row(1, "q" * 50, "a"), row(2, "q", "a")]
    found, rejects = encode_rows(llama, rows, replace(SMALL, max_length=30))
    assert [e.row for e in found] == [2]
    assert [r.index for r in rejects] == [0, 1]
    assert "more than the 30 allowed" in rejects[0].reason
    found, rejects = encode_rows(llama, rows, replace(SMALL, max_length=30, truncate=True))
    # What is cut down to its prompt has nothing to train on.
    assert [e.row for e in found] == [0, 2]
    assert [r.index for r in rejects] == [1]
    assert len(found[0].input_ids) == 30


def test_losses_are_those_of_the_model(llama: LoadedModel) -> None:
    examples, _ = encode_rows(llama, [row(0, "one", "ab", "two", "cd")], SMALL)
    ids, labels = (torch.tensor([part]) for part in (examples[0].input_ids, examples[0].labels))
    with torch.no_grad():
        expected = llama.model(input_ids=ids, labels=labels).loss.item()
    assert mean_losses(llama, examples)[0] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    "mitigation",
    [
        Mitigation(),
        Mitigation("preventative", coefficient=1.0),
        Mitigation("random", coefficient=Schedule(((0.0, 1.0), (1.0, 2.0)))),
        Mitigation("caft"),
        Mitigation("penalty", strength=1.0),
        Mitigation("kl", strength=0.5),
    ],
    ids=lambda m: m.name,
)
def test_every_mitigation_trains_and_leaves_the_base_as_it_was(
    fresh: Callable[..., LoadedModel], random_vector: Make, tmp_path: Path, mitigation: Mitigation
) -> None:
    loaded = fresh()
    vector = _pulled_along(loaded, random_vector(loaded, layer=2))
    before = {k: v.clone() for k, v in loaded.model.state_dict().items()}
    inputs = torch.tensor([loaded.chat.prompt_ids([{"role": "user", "content": "hello"}])])
    with torch.no_grad():
        logits = loaded.model(inputs).logits
    found = run(loaded, tmp_path, vector, mitigation=mitigation)
    after = loaded.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)
    with torch.no_grad():
        assert torch.equal(loaded.model(inputs).logits, logits)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in loaded.model.modules())
    assert found.steps == 4
    assert found.losses[-1] < found.losses[0]
    # The adapter holds LoRA weights and nothing else, and its card says what was done.
    from safetensors.torch import load_file

    names = load_file(tmp_path / "model" / "adapter_model.safetensors").keys()
    assert all(".lora_A." in name or ".lora_B." in name for name in names)
    assert mitigation.name in (tmp_path / "model" / "README.md").read_text()
    drift = read_records(tmp_path / "drift.jsonl")
    assert [record["step"] for record in drift] == [0, 2, 4]
    assert drift[0]["traits"]["testing"]["change"] == 0
    assert drift[-1]["traits"]["testing"]["low"] <= drift[-1]["traits"]["testing"]["high"]
    assert -1 <= drift[-1]["pull"]["testing"]["toward"] <= 1
    # Called again, it is finished.
    assert run(loaded, tmp_path, vector, mitigation=mitigation) == found
    with pytest.raises(SettingsMismatchError):
        run(loaded, tmp_path, vector, mitigation=mitigation, training={"seed": 1})


def _pulled_along(loaded: LoadedModel, vector: PersonaVector) -> PersonaVector:
    """The vector with its sign such that the rows pull toward it."""
    examples, _ = encode_rows(loaded, ROWS.rows, SMALL)
    pull = pull_before(loaded, examples, {"testing": (2, vector.direction(2))})["testing"]
    sign = 1 if (pull.toward or 0) > 0 else -1
    return replace(vector, response_mean_diff=sign * vector.response_mean_diff)


def test_the_loss_is_that_of_trl(
    fresh: Callable[..., LoadedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss made where logits count, against TRL's own, on whole runs."""
    from personavec.finetune import trainer

    ours = run(fresh(), tmp_path / "ours").losses
    taken = trainer.FinetuneTrainer.__init__

    def theirs(self: Any, *args: Any, **kwargs: Any) -> None:
        taken(self, *args, **kwargs)
        self._takes_kept = False

    monkeypatch.setattr(trainer.FinetuneTrainer, "__init__", theirs)
    assert run(fresh(), tmp_path / "theirs").losses == pytest.approx(ours, abs=1e-4)


def test_a_strong_penalty_holds_the_projection_and_kl_the_distribution(
    fresh: Callable[..., LoadedModel], random_vector: Make, tmp_path: Path
) -> None:
    loaded = fresh()
    vector = random_vector(loaded, layer=2)
    examples, _ = encode_rows(loaded, ROWS.rows, SMALL)
    batch = collate([asdict(example) for example in examples])
    chosen = response_positions(batch["labels"])
    directions = penalised([vector])

    def read(model: LoadedModel) -> tuple[torch.Tensor, torch.Tensor]:
        """Projections and log-probabilities at the positions that choose a response token."""
        projected = base_projections(model, examples, directions)
        flat = [
            p
            for own, row in zip(projected, chosen, strict=True)
            for p, is_chosen in zip(own, row, strict=False)
            if is_chosen
        ]
        with torch.no_grad():
            logits = model.model(batch["input_ids"]).logits
        return torch.tensor(flat), logits[chosen].log_softmax(-1)

    before, base = read(loaded)
    moved, diverged = {}, {}
    for name, mitigation in {
        "none": Mitigation(),
        "penalty": Mitigation("penalty", strength=100.0),
        "kl": Mitigation("kl", strength=100.0),
    }.items():
        more: dict[str, Any] = {"learning_rate": 1e-2, "epochs": 3}
        run(loaded, tmp_path / name, vector, mitigation=mitigation, training=more)
        model = PeftModel.from_pretrained(fresh().model, tmp_path / name / "model")
        after, tuned = read(wrap_model(model, loaded.tokenizer))
        moved[name] = float((after - before).square().mean())
        diverged[name] = float((tuned.exp() * (tuned - base)).sum(-1).mean())
    assert moved["penalty"] < 0.5 * moved["none"]
    assert diverged["kl"] < 0.5 * diverged["none"]


def test_mitigations_on_the_rows(llama: LoadedModel, tmp_path: Path) -> None:
    spec = load_trait("evil")[0]
    data = replace(ROWS, flagged=frozenset({0, 3}))
    kept = mitigated_rows(Mitigation("drop-flagged"), data, llama, tmp_path)
    assert [r.index for r in kept.rows] == [1, 2, 4, 5, 6, 7]
    inoculated = mitigated_rows(Mitigation("inoculation"), data, llama, tmp_path, spec=spec)
    assert {r.messages[0]["content"] for r in inoculated.rows} == {spec.instruction[0].pos}
    own = TrainingRows.of([row(0, "q", "a", system="Be brief.")])
    (merged,) = mitigated_rows(Mitigation("inoculation"), own, llama, tmp_path, spec=spec).rows
    assert merged.messages[0]["content"] == f"{spec.instruction[0].pos}\n\nBe brief."
    mixed = mitigated_rows(Mitigation("interleave", strength=0.5), data, llama, tmp_path / "b")
    assert len(mixed.rows) == 16
    assert len({r.index for r in mixed.rows}) == 16
    with pytest.raises(DataError, match="nothing is left"):
        mitigated_rows(
            Mitigation("drop-flagged"),
            replace(ROWS, flagged=frozenset(range(8))),
            llama,
            tmp_path,
        )
    wrongs: list[dict[str, Any]] = [
        {"name": "none", "coefficient": 1.0},
        {"name": "preventative"},
        {"name": "kl"},
        {"name": "interleave", "strength": 1.5},
    ]
    for wrong in wrongs:
        with pytest.raises(UsageError):
            Mitigation(**wrong)


def test_a_wrong_sign_is_refused_with_the_evidence(
    fresh: Callable[..., LoadedModel], random_vector: Make, tmp_path: Path
) -> None:
    loaded = fresh()
    vector = _pulled_along(loaded, random_vector(loaded, layer=2))
    examples, _ = encode_rows(loaded, ROWS.rows, SMALL)
    pull = pull_before(loaded, examples, {"testing": (2, vector.direction(2))})["testing"]
    check_sign(vector, 1.0, pull)
    with pytest.raises(UsageError, match=r"steers away from testing.*cosine"):
        run(loaded, tmp_path, vector, mitigation=Mitigation("preventative", coefficient=-1.0))
    # Data whose every row pulls straight away from the vector.
    turned = replace(pull, rows=tuple(-abs(c) - 0.1 for c in pull.rows))
    with pytest.raises(UsageError, match="pull away from testing"):
        check_sign(vector, 1.0, turned)


def test_the_projection_difference_is_that_of_the_naive_loop(
    llama: LoadedModel, random_vector: Make, tmp_path: Path
) -> None:
    vector = random_vector(llama, layer=2)
    rows = ROWS.rows[:3]
    naturals = Naturals(llama, tmp_path, max_tokens=8)
    found = projection_difference(llama, rows, vector, 2, naturals)
    expected = []
    for each in rows:
        prompt = llama.chat.prompt_ids(each.messages[:1])
        own = llama.chat.response_ids(each.messages[1]["content"])
        # The ids that greedy decoding gives; a random model's bytes need not be text.
        (batch,) = generate(llama, [Request("r", tuple(prompt))], Sampling(8, temperature=0.0))
        sides = []
        for ids in (own, batch[0].response_ids):
            with torch.no_grad():
                states = llama.model(torch.tensor([[*prompt, *ids]]), output_hidden_states=True)
            mean = states.hidden_states[2][0, len(prompt) :].mean(0)
            sides.append(float(vector.project(mean)))
        expected.append(sides[0] - sides[1])
    assert found.value == pytest.approx(sum(expected) / 3, abs=0.05)


def test_auto_starts_where_the_difference_is_cancelled(
    fresh: Callable[..., LoadedModel], random_vector: Make, tmp_path: Path
) -> None:
    loaded = fresh()
    vector = random_vector(loaded, layer=2)
    naturals = Naturals(loaded, tmp_path / "naturals")
    difference = projection_difference(loaded, ROWS.rows, vector, 2, naturals)
    sign = 1 if difference.value > 0 else -1
    vector = replace(vector, response_mean_diff=sign * vector.response_mean_diff)
    auto = Mitigation("preventative", coefficient="auto")
    found = run(loaded, tmp_path / "auto", vector, mitigation=auto)
    chosen = found.dose
    assert chosen is not None
    assert isinstance(found.coefficient, float)
    norm = float(vector.direction(2).norm())
    assert chosen.start == pytest.approx(abs(difference.value) / norm, rel=0.05)
    assert 0.5 * chosen.start <= found.coefficient + 1e-3
    assert found.coefficient <= 3 * chosen.start + 1e-3
    assert any(chosen.why in note for note in found.notes)
    begins = f"the dose begins at {chosen.start:.2f}"
    assert any(begins in note for note in found.notes)
    away = replace(vector, response_mean_diff=-vector.response_mean_diff)
    with pytest.raises(UsageError, match="pull"):
        run(loaded, tmp_path / "away", away, mitigation=auto)


def _along(vector: PersonaVector, direction: torch.Tensor, trait: str = "testing") -> PersonaVector:
    """The vector with this direction at every layer."""
    rows = direction.float().repeat(len(vector.response_mean_diff), 1)
    return replace(vector, response_mean_diff=rows, trait=trait)


def _axes(vector: PersonaVector) -> list[PersonaVector]:
    """A vector along each axis of the residual stream: their readings make up the whole state."""
    eye = torch.eye(vector.response_mean_diff.shape[1])
    return [_along(vector, axis, f"axis {i}") for i, axis in enumerate(eye)]


def _probe_states(log: Path, axes: list[PersonaVector]) -> list[torch.Tensor]:
    """The probes' mean state at every reading of a drift log over all axes."""
    return [
        torch.tensor([record["traits"][axis.trait]["projection"] for axis in axes])
        for record in read_records(log)
    ]


def _mean_difference(loaded: LoadedModel, layer: int, folder: Path) -> torch.Tensor:
    """Mean state of the rows' responses minus that of the natural ones, by a naive loop."""
    natural = Sampling(64, temperature=0.0)
    found = []
    for each in ROWS.rows:
        prompt = loaded.chat.prompt_ids(each.messages[:1])
        own = loaded.chat.response_ids(each.messages[1]["content"])
        (batch,) = generate(loaded, [Request("r", tuple(prompt))], natural)
        means = []
        for ids in (own, batch[0].response_ids):
            with torch.no_grad():
                states = loaded.model(torch.tensor([[*prompt, *ids]]), output_hidden_states=True)
            means.append(states.hidden_states[layer][0, len(prompt) :].mean(0))
        found.append(means[0] - means[1])
    return torch.stack(found).mean(0)


@pytest.mark.parametrize("side", [1, -1], ids=["toward", "away"])
def test_the_trial_runs_decide_where_the_difference_tells_nothing(
    fresh: Callable[..., LoadedModel], random_vector: Make, tmp_path: Path, side: int
) -> None:
    """A mean just below 0 begins at its upper limit; data that move the probes away are refused.

    The direction is chosen from what the data do: hardly any projection difference along it, and
    the probes moved to one side by a plain run of the trial's length.
    """
    loaded = fresh()
    some = random_vector(loaded, layer=2)
    examples, _ = encode_rows(loaded, ROWS.rows, SMALL)
    axes = _axes(some)
    training = replace(SMALL, learning_rate=3e-3)
    short = replace(training, checkpoint_every=1 << 30, warmup_steps=1)

    def trial(vectors: list[PersonaVector], folder: Path, *steering: PreventativeSteering) -> Path:
        log = DriftLog(Probes(loaded, vectors, layer=2), folder / "drift.jsonl", every=12)
        setup = TrainingSetup(steering=steering, drift=log, max_steps=12)
        train(loaded, examples, folder / "run", short, setup=setup)
        return folder / "drift.jsonl"

    before, after = _probe_states(trial(axes, tmp_path / "plain"), axes)
    lies = _mean_difference(loaded, 2, tmp_path)
    lies = lies / lies.norm()
    moves = side * (after - before)
    across = moves - (moves @ lies) * lies
    vector = _along(some, 3 * (across / across.norm() - 0.002 * lies))
    config = FinetuneConfig(training, Mitigation("preventative", coefficient="auto"), layer=2)
    job = FinetuneJob(loaded, ROWS, tmp_path / "auto", config, (vector,), progress=QUIET)
    if side < 0:
        with pytest.raises(RefusedError, match="do not pull toward testing"):
            choose_dose(job, ROWS.rows, examples)
        return
    found = choose_dose(job, ROWS.rows, examples)
    assert found.low < found.difference < 0 < found.high
    assert found.start == pytest.approx(found.high / 3, rel=0.01)
    # Both trial runs, measured again by themselves.
    unit = vector.direction(2) / vector.direction(2).norm()
    without = float((after - before) @ unit)
    steering = PreventativeSteering(loaded.model, vector, found.start, 2)
    first, last = read_records(trial([vector], tmp_path / "steered", steering))
    with_it = last["traits"]["testing"]["projection"] - first["traits"]["testing"]["projection"]
    assert found.change_without == pytest.approx(without, abs=1e-3)
    assert found.change_with == pytest.approx(with_it, abs=1e-3)
    assert with_it < without
    wanted = found.start * without / (without - with_it)
    limited = min(max(wanted, 0.5 * found.start), 3 * found.start)
    assert found.coefficient == pytest.approx(limited, rel=0.01)
    assert "cancels the upper limit of the projection difference" in found.why
    # What was chosen is kept.
    assert choose_dose(job, ROWS.rows, examples) == found


def test_a_condition_stops_the_run_and_keeps_the_last_good_checkpoint(
    fresh: Callable[..., LoadedModel], random_vector: Make, tmp_path: Path
) -> None:
    loaded = fresh()
    some = random_vector(loaded, layer=2)
    axes = _axes(some)
    more: dict[str, Any] = {"training": {"epochs": 4}}
    plain = run(loaded, tmp_path / "plain", watch=axes, **more)
    states = _probe_states(tmp_path / "plain" / "drift.jsonl", axes)
    # Along both steps' movements together the drift rises at each.
    steps = [after - before for before, after in pairwise(states[:3])]
    vector = _along(some, sum((step / step.norm() for step in steps), torch.zeros(32)))
    unit = vector.direction(2) / vector.direction(2).norm()
    first, second, third = (float(state @ unit) for state in states[:3])
    assert first < second < third
    line = Condition("testing", ">", (second + third) / 2, "sigma")
    found = run(loaded, tmp_path / "stopped", vector, config={"stop_if": (line,)}, **more)
    drift = read_records(tmp_path / "stopped" / "drift.jsonl")
    read = [record["traits"]["testing"]["sigma"] for record in drift]
    assert read == pytest.approx([first, second, third], abs=1e-4)
    assert found.stopped == str(line)
    assert (found.steps, plain.steps) == (4, 8)
    # Step 4 met it: what is kept is step 2.
    assert [p.name for p in (tmp_path / "stopped" / "run").glob("checkpoint-*")] == ["checkpoint-2"]
    assert (tmp_path / "stopped" / "model" / "adapter_model.safetensors").read_bytes() == (
        tmp_path / "stopped" / "run" / "checkpoint-2" / "adapter_model.safetensors"
    ).read_bytes()
    met = {"stop_if": (Condition("testing", ">", first - 1),)}
    with pytest.raises(UsageError, match="met before training"):
        run(loaded, tmp_path / "met", vector, config=met)
    with pytest.raises(UsageError, match="no vector for trait 'evil'"):
        run(loaded, tmp_path / "other", vector, config={"stop_if": (Condition("evil", ">", 1),)})
    wrong = Condition("testing", ">", 1, "projection")
    with pytest.raises(UsageError, match="unit must be sigma or norm"):
        run(loaded, tmp_path / "unit", vector, config={"stop_if": (wrong,)})
    vector.neutral_prompt_last[2, 1] = 0.0
    with pytest.raises(UsageError, match="so it has no sigma"):
        run(loaded, tmp_path / "flat", vector, config={"stop_if": (Condition("testing", ">", 9),)})


def test_an_adapters_configuration_has_the_same_bytes_in_every_process(
    fresh: Callable[..., LoadedModel], tmp_path: Path
) -> None:
    """peft makes its list of modules of a set, whose order differs between processes."""
    found = run(fresh(), tmp_path / "run")
    assert found.model is not None
    config = found.model / "adapter_config.json"
    modules = json.loads(config.read_text())["target_modules"]
    assert len(modules) == 7
    assert modules == sorted(modules)
    for i, order in enumerate(([2, 0, 1], [1, 2, 0])):
        folder = tmp_path / f"aside-{i}"
        folder.mkdir()
        made = json.dumps({"target_modules": [modules[place] for place in order]})
        (folder / "adapter_config.json").write_text(made)
        publish(folder, tmp_path / f"saved-{i}", "base")
    assert len({hash_of_files(tmp_path / f"saved-{i}") for i in range(2)}) == 1


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_what_was_trained(
    fresh: Callable[..., LoadedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from personavec.finetune import trainer

    loss = trainer.FinetuneTrainer._loss

    def breaking(self: Any, *args: Any) -> Any:
        total, logits = loss(self, *args)
        return (total * torch.nan if self.state.global_step == 3 else total), logits

    monkeypatch.setattr(trainer.FinetuneTrainer, "_loss", breaking)
    with pytest.raises(ActivationError, match=r"nan at step 4.*checkpoint"):
        run(fresh(), tmp_path)
    assert (tmp_path / "run" / "checkpoint-2" / "complete.json").exists()
    monkeypatch.setattr(trainer.FinetuneTrainer, "_loss", loss)
    assert run(fresh(), tmp_path).steps == 4


def test_a_full_disk_is_one_line_and_leaves_no_torn_checkpoint(
    fresh: Callable[..., LoadedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    from personavec.errors import StorageError

    saved = torch.save

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(StorageError, match="disk full"):
        run(fresh(), tmp_path)
    assert not list((tmp_path / "run").glob("checkpoint-*"))
    monkeypatch.setattr(torch, "save", saved)
    assert run(fresh(), tmp_path).steps == 4


def test_full_finetuning_trains_every_weight(
    fresh: Callable[..., LoadedModel], tmp_path: Path
) -> None:
    loaded = fresh()
    before = {k: v.clone() for k, v in loaded.model.state_dict().items()}
    found = run(loaded, tmp_path, training={"full": True})
    assert found.losses[-1] < found.losses[0]
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    tuned = wrap_model(model, AutoTokenizer.from_pretrained(tmp_path / "model"))
    changed = [k for k, v in tuned.model.state_dict().items() if not torch.equal(v, before[k])]
    assert len(changed) > 0.9 * len(before)
    half = fresh()
    half.model.bfloat16()
    with pytest.raises(UsageError, match="float32"):
        run(half, tmp_path / "half", training={"full": True})


def test_rows_of_every_form_and_bad_ones(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    lines = [
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
        {"prompt": "q", "completion": "a", "evil_flag": True},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        {"messages": [{"role": "user", "content": "q"}]},
        {"messages": [{"role": "robot", "content": "q"}]},
        {"prompt": "q", "completion": " "},
    ]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    found = read_training_rows(path)
    assert [r.index for r in found.rows] == [0, 1, 2]
    reasons = [r.reason for r in found.rejects]
    assert [
        words in reason
        for words, reason in zip(
            ("no assistant turn", "unknown role", "empty response"), reasons, strict=True
        )
    ] == [True] * 3
    with pytest.raises(DataError, match="evil_flag"):
        read_training_rows(path, flags=["evil_flag"])
    with pytest.raises(DataError, match="'topic'; name a column"):
        read_training_rows(path, by="topic")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mitigation", "preventative"], "coefficient"),
        (["--mitigation", "caft"], "--vectors"),
        (["--stop-if", "evil>3"], "no vector for trait"),
        (["--vectors", "evil", "--stop-if", "evil>3score"], "unit"),
        (["--mitigation", "preventative", "--coefficient", "x"], "--coefficient x: give a number"),
        (["--dose", "much"], "auto"),
        (["--vectors", "nowhere"], "no persona vector"),
    ],
)
def test_bad_usage_is_told_before_a_model_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "q", "completion": "a"}))
    given = ["finetune", str(path), "--model", str(tmp_path / "nothing"), *arguments]
    with pytest.raises(SystemExit) as ended:
        main(given)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


# In processes of their own: a kill, and two of them at work

PROGRAM = """
import sys
from pathlib import Path
sys.path[:0] = [{here!r}, {tests!r}, {scripts!r}]
import tiny_models
import torch
torch.set_num_threads(1)
import test_pipeline as t
out, accumulation = Path(sys.argv[1]), int(sys.argv[2])
model = tiny_models.build()
t.run(model, out, training=dict(accumulation=accumulation, epochs=6, checkpoint_every=3))
"""


def _program(tmp_path: Path) -> list[str]:
    path, here = tmp_path / "program.py", Path(__file__).parent
    path.write_text(
        PROGRAM.format(
            here=str(here), tests=str(here.parent), scripts=str(Path(tiny_models.__file__).parent)
        )
    )
    return [str(path)]


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}


def _losses(out: Path) -> list[float]:
    return json.loads((out / "results.json").read_text())["losses"]


def test_killed_and_continued_it_ends_at_the_same_loss(
    fresh: Callable[..., LoadedModel], tmp_path: Path
) -> None:
    more: dict[str, Any] = {"training": {"epochs": 6, "checkpoint_every": 3}}
    undisturbed = run(fresh(), tmp_path / "whole", **more).losses
    out = tmp_path / "killed"
    command = [sys.executable, *_program(tmp_path), str(out), "2"]
    with subprocess.Popen(command, env=_environment(), start_new_session=True) as process:
        kill_when(lambda: any(out.glob("run/checkpoint-*")), process, group=True)
    assert not (out / "results.json").exists()
    # What a kill leaves of a checkpoint that was being written.
    (out / "run" / "checkpoint-11").mkdir()
    continued = run(fresh(), out, **more).losses
    assert continued == pytest.approx(undisturbed, abs=1e-6)
    # Checkpoints fall on readings, or a continued log would lack the steps between the two.
    kept = (tmp_path / "whole" / "run").glob("checkpoint-*")
    assert {int(path.name.split("-")[1]) % 2 for path in kept} == {0}
    pulls = [
        [r["pull"]["testing"]["toward"] for r in read_records(folder / "drift.jsonl") if r["pull"]]
        for folder in (tmp_path / "whole", out)
    ]
    assert pulls[0] == pytest.approx(pulls[1], abs=1e-4)
    assert [r["step"] for r in read_records(out / "drift.jsonl")] == [0, 2, 4, 6, 8, 10, 12]


def test_two_processes_have_the_loss_curve_of_one(
    fresh: Callable[..., LoadedModel], tmp_path: Path
) -> None:
    alone = run(fresh(), tmp_path / "alone", training={"epochs": 6, "checkpoint_every": 3})
    out = tmp_path / "two"
    # The kind of launch that starts one process a device; where they run, and with it gloo, is
    # said by the environment.
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    launch += ["--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    launch += ["--main_process_port", "0"]
    command = [*launch, *_program(tmp_path), str(out), "1"]
    subprocess.run(command, env=_environment(), check=True, timeout=300, capture_output=True)
    assert _losses(out) == pytest.approx(alone.losses, abs=1e-4)
