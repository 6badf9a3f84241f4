"""Estimators of mutual information from a critic's scores, to be maximised.

A critic T scores pairs (x, y): positive pairs from the joint distribution, negative pairs from the
product of the marginals. Logarithms are natural, so information is in nats.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def log_mean_exp(scores: Tensor) -> Tensor:
    """Return the logarithm of E[e^T] over all scores, of any shape.

    For sets of equal size, it can be applied to each set and then to the results.
    """
    return scores.flatten().logsumexp(0) - math.log(scores.numel())


def jsd(positive: Tensor, negative: Tensor) -> Tensor:
    """Return E⁺[-softplus(-T)] - E⁻[softplus(T)] (Hjelm et al. 2018, equation 4).

    This bounds not the mutual information but the Jensen-Shannon divergence of the joint distribution
    and the product of marginals: it is at most 2 JSD - log 4, attained by T = log p(x, y) / p(x) p(y).

    Args:
        positive: scores of any shape.
        negative: scores of any shape.

    Returns:
        A scalar in nats, below 0; -log 4 for T = 0.
    """
    return -F.softplus(-positive).mean() - F.softplus(negative).mean()


def info_nce(positive: Tensor, negative: Tensor) -> Tensor:
    """Return log(K + 1) + E[T⁺ - log Σ e^T], summing over a positive and its K negatives (equation 5).

    It is a lower bound of the mutual information, also in expectation over samples, if a positive and
    its negatives pair the same x with the y of K + 1 independent samples (van den Oord et al. 2018,
    arXiv:1807.03748, appendix A.1). It is at most log(K + 1).

    Args:
        positive: [B, ...].
        negative: [B, K, ...]; dimension 1 has the negatives of a positive.

    Returns:
        A scalar in nats, at most log(K + 1).
    """
    scores = torch.cat([positive.unsqueeze(1), negative], 1)  # [B, 1 + K, ...]
    return math.log(scores.shape[1]) - (scores.logsumexp(1) - positive).mean()


def donsker_varadhan(positive: Tensor, negative: Tensor) -> Tensor:
    """Return E⁺[T] - log E⁻[e^T] (Hjelm et al. 2018, equation 2; Belghazi et al. 2018, equation 10).

    It is a lower bound of the mutual information for expectations over the distributions, and for a T
    that does not depend on the sample. Over a sample, the second term is biased low, so the value is
    biased high, by about Var[e^T] / (2 K E[e^T]²) for K independent negatives.

    Args:
        positive: scores of any shape.
        negative: scores of any shape.

    Returns:
        A scalar in nats; 0 for constant T.
    """
    return positive.mean() - log_mean_exp(negative)


class DonskerVaradhan(nn.Module):
    """The `donsker_varadhan` objective with MINE's correction of the gradient.

    The gradient of the second term is E⁻[e^T ∇T] / E⁻[e^T], which is biased if both means are over
    the same few samples. The denominator is therefore a moving average over previous steps (Belghazi
    et al. 2018, section 3.2). The value is that of the batch.

    Args:
        decay: the decay of the moving average, in (0, 1).

    Attributes:
        log_average: the logarithm of the moving average; -∞ before the first step.
    """

    log_average: Tensor
    latest: Tensor | None = None

    def __init__(self, decay: float = 0.99) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("log_average", torch.tensor(-math.inf))

    def forward(self, positive: Tensor, negative: Tensor) -> Tensor:
        """Return the objective, a scalar in nats, for scores of any shape."""
        log_mean = log_mean_exp(negative)
        self.latest = own = log_mean.detach()
        average = torch.where(self.log_average.isinf(), own, self.log_average)
        # Replaces the batch's mean in the denominator of the naive gradient.
        corrected = (own - average).exp() * (log_mean - own)
        return positive.mean() - (own + corrected)

    @torch.no_grad()
    def after_step(self) -> None:
        """Update the moving average by the batch of the step."""
        if self.latest is None:
            return
        moved = torch.logaddexp(
            self.log_average + math.log(self.decay), self.latest + math.log(1 - self.decay)
        )
        self.log_average.copy_(torch.where(self.log_average.isinf(), self.latest, moved))
        self.latest = None
