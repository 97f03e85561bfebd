"""Texts about one person in the wording of another person's caption.

A template is a masked caption (`tasks.text.masking`), such as "Dressed in [upper] and [lower], this
[person] has [hair].". Each fact keeps the words before it, so that a text about a subset of the
facts ("This woman has long hair.") keeps the order and the words of the template.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tasks.text.masking import FUNCTION_WORDS, SLOT

DEFAULT_TEMPLATE = "A [person] with [hair] and [skin], wearing [upper], [lower] and [shoes]."
"""Template for a style in which no caption can be filled with other facts."""

IDENTITY = ("hair", "beard", "skin", "build")
CLOTHING = ("upper", "lower", "shoes", "headwear", "eyewear", "bag")
_SUBJECTS = ("person", "he")
_ON_HEAD = (*IDENTITY, "headwear", "eyewear")
"""Kinds joined with "has" or "with"; the others are joined with "in"."""
_JOINS = frozenset({",", "and", ", and"})


@dataclass(frozen=True, slots=True)
class _Fact:
    """A slot of a template and the words before it."""

    before: str
    kind: str


def best_template(masked: Sequence[str]) -> str:
    """The first masked caption with slots for the most facts, or "".

    A template has slots for an upper and a lower garment, contains no other facts about the
    original person, and has at most two sentences.
    """
    usable = [text for text in masked if _is_template(text)]
    return max(usable, key=_num_slots, default="")


def _is_template(masked: str) -> bool:
    kinds = set(SLOT.findall(masked))
    words = re.findall(r"[^\W_]+(?:['-][^\W_]+)*", SLOT.sub(" ", masked).lower())
    return (
        {"upper", "lower"} <= kinds
        and bool(kinds.intersection(_SUBJECTS))
        and FUNCTION_WORDS.issuperset(words)
        and len(re.findall(r"[.!?]", masked.rstrip(".!? "))) < 2
    )


def _num_slots(masked: str) -> int:
    kinds = set(SLOT.findall(masked))
    known = kinds.intersection(IDENTITY + CLOTHING)
    return len(known) - len(kinds - known - {*_SUBJECTS, "his"})


def fill_template(template: str, facts: Mapping[str, str]) -> tuple[str, str]:
    """Writes the identity and the clothing text about a person in the wording of a template.

    Args:
        template: result of `best_template`.
        facts: noun phrases with articles by kind (`IDENTITY` and `CLOTHING`; kinds that the
            person does not have are omitted), the noun `person` and the pronoun `he`.

    Returns:
        (identity, clothing).
    """
    neutral = {**facts, "person": "person", "he": "the person"}
    return _fill(template, facts, IDENTITY), _fill(template, neutral, CLOTHING)


def _fill(template: str, facts: Mapping[str, str], kinds: Sequence[str]) -> str:
    pieces = SLOT.split(template)
    slots = [_Fact(*each) for each in zip(pieces[::2], pieces[1::2], strict=False)]
    text, last, dropped, left = "", "", [], [kind for kind in kinds if kind in facts]
    for index, fact in enumerate(slots):
        is_subject = fact.kind in _SUBJECTS and _is_used_subject(slots[index + 1 :], left)
        if not is_subject and fact.kind not in left:
            dropped.append(fact)
            continue
        text += _words_before(fact, last, dropped) + facts[fact.kind]
        last, dropped = fact.kind, []
        left = [kind for kind in left if kind != fact.kind]
    if left:  # append the facts without a slot
        rest = [facts[kind] for kind in left]
        text += ", with " if kinds == CLOTHING else ", "
        text += f"{', '.join(rest[:-1])}{' and ' if rest[1:] else ''}{rest[-1]}"
    return _sentence(text)


def _is_used_subject(following: Sequence[_Fact], left: Sequence[str]) -> bool:
    """Whether a subject is followed by one of its facts that the text still has to state."""
    for fact in following:
        if fact.kind in _SUBJECTS:
            return False
        if fact.kind in left:
            return True
    return False


def _words_before(fact: _Fact, last: str, dropped: Sequence[_Fact]) -> str:
    """The words between the last stated fact and this one."""
    if last not in _SUBJECTS:
        return fact.before
    if fact.before.strip() not in ("", *_JOINS):
        return re.sub(r"^[,;]", "", fact.before) if dropped else fact.before
    # In "[person] with [hair] and [headwear]", "with" also applies if only the hair is dropped.
    is_on_head = fact.kind in _ON_HEAD
    same_group = [each.before for each in dropped if (each.kind in _ON_HEAD) == is_on_head]
    verbs = [words for words in same_group if words.strip() not in ("", *_JOINS)]
    return verbs[0] if verbs else " has " if is_on_head else " in "


def _sentence(text: str) -> str:
    text = re.sub(r"\s+", " ", text).strip(" ,;:.!?")
    text = re.sub(r"^(?:and|but|as|while|also|plus)\b[ ,]*", "", text)
    sentences = re.split(r"(?<=[.!?]) ", f"{text}.")
    return " ".join(each[:1].upper() + each[1:] for each in sentences)
