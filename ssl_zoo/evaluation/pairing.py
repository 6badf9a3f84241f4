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
MIN_SAMPLES = 20
"""Independent samples of the test split below which nothing is concluded from an interval."""


@dataclass(frozen=True)
class Interval:
    """A mean, in percent or points of percent, and half of its confidence interval.

    Attributes:
        mean: the mean over draws and samples.
        half_width: half of the interval.
        at_limit: whether so few samples differ that `half_width` is the least for their number.
    """

    mean: float
    half_width: float
    at_limit: bool = False

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
    return _interval(c.correct.double(), c, confidence, widest=1.0)


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
    return _interval(a.correct.double() - b.correct.double(), a, confidence, widest=2.0)


def _interval(x: Tensor, c: Correctness, confidence: float, widest: float) -> Interval:
    """Return the mean of x [R, M] over R draws and M test samples, and half of its interval, times 100.

    The two are crossed: each draw is scored on each sample. The variance of the mean is that of the
    samples' means over the draws, divided by M, plus that of the effects of draws, which are the draws'
    means without the part of the variance that M samples cause (a crossed analysis of variance). Draws
    from one set of labels overlap: two of them have `share` of their labels in common, which is their
    correlation, so their mean varies by (1/R + share/(1 − share)) of their variance (Nadeau & Bengio
    2003, section 3). With all labels there is one draw, and the interval covers the test samples alone.

    Where samples are parts of groups, a group counts as one sample: the variance is that of the sums
    over groups (the linearised variance of a ratio, which is robust to clusters; Cochran 1977, chapter
    9A), and the degrees of freedom are those of the effective number of groups.

    Where nearly all samples or groups are alike, the variance is near 0 though there may be too few of
    them to exclude that others differ. Half of the interval is therefore at least −ln(1 − confidence),
    3 at 95 %, divided by their number, the upper limit of a share of which no case was seen (the rule
    of three; Hanley & Lippman-Hand 1983), times the share of those that are alike, so that it is no
    limit where all groups differ a little. It is at most `widest`, which covers all values.
    """
    mean, units = float(x.mean()), c.units
    if units < 2:
        return Interval(100 * mean, 100 * widest, at_limit=True)
    z = x - mean if c.groups is None else _of_groups(x - mean, c.groups)
    draws, number = z.shape
    by_unit, by_draw = z.mean(0), z.mean(1)
    of_units, of_draws = float(by_unit.var()) / number, 0.0
    if draws > 1:
        rest = z - by_unit - by_draw[:, None]
        noise = float(rest.square().sum()) / ((draws - 1) * (number - 1))
        effects = max(0.0, float(by_draw.var()) - noise / number)
        of_draws = effects * (1 / draws + c.share / (1 - c.share))
    variance = of_units + of_draws
    # Degrees of freedom of a sum of two variances, by Welch and Satterthwaite.
    inverse = of_units**2 / (units - 1) + of_draws**2 / max(1, draws - 1)
    degrees = variance**2 / inverse if inverse > 0 else units - 1
    half_width = float(stdtrit(degrees, 0.5 + confidence / 2)) * math.sqrt(variance)
    least = -math.log(1 - confidence) / units * _share_alike(x, c.groups)
    return Interval(100 * mean, 100 * min(max(half_width, least), widest), half_width < least)


def _of_groups(x: Tensor, groups: Tensor) -> Tensor:
    """Return the sums of x [R, M] over each of G groups, times G / M, so that means stay, as [R, G]."""
    number = int(groups.max()) + 1
    sums = x.new_zeros(len(x), number).index_add_(1, groups, x)
    return sums * (number / x.shape[1])


def _share_alike(x: Tensor, groups: Tensor | None) -> float:
    """Return the largest share of samples, or of groups, whose values in x [R, M] are all the same."""
    low, high = x.amin(0), x.amax(0)
    if groups is not None:
        start = x.new_zeros(int(groups.max()) + 1)
        low = start.scatter_reduce(0, groups, low, "amin", include_self=False)
        high = start.scatter_reduce(0, groups, high, "amax", include_self=False)
    constant = low[low == high]
    return float(constant.unique(return_counts=True)[1].max()) / len(low) if len(constant) else 0.0
