"""Linear probes: how well an attribute is predicted from a feature, on held-out people."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from runner.analysis.synthetic_attributes import Ints, ProbeTask

Floats = npt.NDArray[np.floating]

_INVERSE_REGULARISATION = 0.1
_MAX_ITERATIONS = 300


def probe(features: Floats, image_people: Ints, task: ProbeTask) -> list[float]:
    """Balanced accuracy of a linear classifier in each fold, fitted on the other folds.

    The classifier is L2-regularised logistic regression on standardised features with balanced
    class weights. The result does not depend on the scale of a feature or on class frequencies.

    Args:
        features: [N, D], one row per image.
        image_people: [N] position of the person in each image.
        task: attribute to predict.

    Returns:
        Balanced accuracy in [0, 1] per fold; `task.chance` is the accuracy without features.
    """
    num_people = 1 + max(int(image_people.max()), int(task.people.max()))
    label_of, fold_of = np.full(num_people, -1), np.full(num_people, -1)  # -1: not used
    label_of[task.people], fold_of[task.people] = task.labels, task.folds
    labels, folds = label_of[image_people], fold_of[image_people]
    scores: list[float] = []
    for fold in range(int(task.folds.max()) + 1):
        fitted, tested = (folds >= 0) & (folds != fold), folds == fold
        model = make_pipeline(
            StandardScaler(),
            LogisticRegression(
                C=_INVERSE_REGULARISATION, class_weight="balanced", max_iter=_MAX_ITERATIONS
            ),
        )
        with warnings.catch_warnings():
            # A probe without convergence is valid: all features have the same limit of iterations.
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(features[fitted], labels[fitted])
        predicted = model.predict(features[tested])
        scores.append(float(balanced_accuracy_score(labels[tested], predicted)))
    return scores
