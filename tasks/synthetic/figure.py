"""Drawing of a person: legs, shoes, torso, arms, head and bag, ordered by depth."""

from __future__ import annotations

from PIL import Image, ImageDraw

from tasks.synthetic.bags import draw_backpack_behind, draw_bag
from tasks.synthetic.head import draw_hair_behind, draw_head, draw_headwear
from tasks.synthetic.pen import Pen, Placement, Point, Pose, torso_half_width
from tasks.synthetic.people import Person
from tasks.synthetic.scenery import shade


def draw_figure(image: Image.Image, person: Person, pose: Pose, placement: Placement) -> None:
    """Draws a person onto an RGB image, rear parts first."""
    pen = Pen(image, placement, mirrored=pose.facing == "left")
    _shadow(pen)
    if pose.facing == "front" or pose.side:
        draw_backpack_behind(pen, person, pose)
    draw_hair_behind(pen, person, pose)
    if pose.side:
        _arm(pen, person, pose, near=False)
    _legs(pen, person, pose)
    _torso(pen, person, pose)
    if not pose.side:
        _arm(pen, person, pose, near=False)
    _arm(pen, person, pose, near=True)
    draw_bag(pen, person, pose)
    draw_head(pen, person, pose)
    draw_headwear(pen, person, pose)


def _shadow(pen: Pen) -> None:
    pen.oval(0.03, 0.985, 0.2, 0.022, (0, 0, 0, 70))


def _legs(pen: Pen, person: Person, pose: Pose) -> None:
    for near in (False, True):
        hip, knee, ankle = _leg_points(person, pose, near)
        dim = 1.0 if near or not pose.side else 0.8
        _leg(pen, person, (hip, knee, ankle), dim)
        _shoe(pen, person, pose, ankle, dim)
    _skirt(pen, person, pose)


def _leg_points(person: Person, pose: Pose, near: bool) -> tuple[Point, Point, Point]:
    sign = 1.0 if near else -1.0
    if pose.side:
        reach = sign * pose.stride * 0.13
        bend = 0.025 if reach < 0 else 0.0
        return (0.0, 0.5), (reach * 0.45 + 0.02, 0.71), (reach, 0.93 - bend)
    spread = (0.055 + 0.012 * abs(pose.stride)) * person.girth
    lift = 0.02 * max(0.0, sign * pose.stride)
    return (sign * 0.05 * person.girth, 0.5), (sign * spread, 0.71), (sign * spread, 0.935 - lift)


def _leg(pen: Pen, person: Person, points: tuple[Point, Point, Point], dim: float) -> None:
    hip, knee, ankle = points
    width = 0.078 * person.girth
    skin = shade(person.rgb["skin"], dim)
    cloth = shade(person.rgb["lower_colour"], dim)
    lower = person.lower
    if lower in ("shorts", "skirt", "long skirt"):
        pen.limb((hip, knee, ankle), width * 0.72, skin)
    if lower == "shorts":
        middle = ((hip[0] + knee[0]) / 2 + (knee[0] - hip[0]) * 0.45, knee[1] - 0.015)
        pen.limb((hip, middle), width * 1.3, cloth)
    elif lower not in ("skirt", "long skirt"):
        factor = {"leggings": 0.8, "jeans": 1.0, "trousers": 1.12, "sweatpants": 1.3}[lower]
        pen.limb((hip, knee, ankle), width * factor, cloth)
        if lower == "sweatpants":
            edge = 0.35 * width if hip[0] >= 0 else -0.35 * width
            line = [(x + edge, y) for x, y in points]
            pen.limb(line, 0.018, (245, 245, 245))
        if lower == "jeans":
            pen.limb(((ankle[0], ankle[1] - 0.025), ankle), width, shade(cloth, 1.4, 15))


def _skirt(pen: Pen, person: Person, pose: Pose) -> None:
    if person.lower not in ("skirt", "long skirt"):
        return
    hem = 0.69 if person.lower == "skirt" else 0.89
    waist = (0.075 if pose.side else 0.105) * person.girth
    flare = waist + (0.055 if person.lower == "skirt" else 0.075)
    cloth = person.rgb["lower_colour"]
    pen.shape(((-waist, 0.46), (waist, 0.46), (flare, hem), (-flare, hem)), cloth)
    pen.shape(
        ((waist * 0.2, 0.48), (waist * 0.45, 0.48), (flare * 0.6, hem), (flare * 0.25, hem)),
        shade(cloth, 0.82),
    )


def _shoe(pen: Pen, person: Person, pose: Pose, ankle: Point, dim: float) -> None:
    x, y = ankle
    colour = shade(person.rgb["shoes_colour"], dim)
    skin = shade(person.rgb["skin"], dim)
    toe, heel = (0.1, 0.035) if pose.side else (0.046, 0.046)
    sole = y + 0.05
    foot = ((x - heel, y - 0.01), (x + toe * 0.5, y - 0.01), (x + toe, sole), (x - heel, sole))
    if person.shoes == "boots":
        pen.box(x - 0.045, y - 0.13, x + 0.045, y + 0.02, colour)
        pen.box(x - 0.045, y - 0.13, x + 0.045, y - 0.11, shade(colour, 1.3, 12))
    if person.shoes == "sandals":
        pen.shape(foot, skin)
        pen.box(x - heel, y + 0.005, x + toe * 0.85, y + 0.02, colour)
        pen.box(x - heel, sole - 0.014, x + toe, sole, colour)
        return
    if person.shoes == "heels":
        pen.shape(((x - heel, y + 0.012), (x + toe * 0.6, y + 0.012), (x + toe, sole)), colour)
        pen.box(x - heel, y + 0.012, x - heel + 0.02, sole, colour)
        return
    pen.shape(foot, colour)
    if person.shoes == "sneakers":
        light = sum(colour) > 560
        stripe = (150, 150, 155) if light else (248, 248, 248)
        pen.box(x - heel, sole - 0.016, x + toe, sole, stripe)
    elif person.shoes == "leather shoes":
        pen.box(x - heel, sole - 0.01, x + toe, sole, shade(colour, 0.4))


def _torso(pen: Pen, person: Person, pose: Pose) -> None:
    half = torso_half_width(person, pose)
    bottom = {"coat": 0.68, "hoodie": 0.54, "jacket": 0.53}.get(person.upper, 0.52)
    hip = half * (0.86 if person.sex == "woman" else 0.82)
    hem = hip * 1.2 if person.upper == "coat" else hip
    shoulder = half * (0.72 if person.upper == "tank top" else 1.0)
    outline = (
        (-shoulder * 0.55, 0.168),
        (shoulder * 0.55, 0.168),
        (shoulder, 0.205),
        (hip, 0.42),
        (hem, bottom),
        (-hem, bottom),
        (-hip, 0.42),
        (-shoulder, 0.205),
    )
    if person.upper == "tank top":
        pen.box(-half * 0.9, 0.185, half * 0.9, 0.24, person.rgb["skin"])
    pen.shape(outline, person.rgb["upper_colour"])
    if person.pattern != "plain":
        pen.patterned(outline, _texture(pen, person))
    _torso_details(pen, person, pose, half, bottom)
    shadow = ((shoulder * 0.45, 0.17), (shoulder, 0.205), (hip, 0.42), (hem, bottom))
    pen.shape((*shadow, (hem * 0.5, bottom)), (0, 0, 0, 34))


def _torso_details(pen: Pen, person: Person, pose: Pose, half: float, bottom: float) -> None:
    cloth = person.rgb["upper_colour"]
    dark = shade(cloth, 0.62, -8)
    front = pose.facing == "front"
    centre = half * 0.7 if pose.side else 0.0
    if person.upper == "hoodie":
        pen.oval(-0.05 if pose.side else 0.0, 0.185, half * 0.62, 0.032, dark)
        if front:
            pen.box(-half * 0.5, 0.42, half * 0.5, 0.49, dark)
    elif person.upper in ("jacket", "blazer") and pose.facing != "back":
        inner = person.rgb["pattern_colour"]
        wide = half * (0.2 if pose.side else 0.42)
        low = bottom if person.upper == "jacket" else 0.36
        taper = wide if person.upper == "jacket" else 0.01
        pen.shape(
            ((centre - wide, 0.17), (centre + wide, 0.17), (centre + taper, low),
             (centre - taper, low)), inner,
        )  # fmt: skip
        if person.upper == "blazer" and front:
            pen.limb(((0.0, 0.36), (0.0, bottom)), 0.01, dark)
    elif person.upper in ("coat", "shirt") and pose.facing != "back":
        pen.limb(((centre, 0.175), (centre, bottom)), 0.012, dark)
        collar = dark if person.upper == "coat" else shade(cloth, 1.25, 20)
        pen.shape(((centre - 0.045, 0.165), (centre + 0.045, 0.165), (centre, 0.215)), collar)
    if person.upper in ("jacket", "sweater"):
        pen.box(-half * 0.82, bottom - 0.022, half * 0.82, bottom, dark)
    if person.upper == "coat":
        pen.box(-half * 0.86, 0.43, half * 0.86, 0.452, dark)


def _texture(pen: Pen, person: Person) -> Image.Image:
    cloth, second = person.rgb["upper_colour"], person.rgb["pattern_colour"]
    size, at = pen.image.size, pen.placement
    texture = Image.new("RGB", size, cloth)
    draw = ImageDraw.Draw(texture)
    period = person.pattern_period * at.height
    start_y, end_y = at.top + 0.17 * at.height, at.top + 0.72 * at.height
    start_x, end_x = at.centre_x - 0.24 * at.height, at.centre_x + 0.24 * at.height
    if person.pattern in ("striped", "checked"):
        for y in _steps(start_y, end_y, period):
            draw.rectangle((0, y, size[0], y + period * 0.42), second)
    if person.pattern in ("vertically striped", "checked"):
        mixed = shade(second, 0.6) if person.pattern == "checked" else second
        for x in _steps(start_x, end_x, period):
            draw.rectangle((x, 0, x + period * 0.34, size[1]), mixed)
    if person.pattern == "dotted":
        radius = period * 0.3
        for row, y in enumerate(_steps(start_y, end_y, period)):
            for x in _steps(start_x + (row % 2) * period / 2, end_x, period):
                draw.ellipse((x - radius, y - radius, x + radius, y + radius), second)
    if person.pattern == "printed":
        x, y = pen.place((0.0, 0.3))
        radius = 0.065 * at.height
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), second)
        draw.rectangle((x - radius * 0.5, y - 2, x + radius * 0.5, y + 2), cloth)
    return texture


def _steps(start: float, end: float, step: float) -> list[float]:
    return [start + index * step for index in range(int((end - start) / step) + 1)]


def _arm(pen: Pen, person: Person, pose: Pose, near: bool) -> None:
    sign = 1.0 if near else -1.0
    half = torso_half_width(person, pose)
    if pose.side:
        shoulder = (0.0, 0.215)
        reach = -sign * pose.swing * 0.13
        elbow, hand = (reach * 0.4 - 0.01, 0.35), (reach + 0.015, 0.48)
    else:
        shoulder = (sign * half * 0.96, 0.215)
        away = 0.02 + 0.035 * abs(pose.swing)
        elbow = (sign * (half + away), 0.35)
        hand = (sign * (half + away * 0.7), 0.48)
    width = 0.056 * (0.8 + 0.2 * person.girth)
    dim = 0.84 if near or not pose.side else 0.68
    skin = shade(person.rgb["skin"], 0.95 if near else 0.88)
    cloth = shade(person.rgb["upper_colour"], dim)
    pen.oval(hand[0], hand[1] + 0.018, 0.026, 0.026, skin)
    if person.upper == "tank top":
        pen.limb((shoulder, elbow, hand), width * 0.8, skin)
    elif person.upper == "t-shirt":
        pen.limb((shoulder, elbow, hand), width * 0.8, skin)
        pen.limb((shoulder, ((shoulder[0] + elbow[0]) / 2, 0.3)), width * 1.2, cloth)
    else:
        pen.limb((shoulder, elbow, hand), width * 1.1, cloth)
        if person.pattern == "striped":
            pen.box(elbow[0] - width / 2, 0.33, elbow[0] + width / 2, 0.365,
                    shade(person.rgb["pattern_colour"], dim))  # fmt: skip
