"""Which direction, layer and natural side finds planted rows best? A table over all of them.

    python scripts/detection_directions.py out/validate-screen out/vectors

Reads the rows of a finished `personavec validate-screen` and the activations of the extractions
that made the vectors, runs the model once over every row, and prints the AUC of planted rows above
the data's, averaged over traits. *Regressed* takes from a row's projection only the share of the
natural one that the data's rows have in common with it, a control variate fitted without labels.
To look at, not to choose by: the rows are those that the vectors are tested on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.covariance import ledoit_wolf
from sklearn.metrics import roc_auc_score

import personavec as pv
from personavec.model import capture_means, chat
from personavec.rollouts import Naturals, load_activations, prompt_key
from personavec.runs import read_records
from personavec.vectors import mean_difference
from personavec.vectors.estimators import logistic_direction

STYLES = ("elicited", "written")
SIDES = ("raw", "last prompt token", "exact", "regressed")


def states(loaded: pv.LoadedModel, rows: list[dict[str, Any]], naturals: Naturals) -> torch.Tensor:
    """[row, (response, last prompt token, natural response), layer, hidden]; NaN where missing."""
    prompts = [tuple(loaded.chat.prompt_ids(chat(row["question"]))) for row in rows]
    texts = [
        (*prompt, *loaded.chat.response_ids(row["response"]))
        for prompt, row in zip(prompts, rows, strict=True)
    ]
    spans = [[(len(p), len(t)), (len(p) - 1, len(p))] for p, t in zip(prompts, texts, strict=True)]
    own = capture_means(loaded.model, texts, spans)
    found = naturals.means(prompts, range(loaded.identity.n_layers + 1))
    missing = torch.full_like(own[0, 0], torch.nan)
    natural = [found[prompt_key(p)] for p in prompts]
    natural = torch.stack([missing if mean is None else mean for mean in natural])
    return torch.cat([own, natural[:, None]], dim=1)


def directions(folder: Path, layer: int) -> dict[str, torch.Tensor]:
    """From the rollouts that made a vector: its direction, and others, at a layer."""
    kept = [r for r in read_records(folder / "rollouts.jsonl") if r["kept"]]
    pos, neg = (
        load_activations(
            folder / "activations", [r["id"] for r in kept if r["polarity"] == polarity]
        )[:, 0, layer].float()
        for polarity in ("pos", "neg")
    )
    mean = mean_difference(pos, neg)
    within = torch.cat([pos - pos.mean(0), neg - neg.mean(0)]).double().numpy()
    whitened = np.linalg.solve(ledoit_wolf(within)[0], mean.double().numpy())
    return {
        "mean": mean,
        "logistic": logistic_direction(pos, neg),
        "whitened": torch.from_numpy(whitened).float(),
    }


def scored(values: np.ndarray, data: np.ndarray) -> dict[str, np.ndarray]:
    """Scores by natural side of [row, (response, last prompt token, natural)] projections."""
    usable = data[~np.isnan(data).any(1)]
    share = np.cov(usable[:, 0], usable[:, 2])[0, 1] / usable[:, 2].var(ddof=1)
    own, last, natural = values.T
    return dict(zip(SIDES, (own, own - last, own - natural, own - share * natural), strict=True))


def auc(planted: np.ndarray, data: np.ndarray) -> float:
    both = [values[~np.isnan(values)] for values in (planted, data)]
    labels = np.repeat([1, 0], [len(values) for values in both])
    return float(roc_auc_score(labels, np.concatenate(both)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("validated", type=Path)
    parser.add_argument("vectors", type=Path)
    parser.add_argument("--layers", default="12,14,16,18,20,22,24")
    given = parser.parse_args()
    loaded = pv.load_model("smollm2")
    run = given.validated / "run"
    settings = json.loads((given.validated / "results.json").read_text("utf-8"))["settings"]
    naturals = Naturals(loaded, run / "natural", max_tokens=settings["max_tokens"])

    def read(path: Path) -> tuple[list[dict[str, Any]], torch.Tensor]:
        rows = [r for r in read_records(path) if r["reason"] is None]
        return rows, states(loaded, rows, naturals)

    _, data = read(run / "clean.jsonl")
    traits = sorted(folder.name for folder in (run / "traits").iterdir())
    own = {trait: read(run / "traits" / trait / "scores.jsonl") for trait in traits}
    head = ["direction", "layer", *(f"{style}: {side}" for style in STYLES for side in SIDES)]
    print(f"| {' | '.join(head)} |\n|{' --- |' * len(head)}")
    layers = ["selected", *map(int, given.layers.split(","))]
    for name in ("mean", "logistic", "whitened"):
        for layer in layers:
            found: dict[tuple[str, str], list[float]] = {}
            for trait, (rows, activations) in own.items():
                at = pv.load_vector(trait).layer if layer == "selected" else layer
                direction = directions(given.vectors / trait, at)[name]
                unit = direction / direction.norm()
                clean, values = ((x[:, :, at].float() @ unit).numpy() for x in (data, activations))
                kinds = np.array([row["kind"] for row in rows])
                against = scored(clean, clean)
                for style in STYLES:
                    for side, value in scored(values, clean).items():
                        of = auc(value[kinds == style], against[side])
                        found.setdefault((style, side), []).append(of)
            cells = [f"{np.mean(found[s, side]):.2f}" for s in STYLES for side in SIDES]
            print(f"| {name} | {layer} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
