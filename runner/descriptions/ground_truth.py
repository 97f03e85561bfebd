"""Descriptions of synthetic people from their known attributes, without annotation errors."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from runner.descriptions.images import HashedImage, ImageSet
from runner.descriptions.prompts import BadAnswerError, Prompt
from runner.descriptions.store import Row
from tasks.synthetic.facts import coloured, facts_of, hair_of, height_and_build, upper_of
from tasks.text.paraphrase import fill_template
from tasks.text.words import with_article

_PERSON = re.compile(r"(\d+)_c\d")


def read_attributes(images: ImageSet) -> Mapping[str, Mapping[str, Any]]:
    """Reads the attributes of a synthetic domain, by person id as text.

    Raises:
        ValueError: The images are not those of a synthetic domain.
    """
    files = sorted(images.folder.glob("*_attributes.json"))
    if len(files) != 1:
        raise ValueError(
            f"--backend attributes: expected one ..._attributes.json in {images.folder}, found "
            f"{len(files)}. Only synthetic people have known attributes; use a domain of the "
            "synthetic benchmark, or another backend."
        )
    return json.loads(files[0].read_text(encoding="utf-8"))


def describe_by_attributes(
    images: Iterable[HashedImage],
    prompt: Prompt,
    people: Mapping[str, Mapping[str, Any]],
    source: str,
) -> Iterator[Row]:
    """Yields a row for every image."""
    for image in images:
        match = _PERSON.match(image.path.name)
        person = people.get(str(int(match.group(1)))) if match else None
        if person is None:
            yield Row(image.sha256, source, {}, f"no attributes for {_stem(image.path)}")
            continue
        try:
            texts = prompt.describe(_answers(person, prompt, image), image.sha256)
            yield Row(image.sha256, source, texts)
        except BadAnswerError as error:
            yield Row(image.sha256, source, {}, f"bad answer: {error}")


def _stem(path: Path) -> str:
    return path.stem[:40]


def _answers(person: Mapping[str, Any], prompt: Prompt, image: HashedImage) -> dict[str, str]:
    if prompt.styling is not None:
        template = prompt.styling.template_of(image.sha256)
        return dict(
            zip(("identity", "clothing"), fill_template(template, facts_of(person)), strict=True)
        )
    return _part_answers(person) if prompt.name == "parts" else _dual_answers(person)


def _part_answers(person: Mapping[str, Any]) -> dict[str, str]:
    return {
        "sex": person["sex"],
        "age": "none",  # synthetic people have no age
        "hair": hair_of(person),
        "headwear": coloured(person, "headwear"),
        "eyewear": person["eyewear"],
        "upper": upper_of(person),
        "upper_colour": person["upper_colour"],
        "lower": person["lower"],
        "lower_colour": person["lower_colour"],
        "shoes": coloured(person, "shoes"),
        "bag": coloured(person, "bag"),
    }


def _dual_answers(person: Mapping[str, Any]) -> dict[str, str]:
    height, build = height_and_build(person)
    hair = "covered hair" if hair_of(person) == "none" else hair_of(person)
    beard = " and a beard" if person["beard"] else ""
    upper = with_article(f"{person['upper_colour']} {upper_of(person)}")
    lower = with_article(f"{person['lower_colour']} {person['lower']}")
    worn = [upper, lower, coloured(person, "shoes")]
    worn += [
        with_article(coloured(person, name))
        for name in ("headwear", "bag")
        if person[name] != "none"
    ]
    return {
        "identity": f"A {person['sex']} of {height} height, {build} build and {person['skin']} "
        f"skin, with {hair}{beard}.",
        "clothing": f"The person wears {', '.join(worn[:-1])} and {worn[-1]}.",
    }
