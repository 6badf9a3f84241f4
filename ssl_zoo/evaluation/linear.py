"""The linear probe: logistic regression on frozen features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_zoo import distributed
from ssl_zoo.evaluation import shares
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

        Several processes give their shares [n, D] of the features and get the same axes; their
        covariance is summed over shares.

        With fewer samples than features there are at most N axes, those in which the samples differ. A
        penalised fit has no weight along any other, so it loses nothing, at the cost of N features. Then
        the samples, at most D of them, are gathered.
        """
        _, samples = shares.place(x)
        std, mean = _std_mean(x, samples)
        # A constant feature is not amplified to its rounding error.
        std = torch.where(std > 1e-5 * mean.abs(), std, 1.0)
        standard = (x - mean) / std
        if samples >= x.shape[1]:
            covariance = shares.total(standard.T @ standard) / samples
            variance, basis = torch.linalg.eigh(covariance.cpu().double())
        else:
            rows = shares.gather(standard).cpu().double()
            variance, along = torch.linalg.eigh(rows @ rows.T / samples)  # [N], [N, N]
            varies = variance > 1e-10 * variance.max()
            variance, along = variance[varies], along[:, varies]
            basis = rows.T @ along / (samples * variance).sqrt()
        variance = variance.clamp(min=0).to(x)
        # Another processor may give an axis the other sign.
        return cls(mean, std, shares.of_first(basis.to(x)), shares.of_first(variance))

    def __call__(self, x: Tensor) -> Tensor:
        """Return the coordinates [N, K] of features [N, D]."""
        return ((x - self.mean) / self.std) @ self.basis


def _std_mean(x: Tensor, samples: int) -> tuple[Tensor, Tensor]:
    """Return the standard deviation and the mean of `samples` features, of which x [n, D] is a share."""
    if distributed.world_size() == 1:
        std, mean = torch.std_mean(x, 0, correction=0)
        return std, mean
    mean = shares.total(x.sum(0)) / samples
    return (shares.total((x - mean).square().sum(0)) / samples).sqrt(), mean


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

    Several processes give their shares. Loss and gradient are summed over these at each iteration, so
    that all processes take the same steps and get the same fit.

    Args:
        x: [N, D]; of several processes, each gives its share [n, D].
        y: [N] int64, likewise.
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
    _, samples = shares.place(x)

    def closure() -> Tensor:
        optimizer.zero_grad()
        scaled = weight * scale
        loss = F.cross_entropy(logits(scaled, x), y, reduction="sum") / samples
        loss = loss + penalty / 2 / distributed.world_size() * scaled[:, :-1].pow(2).sum()
        loss.backward()
        assert weight.grad is not None
        summed = shares.total(torch.cat([weight.grad.flatten(), loss.detach()[None]]))
        weight.grad.copy_(summed[:-1].view_as(weight))
        return summed[-1]

    optimizer.step(closure)
    return weight.detach() * scale


def logits(weight: Tensor, x: Tensor) -> Tensor:
    """Return the logits [N, classes] of x [N, D] under a fit [classes, D + 1]."""
    return F.linear(x, weight[:, :-1], weight[:, -1])


def accuracy(weight: Tensor, x: Tensor, y: Tensor) -> float:
    """Return the accuracy of a fit [classes, D + 1] on x [N, D] with classes y [N], in percent.

    Several processes give their shares of x and y, and get the accuracy on all.
    """
    correct = (logits(weight, x).argmax(1) == y).sum()
    correct, samples = shares.total(torch.stack([correct, correct.new_tensor(len(y))]))
    return 100 * int(correct) / int(samples)


def fit_chosen(
    whole: tuple[Tensor, Tensor],
    fit_on: tuple[Tensor, Tensor],
    classes: int,
    variance: Tensor,
    judge: Callable[[Tensor], float],
) -> Tensor:
    """Fit all samples with the one of `PENALTIES` that does best on held-out samples.

    Args:
        whole: x [N, D] and y [N], or this process's share.
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
        features: the bank and the test split, or this process's shares of them.
        holdout: the fraction of the bank that is held out.
        seed: the seed of the choice of held-out samples.

    Returns:
        The axes of the features, and the fit [classes, D + 1] in them.
    """
    axes = Axes.of(features.bank)
    x, y, classes = axes(features.bank), features.bank_labels, features.classes
    first, samples = shares.place(x)
    order = torch.randperm(samples, generator=torch.Generator().manual_seed(seed))
    held, rest = (
        (part[(part >= first) & (part < first + len(x))] - first).to(x.device)
        for part in order.tensor_split([max(1, round(holdout * samples))])
    )
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
    return accuracies("linear", subject.once(_predicted), subject.test_labels)


def correctness(subject: Subject) -> dict[str, Correctness]:
    """Return which samples of the test split the fit classifies correctly."""
    return {"linear": Correctness.of(subject.once(_predicted), subject.test_labels)}


def _predicted(subject: Subject) -> Tensor:
    axes, weight = subject.once(_fit)
    predicted = logits(weight, axes(subject.test_share)).argmax(1)
    with subject.together():
        return shares.gather(predicted)


def _fit(subject: Subject) -> tuple[Axes, Tensor]:
    share = subject.share
    with subject.together():
        return fit_linear(share)


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
