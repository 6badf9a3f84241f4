"""Barlow Twins: the correlation of two views' embeddings is pushed towards the identity."""

from __future__ import annotations

from torch import Tensor

from ssl_zoo.nn import cross_correlation, off_diagonal
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Encoder, Field, Losses
from ssl_zoo.views import Rng
from ssl_zoo_vision.augmentation import is_small
from ssl_zoo_vision.joint_embedding import JointEmbedding
from ssl_zoo_vision.redundancy.expander import ExpanderOptions


def barlow_twins_loss(z1: Tensor, z2: Tensor, lam: float = 0.0051) -> Tensor:
    """Return Σ_i (1 - C_ii)² + λ Σ_{i≠j} C_ij² (Zbontar et al. 2021, equation 1).

    C is the correlation of the two views' columns over the joint batch. Scaling and shifting a column
    changes nothing.

    Args:
        z1: embeddings of the first views [B, D].
        z2: embeddings of the second views [B, D], in the same order.
        lam: λ, the weight of the elements off the diagonal; λ · D is best kept about constant.

    Returns:
        The loss, the same in all processes: D for constant embeddings, 0 for equal views whose columns
        are uncorrelated.
    """
    c = cross_correlation(z1, z2)  # [D, D]
    return (c.diagonal() - 1).pow(2).sum() + lam * off_diagonal(c).pow(2).sum()


class BarlowTwins(JointEmbedding):
    """Two views' embeddings correlate in each column, and different columns do not."""

    name = "barlow-twins"
    family = "redundancy"
    paper = "Zbontar et al. 2021, Barlow Twins, arXiv:2103.03230"
    passes = 2
    recipe = {"train": {"optimizer": "lars", "lr": 0.4, "weight_decay": 1e-6, "warmup": 0.1}}

    class Options(ExpanderOptions):
        """Barlow Twins' options."""

        lam: float | None = Field(
            None, ge=0, description="weight λ of redundancy; none: 0.0051, or 0.005 up to 64 pixels"
        )
        # 0.0048 against 0.2 for weights in the authors' code, both with LARS.
        bias_rate: float = Field(
            0.024, ge=0, description="factor on the rate of biases and norms; 1 for optimisers but LARS"
        )

    def __init__(self, encoder: Encoder, options: Options, spec: ImageSpec) -> None:
        super().__init__(encoder, options, spec)
        lam = 0.005 if is_small(spec) else 0.0051
        self.lam = lam if options.lam is None else options.lam
        self.head = options.expander(encoder, spec)
        self.pair = options.pair(spec)

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """Return two views [B, C, H, W] of images [B, C, h, w], from BYOL's two distributions."""
        return self.pair(batch, rng)

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        """Return the loss of two views' embeddings, in [0, ~D]."""
        z1, z2 = (self.head(self.encoder(x)) for x in views)  # [B, out], batch statistics of each view
        return Losses(barlow_twins_loss(z1, z2, self.lam))

    def lr_scale(self, parameter: str) -> float:
        """Return the factor on the rate of a parameter: `bias_rate` for biases and norms."""
        return self.options.bias_rate if self.get_parameter(parameter).ndim == 1 else 1.0
