"""Linear probes: what can be read from a feature, on people that the probe has never seen."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from runner.analysis.drawn_attributes import Ints, Question

Floats = npt.NDArray[np.floating]

_INVERSE_REGULARISATION = 0.1
_MAX_ITERATIONS = 300


def probe(features: Floats, image_people: Ints, question: Question) -> list[float]:
    """Balanced accuracy of a linear classifier in each fold, fitted on the people of the others.

    Standardised features, L2-regularised logistic regression, classes weighted by their
    frequency. The scale of a feature does not count, and neither does how often a word occurs.

    Args:
        features: [N, D], one row an image.
        image_people: [N] position of the person in each image.
        question: the attribute.

    Returns:
        A share in [0, 1] for each fold; `question.chance` is what no knowledge gives.
    """
    num_people = 1 + max(int(image_people.max()), int(question.people.max()))
    answer_of, fold_of = np.full(num_people, -1), np.full(num_people, -1)  # -1: does not count
    answer_of[question.people], fold_of[question.people] = question.answers, question.folds
    answers, folds = answer_of[image_people], fold_of[image_people]
    scores: list[float] = []
    for fold in range(int(question.folds.max()) + 1):
        fitted, tested = (folds >= 0) & (folds != fold), folds == fold
        model = make_pipeline(
            StandardScaler(),
            LogisticRegression(
                C=_INVERSE_REGULARISATION, class_weight="balanced", max_iter=_MAX_ITERATIONS
            ),
        )
        with warnings.catch_warnings():
            # A probe that stops early is a probe all the same, and every feature has as long.
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(features[fitted], answers[fitted])
        found = model.predict(features[tested])
        scores.append(float(balanced_accuracy_score(answers[tested], found)))
    return scores
