"""How far the loss pulls along a vector."""

import torch
from training_runs import Make, batch

from personavec import LoadedModel
from personavec.finetune.hooks import TrainingHooks, response_positions
from personavec.finetune.pull import LossPull


def test_the_pull_is_that_of_the_gradient(llama: LoadedModel, random_vector: Make) -> None:
    """Against the gradient that autograd gives for an addition to the layer's output."""
    model, inputs, vector = llama.model, batch(), random_vector(llama, layer=2)
    pull = LossPull({"testing": (2, vector.direction(2))})
    model.train()
    offset = torch.zeros(2, 9, 32, requires_grad=True)
    try:
        with TrainingHooks(pull.layers, pull.act) as hooks:
            hooks.attach(model)
            model(**inputs).loss.backward()
        model.zero_grad()
        block = model.model.layers[1]
        handle = block.register_forward_hook(
            lambda m, a, out: (out[0] if isinstance(out, tuple) else out) + offset
        )
        model(**inputs).loss.backward()
        handle.remove()
    finally:
        model.zero_grad()
        model.eval()
    assert offset.grad is not None
    chosen = response_positions(inputs["labels"])
    descent = -(offset.grad * chosen[:, :, None]).sum(1)
    expected = torch.cosine_similarity(descent, vector.direction(2)[None], dim=-1)
    found = pull.take()["testing"]
    torch.testing.assert_close(torch.tensor(found.rows), expected, atol=1e-5, rtol=1e-4)
    assert 0 < (found.share or 0) < 1
    assert pull.take() == {}
