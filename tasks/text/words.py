"""Vocabulary of descriptions of people (colours, garments, traits) and functions to match it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

PARTS = ("head", "upper", "lower", "foot")

_WORD = re.compile(r"[^\W_]+(?:['-][^\W_]+)*")
_STOPS = re.compile(
    r"[.,;:!?()]|\b(?:with|over|under|on|in|of|wears?|wearing|has|have|having|is|are|carries|"
    r"carrying|holds|holding|a|an|the|his|her|their|this|that|but|while|plus)\b"
)
_OTHER_NOUNS = frozenset({"hair", "beard", "skin", "eyes"})
"""Nouns that have a colour but are not garments."""
_JOINS = frozenset({"and", "or", "&"})

COLOUR_FAMILIES: Mapping[str, tuple[str, ...]] = {
    "black": ("black",),
    "white": ("white", "off-white"),
    "grey": ("grey", "gray", "silver", "charcoal"),
    "red": ("red", "maroon", "burgundy", "crimson"),
    "blue": ("blue", "navy", "denim-blue"),
    "green": ("green", "olive"),
    "yellow": ("yellow", "gold", "golden", "mustard", "blonde", "blond"),
    "orange": ("orange",),
    "purple": ("purple", "violet", "lavender", "lilac"),
    "pink": ("pink", "magenta"),
    "brown": ("brown", "tan"),
    "beige": ("beige", "cream", "khaki", "camel"),
    "teal": ("teal", "turquoise", "cyan"),
}
"""Words of one family are consistent with each other ("navy blue", "grey" and "gray")."""

ANY_COLOUR = frozenset(
    {"multicoloured", "multicolored", "colourful", "colorful", "dark", "light", "bright", "pale"}
)
"""Words that describe a colour without naming a family."""

GARMENTS: Mapping[str, tuple[str, ...]] = {
    "head": (
        "cap", "hat", "beanie", "helmet", "hood", "headscarf", "scarf", "veil", "hijab", "turban",
        "headband", "visor", "mask", "glasses", "sunglasses", "eyeglasses", "headphones",
    ),
    "upper": (
        "shirt", "t-shirt", "tshirt", "tee", "top", "blouse", "polo", "sweater", "pullover",
        "jumper", "cardigan", "hoodie", "sweatshirt", "jacket", "coat", "blazer", "vest",
        "waistcoat", "parka", "raincoat", "windbreaker", "dress", "suit", "jersey", "tunic",
        "robe", "gown", "uniform", "overalls", "jumpsuit", "kurta", "tracksuit", "poncho", "hood",
        "scarf",
    ),
    "lower": (
        "jeans", "trousers", "pants", "slacks", "sweatpants", "leggings", "tights", "shorts",
        "skirt", "joggers", "chinos", "capris", "overalls", "jumpsuit", "dress", "gown", "suit",
        "robe", "tracksuit", "uniform",
    ),
    "foot": (
        "shoes", "shoe", "sneakers", "sneaker", "trainers", "boots", "boot", "sandals", "heels",
        "slippers", "flats", "loafers", "flip-flops", "socks", "footwear", "slides", "clogs",
    ),
}  # fmt: skip
"""Garment nouns by body part; a dress belongs to two parts."""

BAGS = (
    "bag", "backpack", "rucksack", "handbag", "purse", "suitcase", "briefcase", "case", "satchel",
    "tote", "umbrella", "luggage", "trolley", "pouch",
)  # fmt: skip
"""Carried items, which annotators mention with any part."""

MAN_OR_WOMAN = frozenset(
    {"man", "woman", "male", "female", "guy", "lady", "boy", "girl", "gentleman", "he", "she"}
)
AGE = frozenset(
    {"child", "kid", "young", "teenage", "teenager", "teen", "adult", "middle-aged", "elderly",
     "old", "older", "senior", "aged", "youth", "twenties", "thirties", "forties", "fifties",
     "sixties", "boy", "girl", "toddler"}
)  # fmt: skip
BUILD = frozenset(
    {"slim", "thin", "slender", "lean", "medium", "average", "heavy", "heavyset", "stocky", "fat",
     "large", "overweight", "chubby", "plump", "athletic", "muscular", "build", "built", "tall",
     "short", "height", "petite", "broad"}
)  # fmt: skip
ORIGIN = frozenset(
    {"skin", "asian", "african", "caucasian", "european", "indian", "hispanic", "latino", "latina",
     "arab", "race", "ethnicity", "complexion", "fair-skinned", "dark-skinned", "light-skinned"}
)  # fmt: skip
HAIR = frozenset({"hair", "haired", "bald", "ponytail", "bun", "braid", "braids", "beard",
                  "moustache", "mustache", "head", "curls", "bangs"})  # fmt: skip


def words_of(text: str) -> list[str]:
    """Splits a text into lower-case words; hyphens and apostrophes stay inside a word."""
    return _WORD.findall(text.lower())


def colour_family(word: str) -> str | None:
    """The family of a colour word, or None."""
    for family, members in COLOUR_FAMILIES.items():
        if word in members:
            return family
    return None


def names_colour(text: str) -> bool:
    """Whether a text names a colour, including words such as "dark" or "multicoloured"."""
    words = [part for word in words_of(text) for part in (word, *word.split("-"))]
    return any(word in ANY_COLOUR or colour_family(word) for word in words)


def names_garment(text: str, part: str) -> bool:
    """Whether a text names a garment of this body part."""
    words = set(words_of(text))
    return bool(words.intersection(GARMENTS[part])) or (part == "foot" and "barefoot" in words)


def with_article(noun_phrase: str) -> str:
    """Prepends "a" or "an" unless the noun phrase is plural."""
    last = noun_phrase.rpartition(" ")[2]
    if last.endswith("s") and not last.endswith("ss"):
        return noun_phrase
    return f"{'an' if noun_phrase[:1] in 'aeiou' else 'a'} {noun_phrase}"


def all_garments() -> frozenset[str]:
    """All garment nouns and carried items."""
    return frozenset(BAGS).union(*GARMENTS.values())


@dataclass(frozen=True, slots=True)
class Mention:
    """A garment with its colours in one phrase.

    Attributes:
        garment: the noun.
        colours: families of the colours before the noun.
        is_joined: whether the phrase joins several colours ("red and blue").
    """

    garment: str
    colours: frozenset[str]
    is_joined: bool


def mentions(text: str) -> Iterator[Mention]:
    """Yields each garment of a text with the colours before it in the same phrase.

    Punctuation, articles, prepositions and verbs such as "wearing" end a phrase: in "white shirt
    with black stripes", black belongs to no garment. A garment noun directly before another is
    not counted: "dress shoes" are shoes.
    """
    garments = all_garments()
    for phrase in _STOPS.split(text.lower()):
        colours: list[str] = []
        is_joined = False
        words = words_of(phrase.replace("&", " and "))
        for word, following in zip(words, [*words[1:], ""], strict=False):
            if word in garments and following in garments:
                continue
            if word in garments:
                yield Mention(word, frozenset(colours), is_joined)
            if word in garments or word in _OTHER_NOUNS:
                colours, is_joined = [], False
            elif word in _JOINS:
                is_joined = True
            else:
                pieces = [word] if colour_family(word) else word.split("-")
                families = [family for piece in pieces if (family := colour_family(piece))]
                is_joined = is_joined or len(families) > 1  # "black-and-white", "red-blue"
                colours += families
