"""Masking of facts in captions of people, which keeps only the writing style.

"A man with short black hair, wearing a red shirt and jeans." becomes "A [person] with [hair],
wearing [upper] and [lower]." The paper (BDAM) replaces facts with a language model. Here, the
English word lists of `tasks.text.words` replace them, offline and deterministically.
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
"""A masked fact; the group is its kind."""

_TOKEN = re.compile(r"[^\W_]+(?:['-][^\W_]+)*|[.,;:!?]")
_PUNCTUATION = frozenset(".,;:!?")
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
"""Words that state no fact about a person and end a noun phrase."""

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
    """Replaces the facts of a caption by `[kind]`; returns "" for a caption without words.

    Kinds: person, hair, beard, skin, build, age, headwear, eyewear, upper, lower, shoes, bag,
    pattern, colour, and the pronouns he, his and him. Adjectives and the article of a noun are
    masked with it, except the article of a person, which is part of the style. Words that are not
    in the lists are kept.
    """
    masked: list[str] = []
    for piece in _pieces(_TOKEN.findall(caption)):
        if SLOT.fullmatch(piece) and piece != "[person]":
            _drop_determiner(masked)
        elif piece == "[person]" and masked and masked[-1].lower() == "an":
            masked[-1] = masked[-1][0]  # "an old man" becomes "a [person]"
        masked.append(piece)
    if all(piece in _PUNCTUATION for piece in masked):
        return ""
    return re.sub(r" ([.,;:!?])", r"\1", " ".join(masked))


def _drop_determiner(masked: list[str]) -> None:
    if masked and masked[-1].lower() in (*_DETERMINERS, "[his]"):
        masked.pop()
    if [word.lower() for word in masked[-3:]] in (["a", "pair", "of"], ["a", "set", "of"]):
        del masked[-3:]


def _pieces(tokens: Sequence[str]) -> Iterator[str]:
    """Yields punctuation, words and slots of a caption, in order."""
    run: list[str] = []
    for token in (*tokens, ""):  # the empty token ends the last run
        word = token.lower()
        if (
            token
            and token not in _PUNCTUATION
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
    """Masks a run of words without function words: noun phrases, then the words after them."""
    kinds = [_kind_of_noun(word) for word in run]
    start = 0
    for index, kind in enumerate(kinds):
        # The last of consecutive nouns counts: "dress shoes" are shoes.
        is_last = index + 1 == len(run) or kinds[index + 1] is None
        if kind is not None and is_last:
            yield f"[{kind}]"
            start = index + 1
    rest = run[start:]
    kinds_of_rest = [kind for word in rest if (kind := _kind_of_adjective(word))]
    if kinds_of_rest:
        yield f"[{kinds_of_rest[0]}]"
    else:
        yield from rest


def _kind_of_noun(word: str) -> str | None:
    """Kind of the fact that a noun names, or None."""
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


def _kind_of_adjective(word: str) -> str | None:
    """Kind of the fact that an adjective without a noun states, or None."""
    if colour_family(word) or names_colour(word):
        return "colour"
    if word == "bald":
        return "hair"
    if word in AGE:
        return "age"
    return "build" if word in BUILD else None
