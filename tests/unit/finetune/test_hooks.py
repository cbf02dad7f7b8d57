"""Where hooks act in training."""

import torch
from training_runs import batch

from personavec.finetune.hooks import all_positions, response_positions


def test_all_positions_are_all_but_padding() -> None:
    inputs = batch()
    mask = inputs["attention_mask"]
    assert torch.equal(all_positions(inputs["input_ids"], mask), mask.bool())
    assert not (response_positions(inputs["labels"], mask) & ~mask.bool()).any()
