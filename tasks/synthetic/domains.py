"""Synthetic domains: five for training, three unseen, and random ones for the warm start.

A domain has a wardrobe (distribution of people) and a look (image properties of its cameras).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import numpy as np

from tasks.synthetic.people import COLOURS, Colour, Wardrobe, Weights

FAMILY_SIZE = 4
"""Number of people per family of look-alikes in the named domains."""

CAMERA_SPREAD = 3.0
"""Differences between the cameras of a named domain; 1 in random domains."""


@dataclass(frozen=True, slots=True)
class Look:
    """Image properties of the cameras of a domain.

    Attributes:
        scene: name of the backdrop.
        wall, ground: main colours of the backdrop.
        cast: factor of each RGB channel.
        saturation, contrast, gamma: 1 leaves the image unchanged.
        brightness: factor.
        brightness_jitter: half-width of the uniform random factor of each image.
        blur: radius in pixels at an image height of 64; grows with the height.
        resolution: factor of the intermediate resolution of a side, in (0, 1].
        noise: standard deviation in grey levels [0, 255].
        occlusion_rate: share of images with an occluded person.
        camera_spread: exponent of the differences between cameras in tint, brightness and zoom,
            and factor of their shading.
    """

    scene: str
    wall: Colour
    ground: Colour
    cast: tuple[float, float, float] = (1.0, 1.0, 1.0)
    saturation: float = 1.0
    contrast: float = 1.0
    gamma: float = 1.0
    brightness: float = 1.0
    brightness_jitter: float = 0.08
    blur: float = 0.0
    resolution: float = 1.0
    noise: float = 2.0
    occlusion_rate: float = 0.1
    camera_spread: float = 1.0


@dataclass(frozen=True, slots=True)
class SyntheticDomain:
    """A named domain.

    Attributes:
        name: name of the domain.
        index: seeds its people and cameras, independently of other domains.
        look: image properties of its cameras.
        wardrobe: distribution of its people.
        family_size: number of people with consecutive ids who look alike (see
            `people.sample_look_alike`); 1: all people are sampled independently.
    """

    name: str
    index: int
    look: Look
    wardrobe: Wardrobe
    family_size: int = 1


def _colours(weights: str) -> Weights:
    """Parses colour weights such as "black 3, navy 2"; all other colours have weight 0.15."""
    named = {name: float(weight) for name, weight in (item.split() for item in weights.split(","))}
    return {name: named.get(name, 0.15) for name in COLOURS}


def _everyday() -> Wardrobe:
    """Base wardrobe of which the domains are variations."""
    even = dict.fromkeys(COLOURS, 1.0)
    return Wardrobe(
        skin={"pale": 3, "tan": 3, "brown": 2, "dark": 2},
        hair={"bald": 1, "short": 4, "long": 3, "tied": 2},
        hair_colour={"black": 3, "brown": 3, "blonde": 2, "red": 1, "grey": 1.5},
        headwear={"none": 6, "cap": 1.5, "beanie": 1, "hat": 1, "helmet": 0.3, "headscarf": 0.7},
        eyewear={"none": 6, "glasses": 2, "sunglasses": 1},
        upper={
            "t-shirt": 2,
            "tank top": 1,
            "shirt": 2,
            "sweater": 2,
            "hoodie": 1.5,
            "jacket": 1.5,
            "coat": 1,
            "blazer": 1,
        },
        upper_colour=even,
        pattern={
            "plain": 4,
            "striped": 1.2,
            "vertically striped": 0.8,
            "checked": 1,
            "dotted": 0.8,
            "printed": 1,
        },
        lower={
            "jeans": 3,
            "trousers": 3,
            "sweatpants": 1.5,
            "leggings": 1,
            "shorts": 1.5,
            "skirt": 1.2,
            "long skirt": 0.8,
        },
        lower_colour=even,
        shoes={"sneakers": 4, "boots": 2, "sandals": 1, "leather shoes": 1.5, "heels": 0.7},
        shoes_colour=_colours("white 3, black 3, brown 2, red 1, blue 1, yellow .6, grey 1"),
        bag={
            "none": 3,
            "backpack": 2,
            "handbag": 1.2,
            "shoulder bag": 1.5,
            "suitcase": 1,
            "shopping bag": 1,
            "briefcase": 0.7,
        },
        accent_colour=even,
    )


def training_domains() -> tuple[SyntheticDomain, ...]:
    """The five places of the lifelong order."""
    return _named(0, _training_looks(), _training_wardrobes())


def unseen_domains() -> tuple[SyntheticDomain, ...]:
    """The three places that nothing is trained on."""
    return _named(5, _unseen_looks(), _unseen_wardrobes())


def _named(
    first_index: int, looks: tuple[Look, ...], wardrobes: tuple[Wardrobe, ...]
) -> tuple[SyntheticDomain, ...]:
    return tuple(
        SyntheticDomain(
            look.scene, index, replace(look, camera_spread=CAMERA_SPREAD), wardrobe, FAMILY_SIZE
        )
        for index, (look, wardrobe) in enumerate(zip(looks, wardrobes, strict=True), first_index)
    )


def _training_looks() -> tuple[Look, ...]:
    return (
        Look("plaza", (206, 170, 132), (190, 176, 160), (1.3, 1.0, 0.6), 1.35, 1.25, 0.8),
        Look(
            "station", (120, 134, 148), (108, 112, 118), (0.86, 1.0, 1.14),
            saturation=0.25, contrast=0.38, brightness=1.06, blur=1.0, occlusion_rate=0.12,
        ),
        Look(
            "campus", (134, 176, 214), (92, 146, 70), (0.82, 1.15, 0.8),
            saturation=1.1, brightness_jitter=0.4, resolution=0.36, occlusion_rate=0.1,
        ),
        Look(
            "office", (214, 204, 178), (150, 132, 110), (1.25, 1.05, 0.42),
            saturation=0.8, contrast=0.7, gamma=0.7, brightness=1.04, occlusion_rate=0.35,
        ),
        Look(
            "night", (52, 56, 78), (58, 56, 60), (0.75, 0.9, 1.2),
            saturation=0.4, contrast=0.9, gamma=1.4, brightness=0.52,
            brightness_jitter=0.15, noise=15.0, occlusion_rate=0.12,
        ),
    )  # fmt: skip


def _unseen_looks() -> tuple[Look, ...]:
    return (
        Look("mall", (226, 172, 196), (196, 168, 178), (1.3, 0.78, 1.05), 1.35, 1.2, 0.8),
        Look(
            "harbour", (150, 186, 208), (128, 136, 140), (0.75, 1.0, 1.3),
            saturation=0.45, contrast=0.5, brightness=1.06, blur=0.8, noise=6.0,
        ),
        Look(
            "suburb", (168, 140, 116), (84, 122, 60), (1.15, 1.04, 0.7),
            saturation=1.3, contrast=1.3, gamma=1.4, brightness=0.8, resolution=0.5,
            brightness_jitter=0.25, noise=7.0, occlusion_rate=0.18,
        ),
    )  # fmt: skip


def _training_wardrobes() -> tuple[Wardrobe, ...]:
    usual = _everyday()
    summer = replace(
        usual,
        headwear={"none": 4, "cap": 2, "hat": 2.5, "headscarf": 0.5},
        eyewear={"none": 3, "sunglasses": 3, "glasses": 0.7},
        upper={"t-shirt": 4, "tank top": 3, "shirt": 2, "blazer": 0.3},
        upper_colour=_colours("white 2, yellow 2, red 2, pink 1.5, orange 1.5, teal 1.5, blue 1"),
        lower={"shorts": 4, "skirt": 3, "jeans": 1.5, "trousers": 1, "long skirt": 1},
        lower_colour=_colours("white 2, beige 2, blue 2, green 1, pink 1, red 1"),
        shoes={"sandals": 4, "sneakers": 3, "heels": 0.7},
        bag={"none": 3, "handbag": 2, "shopping bag": 1.5, "shoulder bag": 1.5, "backpack": 0.7},
    )
    winter = replace(
        usual,
        headwear={"none": 3, "beanie": 4, "headscarf": 1.5, "hat": 1},
        eyewear={"none": 5, "glasses": 2},
        upper={"coat": 4, "jacket": 3, "sweater": 1.5, "hoodie": 0.7},
        upper_colour=_colours("black 3, navy 2.5, grey 2, brown 2, green 1, red 1, purple 1"),
        pattern={"plain": 5, "checked": 2, "vertically striped": 0.7},
        lower={"trousers": 4, "jeans": 3, "leggings": 1, "long skirt": 1},
        lower_colour=_colours("black 3, grey 2, navy 2, brown 2, purple .7"),
        shoes={"boots": 5, "leather shoes": 2, "sneakers": 1.5},
        bag={"none": 2, "suitcase": 3.5, "backpack": 1.5, "shoulder bag": 1, "briefcase": 0.7},
    )
    student = replace(
        usual,
        hair_colour={"black": 3, "brown": 3, "blonde": 2.5, "red": 1.5, "grey": 0.1},
        headwear={"none": 5, "cap": 2.5, "beanie": 1.5, "helmet": 1},
        eyewear={"none": 4, "glasses": 3},
        upper={"hoodie": 5, "t-shirt": 2.5, "sweater": 1.5, "jacket": 0.7},
        pattern={"plain": 3, "printed": 3, "striped": 1, "checked": 1},
        lower={"jeans": 4, "sweatpants": 2.5, "leggings": 1.5, "shorts": 1.5},
        shoes={"sneakers": 6, "boots": 1, "sandals": 0.5},
        bag={"none": 1.5, "backpack": 6, "shoulder bag": 1},
    )
    formal = replace(
        usual,
        headwear={"none": 8, "headscarf": 1, "hat": 0.6},
        eyewear={"none": 3, "glasses": 3},
        upper={"blazer": 4, "shirt": 4, "sweater": 1, "coat": 0.6},
        upper_colour=_colours("white 2, grey 2, black 2, navy 2, blue 1.5, beige 1, pink .8"),
        pattern={"plain": 4, "vertically striped": 2, "checked": 1.5},
        lower={"trousers": 5, "skirt": 2.5, "long skirt": 0.6, "jeans": 0.5},
        lower_colour=_colours("black 2.5, grey 2.5, navy 2, beige 1.5, brown 1.5"),
        shoes={"leather shoes": 4, "heels": 3, "sneakers": 0.7},
        bag={"none": 2.5, "briefcase": 4, "handbag": 2, "shoulder bag": 1.5},
        accent_colour=_colours("white 2, black 2, brown 2, red 1.5, blue 1.5, grey 1"),
    )
    late = replace(usual, upper={**usual.upper, "jacket": 3.0, "hoodie": 2.5})
    return summer, winter, student, formal, late


def _unseen_wardrobes() -> tuple[Wardrobe, ...]:
    usual = _everyday()
    shopper = replace(
        usual,
        bag={"none": 1.5, "shopping bag": 5, "handbag": 2, "backpack": 1, "shoulder bag": 1},
        lower={"jeans": 3, "leggings": 2, "skirt": 2, "trousers": 2, "long skirt": 1},
    )
    sailor = replace(
        usual,
        headwear={"none": 3, "cap": 2, "beanie": 2.5, "headscarf": 0.7},
        upper={"sweater": 4, "coat": 2, "jacket": 2, "t-shirt": 1},
        upper_colour=_colours("navy 3, white 2.5, yellow 2, red 1.5, blue 1.5, teal 1"),
        pattern={"plain": 3, "striped": 4, "dotted": 0.5},
        shoes={"boots": 3, "sneakers": 2, "sandals": 1},
    )
    sporty = replace(
        usual,
        headwear={"none": 4, "cap": 2.5, "helmet": 2.5},
        upper={"t-shirt": 3, "tank top": 3, "hoodie": 2, "sweater": 1},
        lower={"shorts": 3, "leggings": 3, "sweatpants": 3, "jeans": 1},
        shoes={"sneakers": 6, "sandals": 1},
        bag={"none": 5, "backpack": 2, "shoulder bag": 1},
    )
    return shopper, sailor, sporty


SCENES = ("plaza", "station", "campus", "office", "night", "mall", "harbour", "suburb")


def random_domain(index: int, rng: np.random.Generator) -> SyntheticDomain:
    """Samples a domain with a random wardrobe and a mild look, as of web images.

    Wardrobes vary more than those of the named domains, looks far less. The named domains imitate
    surveillance cameras, whose image properties are left for lifelong learning.
    """
    return SyntheticDomain(f"web{index:03d}", index, _random_look(rng), _random_wardrobe(rng))


def _random_wardrobe(rng: np.random.Generator) -> Wardrobe:
    usual = _everyday()
    varied: dict[str, Mapping[str, float]] = {}
    for field in fields(Wardrobe):
        weights: Weights = getattr(usual, field.name)
        factors = np.exp(rng.normal(0.0, 0.8, len(weights)))
        varied[field.name] = {
            name: weight * float(factor)
            for (name, weight), factor in zip(weights.items(), factors, strict=True)
        }
    return Wardrobe(**varied)


def _random_look(rng: np.random.Generator) -> Look:
    def colour() -> Colour:
        red, green, blue = (int(value) for value in rng.integers(40, 230, 3))
        return red, green, blue

    cast = np.exp(rng.normal(0.0, 0.05, 3))
    return Look(
        scene=SCENES[int(rng.integers(len(SCENES)))],
        wall=colour(),
        ground=colour(),
        cast=(float(cast[0]), float(cast[1]), float(cast[2])),
        saturation=float(rng.uniform(0.85, 1.2)),
        contrast=float(rng.uniform(0.85, 1.15)),
        gamma=float(rng.uniform(0.9, 1.1)),
        brightness=float(rng.uniform(0.9, 1.1)),
        brightness_jitter=float(rng.uniform(0.0, 0.1)),
        blur=float(max(0.0, rng.uniform(-0.5, 0.3))),
        resolution=float(rng.uniform(0.8, 1.0) if rng.random() < 0.5 else 1.0),
        noise=float(rng.uniform(0.0, 4.0)),
        occlusion_rate=float(rng.uniform(0.0, 0.1)),
    )
