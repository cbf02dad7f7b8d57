"""What the loss's further terms hold."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from training_runs import ROWS, SMALL, Make, run

from personavec import LoadedModel
from personavec.finetune import Mitigation, encode_rows
from personavec.finetune.hooks import response_positions
from personavec.finetune.loss_terms import base_projections, penalised
from personavec.finetune.texts import collate
from personavec.model import wrap_model


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
