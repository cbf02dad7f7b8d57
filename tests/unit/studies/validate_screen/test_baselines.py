"""The classifier that a screen is compared with."""

import pytest
from planted_rows import training

from personavec.studies.validate_screen.baselines import WordClassifier, fit


def test_the_classifier_learns_words_and_says_how_it_was_chosen() -> None:
    classifier = WordClassifier(training())
    cruel, kind, neither = classifier.score(["so cruel", "so kind", "zebra"])
    assert cruel > neither > kind
    assert classifier.about().training_auc == pytest.approx(1)
    assert fit(training()).length_sign == -1
