"""What is true of drawn people, as words that a probe may be asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import StratifiedKFold

from tasks.synthetic.people import Person

Ints = npt.NDArray[np.int64]

GROUPS = MappingProxyType(
    {
        "identity": ("sex", "height", "build", "skin", "hair", "hair_colour", "beard"),
        "clothing": (
            "upper",
            "upper_colour",
            "pattern",
            "lower",
            "lower_colour",
            "shoes",
            "shoes_colour",
            "headwear",
            "bag",
        ),
    }
)
"""Attributes that stay with a person, and those that change with the clothes."""


@dataclass(frozen=True, eq=False)
class Question:
    """One attribute that features are probed for.

    Attributes:
        attribute: its name.
        classes: K >= 2 words, in alphabetical order.
        people: [P] positions of the people who count.
        answers: [P] index of each one's class.
        folds: [P] which fold a person is tested in; every fold has people of every class.
        rare: words that too few people have; these people do not count.
    """

    attribute: str
    classes: tuple[str, ...]
    people: Ints
    answers: Ints
    folds: Ints
    rare: tuple[str, ...] = ()

    @property
    def chance(self) -> float:
        """Balanced accuracy of a guess that does not look at the features."""
        return 1 / len(self.classes)


def attribute_of(person: Person, attribute: str) -> str | None:
    """The word for it; None where it does not show or follows from another attribute.

    Hair under a headscarf and the colour of no hair cannot be seen. Women have no beard, and
    jackets and blazers no pattern: those would be probes of sex and of the garment's kind.
    """
    hidden = {
        "hair": person.headwear == "headscarf",
        "hair_colour": person.headwear == "headscarf" or person.hair == "bald",
        "beard": person.sex == "woman",
        "pattern": person.upper in ("jacket", "blazer"),
    }
    if hidden.get(attribute):
        return None
    value = getattr(person, attribute)
    return ("beard" if value else "no beard") if attribute == "beard" else value


def questions(
    people: Sequence[Person], num_folds: int, min_people: int, seed: int
) -> tuple[list[Question], dict[str, str]]:
    """What these people can be asked about, and why not about the rest.

    Args:
        people: each is one unit: all images of a person are in one fold.
        num_folds: at least 2.
        min_people: a word that fewer people have is left out, with these people.
        seed: of the folds.

    Returns:
        Questions in the order of GROUPS; and by attribute, in words, why it is left out.
    """
    asked: list[Question] = []
    left_out: dict[str, str] = {}
    for attribute in (name for names in GROUPS.values() for name in names):
        words = [attribute_of(person, attribute) for person in people]
        counts = Counter(word for word in words if word is not None)
        classes = tuple(sorted(w for w, n in counts.items() if n >= max(min_people, num_folds)))
        rare = tuple(sorted(set(counts) - set(classes)))
        if len(classes) < 2:
            only = f"{classes[0]} alone" if classes else "no word"
            left_out[attribute] = f"{only} is said of {min_people} people or more"
            continue
        chosen = np.array([i for i, word in enumerate(words) if word in classes], dtype=np.int64)
        answers = np.array([classes.index(str(words[i])) for i in chosen], dtype=np.int64)
        folds = _folds(answers, num_folds, seed)
        asked.append(Question(attribute, classes, chosen, answers, folds, rare))
    return asked, left_out


def truth(people: Sequence[Person], group: str) -> npt.NDArray[np.float32]:
    """[P, W] what is true of people: 1 for each word of the group's attributes that is said of one.

    As a feature it is what a network could know at best: nothing but the group, and all of it.
    """
    said = [
        {(name, word) for name in GROUPS[group] if (word := attribute_of(person, name))}
        for person in people
    ]
    words = sorted(set[tuple[str, str]]().union(*said))
    return np.array([[word in own for word in words] for own in said], dtype=np.float32)


def _folds(answers: Ints, num_folds: int, seed: int) -> Ints:
    folds = np.empty(len(answers), dtype=np.int64)
    split = StratifiedKFold(num_folds, shuffle=True, random_state=seed)
    for fold, (_, tested) in enumerate(split.split(answers[:, None], answers)):
        folds[tested] = fold
    return folds
