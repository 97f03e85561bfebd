"""Attributes of a synthetic person as noun phrases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.synthetic.people import build_of, height_of
from tasks.text.words import with_article


def facts_of(person: Mapping[str, Any]) -> dict[str, str]:
    """Noun phrases with articles by kind (see `tasks.text.paraphrase`), absent items omitted.

    Args:
        person: fields of `tasks.synthetic.people.Person` by name.
    """
    facts = {
        "person": person["sex"],
        "he": "he" if person["sex"] == "man" else "she",
        "hair": "covered hair" if (hair := hair_of(person)) == "none" else hair,
        "skin": f"{person['skin']} skin",
        "build": "{} height and {} build".format(*height_and_build(person)),
        "upper": f"{person['upper_colour']} {upper_of(person)}",
        "lower": f"{person['lower_colour']} {person['lower']}",
        "eyewear": person["eyewear"],
        "beard": "beard" if person["beard"] else "none",
    }
    facts |= {name: coloured(person, name) for name in ("shoes", "headwear", "bag")}
    worn = ("upper", "lower", "shoes", "headwear", "eyewear", "bag", "beard")
    facts |= {kind: with_article(facts[kind]) for kind in worn if facts[kind] != "none"}
    return {kind: phrase for kind, phrase in facts.items() if phrase != "none"}


def height_and_build(person: Mapping[str, Any]) -> tuple[str, str]:
    """(tall, average or short; slim, medium or heavy)."""
    return height_of(person["stature"]), build_of(person["girth"])


def hair_of(person: Mapping[str, Any]) -> str:
    """ "short black hair", "no hair", or "none" if the hair is covered."""
    if person["headwear"] == "headscarf":
        return "none"
    if person["hair"] == "bald":
        return "no hair"
    return f"{person['hair']} {person['hair_colour']} hair"


def upper_of(person: Mapping[str, Any]) -> str:
    """The upper garment with its pattern."""
    is_plain = person["pattern"] == "plain"
    return person["upper"] if is_plain else f"{person['pattern']} {person['upper']}"


def coloured(person: Mapping[str, Any], name: str) -> str:
    """A worn or carried item with its colour, or "none"."""
    return "none" if person[name] == "none" else f"{person[f'{name}_colour']} {person[name]}"
