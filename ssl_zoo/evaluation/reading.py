"""From the scores of a run to a sentence that says what they mean."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ssl_zoo.evaluation.protocol import Scores

Z = 1.96
"""The quantile of the normal distribution for an interval of 95 %."""


def read_scores(scores: Mapping[str, Scores], n: int, noun: str) -> str | None:
    """Return what kNN says about a run: whether training has helped, has not, or cannot be told.

    A difference counts if it is larger than the 95 % interval of the difference of two shares of `n`
    samples each, by the normal approximation. That both are shares of the same samples is left out of
    account, so that the interval is rather too wide.

    Args:
        scores: the scores by row, the trained network's first.
        n: the number of samples in the test split; 0 if it is not known.
        noun: the plural noun for samples.

    Returns:
        A sentence or two; None if kNN was not measured on the trained network and another row, if it is
        no percentage, as in a file that was damaged, or if `n` is not known.
    """
    knn = [(values["knn"], row) for row, values in scores.items() if "knn" in values]
    if (
        n == 0
        or not all(0 <= value <= 100 for value, _ in knn)
        or len(knn) < 2
        or "knn" not in next(iter(scores.values()))
    ):
        return None
    (value, _), *others = knn
    reached, baseline = max(others)
    difference = value - reached
    chance = Z * math.sqrt(sum(p * (100 - p) for p in (value, reached)) / n)
    found = (
        f"by kNN {value:.1f} % of {n:,} {noun} are put into their class, and {reached:.1f} % by "
        f"{baseline}"
    )
    if difference > chance:
        return f"Training has helped: {found}."
    if difference < -chance:
        return (
            f"Training has not helped so far: {found}. A larger --epochs, another task or network may; "
            "ssl-zoo compare tells."
        )
    return (
        f"Training has made no difference that can be told: {found}, and chance alone makes "
        f"± {chance:.1f} points. More samples to evaluate on, or ssl-zoo compare, with several seeds, "
        "can tell."
    )
