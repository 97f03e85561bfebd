"""Ground-truth attributes of synthetic people, as classification tasks for probes."""

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
"""Attributes that stay with a person, and attributes that change with the clothes."""


@dataclass(frozen=True, eq=False)
class ProbeTask:
    """Classification of one attribute.

    Attributes:
        attribute: name of the attribute.
        classes: K >= 2 attribute values, in alphabetical order.
        people: [P] positions of the people used.
        labels: [P] class index of each person.
        folds: [P] fold in which a person is tested; every fold contains people of every class.
        rare: values with too few people; these people are not used.
    """

    attribute: str
    classes: tuple[str, ...]
    people: Ints
    labels: Ints
    folds: Ints
    rare: tuple[str, ...] = ()

    @property
    def chance(self) -> float:
        """Balanced accuracy of a guess without features."""
        return 1 / len(self.classes)


def attribute_of(person: Person, attribute: str) -> str | None:
    """Value of an attribute; None if it is not visible or follows from another attribute.

    Hair under a headscarf and the hair colour of bald people are not visible. Women have no beard,
    and jackets and blazers have no pattern: such probes would measure sex and kind of garment.
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


def probe_tasks(
    people: Sequence[Person], num_folds: int, min_people: int, seed: int
) -> tuple[list[ProbeTask], dict[str, str]]:
    """Builds a probe task for every attribute with enough people.

    Args:
        people: P people; all images of a person are in one fold.
        num_folds: number of folds, at least 2.
        min_people: values that fewer people have are omitted, together with these people.
        seed: seed of the folds.

    Returns:
        Tasks in the order of GROUPS; and the reason for each omitted attribute.
    """
    tasks: list[ProbeTask] = []
    left_out: dict[str, str] = {}
    for attribute in (name for names in GROUPS.values() for name in names):
        values = [attribute_of(person, attribute) for person in people]
        counts = Counter(value for value in values if value is not None)
        classes = tuple(sorted(v for v, n in counts.items() if n >= max(min_people, num_folds)))
        rare = tuple(sorted(set(counts) - set(classes)))
        if len(classes) < 2:
            only = f"only {classes[0]}" if classes else "no value"
            left_out[attribute] = f"{only} has {min_people} people or more"
            continue
        chosen = np.array([i for i, value in enumerate(values) if value in classes], dtype=np.int64)
        labels = np.array([classes.index(str(values[i])) for i in chosen], dtype=np.int64)
        folds = _folds(labels, num_folds, seed)
        tasks.append(ProbeTask(attribute, classes, chosen, labels, folds, rare))
    return tasks, left_out


def attribute_indicators(people: Sequence[Person], group: str) -> npt.NDArray[np.float32]:
    """[P, V] indicators of attribute values: 1 for each value of the group that a person has.

    Used as a feature, they are an upper bound: complete information on the group, nothing else.
    """
    values_of = [
        {(name, value) for name in GROUPS[group] if (value := attribute_of(person, name))}
        for person in people
    ]
    all_values = sorted(set[tuple[str, str]]().union(*values_of))
    return np.array(
        [[value in values for value in all_values] for values in values_of], dtype=np.float32
    )


def _folds(labels: Ints, num_folds: int, seed: int) -> Ints:
    folds = np.empty(len(labels), dtype=np.int64)
    split = StratifiedKFold(num_folds, shuffle=True, random_state=seed)
    for fold, (_, tested) in enumerate(split.split(labels[:, None], labels)):
        folds[tested] = fold
    return folds
