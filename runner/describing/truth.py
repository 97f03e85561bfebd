"""Descriptions of drawn people from what is known of them: no annotator, no mistakes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from runner.describing.images import HashedImage, ImageSet
from runner.describing.prompts import BadAnswerError, Prompt, with_article
from runner.describing.store import Row

_PERSON = re.compile(r"(\d+)_c\d")


def read_truth(images: ImageSet) -> Mapping[str, Mapping[str, Any]]:
    """Attributes by person id, as text, of a drawn domain.

    Raises:
        ValueError: these are not images of a drawn domain.
    """
    files = sorted(images.folder.glob("*_attributes.json"))
    if len(files) != 1:
        raise ValueError(
            f"--backend attributes: expected one ..._attributes.json in {images.folder}, found "
            f"{len(files)}. Only drawn people are known so well; name a domain of the synthetic "
            "benchmark, or choose another backend."
        )
    return json.loads(files[0].read_text(encoding="utf-8"))


def describe_known(
    images: Iterable[HashedImage],
    prompt: Prompt,
    truth: Mapping[str, Mapping[str, Any]],
    asked: str,
) -> Iterator[Row]:
    """A row for every image."""
    for image in images:
        match = _PERSON.match(image.path.name)
        person = truth.get(str(int(match.group(1)))) if match else None
        if person is None:
            yield Row(image.sha256, asked, {}, f"nothing is known of {_stem(image.path)}")
            continue
        answers = _part_answers(person) if prompt.name == "parts" else _dual_answers(person)
        try:
            yield Row(image.sha256, asked, prompt.describe(answers))
        except BadAnswerError as error:
            yield Row(image.sha256, asked, {}, f"bad answer: {error}")


def _stem(path: Path) -> str:
    return path.stem[:40]


def _part_answers(person: Mapping[str, Any]) -> dict[str, str]:
    return {
        "sex": person["sex"],
        "age": "none",  # drawn people have no age
        "hair": _hair(person),
        "headwear": _with_colour(person, "headwear"),
        "eyewear": person["eyewear"],
        "upper": _upper(person),
        "upper_colour": person["upper_colour"],
        "lower": person["lower"],
        "lower_colour": person["lower_colour"],
        "shoes": _with_colour(person, "shoes"),
        "bag": _with_colour(person, "bag"),
    }


def _dual_answers(person: Mapping[str, Any]) -> dict[str, str]:
    girth, stature = person["girth"], person["stature"]
    build = "slim" if girth < 0.94 else "heavy" if girth > 1.08 else "medium"
    height = "tall" if stature > 0.95 else "short" if stature < 0.9 else "average"
    hair = "covered hair" if _hair(person) == "none" else _hair(person)
    beard = " and a beard" if person["beard"] else ""
    upper = with_article(f"{person['upper_colour']} {_upper(person)}")
    lower = with_article(f"{person['lower_colour']} {person['lower']}")
    worn = [upper, lower, _with_colour(person, "shoes")]
    worn += [
        with_article(_with_colour(person, name))
        for name in ("headwear", "bag")
        if person[name] != "none"
    ]
    return {
        "identity": f"A {person['sex']} of {height} height, {build} build and {person['skin']} "
        f"skin, with {hair}{beard}.",
        "clothing": f"The person wears {', '.join(worn[:-1])} and {worn[-1]}.",
    }


def _hair(person: Mapping[str, Any]) -> str:
    if person["headwear"] == "headscarf":
        return "none"
    return (
        "no hair" if person["hair"] == "bald" else f"{person['hair']} {person['hair_colour']} hair"
    )


def _upper(person: Mapping[str, Any]) -> str:
    return (
        person["upper"]
        if person["pattern"] == "plain"
        else f"{person['pattern']} {person['upper']}"
    )


def _with_colour(person: Mapping[str, Any], name: str) -> str:
    return "none" if person[name] == "none" else f"{person[f'{name}_colour']} {person[name]}"
