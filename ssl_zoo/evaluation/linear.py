"""The linear classifier on frozen features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_zoo.evaluation.features import Features

PENALTIES = (1e-2, 1e-3, 1e-4, 1e-5)
"""The strengths of regularisation among which the held-out part chooses, strongest first."""


def fit_logistic(
    x: Tensor,
    y: Tensor,
    classes: int,
    penalty: float,
    start: Tensor | None = None,
    steps: int = 100,
) -> Tensor:
    """Multinomial logistic regression by L-BFGS.

    Minimises the mean cross entropy plus penalty / 2 · ‖W‖² (the bias is free), which is
    scikit-learn's LogisticRegression with C = 1 / (penalty · N).

    Args:
        x: [N, D].
        y: [N] int64.
        classes: the number of classes.
        penalty: ≥ 0.
        start: what a return value looks like, from where to go on; None: zeros.
        steps: the largest number of iterations.

    Returns:
        [classes, D + 1], the bias in the last column.
    """
    weight = x.new_zeros(classes, x.shape[1] + 1) if start is None else start.clone()
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
        loss = F.cross_entropy(_logits(weight, x), y)
        loss = loss + penalty / 2 * weight[:, :-1].pow(2).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weight.detach()


def _logits(weight: Tensor, x: Tensor) -> Tensor:
    return F.linear(x, weight[:, :-1], weight[:, -1])


def _accuracy(weight: Tensor, x: Tensor, y: Tensor) -> float:
    return 100 * float((_logits(weight, x).argmax(1) == y).float().mean())


def linear_accuracy(features: Features, holdout: float = 0.1, seed: int = 0) -> float:
    """Logistic regression on standardised features, in percent on the test split.

    The regularisation is the one of `PENALTIES` that does best on a held-out part of the bank; the
    classifier is then fitted to the whole bank. The test split decides nothing.

    Args:
        features: the bank and the test split.
        holdout: the share of the bank that is held out.
        seed: which part is held out.
    """
    mean, std = features.bank.mean(0), features.bank.std(0).clamp(min=1e-6)
    bank, test = (features.bank - mean) / std, (features.test - mean) / std
    y = features.bank_labels
    order = torch.randperm(len(bank), generator=torch.Generator().manual_seed(seed)).to(bank.device)
    held, kept = order.tensor_split([max(1, round(holdout * len(bank)))])
    x_kept, y_kept, x_held, y_held = bank[kept], y[kept], bank[held], y[held]

    # Each fit goes on from the one of the next stronger penalty, which is near.
    fits: dict[float, Tensor] = {}
    weight = None
    for penalty in PENALTIES:
        weight = fits[penalty] = fit_logistic(x_kept, y_kept, features.classes, penalty, weight)
    best = max(fits, key=lambda penalty: _accuracy(fits[penalty], x_held, y_held))
    return _accuracy(
        fit_logistic(bank, y, features.classes, best, fits[best]), test, features.test_labels
    )
