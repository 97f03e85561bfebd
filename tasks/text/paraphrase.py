"""Facts about one person told in the wording of another one's caption.

A template is a masked caption (`tasks.text.masking`), such as "Dressed in [upper] and [lower], this
[person] has [hair].". Every fact of it takes the words before it along, so that a text about a part
of the facts ("This woman has long hair.") keeps the order and the words of the whole.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tasks.text.masking import FUNCTION_WORDS, SLOT

PLAIN = "A [person] with [hair] and [skin], wearing [upper], [lower] and [shoes]."
"""For a style none of whose captions can be filled with other facts."""

IDENTITY = ("hair", "beard", "skin", "build")
CLOTHING = ("upper", "lower", "shoes", "headwear", "eyewear", "bag")
_SUBJECTS = ("person", "he")
_ON_HEAD = (*IDENTITY, "headwear", "eyewear")
"""What one has; the rest one wears."""
_JOINS = frozenset({",", "and", ", and"})


@dataclass(frozen=True, slots=True)
class _Fact:
    """A slot of a template, and the words before it that belong to it."""

    before: str
    kind: str


def best_template(masked: Sequence[str]) -> str:
    """The first of the masked captions that have places for most facts, or "".

    A template names a garment above and one below, says nothing else about its own person, and is
    at most two sentences.
    """
    usable = [text for text in masked if _is_template(text)]
    return max(usable, key=_num_places, default="")


def _is_template(masked: str) -> bool:
    kinds = set(SLOT.findall(masked))
    words = re.findall(r"[^\W_]+(?:['-][^\W_]+)*", SLOT.sub(" ", masked).lower())
    return (
        {"upper", "lower"} <= kinds
        and bool(kinds.intersection(_SUBJECTS))
        and FUNCTION_WORDS.issuperset(words)
        and len(re.findall(r"[.!?]", masked.rstrip(".!? "))) < 2
    )


def _num_places(masked: str) -> int:
    kinds = set(SLOT.findall(masked))
    known = kinds.intersection(IDENTITY + CLOTHING)
    return len(known) - len(kinds - known - {*_SUBJECTS, "his"})


def retell(template: str, facts: Mapping[str, str]) -> tuple[str, str]:
    """The identity and the clothing text about a person, in the wording of a template.

    Args:
        template: of `best_template`.
        facts: noun phrases with their articles by kind (`IDENTITY`, `CLOTHING`; what somebody does
            not have is left out), and the noun `person` with the pronoun `he`.
    """
    neutral = {**facts, "person": "person", "he": "the person"}
    return _told(template, facts, IDENTITY), _told(template, neutral, CLOTHING)


def _told(template: str, facts: Mapping[str, str], kinds: Sequence[str]) -> str:
    pieces = SLOT.split(template)
    slots = [_Fact(*each) for each in zip(pieces[::2], pieces[1::2], strict=False)]
    text, last, dropped, left = "", "", [], [kind for kind in kinds if kind in facts]
    for at, fact in enumerate(slots):
        is_subject = fact.kind in _SUBJECTS and _says_something(slots[at + 1 :], left)
        if not is_subject and fact.kind not in left:
            dropped.append(fact)
            continue
        text += _words_before(fact, last, dropped) + facts[fact.kind]
        last, dropped = fact.kind, []
        left = [kind for kind in left if kind != fact.kind]
    if left:  # what the template has no place for ends the list
        rest = [facts[kind] for kind in left]
        text += ", with " if kinds == CLOTHING else ", "
        text += f"{', '.join(rest[:-1])}{' and ' if rest[1:] else ''}{rest[-1]}"
    return _sentence(text)


def _says_something(following: Sequence[_Fact], left: Sequence[str]) -> bool:
    """Whether a subject is followed by something about it that is to be told."""
    for fact in following:
        if fact.kind in _SUBJECTS:
            return False
        if fact.kind in left:
            return True
    return False


def _words_before(fact: _Fact, last: str, dropped: Sequence[_Fact]) -> str:
    """The words between the fact that was told last and this one."""
    if last not in _SUBJECTS:
        return fact.before
    if fact.before.strip() not in ("", *_JOINS):
        return re.sub(r"^[,;]", "", fact.before) if dropped else fact.before
    # "[person] with [hair] and [headwear]": with the headwear, too, if the hair is left out.
    is_on_head = fact.kind in _ON_HEAD
    alike = [each.before for each in dropped if (each.kind in _ON_HEAD) == is_on_head]
    verbs = [words for words in alike if words.strip() not in ("", *_JOINS)]
    return verbs[0] if verbs else " has " if is_on_head else " in "


def _sentence(text: str) -> str:
    text = re.sub(r"\s+", " ", text).strip(" ,;:.!?")
    text = re.sub(r"^(?:and|but|as|while|also|plus)\b[ ,]*", "", text)
    ended = re.split(r"(?<=[.!?]) ", f"{text}.")
    return " ".join(each[:1].upper() + each[1:] for each in ended)
