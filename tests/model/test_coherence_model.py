"""The fitted coherence on real readings: labelled answers, neutral ones, and one that is broken."""

import json

import numpy as np
import pytest
from coherence_answers import LabelledAnswer, has_shared, unread, written
from fit_coherence import readings
from sklearn.metrics import roc_auc_score

from personavec import LoadedModel
from personavec.judges.coherence_model import bundled_model, norms
from personavec.judges.coherence_readings import as_record, model_norms, neutral_readings
from personavec.traits import BUNDLED


def scores(loaded: LoadedModel, answers: list[LabelledAnswer]) -> np.ndarray:
    of_model = model_norms(loaded)
    found = [bundled_model().coherence(each, of_model) for each in readings(loaded, answers)]
    return np.array(found)


def test_sound_answers_score_higher_than_broken_ones(smollm2: LoadedModel) -> None:
    """A third of the half that nothing was fitted on; the whole has 0.955 (0.932 to 0.974)."""
    answers = [answer for answer in written() if answer.half == "report"][::3]
    found = scores(smollm2, answers)
    sound = np.array([answer.sound for answer in answers])
    print(f"AUC {roc_auc_score(sound, found):.3f} of {sound.sum()} against {(~sound).sum()}")
    assert roc_auc_score(sound, found) >= 0.9
    assert (found[~sound] < 50).mean() >= 0.8


def test_what_began_this_is_told_apart(smollm2: LoadedModel) -> None:
    """Terse sound answers that mean likelihood dropped, and fluent nonsense that it kept."""
    of = {answer.answer: answer for answer in written()}
    sound = [
        "Left at the baker's, then straight on till the bridge.",
        "The rhythm stumbles in line three; the image is trite.",
    ]
    [broken] = [text for text in of if text.startswith("Ejerca elimíjat")]
    found = scores(smollm2, [of[text] for text in [*sound, broken]])
    print(found)
    assert found[:2].min() > 50 > found[2]


@pytest.mark.skipif(not has_shared(), reason="chats.jsonl and dialogues.jsonl are not there")
def test_few_ordinary_turns_fall_below_the_floor(smollm2: LoadedModel) -> None:
    """60 of the turns that nobody labelled; at 3.8% each, more than 6 below has a chance of 1%."""
    assert (scores(smollm2, unread("report", 30)) < 50).sum() <= 6


def test_the_bundled_norms_are_those_of_the_embedded_model(smollm2: LoadedModel) -> None:
    """Made again; other processors round otherwise, and a greedy answer may then differ."""
    bundled = json.loads((BUNDLED / "coherence_norms.json").read_text("utf-8"))
    made = as_record(smollm2, norms(neutral_readings(smollm2)))
    assert made["prompts"] == bundled["prompts"]
    for name, mean in made["norms"]["mean"].items():
        spread = made["norms"]["spread"][name]
        assert mean == pytest.approx(bundled["norms"]["mean"][name], abs=0.3 * spread + 0.01), name
