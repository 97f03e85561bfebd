"""Results of benchmarks: repeated measurements, their medians, ratios and targets.

Variants are measured in turn (A B A B ...). Ratios are computed per turn, before the median, so
that a slowdown of the machine affects both variants.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

Sign = Literal[">=", "<="]


@dataclass(frozen=True)
class Target:
    """Target for a median, in the unit of the measurement."""

    sign: Sign
    value: float

    def met(self, value: float) -> bool:
        """Whether `value` meets the target."""
        return value >= self.value if self.sign == ">=" else value <= self.value

    def __str__(self) -> str:
        return f"{self.sign} {self.value:g}"


@dataclass(frozen=True)
class Measurement:
    """Repeated measurements of one quantity.

    Attributes:
        name: benchmark, variant and quantity, separated by dots.
        unit: unit of the values; "x" for a ratio.
        values: one value per repeat, at least one.
        target: target for the median, or None.
    """

    name: str
    unit: str
    values: tuple[float, ...]
    target: Target | None = None

    @property
    def median(self) -> float:
        """Median of the values."""
        return median(self.values)

    @property
    def met(self) -> bool | None:
        """Whether the median meets the target; None without a target."""
        return None if self.target is None else self.target.met(self.median)

    def to_json(self) -> dict[str, Any]:
        """Converts to JSON values; "aim" and "met" are present only with a target."""
        values: dict[str, Any] = {
            "median": self.median,
            "values": list(self.values),
            "unit": self.unit,
        }
        return (
            values if self.target is None else values | {"aim": str(self.target), "met": self.met}
        )


@dataclass(frozen=True)
class BenchResult:
    """Measurements, and ratios between some of them."""

    measurements: tuple[Measurement, ...]
    ratios: tuple[Measurement, ...] = ()

    def __add__(self, other: BenchResult) -> BenchResult:
        return BenchResult(self.measurements + other.measurements, self.ratios + other.ratios)

    def to_json(self) -> dict[str, Any]:
        """Converts to JSON values by name; ratios are below the key "ratios"."""
        ratios = {each.name: each.to_json() for each in self.ratios}
        return {each.name: each.to_json() for each in self.measurements} | {"ratios": ratios}


def ratio(
    name: str, numerator: Measurement, denominator: Measurement, target: Target | None = None
) -> Measurement:
    """Computes the ratio of two measurements per repeat.

    Raises:
        ValueError: the measurements differ in their number of values.
    """
    pairs = zip(numerator.values, denominator.values, strict=True)
    return Measurement(name, "x", tuple(above / below for above, below in pairs), target)
