"""Means over seeds, their confidence intervals, and which differences are more than chance."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import stdtr, stdtrit  # a fraction of the seconds that scipy.stats takes to import

from ssl_zoo.evaluation.pairing import CONFIDENCE


@dataclass(frozen=True)
class Estimate:
    """The mean of several runs and its uncertainty.

    Attributes:
        mean: the mean over the runs.
        deviation: the sample standard deviation over the runs; None for a single run.
        n: the number of runs.
    """

    mean: float
    deviation: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        """Return the estimate from one value per run."""
        deviation = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.mean(values), deviation, len(values))

    @property
    def half_width(self) -> float | None:
        """Half of the 95 % confidence interval of the mean (Student's t); None for a single run."""
        if self.deviation is None:
            return None
        standard_errors = float(stdtrit(self.n - 1, 0.5 + CONFIDENCE / 2))
        return standard_errors * self.deviation / math.sqrt(self.n)


def differ(a: Estimate, b: Estimate) -> bool:
    """Return whether two means differ significantly, by Welch's t-test at the 5 % level.

    Return False for single runs and for equal runs, as their spread is unknown.
    """
    if a.deviation is None or b.deviation is None or a.deviation == b.deviation == 0:
        return False
    u, v = a.deviation**2 / a.n, b.deviation**2 / b.n  # the variances of the means
    degrees = (u + v) ** 2 / (u**2 / (a.n - 1) + v**2 / (b.n - 1))  # Welch and Satterthwaite
    return bool(2 * stdtr(degrees, -abs(a.mean - b.mean) / math.sqrt(u + v)) < 1 - CONFIDENCE)
