"""Intervals for accuracies of one run each, over draws of labels and samples of the test split.

Rows are scored on the same draws and the same test samples, so differences are taken in
pairs. The interval of a mean covers other labels and other test samples, not other seeds of training.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.special import stdtrit
from torch import Tensor

from ssl_zoo.evaluation.correctness import Correctness

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean, in percent or points of percent, and half of its confidence interval.

    Attributes:
        mean: the mean over draws and samples.
        half_width: half of the interval.
    """

    mean: float
    half_width: float

    @property
    def positive(self) -> bool:
        """True if the whole interval lies above 0."""
        return self.mean > self.half_width

    @property
    def low(self) -> float:
        """The lower end."""
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        """The upper end."""
        return self.mean + self.half_width

    def __str__(self) -> str:
        """Return such as "4.1 ± 1.2"."""
        return f"{self.mean:.1f} ± {self.half_width:.1f}"


def accuracy_interval(c: Correctness, confidence: float = CONFIDENCE) -> Interval:
    """Return the mean accuracy and its interval, in percent."""
    return _interval(c.correct.double(), c.share, confidence)


def difference_interval(a: Correctness, b: Correctness, confidence: float = CONFIDENCE) -> Interval:
    """Return how much higher the accuracy of `a` is than that of `b`, in points of percent.

    Args:
        a: the correctness of one row.
        b: that of another row, for the same draws and test samples.
        confidence: of the interval.

    Raises:
        ValueError: the draws or the samples are not the same.
    """
    if a.correct.shape != b.correct.shape or a.share != b.share:
        raise ValueError(f"draws differ: {list(a.correct.shape)} and {list(b.correct.shape)}")
    return _interval(a.correct.double() - b.correct.double(), a.share, confidence)


def _interval(x: Tensor, share: float, confidence: float) -> Interval:
    """Return the mean of x [R, M] over R draws and M test samples, and half of its interval, times 100.

    The two are crossed: each draw is scored on each sample. The variance of the mean is that of the
    samples' means over the draws, divided by M, plus that of the effects of draws, which are the draws'
    means without the part of the variance that M samples cause (a crossed analysis of variance). Draws
    from one set of labels overlap: two of them have `share` of their labels in common, which is their
    correlation, so their mean varies by (1/R + share/(1 − share)) of their variance (Nadeau & Bengio
    2003, section 3). With all labels there is one draw, and the interval covers the test samples alone.
    """
    draws, samples = x.shape
    if samples < 2:
        return Interval(100 * float(x.mean()), math.inf)
    by_sample, by_draw = x.mean(0), x.mean(1)
    of_samples, of_draws = float(by_sample.var()) / samples, 0.0
    if draws > 1:
        rest = x - by_sample - by_draw[:, None] + x.mean()
        noise = float(rest.square().sum()) / ((draws - 1) * (samples - 1))
        effects = max(0.0, float(by_draw.var()) - noise / samples)
        of_draws = effects * (1 / draws + share / (1 - share))
    variance = of_samples + of_draws
    # Degrees of freedom of a sum of two variances, by Welch and Satterthwaite.
    inverse = of_samples**2 / (samples - 1) + of_draws**2 / max(1, draws - 1)
    degrees = variance**2 / inverse if inverse > 0 else samples - 1
    quantile = float(stdtrit(degrees, 0.5 + confidence / 2))
    return Interval(100 * float(x.mean()), 100 * quantile * math.sqrt(variance))
