"""Parameters of a search space: ranges of numbers and lists of choices."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Any, Literal, Protocol, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from tasks.schema import FrozenConfig

_ON_A_STEP = 1e-8
"""Largest distance of a value from a step, in steps; the tolerance of Optuna."""


class TrialProtocol(Protocol):
    """Interface of an Optuna trial that parameters use."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """Samples a number in [low, high]."""
        ...

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        """Samples an integer in [low, high]."""
        ...

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Samples one of the choices."""
        ...


class _Parameter(FrozenConfig):
    """Base class of ranges and choices."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    when: Mapping[str, Any] = Field(
        default_factory=dict,
        description="conditions, key: value or [values]; the parameter is sampled if all hold",
    )

    @field_validator("when")
    @classmethod
    def _has_values(cls, when: Mapping[str, Any]) -> dict[str, Any]:
        for key, wanted in when.items():
            if wanted == [] or isinstance(wanted, Mapping):
                raise ValueError(f"{key}: expected a value or a list of values, got {wanted!r}")
        return dict(when)

    def applies(self, values: Mapping[str, Any]) -> bool:
        """Whether all conditions hold; a condition on a key without a value does not."""
        return all(
            key in values and any(same(values[key], each) for each in accepted_values(wanted))
            for key, wanted in self.when.items()
        )


class FloatRange(_Parameter):
    """Real numbers in [low, high]."""

    type: Literal["float"]
    low: float
    high: float
    log: bool = False
    step: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        _check_range(self.low, self.high, self.log, self.step)
        return self

    def suggest(self, key: str, trial: TrialProtocol) -> float:
        """Samples a value."""
        return float(trial.suggest_float(key, self.low, self.high, step=self.step, log=self.log))

    def contains(self, value: Any) -> bool:
        """Whether a trial can have this value."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and _within(value, self.low, self.high, self.step)

    def values_to_validate(self) -> dict[str, Any]:
        """Values to validate as settings, by description: both ends and one between them."""
        between = self.low + 0.382 * (self.high - self.low)
        if self.step is not None:
            between = self.low + self.step
        return {"low": self.low, "high": self.high, "a value between": between}

    @property
    def description(self) -> str:
        """Range as text for messages."""
        return f"{self.low:g} to {self.high:g}" + (f" by {self.step:g}" if self.step else "")


class IntRange(_Parameter):
    """Integers in [low, high]."""

    type: Literal["int"]
    low: int
    high: int
    log: bool = False
    step: int | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        _check_range(self.low, self.high, self.log, self.step)
        return self

    def suggest(self, key: str, trial: TrialProtocol) -> int:
        """Samples a value."""
        return int(trial.suggest_int(key, self.low, self.high, step=self.step or 1, log=self.log))

    def contains(self, value: Any) -> bool:
        """Whether a trial can have this value."""
        whole = isinstance(value, int) and not isinstance(value, bool)
        return whole and _within(value, self.low, self.high, self.step or 1)

    def values_to_validate(self) -> dict[str, Any]:
        """Values to validate as settings, by description: both ends."""
        return {"low": self.low, "high": self.high}

    @property
    def description(self) -> str:
        """Range as text for messages."""
        return f"{self.low} to {self.high}" + (f" by {self.step}" if self.step else "")


class Choices(_Parameter):
    """Values of one kind, scalars or lists; null is always allowed."""

    type: Literal["categorical"]
    choices: tuple[Any, ...] = Field(min_length=1, strict=False)

    @field_validator("choices")
    @classmethod
    def _of_one_kind(cls, choices: tuple[Any, ...]) -> tuple[Any, ...]:
        kinds = {_kind(each): each for each in choices if each is not None}
        if len(kinds) > 1:
            given = ", ".join(f"{json.dumps(each)} ({kind})" for kind, each in kinds.items())
            raise ValueError(
                f"expected values of one kind (or null), got {given}; "
                "quote values that are meant as text"
            )
        for number, choice in enumerate(choices):
            if any(same(choice, earlier) for earlier in choices[:number]):
                raise ValueError(f"expected different values, got {json.dumps(choice)} twice")
        if any(isinstance(each, float) for each in choices):
            return tuple(each if each is None else float(each) for each in choices)
        return choices

    def suggest(self, key: str, trial: TrialProtocol) -> Any:
        """Samples a value; Optuna stores only scalars, so lists are passed as JSON."""
        choices = [to_optuna(each) for each in self.choices]
        return self.choices[choices.index(trial.suggest_categorical(key, choices))]

    def contains(self, value: Any) -> bool:
        """Whether the value is one of the choices."""
        return any(same(value, each) for each in self.choices)

    def values_to_validate(self) -> dict[str, Any]:
        """Values to validate as settings, by description: all choices."""
        return {f"choice {number}": each for number, each in enumerate(self.choices, start=1)}

    @property
    def description(self) -> str:
        """Range as text for messages."""
        return "one of " + ", ".join(as_text(each) for each in self.choices)


AnyParameter = FloatRange | IntRange | Choices
Parameter = Annotated[AnyParameter, Field(discriminator="type")]


def same(left: Any, right: Any) -> bool:
    """Whether two values are the same setting: 1 and 1.0 are, true and 1 are not."""
    if isinstance(left, list | tuple) or isinstance(right, list | tuple):
        both = isinstance(left, list | tuple) and isinstance(right, list | tuple)
        return both and len(left) == len(right) and all(map(same, left, right))
    return isinstance(left, bool) == isinstance(right, bool) and left == right


def accepted_values(wanted: Any) -> list[Any]:
    """Values of a condition that is given as one value or as a list."""
    return list(wanted) if isinstance(wanted, list | tuple) else [wanted]


def to_optuna(value: Any) -> Any:
    """Value as stored by Optuna: lists as JSON, other values unchanged."""
    return as_text(value) if isinstance(value, list | tuple) else value


def as_text(value: Any) -> str:
    """Value as JSON, which an override parses to exactly this value."""
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
            f"expected low < high, got {low} for both; to fix the value, use an override, or "
            f"{{type: categorical, choices: [{low}]}}"
        )
    if log and low <= 0:
        raise ValueError(f"expected low > 0 in a logarithmic range, got {low}")
    if log and step is not None:
        raise ValueError("expected log or step, got both; a logarithmic range has no steps")
    if step is None:
        return
    span, rest = Decimal(str(high)) - Decimal(str(low)), Decimal(str(step))
    if span % rest:
        last = Decimal(str(low)) + span // rest * rest
        raise ValueError(
            f"expected steps of {step} from {low} to {high}; the last step is at {last}, so high "
            "would never be sampled"
        )


def _kind(value: Any) -> str:
    """Kind of a value: boolean, number, text, or a list of one of them."""
    if isinstance(value, list | tuple):
        inner = sorted({_kind(each) for each in value if each is not None})
        if len(inner) > 1 or any(each.startswith("list") for each in inner):
            raise ValueError(f"expected lists of scalars of one kind, got {value!r}")
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
                f"expected printable text without interpolation, got {value!r}; ${{...}} and ??? "
                "have a special meaning in configurations"
            )
        return "text"
    raise ValueError(f"expected scalars or lists of scalars, got {value!r}")
