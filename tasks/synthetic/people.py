"""Synthetic identities, sampled from the wardrobe of a domain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import numpy as np

Weights = Mapping[str, float]
Colour = tuple[int, int, int]

COLOURS: Mapping[str, Colour] = {
    "black": (26, 26, 30),
    "white": (240, 240, 236),
    "grey": (132, 134, 138),
    "red": (204, 34, 38),
    "blue": (40, 92, 210),
    "navy": (26, 36, 92),
    "green": (38, 138, 66),
    "yellow": (242, 210, 46),
    "orange": (240, 128, 30),
    "purple": (122, 54, 156),
    "pink": (242, 140, 180),
    "brown": (114, 70, 40),
    "beige": (216, 192, 150),
    "teal": (24, 148, 152),
}
SKINS: Mapping[str, Colour] = {
    "pale": (246, 210, 184),
    "tan": (208, 154, 110),
    "brown": (150, 98, 64),
    "dark": (88, 58, 42),
}
HAIRS: Mapping[str, Colour] = {
    "black": (24, 20, 20),
    "brown": (94, 58, 34),
    "blonde": (226, 186, 104),
    "red": (178, 74, 30),
    "grey": (176, 176, 178),
}


@dataclass(frozen=True, slots=True)
class Person:
    """One identity: words for captions, numbers and colours for rendering.

    `stature` is a share of the maximum body height, `girth` a multiple of the mean width. The bag
    is on the right side of the body for `bag_side` 1 and on the left for -1. `pattern_period` is
    the distance between two stripes as a share of the body height. `rgb` maps the name of each
    coloured field to the rendered colour, which varies between people with the same colour word.
    """

    sex: str
    stature: float
    girth: float
    skin: str
    hair: str
    hair_colour: str
    headwear: str
    headwear_colour: str
    eyewear: str
    beard: bool
    upper: str
    upper_colour: str
    pattern: str
    pattern_colour: str
    lower: str
    lower_colour: str
    shoes: str
    shoes_colour: str
    bag: str
    bag_colour: str
    bag_side: int
    pattern_period: float
    rgb: Mapping[str, Colour]

    @property
    def build(self) -> str:
        """`girth` in words: slim, medium or heavy."""
        return build_of(self.girth)

    @property
    def height(self) -> str:
        """`stature` in words: short, average or tall."""
        return height_of(self.stature)


def build_of(girth: float) -> str:
    """slim, medium or heavy, for a multiple of the mean width."""
    return "slim" if girth < 0.94 else "heavy" if girth > 1.08 else "medium"


def height_of(stature: float) -> str:
    """short, average or tall, for a share of the maximum body height."""
    return "tall" if stature > 0.95 else "short" if stature < 0.9 else "average"


@dataclass(frozen=True, slots=True)
class Wardrobe:
    """Distribution of attributes in a domain: weights of words, not necessarily normalised."""

    skin: Weights
    hair: Weights
    hair_colour: Weights
    headwear: Weights
    eyewear: Weights
    upper: Weights
    upper_colour: Weights
    pattern: Weights
    lower: Weights
    lower_colour: Weights
    shoes: Weights
    shoes_colour: Weights
    bag: Weights
    accent_colour: Weights


def palette_of(field_name: str) -> Mapping[str, Colour]:
    """RGB colour by word of a coloured field of `Person`."""
    return {"skin": SKINS, "hair_colour": HAIRS}.get(field_name, COLOURS)


COLOURED_FIELDS = (
    "skin",
    "hair_colour",
    "headwear_colour",
    "upper_colour",
    "pattern_colour",
    "lower_colour",
    "shoes_colour",
    "bag_colour",
)


def sample_person(wardrobe: Wardrobe, rng: np.random.Generator) -> Person:
    """Samples a person from a wardrobe, determined by the state of `rng`."""
    woman = bool(rng.random() < 0.5)
    pick = {field.name: _pick(getattr(wardrobe, field.name), rng) for field in fields(Wardrobe)}
    upper_colour = pick["upper_colour"]
    is_layered = pick["upper"] in ("jacket", "blazer")
    words = {
        "skin": pick["skin"],
        "hair_colour": pick["hair_colour"],
        "headwear_colour": pick["accent_colour"],
        "upper_colour": upper_colour,
        "pattern_colour": _pick_other(wardrobe.accent_colour, upper_colour, rng),
        "lower_colour": _lower_colour(pick["lower"], wardrobe.lower_colour, rng),
        "shoes_colour": pick["shoes_colour"],
        "bag_colour": _pick(wardrobe.accent_colour, rng),
    }
    return Person(
        sex="woman" if woman else "man",
        stature=float(rng.uniform(0.86, 0.96) if woman else rng.uniform(0.9, 1.0)),
        girth=float(np.clip(rng.normal(1.0, 0.12), 0.8, 1.3)),
        hair=_hair(pick["hair"], woman, rng),
        headwear=pick["headwear"],
        eyewear=pick["eyewear"],
        beard=not woman and bool(rng.random() < 0.3),
        upper=pick["upper"],
        pattern="plain" if is_layered else pick["pattern"],
        lower=_lower(pick["lower"], woman),
        shoes="leather shoes" if pick["shoes"] == "heels" and not woman else pick["shoes"],
        bag=pick["bag"],
        bag_side=1 if rng.random() < 0.5 else -1,
        pattern_period=float(rng.uniform(0.065, 0.1)),
        rgb={name: _jitter(palette_of(name)[words[name]], rng) for name in COLOURED_FIELDS},
        **words,
    )


_OWN = ("stature", "girth", "skin", "hair", "hair_colour", "eyewear", "beard", "pattern_period")
_WORN = (
    ("headwear", "headwear_colour"),
    ("upper", "upper_colour", "pattern", "pattern_colour"),
    ("lower", "lower_colour"),
    ("shoes", "shoes_colour"),
    ("bag", "bag_colour", "bag_side"),
)


def sample_look_alike(model: Person, wardrobe: Wardrobe, rng: np.random.Generator) -> Person:
    """Samples a person who resembles `model`, determined by the state of `rng`.

    Build, face, pattern period and one worn or carried item are those of another random person of
    the same sex. All other attributes have the words of `model`, in shades of their own.
    """
    other = sample_person(wardrobe, rng)
    while other.sex != model.sex:
        other = sample_person(wardrobe, rng)
    item = _WORN[int(rng.integers(len(_WORN)))]
    changed = {name: getattr(other, name) for name in (*_OWN, *item)}
    person = replace(model, **changed)
    rgb = {name: _jitter(palette_of(name)[getattr(person, name)], rng) for name in COLOURED_FIELDS}
    return replace(person, rgb=rgb)


def _pick(weights: Weights, rng: np.random.Generator) -> str:
    names = list(weights)
    cumulative = np.cumsum([weights[name] for name in names])
    position = np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right")
    return names[min(int(position), len(names) - 1)]


def _pick_other(weights: Weights, excluded: str, rng: np.random.Generator) -> str:
    return _pick({name: weight for name, weight in weights.items() if name != excluded}, rng)


def _hair(hair: str, woman: bool, rng: np.random.Generator) -> str:
    """Makes hair length a weak cue of sex, as in real data, while keeping its variety."""
    if woman and hair in ("bald", "short") and rng.random() < 0.75:
        return "long" if rng.random() < 0.6 else "tied"
    if not woman and hair in ("long", "tied") and rng.random() < 0.75:
        return "short"
    return hair


def _lower(lower: str, woman: bool) -> str:
    if woman:
        return lower
    return {"skirt": "shorts", "long skirt": "trousers", "leggings": "sweatpants"}.get(lower, lower)


def _lower_colour(lower: str, weights: Weights, rng: np.random.Generator) -> str:
    denim = {"blue": 4.0, "navy": 3.0, "black": 2.0, "grey": 1.5, "white": 0.7}
    return _pick(denim if lower == "jeans" else weights, rng)


def _jitter(colour: Colour, rng: np.random.Generator) -> Colour:
    shade = rng.normal(1.0, 0.05) * np.asarray(colour) + rng.normal(0.0, 6.0, 3)
    red, green, blue = (int(value) for value in np.clip(shade.round(), 0, 255))
    return red, green, blue
