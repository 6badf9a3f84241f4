"""Types of the parameters of transforms, with their ranges, by which settings are validated."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field


def share_range(scale: tuple[float, float]) -> tuple[float, float]:
    """Return a range of shares.

    Raises:
        ValueError: it is none, in words that follow the name of the option.
    """
    if not 0 < scale[0] <= scale[1] <= 1:
        raise ValueError("must be two shares in (0, 1], the smaller one first")
    return scale


def _rising(values: tuple[float, float]) -> tuple[float, float]:
    if not 0 < values[0] <= values[1]:
        raise ValueError("must be two numbers above 0, the smaller one first")
    return values


def _odd(number: int | None) -> int | None:
    if number is not None and number % 2 == 0:
        raise ValueError("must be odd")
    return number


Probability = Annotated[float, Field(ge=0, le=1)]
"""A number in [0, 1]."""
Count = Annotated[int, Field(ge=1)]
"""An integer of at least 1."""
Strength = Annotated[float, Field(ge=0)]
"""A number of at least 0."""
HueStrength = Annotated[float, Field(ge=0, le=0.5)]
"""A share of a full turn, in [0, 0.5]."""
ShareRange = Annotated[tuple[float, float], AfterValidator(share_range)]
"""Two shares in (0, 1], the smaller one first."""
PositiveRange = Annotated[tuple[float, float], AfterValidator(_rising)]
"""Two numbers above 0, the smaller one first."""
KernelSize = Annotated[int | None, Field(ge=1), AfterValidator(_odd)]
"""An odd number of taps, or None."""
