"""The linear probe: logistic regression on frozen features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_zoo.evaluation.accuracy import accuracies, balanced_metric
from ssl_zoo.evaluation.classifier import Classifier
from ssl_zoo.evaluation.correctness import Correctness
from ssl_zoo.evaluation.features import Features
from ssl_zoo.evaluation.protocol import Metric, Protocol, Scores
from ssl_zoo.evaluation.subject import Subject

PENALTIES = (1e-2, 1e-3, 1e-4, 1e-5)
"""The L2 penalties to choose from on the held-out part, strongest first."""


@dataclass(frozen=True)
class Axes:
    """The principal axes of standardised features, in which logistic regression converges quickly.

    Attributes:
        mean: the mean of the features [D].
        std: the standard deviation of the features [D].
        basis: an axis per column [D, K], K ≤ min(N, D).
        variance: the variance of the standardised features along each axis [K].
    """

    mean: Tensor
    std: Tensor
    basis: Tensor
    variance: Tensor

    @classmethod
    def of(cls, x: Tensor) -> Axes:
        """Return the axes of features [N, D].

        With fewer samples than features there are at most N axes, those in which the samples differ. A
        penalised fit has no weight along any other, so it loses nothing, at the cost of N features.
        """
        std, mean = torch.std_mean(x, 0, correction=0)
        # A constant feature is not amplified to its rounding error.
        std = torch.where(std > 1e-5 * mean.abs(), std, 1.0)
        standard = (x - mean) / std
        if len(x) >= x.shape[1]:
            variance, basis = torch.linalg.eigh((standard.T @ standard / len(x)).cpu().double())
        else:
            rows = standard.cpu().double()
            variance, along = torch.linalg.eigh(rows @ rows.T / len(x))  # [N], [N, N]
            varies = variance > 1e-10 * variance.max()
            variance, along = variance[varies], along[:, varies]
            basis = rows.T @ along / (len(x) * variance).sqrt()
        variance = variance.clamp(min=0).to(x)
        return cls(mean, std, basis.to(x), variance)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the coordinates [N, K] of features [N, D]."""
        return ((x - self.mean) / self.std) @ self.basis


def fit_logistic(
    x: Tensor,
    y: Tensor,
    classes: int,
    penalty: float,
    start: Tensor | None = None,
    variance: Tensor | None = None,
    steps: int = 100,
) -> Tensor:
    """Fit multinomial logistic regression by L-BFGS.

    Minimise the mean cross entropy plus penalty / 2 · ‖W‖² (without the bias), which is
    scikit-learn's LogisticRegression with C = 1 / (penalty · N).

    Args:
        x: [N, D].
        y: [N] int64.
        classes: the number of classes.
        penalty: > 0.
        start: the initial weights, shaped like the result; None for zeros.
        variance: [D], of x; used to scale each column's weight by about its Newton step. This does not
            move the minimum, and takes a tenth of the iterations if columns are uncorrelated and differ
            much in variance.
        steps: the maximal number of iterations.

    Returns:
        [classes, D + 1], the bias in the last column.
    """
    scale = x.new_ones(x.shape[1] + 1)
    if variance is not None:
        # The cross entropy's curvature along a column is about its variance / classes.
        scale[:-1] = (variance / classes + penalty).rsqrt()
    weight = x.new_zeros(classes, x.shape[1] + 1) if start is None else start / scale
    weight.requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weight],
        max_iter=steps,
        tolerance_change=1e-6,
        history_size=10,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        scaled = weight * scale
        loss = F.cross_entropy(logits(scaled, x), y)
        loss = loss + penalty / 2 * scaled[:, :-1].pow(2).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weight.detach() * scale


def logits(weight: Tensor, x: Tensor) -> Tensor:
    """Return the logits [N, classes] of x [N, D] under a fit [classes, D + 1]."""
    return F.linear(x, weight[:, :-1], weight[:, -1])


def accuracy(weight: Tensor, x: Tensor, y: Tensor) -> float:
    """Return the accuracy of a fit [classes, D + 1] on x [N, D] with classes y [N], in percent."""
    return 100 * float((logits(weight, x).argmax(1) == y).float().mean())


def fit_chosen(
    whole: tuple[Tensor, Tensor],
    fit_on: tuple[Tensor, Tensor],
    classes: int,
    variance: Tensor,
    judge: Callable[[Tensor], float],
) -> Tensor:
    """Fit all samples with the one of `PENALTIES` that does best on held-out samples.

    Args:
        whole: x [N, D] and y [N].
        fit_on: the samples that are not held out, likewise.
        classes: the number of classes.
        variance: [D], of x.
        judge: scores a fit on the held-out samples; higher is better.

    Returns:
        [classes, D + 1], the bias in the last column.
    """
    # Each fit starts from that of the next stronger penalty, which is close.
    fits: dict[float, Tensor] = {}
    weight = None
    for penalty in PENALTIES:
        weight = fits[penalty] = fit_logistic(*fit_on, classes, penalty, weight, variance)
    best = max(fits, key=lambda penalty: judge(fits[penalty]))
    return fit_logistic(*whole, classes, best, fits[best], variance)


def fit_linear(features: Features, holdout: float = 0.1, seed: int = 0) -> tuple[Axes, Tensor]:
    """Fit logistic regression on the standardised features of the bank.

    The penalty is the one of `PENALTIES` that does best on a held-out part of the bank; the
    classifier is then fitted to the whole bank. The test split is not used for this choice.

    Args:
        features: the bank and the test split.
        holdout: the fraction of the bank that is held out.
        seed: the seed of the choice of held-out samples.

    Returns:
        The axes of the features, and the fit [classes, D + 1] in them.
    """
    axes = Axes.of(features.bank)
    x, y, classes = axes(features.bank), features.bank_labels, features.classes
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed)).to(x.device)
    held, rest = order.tensor_split([max(1, round(holdout * len(x)))])
    x_held, y_held = x[held], y[held]
    final = fit_chosen(
        (x, y), (x[rest], y[rest]), classes, axes.variance, lambda w: accuracy(w, x_held, y_held)
    )
    return axes, final


def linear_accuracy(features: Features) -> float:
    """Return the test accuracy of `fit_linear`, in percent."""
    axes, weight = fit_linear(features)
    return accuracy(weight, axes(features.test), features.test_labels)


def measure(subject: Subject) -> Scores:
    """Return the accuracies of the fit on the test split, in percent."""
    return accuracies("linear", _predicted(subject), subject.features.test_labels)


def correctness(subject: Subject) -> dict[str, Correctness]:
    """Return which samples of the test split the fit classifies correctly."""
    return {"linear": Correctness.of(_predicted(subject), subject.features.test_labels)}


def _predicted(subject: Subject) -> Tensor:
    axes, weight = subject.once(_fit)
    return logits(weight, axes(subject.features.test)).argmax(1)


def _fit(subject: Subject) -> tuple[Axes, Tensor]:
    return fit_linear(subject.features)


def classifier(subject: Subject) -> Classifier:
    """Return the fit as a classifier of features."""
    axes, weight = subject.once(_fit)
    in_features = weight[:, :-1] @ axes.basis.T
    return Classifier(axes.mean, axes.std, in_features, weight[:, -1])


LINEAR = Protocol(
    measure,
    {
        "linear": Metric(
            "linear %", "logistic regression (L-BFGS) on standardised frozen features of the train "
            f"split, the L2 penalty one of {', '.join(f'{p:g}' for p in PENALTIES)}, chosen on a tenth "
            "of the train split; accuracy on the test split",
        ),
        **balanced_metric("linear", "linear"),
    },
    classifier=classifier,
    correctness=correctness,
    standard=True,
)  # fmt: skip
