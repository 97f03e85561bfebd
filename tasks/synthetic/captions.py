"""Synthetic annotations of an image: part sentences, captions, identity and clothing texts.

The four part sentences follow the file format of VLADR (head, upper body, lower body, feet).
Synthetic annotators vary style and synonyms and make mistakes: 8% of colours and 5% of types are
misread.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from tasks.synthetic.people import COLOURS, HAIRS, SKINS, Person
from tasks.text.descriptions import join_parts

PARTS = ("head", "upper", "lower", "foot")
COLOUR_NOISE = 0.08
TYPE_NOISE = 0.05
MAX_HEAD_WORDS = 8

_FRAME_WORDS = (
    "a an the this he she has is in wears dressed wearing with of and over no nothing "
    "carries carrying pulls head body legs feet bag hair bald shaved ponytail tied short long "
    "beard skin height build tall average slim medium heavy clothes are , . : ;"
)
"""Words of the sentence templates."""


@dataclass(frozen=True, slots=True)
class Captions:
    """The texts about one image.

    Attributes:
        parts: one sentence each for head, upper body, lower body, and feet with carried items.
        captions: two free captions of the whole person by two annotators.
        identity: description of the permanent appearance.
        clothing: description of the clothes.
    """

    parts: tuple[str, str, str, str]
    captions: tuple[str, str]
    identity: str
    clothing: str

    def by_kind(self) -> dict[str, str]:
        """The sentences by kind: the parts, "whole" (the parts joined) and the other texts."""
        return {
            **dict(zip(PARTS, self.parts, strict=True)),
            "whole": join_parts(self.parts),
            "caption": self.captions[0],
            "identity": self.identity,
            "clothing": self.clothing,
        }


def write_captions(person: Person, rng: np.random.Generator) -> Captions:
    """Writes the texts about one image of a person, determined by the state of `rng`."""
    return _write([perceive(person, rng) for _ in range(3)], rng)


def write_contents(person: Person, rng: np.random.Generator) -> Captions:
    """Writes the texts of `write_captions` for the same `rng`, in one fixed wording.

    Two texts with the same content state the same perceived attributes, whatever words their
    annotators chose.
    """
    return _write([perceive(person, rng) for _ in range(3)], _FixedChoice())


def exact_contents(person: Person) -> Captions:
    """Writes the texts in the fixed wording of `write_contents`, without mistakes."""
    return _write([person] * 3, _FixedChoice())


def _write(perceived: Sequence[Person], rng: Choice) -> Captions:
    first, second, third = (_Annotator(person, rng) for person in perceived)
    return Captions(
        parts=first.parts(),
        captions=(second.caption(), third.caption()),
        identity=second.identity(),
        clothing=third.clothing(),
    )


def write_machine_texts(person: Person, rng: np.random.Generator) -> tuple[str, str]:
    """Writes an identity and a clothing sentence, independently of the captions.

    The identity and clothing texts of `write_captions` share the mistakes of the two free
    captions. Attached to a gallery image, they would reveal which captions belong to it.
    """
    annotator = _Annotator(perceive(person, rng), rng)
    return annotator.identity(), annotator.clothing()


def vocabulary() -> tuple[str, ...]:
    """All lower-case words and punctuation marks of the texts, sorted."""
    words = [*COLOURS, *SKINS, *HAIRS, *_motifs(), *_motifs().values(), _FRAME_WORDS]
    words += [noun for nouns in _nouns().values() for noun in nouns if noun != "none"]
    synonyms = _synonyms()
    phrases = [phrase for word in words for phrase in synonyms.get(word, (word,))]
    phrases += [*synonyms["man"], *synonyms["woman"]]
    return tuple(sorted(set(re.findall(r"\w+|[^\w\s]", " ".join(phrases)))))


def perceive(person: Person, rng: np.random.Generator) -> Person:
    """Replaces some attributes of a person by random mistakes of an annotator."""
    colours, nouns = tuple(COLOURS), _nouns()
    return replace(
        person,
        skin=_misread(person.skin, tuple(SKINS), COLOUR_NOISE, rng),
        hair_colour=_misread(person.hair_colour, tuple(HAIRS), COLOUR_NOISE, rng),
        headwear_colour=_misread(person.headwear_colour, colours, COLOUR_NOISE, rng),
        upper_colour=_misread(person.upper_colour, colours, COLOUR_NOISE, rng),
        pattern_colour=_misread(person.pattern_colour, colours, COLOUR_NOISE, rng),
        lower_colour=_misread(person.lower_colour, colours, COLOUR_NOISE, rng),
        shoes_colour=_misread(person.shoes_colour, colours, COLOUR_NOISE, rng),
        bag_colour=_misread(person.bag_colour, colours, COLOUR_NOISE, rng),
        hair=_misread(person.hair, ("bald", "short", "long", "tied"), TYPE_NOISE, rng),
        eyewear=_misread(person.eyewear, nouns["eyewear"], TYPE_NOISE, rng),
        headwear=_misread(person.headwear, nouns["headwear"], TYPE_NOISE, rng),
        upper=_misread(person.upper, nouns["upper"], TYPE_NOISE, rng),
        lower=_misread(person.lower, nouns["lower"], TYPE_NOISE, rng),
        shoes=_misread(person.shoes, nouns["shoes"], TYPE_NOISE, rng),
        bag=_misread(person.bag, nouns["bag"], TYPE_NOISE, rng),
    )


def _misread(word: str, words: Sequence[str], rate: float, rng: np.random.Generator) -> str:
    if rng.random() >= rate:
        return word
    others = [other for other in words if other != word]
    return others[int(rng.integers(len(others)))]


def _nouns() -> Mapping[str, tuple[str, ...]]:
    return {
        "eyewear": ("none", "glasses", "sunglasses"),
        "headwear": ("none", "cap", "beanie", "hat", "helmet", "headscarf"),
        "upper": ("t-shirt", "tank top", "shirt", "sweater", "hoodie", "jacket", "coat", "blazer"),
        "lower": ("jeans", "trousers", "sweatpants", "leggings", "shorts", "skirt", "long skirt"),
        "shoes": ("sneakers", "boots", "sandals", "leather shoes", "heels"),
        "bag": (
            "none",
            "backpack",
            "handbag",
            "shoulder bag",
            "suitcase",
            "shopping bag",
            "briefcase",
        ),
    }


def _motifs() -> Mapping[str, str]:
    return {
        "striped": "stripes",
        "vertically striped": "pinstripes",
        "checked": "checks",
        "dotted": "dots",
        "printed": "print",
    }


def _synonyms() -> Mapping[str, tuple[str, ...]]:
    """Phrases an annotator may use for a word; repeated phrases are more likely."""
    return {
        "man": ("man", "man", "guy"),
        "woman": ("woman", "woman", "lady"),
        "grey": ("grey", "gray"),
        "navy": ("navy", "navy", "dark blue"),
        "beige": ("beige", "beige", "cream"),
        "purple": ("purple", "purple", "violet"),
        "teal": ("teal", "turquoise"),
        "cap": ("cap", "cap", "baseball cap"),
        "beanie": ("beanie", "knit hat"),
        "hat": ("wide hat", "sun hat"),
        "headscarf": ("headscarf", "headscarf", "veil"),
        "t-shirt": ("t-shirt", "t-shirt", "tee"),
        "tank top": ("tank top", "sleeveless top"),
        "shirt": ("shirt", "button shirt"),
        "sweater": ("sweater", "sweater", "pullover"),
        "hoodie": ("hoodie", "hoodie", "hooded top"),
        "coat": ("coat", "coat", "long coat"),
        "blazer": ("blazer", "suit jacket"),
        "jeans": ("jeans", "jeans", "denim pants"),
        "trousers": ("trousers", "pants"),
        "sweatpants": ("sweatpants", "track pants"),
        "leggings": ("leggings", "tights"),
        "skirt": ("short skirt", "skirt"),
        "long skirt": ("long skirt", "long skirt", "maxi skirt"),
        "sneakers": ("sneakers", "sneakers", "sport shoes"),
        "leather shoes": ("leather shoes", "dress shoes"),
        "heels": ("heels", "high heels"),
        "sandals": ("sandals", "sandals", "open shoes"),
        "backpack": ("backpack", "backpack", "rucksack"),
        "handbag": ("handbag", "purse"),
        "shoulder bag": ("shoulder bag", "messenger bag"),
        "suitcase": ("suitcase", "trolley case"),
        "striped": ("striped", "striped", "banded"),
        "vertically striped": ("pinstriped",),
        "checked": ("checked", "plaid"),
        "dotted": ("dotted", "spotted"),
    }


class Choice(Protocol):
    """Source of an annotator's choices of words; a numpy generator is one."""

    def random(self) -> float:
        """A number in [0, 1)."""
        ...

    def integers(self, high: int, /) -> Any:
        """An integer in [0, high)."""
        ...


class _FixedChoice:
    """Always the last choice: parts without the sex, patterns with their second colour."""

    def random(self) -> float:
        return 0.999

    def integers(self, high: int, /) -> int:
        return high - 1


class _Annotator:
    """Texts of one annotator about one perceived person."""

    def __init__(self, person: Person, rng: Choice) -> None:
        self._person = person
        self._rng = rng
        self._synonyms = _synonyms()

    def parts(self) -> tuple[str, str, str, str]:
        style = int(self._rng.integers(4))
        he = {"man": "He", "woman": "She"}[self._person.sex]
        who = self._word(self._person.sex)
        lead = (f"The {who}", f"The {who}", he, "The person")[style]
        article = "A " if style == 1 else f"{lead} has " if style != 3 else "Head: "
        head = f"{who} with {self._head()}" if style == 1 else self._head()
        wears = (f"{lead} wears", f"{lead} is in", f"{he} wears", "Body:")[style]
        legs = (f"{lead} wears", f"{lead} is in", f"{he} has", "Legs:")[style]
        feet = (f"{lead} wears", f"{lead} is in", f"{he} has", "Feet:")[style]
        return (
            f"{article}{head}.",
            f"{wears} {_a(self._upper())}.",
            f"{legs} {_a(self._lower())}.",
            f"{feet} {self._shoes()}{self._bag(style)}.",
        )

    def caption(self) -> str:
        who = self._word(self._person.sex)
        top, lower, shoes = _a(self._upper()), _a(self._lower()), self._shoes()
        bag = "" if self._person.bag == "none" else f" and carrying {_a(self._bag_name())}"
        order = int(self._rng.integers(3))
        if order == 0:
            return f"A {who} with {self._head()}, wearing {top}, {lower} and {shoes}{bag}."
        if order == 1:
            return f"Dressed in {top}, {lower} and {shoes}{bag}, this {who} has {self._head()}."
        return f"This {who} has {self._head()}, is in {top} and {lower}, wearing {shoes}{bag}."

    def identity(self) -> str:
        person = self._person
        beard = " and a beard" if person.beard else ""
        who = self._word(person.sex)
        body = f"{person.height} height, {person.build} build, {person.skin} skin"
        return f"{who} of {body}, {self._hair()}{beard}.".capitalize()

    def clothing(self) -> str:
        items = [_a(self._upper()), _a(self._lower()), self._shoes()]
        if self._person.headwear != "none":
            items.append(_a(self._headwear()))
        return f"The clothes are {', '.join(items[:-1])} and {items[-1]}."

    def _word(self, word: str) -> str:
        choices = self._synonyms.get(word, (word,))
        return choices[int(self._rng.integers(len(choices)))]

    def _head(self) -> str:
        """Hair unless covered, then salient items while the sentence has `MAX_HEAD_WORDS` words."""
        person = self._person
        items = [] if person.headwear == "headscarf" else [self._hair()]
        if person.headwear != "none":
            items.append(_a(self._headwear()))
        if person.eyewear != "none":
            items.append(person.eyewear)
        if person.beard:
            items.append("a beard")
        if len(items) < 3:
            items.append(f"{person.skin} skin")
        short = items[:2]
        for item in items[2:]:
            if len(" ".join([*short, item]).split()) <= MAX_HEAD_WORDS:
                short.append(item)
        return f"{', '.join(short[:-1])} and {short[-1]}"

    def _hair(self) -> str:
        person = self._person
        if person.hair == "bald":
            return self._choose("a bald head", "no hair", "a shaved head")
        colour = self._word(person.hair_colour)
        if person.hair == "tied":
            return self._choose(f"a {colour} ponytail", f"tied {colour} hair")
        return f"{person.hair} {colour} hair"

    def _headwear(self) -> str:
        return f"{self._word(self._person.headwear_colour)} {self._word(self._person.headwear)}"

    def _upper(self) -> str:
        person = self._person
        garment = f"{self._word(person.upper_colour)} {self._word(person.upper)}"
        if person.upper in ("jacket", "blazer"):
            return f"{garment} over {self._word(person.pattern_colour)}"
        if person.pattern == "plain":
            return garment
        second = self._word(person.pattern_colour)
        if self._rng.random() < 0.5:
            return f"{self._word(person.pattern)} {garment}"
        return f"{garment} with {second} {_motifs()[person.pattern]}"

    def _lower(self) -> str:
        return f"{self._word(self._person.lower_colour)} {self._word(self._person.lower)}"

    def _shoes(self) -> str:
        return f"{self._word(self._person.shoes_colour)} {self._word(self._person.shoes)}"

    def _bag_name(self) -> str:
        return f"{self._word(self._person.bag_colour)} {self._word(self._person.bag)}"

    def _bag(self, style: int) -> str:
        if self._person.bag == "none":
            return (" and carries nothing", ", no bag", "", "; no bag")[style]
        verb = "pulls" if self._person.bag == "suitcase" else "carries"
        joint = (f" and {verb}", " with", " and", "; bag:")[style]
        return f"{joint} {_a(self._bag_name())}"

    def _choose(self, *choices: str) -> str:
        return choices[int(self._rng.integers(len(choices)))]


def _a(noun_phrase: str) -> str:
    """Prepends "a" or "an" unless the noun phrase is plural."""
    words = noun_phrase.split(" over ")[0].split(",")[0].split(" with ")[0].split()
    if words[-1].endswith("s"):
        return noun_phrase
    return f"{'an' if words[0][0] in 'aeiou' else 'a'} {noun_phrase}"
