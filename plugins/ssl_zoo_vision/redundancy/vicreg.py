"""VICReg: embeddings of views are alike, each column varies, and columns do not vary together."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ssl_zoo.nn import covariance, full_precision, off_diagonal
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Encoder, Field, Losses
from ssl_zoo.views import Rng
from ssl_zoo_vision.joint_embedding import JointEmbedding
from ssl_zoo_vision.redundancy.expander import ExpanderOptions


def regularisers(z: Tensor) -> tuple[Tensor, Tensor]:
    """Return VICReg's v and c of embeddings over the joint batch (Bardes et al. 2021, equations 1-4).

    v = mean_d max(0, 1 - √(Var_d + 0.0001)) and c = Σ_{i≠j} Cov_ij² / D, both with N - 1.

    Args:
        z: embeddings [B, D] of this process, not normalised.
    """
    cov = covariance(z)  # [D, D]
    v = F.relu(1 - (cov.diagonal() + 1e-4).sqrt()).mean()
    return v, off_diagonal(cov).pow(2).sum() / z.shape[1]


class VICReg(JointEmbedding):
    """Variance, invariance and covariance of two views' embeddings.

    The weights are those of the authors' code, which halves the sum of both views' variance terms. The
    paper's equation 6 does not: it is ``variance=50``.
    """

    name = "vicreg"
    family = "redundancy"
    paper = "Bardes et al. 2021, VICReg: Variance-Invariance-Covariance, arXiv:2105.04906"
    passes = 2
    recipe = {"train": {"optimizer": "lars", "lr": 0.3, "weight_decay": 1e-6, "warmup": 0.1}}

    class Options(ExpanderOptions):
        """VICReg's options."""

        invariance: float = Field(25.0, ge=0, description="weight of the squared distance of views")
        variance: float = Field(
            25.0, ge=0, description="weight of the variance term, mean of both views"
        )
        covariance: float = Field(1.0, ge=0, description="weight of the covariance term, sum of both")

    def __init__(self, encoder: Encoder, options: Options, spec: ImageSpec) -> None:
        super().__init__(encoder, options, spec)
        self.head = options.expander(encoder, spec)
        self.pair = options.pair(spec)

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """Return two views [B, C, H, W] of images [B, C, h, w], from BYOL's two distributions."""
        return self.pair(batch, rng)

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        """Return the weighted sum of the three terms; 24.75 for constant embeddings."""
        z1, z2 = (full_precision(self.head(self.encoder(x))) for x in views)  # [B, out]
        (v1, c1), (v2, c2) = regularisers(z1), regularisers(z2)
        s, v, c = F.mse_loss(z1, z2), (v1 + v2) / 2, c1 + c2
        o = self.options
        total = o.invariance * s + o.variance * v + o.covariance * c
        return Losses(
            total, {"invariance": s.detach(), "variance": v.detach(), "covariance": c.detach()}
        )
