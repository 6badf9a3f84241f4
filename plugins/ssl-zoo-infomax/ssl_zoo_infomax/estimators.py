"""Estimates of mutual information from a critic's scores, each of which is to be maximised.

A critic T scores pairs (x, y): positive ones, drawn together, and negative ones, drawn apart. The
logarithms are natural, so information is in nats.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def log_mean_exp(scores: Tensor) -> Tensor:
    """The logarithm of E[e^T] over all of the scores, which may have any shape.

    Of sets of equal size it may be taken of each set, and then of the results.
    """
    return scores.flatten().logsumexp(0) - math.log(scores.numel())


def jsd(positive: Tensor, negative: Tensor) -> Tensor:
    """E⁺[-softplus(-T)] - E⁻[softplus(T)] (Hjelm et al. 2018, equation 4).

    No bound of the mutual information, but one of the Jensen-Shannon divergence of joint distribution
    and product of marginals: at most 2 JSD - log 4, which the best T, log p(x, y) / p(x) p(y), reaches.

    Args:
        positive: scores of any shape.
        negative: scores of any shape.

    Returns:
        A scalar in nats, below 0; -log 4 where T is 0.
    """
    return -F.softplus(-positive).mean() - F.softplus(negative).mean()


def info_nce(positive: Tensor, negative: Tensor) -> Tensor:
    """log(K + 1) + E[T⁺ - log Σ e^T], the sum over a positive score and its K negatives (equation 5).

    A lower bound of the mutual information, on average over samples too, if a positive and its negatives
    pair one and the same x with the y of K + 1 independent samples (van den Oord et al. 2018,
    arXiv:1807.03748, appendix A.1). It cannot tell more than log(K + 1).

    Args:
        positive: [B, ...].
        negative: [B, K, ...]; a positive competes with those in dimension 1.

    Returns:
        A scalar in nats, at most log(K + 1).
    """
    scores = torch.cat([positive.unsqueeze(1), negative], 1)  # [B, 1 + K, ...]
    return math.log(scores.shape[1]) - (scores.logsumexp(1) - positive).mean()


def donsker_varadhan(positive: Tensor, negative: Tensor) -> Tensor:
    """E⁺[T] - log E⁻[e^T] (Hjelm et al. 2018, equation 2; Belghazi et al. 2018, equation 10).

    A lower bound of the mutual information for expectations over the distributions, and a T that does
    not follow from the sample. Over a sample the second term is too small on average, so that the value
    lies above the bound, by about Var[e^T] / (2 K E[e^T]²) for K independent negatives.

    Args:
        positive: scores of any shape.
        negative: scores of any shape.

    Returns:
        A scalar in nats; 0 where T is constant.
    """
    return positive.mean() - log_mean_exp(negative)


class DonskerVaradhan(nn.Module):
    """`donsker_varadhan` for training, with MINE's correction of the gradient.

    The gradient of the second term is E⁻[e^T ∇T] / E⁻[e^T], and biased where both means are of the
    same few samples. So the denominator is a moving average over the steps before this one (Belghazi
    et al. 2018, section 3.2). The value is the batch's own.

    Args:
        decay: of the moving average, in (0, 1).

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
        """Scores of any shape to a scalar in nats."""
        log_mean = log_mean_exp(negative)
        self.latest = own = log_mean.detach()
        average = torch.where(self.log_average.isinf(), own, self.log_average)
        # The naive gradient has the batch's own mean in the denominator.
        corrected = (own - average).exp() * (log_mean - own)
        return positive.mean() - (own + corrected)

    @torch.no_grad()
    def after_step(self) -> None:
        """The average follows the batch that the step was made of."""
        if self.latest is None:
            return
        moved = torch.logaddexp(
            self.log_average + math.log(self.decay), self.latest + math.log(1 - self.decay)
        )
        self.log_average.copy_(torch.where(self.log_average.isinf(), self.latest, moved))
        self.latest = None
