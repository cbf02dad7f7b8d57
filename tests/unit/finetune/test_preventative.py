"""Preventative steering: what is added where, in which trainer, and that it cannot be missed."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from training_runs import Make, batch
from transformers import Trainer, TrainingArguments

from personavec import LoadedModel, PreventativeSteering
from personavec.errors import HookError, UsageError, VectorMismatchError
from personavec.finetune import Schedule
from personavec.finetune.preventative import Ablation, randomly_rotated


def states(model: Any, layer: int, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The output of a block, read by a hook of our own."""
    found = []
    stack = (
        model.get_decoder().layers
        if hasattr(model.get_decoder(), "layers")
        else model.get_decoder().h
    )
    handle = stack[layer - 1].register_forward_hook(
        lambda m, a, out: found.append(out[0] if isinstance(out, tuple) else out)
    )
    with torch.no_grad():
        model(**inputs)
    handle.remove()
    return found[0]


@pytest.mark.parametrize("side", ["right", "left"])
def test_the_vector_is_added_where_a_response_token_is_chosen(
    loaded: LoadedModel, random_vector: Make, side: str
) -> None:
    vector, inputs = random_vector(loaded, layer=2), batch(side=side)
    model = deepcopy(loaded.model).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # two forwards are compared
    plain = states(model, 2, inputs)
    with PreventativeSteering(model, vector, 1.5):
        steered = states(model, 2, inputs)
    added = steered - plain
    for row in range(2):
        for token in range(9):
            # By another route than the code's: does the next token carry a label?
            chosen = token + 1 < 9 and int(inputs["labels"][row, token + 1]) != -100
            expected = 1.5 * vector.direction(2) * chosen
            torch.testing.assert_close(added[row, token], expected, atol=1e-5, rtol=1e-5)
    # The last prompt position is steered, the last response token is not.
    assert added[0, 3].norm() > 1
    assert added[0, 8].norm() == 0


def _hooks(model: Any) -> list[list[int]]:
    """transformers leaves hooks of its own there once it has captured outputs."""
    return [[*m._forward_hooks, *m._forward_pre_hooks] for m in model.modules()]


def test_coefficient_0_and_eval_mode_change_nothing(
    llama: LoadedModel, random_vector: Make
) -> None:
    vector, inputs = random_vector(llama), batch()
    hooks = _hooks(llama.model)
    before = {k: v.clone() for k, v in llama.model.state_dict().items()}
    llama.model.train()
    try:
        plain = llama.model(**inputs).logits
        with PreventativeSteering(llama.model, vector, 0.0):
            assert torch.equal(llama.model(**inputs).logits, plain)
        with PreventativeSteering(llama.model, vector, 3.0):
            assert not torch.equal(llama.model(**inputs).logits, plain)
            llama.model.eval()
            assert torch.equal(llama.model(**inputs).logits, plain)
    finally:
        llama.model.eval()
    after = llama.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert _hooks(llama.model) == hooks


def test_all_layers_by_increments_and_several_traits_add_up(
    llama: LoadedModel, random_vector: Make
) -> None:
    first = random_vector(llama, layer=1)
    second = replace(first, response_mean_diff=first.response_mean_diff.flip(1), layer=1)
    llama.model.train()
    inputs = batch()
    try:
        plain = states(llama.model, 1, inputs)
        # At layer 1 the first's increment v_1 - v_0, and the second's whole vector.
        with PreventativeSteering(llama.model, [first, second], [0.5, 2.0], ["all", 1]):
            steered = states(llama.model, 1, inputs)
    finally:
        llama.model.eval()
    expected = 0.5 * (first.direction(1) - first.direction(0)) + 2 * second.direction(1)
    torch.testing.assert_close((steered - plain)[0, 4], expected, atol=1e-5, rtol=1e-5)


def gradients(model: Any, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    model.zero_grad()
    model(**inputs).loss.backward()
    return [w.grad.clone() for w in model.parameters() if w.grad is not None]


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_sees_the_same_steering(
    fresh: Callable[..., LoadedModel], random_vector: Make, reentrant: bool
) -> None:
    loaded = fresh()
    model, inputs = loaded.model, batch()
    model.train()
    with PreventativeSteering(model, random_vector(loaded, layer=2), 1.0):
        plain = gradients(model, inputs)
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model.enable_input_require_grads()
        again = gradients(model, inputs)
    for a, b in zip(plain, again, strict=True):
        torch.testing.assert_close(a, b)


def test_it_works_on_an_adapter_and_under_autocast(
    fresh: Callable[..., LoadedModel], random_vector: Make
) -> None:
    loaded = fresh()
    vector, inputs = random_vector(loaded, layer=2), batch()
    adapted = get_peft_model(loaded.model, LoraConfig(r=2, target_modules="all-linear"))
    adapted.train()
    plain = adapted(**inputs).loss
    with PreventativeSteering(adapted, vector, 2.0):
        steered = adapted(**inputs).loss
        with torch.autocast("cpu", torch.bfloat16):
            low = adapted(**inputs).loss
        low.backward()
    assert steered.item() != plain.item()
    assert abs(low.item() - steered.item()) < 0.1


def test_a_hook_that_cannot_act_is_an_error(
    fresh: Callable[..., LoadedModel], random_vector: Make
) -> None:
    loaded = fresh()
    model, vector, inputs = loaded.model, random_vector(loaded), batch()
    with pytest.raises(HookError, match="did not act"), PreventativeSteering(model, vector, 1.0):
        pass  # no forward
    with pytest.raises(HookError, match="did not act"), PreventativeSteering(model, vector, 1.0):
        model(**inputs)  # in eval mode
    model.train()
    unlabelled = {k: v for k, v in inputs.items() if k != "labels"}
    with (
        pytest.raises(HookError, match="labels"),
        PreventativeSteering(model, vector, 1.0),
    ):
        model(**unlabelled)
    with PreventativeSteering(model, vector, 1.0, positions="all"):
        model(**unlabelled)
    # Not through the model that gets the labels.
    with pytest.raises(HookError, match="outermost"), PreventativeSteering(model, vector, 1.0):
        model.base_model(input_ids=inputs["input_ids"])
    with pytest.raises(HookError, match="cannot be attached"):
        PreventativeSteering(torch.nn.Linear(2, 2), vector, 1.0)
    course = Schedule(((0.0, 1.0), (1.0, 2.0)))
    with pytest.raises(HookError, match="advance"), PreventativeSteering(model, vector, course):
        model(**inputs)
    with pytest.raises(VectorMismatchError):
        PreventativeSteering(model, random_vector(fresh("gpt2")), 1.0)
    with pytest.raises(UsageError, match="layer 9"):
        PreventativeSteering(model, vector, 1.0, 9)


class Rows(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        return {name: value[i % 2] for name, value in batch().items()}


def test_as_a_callback_it_equals_a_loop_of_ones_own(
    fresh: Callable[..., LoadedModel], random_vector: Make, tmp_path: Path
) -> None:
    """One step of SGD in transformers' Trainer, under a schedule, against one by hand."""
    course = Schedule(((0.0, 2.0), (1.0, 4.0)))
    mine, theirs = fresh(), fresh()
    vector = random_vector(mine, layer=2)
    steering = PreventativeSteering(theirs.model, vector, course)
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=4,
        max_steps=2,
        optim="sgd",
        learning_rate=0.1,
        lr_scheduler_type="constant",
        max_grad_norm=0,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
        dataloader_pin_memory=False,
    )
    Trainer(theirs.model, arguments, train_dataset=Rows(), callbacks=[steering]).train()
    mine.model.train()
    inputs = {k: torch.cat([v, v]) for k, v in batch().items()}
    optimizer = torch.optim.SGD(mine.model.parameters(), 0.1)
    with PreventativeSteering(mine.model, vector, course) as by_hand:
        for step in range(2):
            by_hand.advance(step / 2)
            optimizer.zero_grad()
            mine.model(**inputs).loss.backward()
            optimizer.step()
    for a, b in zip(mine.model.parameters(), theirs.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    assert not any(m._forward_hooks for m in theirs.model.modules())


def test_ablation_leaves_nothing_along_the_directions(
    llama: LoadedModel, random_vector: Make
) -> None:
    first = random_vector(llama, layer=2)
    second = replace(first, response_mean_diff=first.response_mean_diff.flip(1))
    ablation, inputs = Ablation(llama.model, [first, second]), batch()
    llama.model.train()
    try:
        plain = states(llama.model, 2, inputs)
        ablation.on_train_begin(None, None, None)
        found = states(llama.model, 2, inputs)
    finally:
        ablation.detach()
        llama.model.eval()
    for vector in (first, second):
        assert (found[0, 3:8] @ vector.direction(2)).abs().max() < 1e-4
    assert torch.equal(found[0, :3], plain[0, :3])


def test_random_rotation_keeps_norms_and_angles(llama: LoadedModel, random_vector: Make) -> None:
    vector = random_vector(llama)
    turned = randomly_rotated(vector, seed=1)
    for a, b in (
        (vector.directions, turned.directions),
        (vector.increments(), turned.increments()),
    ):
        torch.testing.assert_close(a @ a.T, b @ b.T, atol=1e-3, rtol=1e-3)
    assert torch.cosine_similarity(vector.directions, turned.directions).abs().max() < 0.8
    assert torch.equal(turned.directions, randomly_rotated(vector, seed=1).directions)
