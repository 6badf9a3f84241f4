"""Means over seeds, their intervals, and when a difference is more than chance."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import t as student

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """The mean of n runs, and how well it is known.

    Attributes:
        mean: of the runs.
        deviation: the standard deviation over the runs; None of a single one.
        n: how many runs there are.
        exact: whether another run would give the same value, so that it has no interval.
    """

    mean: float
    deviation: float | None
    n: int
    exact: bool = False

    @classmethod
    def of(cls, values: Sequence[float], exact: bool = False) -> Estimate:
        """The estimate from the values of the runs."""
        deviation = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.mean(values), deviation, len(values), exact)

    @property
    def half_width(self) -> float | None:
        """Half of the 95 % interval of the mean, by Student's t; None of a single run."""
        if self.deviation is None:
            return None
        return quantile(self.n - 1) * self.deviation / math.sqrt(self.n)

    @property
    def variance(self) -> float | None:
        """The squared standard error of the mean; None where it is not known."""
        if self.exact:
            return 0.0
        return None if self.deviation is None else self.deviation**2 / self.n


def quantile(freedom: float) -> float:
    """How many standard errors the 95 % interval reaches, with so many degrees of freedom."""
    return float(student.ppf(0.5 + CONFIDENCE / 2, freedom))


def differ(a: Estimate, b: Estimate) -> bool:
    """Whether the difference of two means is more than its 95 % interval (Welch's).

    Of single runs nothing is known, so they do not.
    """
    if a.variance is None or b.variance is None:
        return False
    variance = a.variance + b.variance
    if variance == 0:  # of a few runs that happen to be equal nothing is known
        return False
    # Welch and Satterthwaite's degrees of freedom.
    parts = [(e.variance, e.n) for e in (a, b) if e.variance and not e.exact]
    freedom = variance**2 / sum((v or 0.0) ** 2 / (n - 1) for v, n in parts)
    return abs(a.mean - b.mean) > quantile(freedom) * math.sqrt(variance)
