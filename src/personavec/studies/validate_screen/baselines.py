"""What a screen has to beat: baselines that see a response's words, or its length, alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.pipeline import make_pipeline

from personavec.stats import auc
from personavec.studies.validate_screen.results import ClassifierFit

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Labelled:
    """Responses of which it is known whether they were planted, to fit baselines on."""

    responses: tuple[str, ...]
    planted: tuple[bool, ...]
    questions: tuple[str, ...]
    """What each response answers."""
    n_tokens: tuple[int, ...]


class WordClassifier:
    """TF-IDF of words and word pairs, and a logistic regression; C by cross-validation.

    Rows of one question stay in one fold. Classes are balanced, since how many rows are planted
    where the classifier is used is not known.
    """

    def __init__(self, training: Labelled, seed: int = 0):
        planted_questions = {
            question
            for question, planted in zip(training.questions, training.planted, strict=True)
            if planted
        }
        self._search = GridSearchCV(
            make_pipeline(
                TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
                LogisticRegression(class_weight="balanced", max_iter=1000),
            ),
            {"logisticregression__C": (0.1, 1.0, 10.0, 100.0)},
            scoring="roc_auc",
            cv=StratifiedGroupKFold(
                min(5, len(planted_questions)), shuffle=True, random_state=seed
            ),
        )
        self._search.fit(training.responses, training.planted, groups=training.questions)

    def about(self) -> ClassifierFit:
        """How the classifier was chosen."""
        return ClassifierFit(
            C=self._search.best_params_["logisticregression__C"],
            training_auc=float(self._search.best_score_),
        )

    def score(self, responses: Sequence[str]) -> FloatArray:
        """How planted each response looks: the distance from the classifier's plane."""
        return np.asarray(self._search.decision_function(list(responses)), np.float64)


@dataclass(frozen=True, eq=False)
class Baselines:
    """What was learnt from rows that are not tested on."""

    classifier: WordClassifier
    length_sign: int
    """1 where planted responses are longer than clean ones, else -1."""


def fit(training: Labelled, seed: int = 0) -> Baselines:
    """Baselines fitted on labelled rows, of which some are planted and some are not."""
    lengths, planted = np.array(training.n_tokens), np.array(training.planted)
    longer = auc(lengths[planted], lengths[~planted]) >= 0.5
    return Baselines(WordClassifier(training, seed), 1 if longer else -1)
