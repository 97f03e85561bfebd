"""What a bench finds: repeated values, their median, ratios inside a repeat, and what is aimed at.

Compared variants take turns (A B A B ...), and a ratio is formed inside each turn before the median
is taken, so that a machine that slows down in the course of a bench slows both variants.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

Sign = Literal[">=", "<="]


@dataclass(frozen=True)
class Aim:
    """What a median should reach, in the measurement's unit."""

    sign: Sign
    value: float

    def met(self, value: float) -> bool:
        """Whether `value` reaches it."""
        return value >= self.value if self.sign == ">=" else value <= self.value

    def __str__(self) -> str:
        return f"{self.sign} {self.value:g}"


@dataclass(frozen=True)
class Measurement:
    """Repeated values of one quantity.

    Attributes:
        name: bench, variant and quantity, separated by dots.
        unit: of the values; "x" for a ratio.
        values: one for each repeat, at least one.
        aim: what the median should reach, if anything.
    """

    name: str
    unit: str
    values: tuple[float, ...]
    aim: Aim | None = None

    @property
    def median(self) -> float:
        """Of the values."""
        return median(self.values)

    @property
    def met(self) -> bool | None:
        """Whether the median reaches the aim; None without one."""
        return None if self.aim is None else self.aim.met(self.median)

    def to_json(self) -> dict[str, Any]:
        """Plain values; `aim` and `met` only where there is an aim."""
        found: dict[str, Any] = {
            "median": self.median,
            "values": list(self.values),
            "unit": self.unit,
        }
        return found if self.aim is None else found | {"aim": str(self.aim), "met": self.met}


@dataclass(frozen=True)
class Findings:
    """Measurements and the ratios between some of them."""

    measurements: tuple[Measurement, ...]
    ratios: tuple[Measurement, ...] = ()

    def __add__(self, other: Findings) -> Findings:
        return Findings(self.measurements + other.measurements, self.ratios + other.ratios)

    def to_json(self) -> dict[str, Any]:
        """The measurements by name, and under "ratios" the ratios by name."""
        ratios = {each.name: each.to_json() for each in self.ratios}
        return {each.name: each.to_json() for each in self.measurements} | {"ratios": ratios}


def ratio(
    name: str, numerator: Measurement, denominator: Measurement, aim: Aim | None = None
) -> Measurement:
    """The quotient of two measurements, repeat by repeat.

    Raises:
        ValueError: they do not have as many values.
    """
    pairs = zip(numerator.values, denominator.values, strict=True)
    return Measurement(name, "x", tuple(above / below for above, below in pairs), aim)
