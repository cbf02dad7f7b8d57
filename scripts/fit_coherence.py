"""Fit the coherence model on the tune half of the labelled answers, or report on the other half.

`python scripts/fit_coherence.py` fits, prints figures that are cross-validated by prompt, and
writes `bundled/coherence.json` and the embedded model's norms. `--report` prints the figures of the
report half, which no choice may depend on; with `--model GGUF --answers FILE.jsonl` those of
another model on its own labelled answers. Needs the two files of shared rows
(`coherence_answers.py`).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from broken_answers import broken, mixed
from coherence_answers import ROOT, LabelledAnswer, shared, unread, written
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold

from personavec import LoadedModel, load_model
from personavec.judges.coherence_features import Reading
from personavec.judges.coherence_model import (
    FORMAT,
    CoherenceModel,
    Norms,
    bundled_model,
    norms,
)
from personavec.judges.coherence_readings import (
    Unread,
    as_record,
    model_norms,
    neutral_readings,
    read_both_ways,
)
from personavec.judges.contrast import JUDGED_TOKENS
from personavec.model import Beginnings, chat

BUNDLED = ROOT / "src" / "personavec" / "bundled"
FOREIGN = {"german", "spanish", "french", "italian", "portuguese", "dutch", "swedish"}
#: Answers made by breaking sound ones, of every kind; and unread turns of each file.
MADE, UNREAD = 40, 400
#: Weights of what nobody labelled by reading, and the strength of the regularisation.
MADE_WEIGHT, UNREAD_WEIGHT, STRENGTH = 0.1, 0.05, 0.3
FOLDS = 6
FLOOR = 50
SHORT_WORDS = 8


def readings(loaded: LoadedModel, answers: Sequence[LabelledAnswer]) -> list[Reading]:
    """The model's readings of the answers, as a judge of their text has them."""
    beginnings, found = Beginnings(), []
    for start in range(0, len(answers), 40):
        found += read_both_ways(
            loaded,
            [_unread(loaded, answer) for answer in answers[start : start + 40]],
            batch_tokens=6144,
            beginnings=beginnings,
        )
        print(f"read {len(found)} of {len(answers)}", flush=True)
    return found


def _unread(loaded: LoadedModel, answer: LabelledAnswer) -> Unread:
    ids = tuple(loaded.chat.response_ids(answer.answer))
    prompt = loaded.chat.answer_prompt_ids(chat(answer.question, None, answer.earlier))
    ended = not answer.cut and len(ids) <= JUDGED_TOKENS
    return Unread(tuple(prompt), ids[:JUDGED_TOKENS], ended)


def made(labelled: Sequence[LabelledAnswer], turns: Sequence[LabelledAnswer]):
    """Sound answers of the tune half, broken in every known way."""
    own = [answer for answer in labelled if answer.sound and answer.source == "by hand"]
    english = [answer for answer in own if answer.kind not in FOREIGN]
    foreign = [answer for answer in own if answer.kind in FOREIGN]
    chats = [turn for turn in turns if turn.source.startswith("chats")]
    dialogues = [turn for turn in turns if turn.source.startswith("dialogues")]
    sources = [*english, *chats[: UNREAD // 2], *dialogues[: UNREAD // 4]]
    return [*broken(sources, MADE), *mixed(english, foreign, MADE)]


def fitted(x: np.ndarray, sound: np.ndarray, weights: np.ndarray):
    """Coefficients and intercept on the standardised numbers `x` [answer, number]."""
    balanced = weights.copy()
    balanced[sound] *= weights[~sound].sum() / weights[sound].sum()
    centre, spread = x.mean(0), x.std(0) + 1e-9
    model = LogisticRegression(C=STRENGTH, max_iter=3000)
    model.fit((x - centre) / spread, sound, sample_weight=balanced)
    coefficients = model.coef_[0] / spread
    return coefficients, float(np.ravel(model.intercept_)[0] - coefficients @ centre)


def cross_validated(
    x: np.ndarray, sound: np.ndarray, weights: np.ndarray, keys: Sequence[str]
) -> np.ndarray:
    """Log-odds of being sound, each from a fit without any answer to the same prompt."""
    found = np.zeros(len(sound))
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    for fit, held in folds.split(x, sound, keys):
        coefficients, intercept = fitted(x[fit], sound[fit], weights[fit])
        found[held] = x[held] @ coefficients + intercept
    return found


def auc_with_bound(scores: np.ndarray, sound: np.ndarray, keys: Sequence[str]) -> str:
    """AUC with its 95% interval, by a bootstrap over prompts."""
    rng = np.random.default_rng(0)
    places = {key: np.flatnonzero(np.array(keys) == key) for key in dict.fromkeys(keys)}
    names, draws = list(places), []
    for _ in range(1000):
        rows = np.concatenate([places[names[i]] for i in rng.integers(0, len(names), len(names))])
        if 0 < sound[rows].sum() < len(rows):
            draws.append(roc_auc_score(sound[rows], scores[rows]))
    low, high = np.quantile(draws, [0.025, 0.975])
    return f"{roc_auc_score(sound, scores):.4f} ({low:.4f} to {high:.4f})"


def figures(
    scores: np.ndarray, answers: Sequence[LabelledAnswer], turns: np.ndarray, words: np.ndarray
) -> None:
    """Print what is asked of the score, for coherence 0 to 100 of answers and of unread turns."""
    sound = np.array([answer.sound for answer in answers])
    kinds = np.array([answer.kind for answer in answers])
    keys = [answer.key for answer in answers]
    brief = np.array([len(answer.answer.split()) <= SHORT_WORDS for answer in answers])
    print(f"AUC of {sound.sum()} sound against {(~sound).sum()} broken:", end=" ")
    print(auc_with_bound(scores, sound, keys))
    for kind in dict.fromkeys(kinds[~sound]):
        of = ~sound & (kinds == kind)
        print(f"  {kind}: {(scores[of] >= FLOOR).sum()} of {of.sum()} at or above {FLOOR}", end="")
        print(f", AUC {roc_auc_score(sound[of | sound], scores[of | sound]):.3f}")
    print(f"labelled sound below {FLOOR}: {(scores[sound] < FLOOR).mean():.1%}")
    short = np.concatenate([scores[sound & brief], turns[words <= SHORT_WORDS]])
    if len(turns):
        print(f"{len(turns)} unread turns below {FLOOR}: {(turns < FLOOR).mean():.1%}")
    print(f"{len(short)} sound ones of at most {SHORT_WORDS} words: {(short < FLOOR).mean():.1%}")
    for title, order in (
        ("sound, lowest", np.argsort(scores[sound])[:12]),
        ("broken, highest", np.argsort(-scores[~sound])[:12]),
    ):
        chosen = np.flatnonzero(sound if title.startswith("sound") else ~sound)[order]
        print(title)
        for i in chosen:
            print(f"  {scores[i]:5.1f} {answers[i].kind}: {answers[i].answer[:110]!r}")


def standardised(found: Sequence[Reading], of_model: Norms) -> tuple[np.ndarray, list[str]]:
    """Numbers [answer, number], and their names."""
    rows = [of_model.standardised(each) for each in found]
    return np.array([list(row.values()) for row in rows]), list(rows[0])


def fit() -> None:
    """Fit, print cross-validated figures, and write what is bundled."""
    loaded = load_model("smollm2")
    of_model = norms(neutral_readings(loaded))
    labelled = [answer for answer in [*written(), *shared()] if answer.half == "tune"]
    turns = unread("tune", UNREAD)
    answers = [*labelled, *made(labelled, turns), *turns]
    x, names = standardised(readings(loaded, answers), of_model)
    sound = np.array([answer.sound for answer in answers])
    n, m = len(labelled), len(answers) - len(turns)
    weights = np.concatenate(
        [np.ones(n), np.full(m - n, MADE_WEIGHT), np.full(len(turns), UNREAD_WEIGHT)]
    )
    keys = [answer.key for answer in answers]
    scores = 50 * (1 + np.tanh(cross_validated(x, sound, weights, keys) / 2))
    figures(scores[:n], labelled, scores[m:], _words(turns))
    coefficients, intercept = fitted(x, sound, weights)
    record = {
        "format": FORMAT,
        "fitted": "scripts/fit_coherence.py",
        "weights": dict(zip(names, np.round(coefficients, 5).tolist(), strict=True)),
        "intercept": round(intercept, 5),
    }
    (BUNDLED / "coherence.json").write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    text = json.dumps(as_record(loaded, of_model), indent=2) + "\n"
    (BUNDLED / "coherence_norms.json").write_text(text, "utf-8")


def report(gguf: str | None, own: Path | None) -> None:
    """Print the figures of the report half."""
    loaded = load_model(gguf or "smollm2")
    of_model, model = model_norms(loaded), bundled_model()
    held = [answer for answer in [*written(), *shared()] if answer.half == "report"]
    answers = held
    if own is not None:
        answers = [*written(own), *(answer for answer in held if answer.source == "by hand")]
        answers = [a for a in answers if a.sound or a.source != "by hand"]
    turns = unread("report", 100 if own else 500)
    scores = _scores(loaded, answers, of_model, model)
    figures(scores, answers, _scores(loaded, turns, of_model, model), _words(turns))


def _scores(
    loaded: LoadedModel, answers: Sequence[LabelledAnswer], of_model: Norms, model: CoherenceModel
) -> np.ndarray:
    return np.array([model.coherence(each, of_model) for each in readings(loaded, answers)])


def _words(answers: Sequence[LabelledAnswer]) -> np.ndarray:
    return np.array([len(answer.answer.split()) for answer in answers])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--report", action="store_true", help="figures of the report half")
    parser.add_argument("--model", help="a GGUF file in place of the embedded model")
    parser.add_argument("--answers", type=Path, help="that model's own labelled answers")
    options = parser.parse_args()
    if options.report:
        report(options.model, options.answers)
    else:
        fit()


if __name__ == "__main__":
    main()
