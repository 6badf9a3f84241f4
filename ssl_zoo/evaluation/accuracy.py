"""Accuracy, and balanced accuracy where classes differ in size."""

from __future__ import annotations

from torch import Tensor

from ssl_zoo.evaluation.protocol import Metric

IMBALANCE = 2.0
"""Balanced accuracy is shown if the largest class is more than this many times the smallest one."""


def accuracy(predicted: Tensor, labels: Tensor) -> float:
    """Return the share of predictions int64 [M] that are equal to the labels int64 [M], in percent."""
    return 100 * int((predicted == labels).sum()) / len(labels)


def balanced_accuracy(predicted: Tensor, labels: Tensor) -> float:
    """Return the mean of the accuracies on each class that has samples, in percent."""
    counts = labels.bincount()
    correct = labels[predicted == labels].bincount(minlength=len(counts))
    return 100 * float((correct[counts > 0] / counts[counts > 0]).mean())


def accuracies(name: str, predicted: Tensor, labels: Tensor) -> dict[str, float]:
    """Return the accuracy as ``NAME``; where classes differ much in size, also ``NAME_balanced``.

    Args:
        name: the name of the metric.
        predicted: the predicted classes of the test split, int64 [M].
        labels: its classes, int64 [M].
    """
    scores = {name: accuracy(predicted, labels)}
    counts = labels.bincount()
    if counts.max() > IMBALANCE * counts[counts > 0].min():
        scores[f"{name}_balanced"] = balanced_accuracy(predicted, labels)
    return scores


def balanced_metric(name: str, title: str) -> dict[str, Metric]:
    """Return the description of the score ``NAME_balanced`` of `accuracies`, by its name."""
    how = "the same classifier's accuracy on each class, averaged over classes; given where the test "
    how += f"split's largest class has more than {IMBALANCE:g} times the samples of its smallest"
    return {f"{name}_balanced": Metric(f"{title} balanced %", how)}
