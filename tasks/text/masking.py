"""Captions of people with their facts masked: what is left is how a caption is written.

"A man with short black hair, wearing a red shirt and jeans." becomes "A [person] with [hair],
wearing [upper] and [lower]." The paper (BDAM) has a language model replace the facts; here it is
done by the lists of English words of `tasks.text.words`: offline, and the same every time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from tasks.text.words import (
    AGE,
    BAGS,
    BUILD,
    GARMENTS,
    HAIR,
    MAN_OR_WOMAN,
    colour_family,
    names_colour,
)

SLOT = re.compile(r"\[(\w+)\]")
"""A masked fact, by its kind."""

_TOKEN = re.compile(r"[^\W_]+(?:['-][^\W_]+)*|[.,;:!?]")
_SIGNS = frozenset(".,;:!?")
_DETERMINERS = frozenset({"a", "an", "the", "his", "her", "their", "its", "some"})
_PRONOUNS: Mapping[str, str] = {"he": "he", "she": "he", "his": "his", "her": "his", "him": "him"}

_FUNCTION_WORDS = (
    "a an the this that these those he she it they him his her their its who which whose whom "
    "is are was were be been being has have had having wears wear wearing wore dressed "
    "clothed clad carries carry carrying carried holds hold holding pulls pull pulling pushes "
    "pushing puts put with in on of at by over under underneath above below beneath from to "
    "for into onto around along across behind beside near and or but as while also plus both "
    "up down out off there here walks walk walking stands stand standing looks look looking "
    "faces facing rides riding talks talking uses using seen appears seems can not"
)
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())
"""Words that say no fact about a person, and end a noun phrase."""

_PATTERN_WORDS = (
    "stripes stripe pinstripes checks dots print prints pattern patterns logo lines lettering "
    "letters writing design text graphic graphics accents trim laces soles sleeves sleeve "
    "collar buttons pockets straps"
)
_PATTERNS = frozenset(_PATTERN_WORDS.split())
_EYEWEAR = frozenset({"glasses", "sunglasses", "eyeglasses"})
_BEARDS = frozenset({"beard", "moustache", "mustache", "goatee"})
_BODY = frozenset({"height", "build", "stature", "figure"})
_PEOPLE = (MAN_OR_WOMAN - {"he", "she", "male", "female"}) | {
    "person", "pedestrian", "individual", "someone", "people", "figure", "child", "kid", "teenager",
    "male", "female",
}  # fmt: skip


def mask(caption: str) -> str:
    """The caption with its facts as `[kind]`; "" if it holds no word.

    Kinds: person, hair, beard, skin, build, age, headwear, eyewear, upper, lower, shoes, bag,
    pattern, colour, and the pronouns he, his and him. A noun's adjectives and article are masked
    with it, but for the article of a person, which is part of how somebody writes. What the lists
    do not know stays as it is.
    """
    masked: list[str] = []
    for piece in _pieces(_TOKEN.findall(caption)):
        if SLOT.fullmatch(piece) and piece != "[person]":
            _drop_determiner(masked)
        elif piece == "[person]" and masked and masked[-1].lower() == "an":
            masked[-1] = masked[-1][0]  # "an old man": what began with a vowel is masked
        masked.append(piece)
    if not any(piece not in _SIGNS for piece in masked):
        return ""
    return re.sub(r" ([.,;:!?])", r"\1", " ".join(masked))


def _drop_determiner(masked: list[str]) -> None:
    if masked and masked[-1].lower() in (*_DETERMINERS, "[his]"):
        masked.pop()
    if [word.lower() for word in masked[-3:]] in (["a", "pair", "of"], ["a", "set", "of"]):
        del masked[-3:]


def _pieces(tokens: Sequence[str]) -> Iterator[str]:
    """Signs, words and slots of a caption, in order."""
    run: list[str] = []
    for token in (*tokens, ""):  # the last one ends the last run
        word = token.lower()
        if (
            token
            and token not in _SIGNS
            and word not in FUNCTION_WORDS
            and word not in ("pair", "pairs")
        ):
            run.append(word)
            continue
        yield from _masked_run(run)
        run = []
        if token:
            yield f"[{_PRONOUNS[word]}]" if word in _PRONOUNS else token


def _masked_run(run: Sequence[str]) -> Iterator[str]:
    """A run of words without a function word: noun phrases, then what no noun follows."""
    kinds = [_kind(word) for word in run]
    start = 0
    for at, kind in enumerate(kinds):
        # "dress shoes" are shoes, "suit jacket" is a jacket: the last of several nouns counts.
        is_last = at + 1 == len(run) or kinds[at + 1] is None
        if kind is not None and is_last:
            yield f"[{kind}]"
            start = at + 1
    rest = run[start:]
    described = [found for word in rest if (found := _described(word))]
    if described:
        yield f"[{described[0]}]"
    else:
        yield from rest


def _kind(word: str) -> str | None:
    """Of what a noun is the name."""
    if word in _PEOPLE:
        return "person"
    if word in _BEARDS:
        return "beard"
    if word in _EYEWEAR:
        return "eyewear"
    if word in HAIR and word != "bald":
        return "hair"
    if word in ("skin", "complexion"):
        return "skin"
    for part, kind in (
        ("head", "headwear"), ("foot", "shoes"), ("upper", "upper"), ("lower", "lower"),
    ):  # fmt: skip
        if word in GARMENTS[part]:
            return kind
    if word in BAGS:
        return "bag"
    if word in _BODY:
        return "build"
    return "pattern" if word in _PATTERNS else None


def _described(word: str) -> str | None:
    """What an adjective without a noun is about."""
    if colour_family(word) or names_colour(word):
        return "colour"
    if word == "bald":
        return "hair"
    if word in AGE:
        return "age"
    return "build" if word in BUILD else None
