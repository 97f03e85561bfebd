"""One searched parameter: a range of numbers, or a list of choices."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Any, Literal, Protocol, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from tasks.schema import FrozenConfig

_ON_A_STEP = 1e-8
"""Optuna's own tolerance of a value's distance from a step, in steps."""


class Suggests(Protocol):
    """What is asked of an Optuna trial, or of what stands in for one."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """A number of [low, high]."""
        ...

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        """A whole number of [low, high]."""
        ...

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of the choices."""
        ...


class _Parameter(FrozenConfig):
    """What ranges and choices have in common."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    when: Mapping[str, Any] = Field(
        default_factory=dict,
        description="key: value or [values]; the parameter is absent unless all of them hold",
    )

    @field_validator("when")
    @classmethod
    def _has_values(cls, when: Mapping[str, Any]) -> dict[str, Any]:
        for key, wanted in when.items():
            if wanted == [] or isinstance(wanted, Mapping):
                raise ValueError(f"{key}: expected a value or a list of values, got {wanted!r}")
        return dict(when)

    def applies(self, values: Mapping[str, Any]) -> bool:
        """Whether all conditions hold; one on a key without a value does not."""
        return all(
            key in values and any(same(values[key], each) for each in alternatives(wanted))
            for key, wanted in self.when.items()
        )


class FloatRange(_Parameter):
    """Real numbers of [low, high]."""

    type: Literal["float"]
    low: float
    high: float
    log: bool = False
    step: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        _check_range(self.low, self.high, self.log, self.step)
        return self

    def suggest(self, key: str, trial: Suggests) -> float:
        """A value from the trial."""
        return float(trial.suggest_float(key, self.low, self.high, step=self.step, log=self.log))

    def contains(self, value: Any) -> bool:
        """Whether the trial could have suggested it."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and _within(value, self.low, self.high, self.step)

    def probes(self) -> dict[str, Any]:
        """Values to try as settings, by what they are: both ends and one between them."""
        between = self.low + 0.382 * (self.high - self.low)
        if self.step is not None:
            between = self.low + self.step
        return {"low": self.low, "high": self.high, "a value between": between}

    @property
    def spelled(self) -> str:
        """In words, for messages."""
        return f"{self.low:g} to {self.high:g}" + (f" by {self.step:g}" if self.step else "")


class IntRange(_Parameter):
    """Whole numbers of [low, high]."""

    type: Literal["int"]
    low: int
    high: int
    log: bool = False
    step: int | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        _check_range(self.low, self.high, self.log, self.step)
        return self

    def suggest(self, key: str, trial: Suggests) -> int:
        """A value from the trial."""
        return int(trial.suggest_int(key, self.low, self.high, step=self.step or 1, log=self.log))

    def contains(self, value: Any) -> bool:
        """Whether the trial could have suggested it."""
        whole = isinstance(value, int) and not isinstance(value, bool)
        return whole and _within(value, self.low, self.high, self.step or 1)

    def probes(self) -> dict[str, Any]:
        """Values to try as settings, by what they are: both ends."""
        return {"low": self.low, "high": self.high}

    @property
    def spelled(self) -> str:
        """In words, for messages."""
        return f"{self.low} to {self.high}" + (f" by {self.step}" if self.step else "")


class Choices(_Parameter):
    """Some values of one kind, each a single value or a list; null may stand beside them."""

    type: Literal["categorical"]
    choices: tuple[Any, ...] = Field(min_length=1, strict=False)

    @field_validator("choices")
    @classmethod
    def _of_one_kind(cls, choices: tuple[Any, ...]) -> tuple[Any, ...]:
        kinds = {_kind(each): each for each in choices if each is not None}
        if len(kinds) > 1:
            found = ", ".join(f"{json.dumps(each)} ({kind})" for kind, each in kinds.items())
            raise ValueError(
                f"expected values of one kind (null may stand beside them), got {found}; "
                "quote what is meant as text"
            )
        for number, choice in enumerate(choices):
            if any(same(choice, earlier) for earlier in choices[:number]):
                raise ValueError(f"expected different values, got {json.dumps(choice)} twice")
        if any(isinstance(each, float) for each in choices):
            return tuple(each if each is None else float(each) for each in choices)
        return choices

    def suggest(self, key: str, trial: Suggests) -> Any:
        """A value from the trial, which is offered lists as JSON: it keeps single values alone."""
        offered = [stored(each) for each in self.choices]
        return self.choices[offered.index(trial.suggest_categorical(key, offered))]

    def contains(self, value: Any) -> bool:
        """Whether it is one of the choices."""
        return any(same(value, each) for each in self.choices)

    def probes(self) -> dict[str, Any]:
        """Values to try as settings, by what they are: all of them."""
        return {f"choice {number}": each for number, each in enumerate(self.choices, start=1)}

    @property
    def spelled(self) -> str:
        """In words, for messages."""
        return "one of " + ", ".join(as_text(each) for each in self.choices)


AnyParameter = FloatRange | IntRange | Choices
Parameter = Annotated[AnyParameter, Field(discriminator="type")]


def same(left: Any, right: Any) -> bool:
    """Whether two values are one setting: 1 and 1.0 are, true and 1 are not."""
    if isinstance(left, list | tuple) or isinstance(right, list | tuple):
        both = isinstance(left, list | tuple) and isinstance(right, list | tuple)
        return both and len(left) == len(right) and all(map(same, left, right))
    return isinstance(left, bool) == isinstance(right, bool) and left == right


def alternatives(wanted: Any) -> list[Any]:
    """The values of a condition, written as one value or as a list."""
    return list(wanted) if isinstance(wanted, list | tuple) else [wanted]


def stored(value: Any) -> Any:
    """A value as Optuna keeps it: lists as JSON, all others as they are."""
    return as_text(value) if isinstance(value, list | tuple) else value


def as_text(value: Any) -> str:
    """A value as JSON, from which an override reads exactly this value."""
    return json.dumps(value, ensure_ascii=False)


def _within(value: float, low: float, high: float, step: float | None) -> bool:
    if not low <= value <= high:
        return False
    steps = (value - low) / step if step else 0.0
    return abs(steps - round(steps)) < _ON_A_STEP


def _check_range(low: float, high: float, log: bool, step: float | None) -> None:
    if low > high:
        raise ValueError(f"expected low < high, got an inverted range from {low} to {high}")
    if low == high:
        raise ValueError(
            f"expected low < high, got {low} for both; what is not searched is an override of the "
            f"command, or {{type: categorical, choices: [{low}]}}"
        )
    if log and low <= 0:
        raise ValueError(f"expected low > 0 in a logarithmic range, got {low}")
    if log and step is not None:
        raise ValueError("expected log or step, got both: a logarithmic range has no steps")
    if step is None:
        return
    span, rest = Decimal(str(high)) - Decimal(str(low)), Decimal(str(step))
    if span % rest:
        last = Decimal(str(low)) + span // rest * rest
        raise ValueError(
            f"expected steps of {step} that lead from {low} to {high}; the last one is at {last}, "
            "so that high would never be drawn"
        )


def _kind(value: Any) -> str:
    """Truth values, numbers, text, or lists of one of them."""
    if isinstance(value, list | tuple):
        inner = sorted({_kind(each) for each in value if each is not None})
        if len(inner) > 1 or any(each.startswith("list") for each in inner):
            raise ValueError(f"expected lists of single values of one kind, got {value!r}")
        return "list"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        if not math.isfinite(value):
            raise ValueError(f"expected finite numbers, got {value}")
        return "number"
    if isinstance(value, str):
        if not value.isprintable() or "${" in value or value == "???":
            raise ValueError(
                f"expected printable text that stands for itself, got {value!r}: ${{...}} and ??? "
                "mean something else in a configuration"
            )
        return "text"
    raise ValueError(f"expected single values or lists of them, got {value!r}")
