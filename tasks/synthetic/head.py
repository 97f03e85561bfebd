"""Drawing of the head: hair, face, eyewear and headwear."""

from __future__ import annotations

from tasks.synthetic.pen import Pen, Pose
from tasks.synthetic.people import Colour, Person
from tasks.synthetic.scenery import shade


def draw_hair_behind(pen: Pen, person: Person, pose: Pose) -> None:
    """Draws hair behind the shoulders; call before drawing the torso."""
    hair = shade(person.rgb["hair_colour"], 0.85)
    if person.headwear == "headscarf" or person.hair not in ("long", "tied"):
        return
    if person.hair == "long" and pose.facing == "front":
        pen.shape(((-0.075, 0.06), (0.075, 0.06), (0.095, 0.25), (-0.095, 0.25)), hair)
    elif person.hair == "tied" and pose.side:
        pen.limb(((-0.06, 0.06), (-0.12, 0.11), (-0.11, 0.2)), 0.042, hair)


def draw_head(pen: Pen, person: Person, pose: Pose) -> None:
    """Draws neck, hair and face."""
    skin, hair = person.rgb["skin"], person.rgb["hair_colour"]
    x = pose.lean
    pen.box(x * 0.5 - 0.03, 0.13, x * 0.5 + 0.03, 0.18, shade(skin, 0.82))
    if pose.facing == "back":
        bare = person.hair == "bald"
        pen.oval(x, 0.085, 0.066, 0.082, shade(skin, 0.93) if bare else hair)
        if person.hair == "short":
            pen.box(x - 0.045, 0.128, x + 0.045, 0.16, skin)
        elif person.hair == "long":
            pen.shape(((x - 0.066, 0.08), (x + 0.066, 0.08), (0.09, 0.27), (-0.09, 0.27)), hair)
        elif person.hair == "tied":
            pen.limb(((x, 0.06), (x, 0.24)), 0.042, shade(hair, 0.75))
        return
    if person.hair != "bald":
        pen.oval(x - (0.016 if pose.side else 0.0), 0.078, 0.07, 0.08, hair)
    if pose.side:
        _side_face(pen, person, x)
    else:
        _front_face(pen, person, x)


def _front_face(pen: Pen, person: Person, x: float) -> None:
    skin, hair = person.rgb["skin"], person.rgb["hair_colour"]
    bald = person.hair == "bald"
    pen.oval(x, 0.085 if bald else 0.1, 0.062 if bald else 0.054, 0.08 if bald else 0.066, skin)
    if person.hair == "long":
        for sign in (-1, 1):
            pen.limb(((x + sign * 0.062, 0.07), (x + sign * 0.078, 0.22)), 0.032, hair)
    if person.beard:
        pen.shape(
            ((x - 0.05, 0.115), (x + 0.05, 0.115), (x + 0.025, 0.172), (x - 0.025, 0.172)), hair
        )
        pen.box(x - 0.018, 0.128, x + 0.018, 0.136, shade(skin, 0.7))
    else:
        pen.box(x - 0.018, 0.134, x + 0.018, 0.142, shade(skin, 0.62))
    for sign in (-1, 1):
        pen.oval(x + sign * 0.024, 0.092, 0.009, 0.011, (20, 16, 16))
    if person.eyewear == "glasses":
        for sign in (-1, 1):
            pen.oval(x + sign * 0.026, 0.094, 0.023, 0.021, (22, 22, 24))
            pen.oval(x + sign * 0.026, 0.094, 0.013, 0.012, (206, 226, 236))
    elif person.eyewear == "sunglasses":
        pen.box(x - 0.055, 0.078, x + 0.055, 0.108, (10, 10, 12))


def _side_face(pen: Pen, person: Person, x: float) -> None:
    skin, hair = person.rgb["skin"], person.rgb["hair_colour"]
    if person.hair == "bald":
        pen.oval(x, 0.085, 0.064, 0.08, skin)
    else:
        pen.oval(x + 0.02, 0.1, 0.046, 0.065, skin)
    pen.shape(((x + 0.055, 0.085), (x + 0.08, 0.112), (x + 0.05, 0.118)), skin)
    if person.hair == "long":
        pen.shape(((x - 0.085, 0.07), (x - 0.01, 0.07), (x - 0.01, 0.2), (x - 0.095, 0.25)), hair)
    if person.beard:
        pen.shape(
            ((x + 0.0, 0.12), (x + 0.066, 0.124), (x + 0.045, 0.172), (x + 0.01, 0.165)), hair
        )
    pen.oval(x + 0.045, 0.09, 0.009, 0.011, (20, 16, 16))
    if person.eyewear == "glasses":
        pen.limb(((x - 0.02, 0.088), (x + 0.066, 0.09)), 0.012, (22, 22, 24))
        pen.oval(x + 0.046, 0.094, 0.022, 0.021, (22, 22, 24))
        pen.oval(x + 0.046, 0.094, 0.012, 0.012, (206, 226, 236))
    elif person.eyewear == "sunglasses":
        pen.limb(((x - 0.02, 0.086), (x + 0.03, 0.088)), 0.012, (10, 10, 12))
        pen.box(x + 0.02, 0.077, x + 0.068, 0.108, (10, 10, 12))


def draw_headwear(pen: Pen, person: Person, pose: Pose) -> None:
    """Draws the headwear."""
    colour, x = person.rgb["headwear_colour"], pose.lean
    dark = shade(colour, 0.7)
    if person.headwear == "cap":
        pen.dome(x, 0.068, 0.077, 0.083, colour)
        if pose.side:
            pen.box(x + 0.03, 0.052, x + 0.14, 0.072, dark)
        elif pose.facing == "front":
            pen.oval(x, 0.064, 0.066, 0.018, dark)
        else:
            pen.box(x - 0.03, 0.055, x + 0.03, 0.066, dark)
    elif person.headwear == "beanie":
        pen.dome(x, 0.07, 0.08, 0.096, colour)
        pen.box(x - 0.08, 0.046, x + 0.08, 0.072, dark)
        pen.oval(x, -0.03, 0.024, 0.022, shade(colour, 1.2, 25))
    elif person.headwear == "hat":
        pen.dome(x, 0.045, 0.07, 0.085, colour)
        pen.oval(x, 0.05, 0.15, 0.022, colour)
        pen.box(x - 0.07, 0.022, x + 0.07, 0.042, dark)
    elif person.headwear == "helmet":
        pen.dome(x, 0.075, 0.09, 0.105, colour)
        pen.box(x - 0.016, -0.028, x + 0.016, 0.072, (244, 244, 240))
        if pose.facing != "back":
            pen.limb(((x - 0.06, 0.07), (x - 0.03, 0.16)), 0.01, (30, 30, 30))
    elif person.headwear == "headscarf":
        _headscarf(pen, person, pose, colour)


def _headscarf(pen: Pen, person: Person, pose: Pose, colour: Colour) -> None:
    x = pose.lean
    dark = shade(colour, 0.8)
    pen.shape(((x - 0.07, 0.1), (x + 0.07, 0.1), (0.1, 0.235), (-0.1, 0.235)), dark)
    pen.oval(x, 0.085, 0.08, 0.093, colour)
    if pose.facing == "back":
        return
    shift = 0.024 if pose.side else 0.0
    pen.oval(x + shift, 0.096, 0.048 if not pose.side else 0.044, 0.056, person.rgb["skin"])
    eyes = (x + 0.045,) if pose.side else (x - 0.022, x + 0.022)
    for eye in eyes:
        pen.oval(eye, 0.09, 0.009, 0.011, (20, 16, 16))
    if person.eyewear != "none":
        glass = (10, 10, 12) if person.eyewear == "sunglasses" else (22, 22, 24)
        left = x + 0.01 if pose.side else x - 0.05
        pen.box(left, 0.08, x + 0.066 if pose.side else x + 0.05, 0.102, glass)
        if person.eyewear == "glasses":
            for eye in eyes:
                pen.oval(eye, 0.091, 0.012, 0.009, (206, 226, 236))
