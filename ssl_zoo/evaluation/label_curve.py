"""The linear probe by number of labels: its accuracy for a few, and for more, labels a class."""

from __future__ import annotations

import torch
from torch import Tensor

from ssl_zoo.evaluation.correctness import Correctness
from ssl_zoo.evaluation.features import Features
from ssl_zoo.evaluation.linear import Axes, fit_logistic, logits
from ssl_zoo.evaluation.lowshot import draw
from ssl_zoo.evaluation.protocol import Metric, Protocol, Scores
from ssl_zoo.evaluation.subject import Subject
from ssl_zoo.notices import Notice

COUNTS = (1, 5, 10, 50)
"""The numbers of labels a class; those are measured whose draws have at most half of all labels."""
CURVE_DRAWS = 20
"""The number of draws of labelled samples, the same for all subjects on the same data."""
MAX_SHARE = 0.5
"""The largest share of all labels in a draw, so that draws differ."""
NAME = "labels_{}"
"""The name of a metric, with the number of labels a class."""

_LEFT_OUT = Notice(
    "label-counts",
    "The curve of accuracy against the number of labels ends where a draw would have more than half of "
    "all labels.",
    "more labelled samples",
)


def measured_counts(labels: Tensor) -> dict[int, float]:
    """Return the numbers of labels a class that are measured, with the share of all labels in a draw.

    Args:
        labels: the labels of the bank, int64 [N].
    """
    sizes = labels.bincount()
    shares = {count: int(sizes.clamp(max=count).sum()) / len(labels) for count in COUNTS}
    return {count: share for count, share in shares.items() if share <= MAX_SHARE}


def label_curve(features: Features) -> dict[str, Correctness]:
    """Return the correctness of logistic regression for each number of labels a class, by metric.

    The penalty is 1 / m for m samples (scikit-learn's default, C = 1), as there are no samples to
    choose it on. Features are standardised over the whole bank, which needs no labels.
    """
    axes = Axes.of(features.bank)
    bank, test = axes(features.bank), axes(features.test)
    curve = {}

    def correct(count: int, seed: int) -> Tensor:
        known = draw(features.bank_labels, lambda n: count, seed).to(bank.device)
        x, y = bank[known], features.bank_labels[known]
        weight = fit_logistic(x, y, features.classes, 1 / len(x), variance=axes.variance)
        return (logits(weight, test).argmax(1) == features.test_labels).cpu()

    for count, share in measured_counts(features.bank_labels).items():
        rows = [correct(count, seed) for seed in range(CURVE_DRAWS)]
        curve[NAME.format(count)] = Correctness(torch.stack(rows), share)
    return curve


def correctness(subject: Subject) -> dict[str, Correctness]:
    """Return the curve of a subject."""
    return subject.once(_curve)


def _curve(subject: Subject) -> dict[str, Correctness]:
    return label_curve(subject.features)


def measure(subject: Subject) -> Scores:
    """Return the mean accuracy over the draws, for each number of labels a class, in percent."""
    curve = correctness(subject)
    if unmeasured := [count for count in COUNTS if NAME.format(count) not in curve]:
        labelled = f"{len(subject.features.bank_labels):,} labelled {subject.data.spec.noun}"
        numbers = ", ".join(map(str, unmeasured))
        _LEFT_OUT(f"{labelled} to learn from are too few to draw {numbers} a class at random")
    return {name: c.accuracy for name, c in curve.items()}


LABEL_CURVE = Protocol(
    measure,
    {
        NAME.format(count): Metric(
            f"{count} a class %",
            f"logistic regression (penalty 1 / samples) on {count} "
            f"label{'s' if count > 1 else ''} a class (all of a smaller class), the mean over "
            f"{CURVE_DRAWS} fixed draws; accuracy on the test split",
        )
        for count in COUNTS
    },
    correctness=correctness,
)
