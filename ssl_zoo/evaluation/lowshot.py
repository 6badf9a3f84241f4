"""The linear probe with few labels."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
from torch import Tensor

from ssl_zoo.evaluation.features import Features
from ssl_zoo.evaluation.linear import Axes, accuracy, fit_logistic
from ssl_zoo.evaluation.protocol import Metric, Protocol, Scores
from ssl_zoo.evaluation.subject import Subject

DRAWS = 5
"""The number of fixed draws of labelled samples."""

FEW: dict[str, tuple[str, Callable[[int], int]]] = {
    "lowshot_1pct": ("1 %", lambda n: round(0.01 * n)),
    "lowshot_10pct": ("10 %", lambda n: round(0.1 * n)),
    "lowshot_5": ("5 a class", lambda n: 5),
}
"""The title of each metric, and the number of known labels (at least 1) of a class of n samples."""


def draw(labels: Tensor, count: Callable[[int], int], seed: int) -> Tensor:
    """Draw the indices [m] of the samples whose labels are known, at random within each class.

    Args:
        labels: [N] int64.
        count: maps the size of a class to its number of known labels; at least one is known.
        seed: the seed of the draw.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = labels.cpu()
    order = torch.randperm(len(labels), generator=generator)
    chosen = []
    for label in labels.unique():
        members = order[labels[order] == label]
        chosen.append(members[: max(1, count(len(members)))])
    return torch.cat(chosen)


def lowshot_accuracies(features: Features, count: Callable[[int], int]) -> list[float]:
    """Return the accuracy of logistic regression on the samples of each draw, in percent.

    The penalty is 1 / m for m samples (scikit-learn's default, C = 1), as there are no samples to
    choose it on. Features are standardised over the whole bank, which needs no labels.
    """
    axes = Axes.of(features.bank)
    test = axes(features.test)
    results = []
    for seed in range(DRAWS):
        known = draw(features.bank_labels, count, seed).to(features.bank.device)
        x, y = axes(features.bank[known]), features.bank_labels[known]
        weight = fit_logistic(x, y, features.classes, 1 / len(x), variance=axes.variance)
        results.append(accuracy(weight, test, features.test_labels))
    return results


def measure(subject: Subject) -> Scores:
    """Return the mean and standard deviation over the draws, for each number of labels."""
    scores = {}
    for name, (_, count) in FEW.items():
        results = lowshot_accuracies(subject.features, count)
        scores[name] = statistics.mean(results)
        scores[f"{name}_sd"] = statistics.stdev(results)
    return scores


LOWSHOT = Protocol(
    measure,
    {
        name: metric
        for name, (title, _) in FEW.items()
        for name, metric in (
            (
                name,
                Metric(
                    f"{title} %" if title[-1] != "%" else f"{title} labels",
                    f"logistic regression (penalty 1 / samples) on {title} of the labels, the mean "
                    f"over {DRAWS} fixed draws; accuracy on the test split",
                ),
            ),
            (f"{name}_sd", Metric(f"± {title}", "standard deviation over the draws", None)),
        )
    },
)
