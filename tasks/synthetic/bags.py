"""Drawing of bags and other carried items."""

from __future__ import annotations

from tasks.synthetic.pen import Pen, Pose, torso_half_width
from tasks.synthetic.people import Colour, Person
from tasks.synthetic.scenery import shade


def draw_backpack_behind(pen: Pen, person: Person, pose: Pose) -> None:
    """Draws the part of a backpack that is behind the body in front and side views."""
    if person.bag != "backpack":
        return
    colour = person.rgb["bag_colour"]
    if pose.side:
        pen.box(-0.19, 0.2, -0.05, 0.43, colour)
        pen.box(-0.205, 0.32, -0.17, 0.42, shade(colour, 0.7))
    else:
        half = torso_half_width(person, pose) + 0.025
        pen.box(-half, 0.21, half, 0.41, shade(colour, 0.85))


def draw_bag(pen: Pen, person: Person, pose: Pose) -> None:
    """Draws the bag and the straps in front of the body."""
    colour = person.rgb["bag_colour"]
    half = torso_half_width(person, pose)
    mirror = -1 if pose.facing == "back" else 1
    hand_x = 0.03 if pose.side else person.bag_side * mirror * (half + 0.045)
    if person.bag == "backpack":
        _backpack_front(pen, pose, half, colour)
    elif person.bag == "shoulder bag":
        side = 0.3 if pose.side else person.bag_side * mirror
        pen.limb(
            ((-side * half * 0.6, 0.175), (side * half * 0.95, 0.45)), 0.022, shade(colour, 0.7)
        )
        pen.box(side * half - 0.075, 0.43, side * half + 0.065, 0.55, colour)
        pen.box(side * half - 0.075, 0.43, side * half + 0.065, 0.47, shade(colour, 0.78))
    elif person.bag == "handbag":
        pen.limb(
            ((hand_x - 0.035, 0.56), (hand_x, 0.485), (hand_x + 0.035, 0.56)),
            0.014,
            shade(colour, 0.7),
        )
        pen.shape(
            ((hand_x - 0.05, 0.55), (hand_x + 0.05, 0.55), (hand_x + 0.065, 0.65),
             (hand_x - 0.065, 0.65)), colour,
        )  # fmt: skip
        pen.box(hand_x - 0.012, 0.565, hand_x + 0.012, 0.585, (236, 206, 110))
    elif person.bag == "shopping bag":
        pen.limb(
            ((hand_x - 0.03, 0.57), (hand_x, 0.49), (hand_x + 0.03, 0.57)), 0.01, (230, 230, 226)
        )
        pen.box(hand_x - 0.065, 0.56, hand_x + 0.065, 0.74, colour)
        pen.box(hand_x - 0.035, 0.62, hand_x + 0.035, 0.67, (245, 245, 240))
    elif person.bag == "briefcase":
        pen.box(hand_x - 0.02, 0.5, hand_x + 0.02, 0.53, shade(colour, 0.6))
        pen.box(hand_x - 0.095, 0.525, hand_x + 0.095, 0.635, colour)
        pen.box(hand_x - 0.095, 0.57, hand_x + 0.095, 0.58, shade(colour, 0.6))
    elif person.bag == "suitcase":
        x = -0.2 if pose.side else hand_x + (0.035 if hand_x > 0 else -0.035)
        pen.limb(((hand_x, 0.49), (x, 0.7)), 0.014, (70, 70, 74))
        pen.box(x - 0.075, 0.69, x + 0.075, 0.94, colour)
        for offset in (-0.035, 0.0, 0.035):
            pen.box(x + offset - 0.004, 0.71, x + offset + 0.004, 0.92, shade(colour, 0.72))
        pen.oval(x - 0.05, 0.955, 0.016, 0.016, (30, 30, 30))
        pen.oval(x + 0.05, 0.955, 0.016, 0.016, (30, 30, 30))


def _backpack_front(pen: Pen, pose: Pose, half: float, colour: Colour) -> None:
    if pose.facing == "back":
        pen.box(-half * 0.84, 0.2, half * 0.84, 0.46, colour)
        pen.box(-half * 0.84, 0.2, half * 0.84, 0.225, shade(colour, 1.25, 15))
        pen.box(-half * 0.6, 0.34, half * 0.6, 0.44, shade(colour, 0.72))
    elif pose.facing == "front":
        for sign in (-1, 1):
            pen.limb(
                ((sign * half * 0.55, 0.172), (sign * half * 0.66, 0.37)), 0.028, shade(colour, 0.9)
            )
    else:
        pen.limb(((-0.01, 0.18), (0.03, 0.26), (-0.05, 0.37)), 0.024, shade(colour, 0.75))
