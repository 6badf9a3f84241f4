"""Gaussian codes: a head for mean and variance, and the divergence from the prior."""

from __future__ import annotations

from torch import Tensor, nn

from ssl_zoo.nn import full_precision


class GaussianCode(nn.Module):
    """A linear layer from features to the mean and the variance of a code's independent units.

    Args:
        width: the number of features, D.
        code: the number of units.
    """

    def __init__(self, width: int, code: int) -> None:
        super().__init__()
        self.code = code
        self.linear = nn.Linear(width, 2 * code)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return μ and log σ² [B, code] in float32, this within ±10, for features [B, D]."""
        mean, log_variance = full_precision(self.linear(features)).chunk(2, 1)
        return mean, log_variance.clamp(-10, 10)


def kl_from_standard(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return KL(N(μ, σ²) ‖ N(0, 1)) = ½(μ² + σ² - 1 - log σ²) of each unit, in nats.

    Source: Kingma & Welling 2013, arXiv:1312.6114, appendix B.

    Args:
        mean: μ, of any shape.
        log_variance: log σ², of the same shape.
    """
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
