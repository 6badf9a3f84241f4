"""SimSiam: a network predicts its own output for another view, which gets no gradient."""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor

from ssl_zoo.nn import full_precision, mlp, spread
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Encoder, Field, Losses
from ssl_zoo.views import Rng
from ssl_zoo_vision.augmentation import ViewOptions, is_small
from ssl_zoo_vision.joint_embedding import JointEmbedding


def negative_cosine(p: Tensor, z: Tensor) -> Tensor:
    """Return D(p, z) = -cos(p, z), with no gradient for z (Chen & He 2020, equations 1 and 3).

    Args:
        p: predictions [B, D].
        z: projections of the other view [B, D].

    Returns:
        The mean over B, in [-1, 1].
    """
    return -F.cosine_similarity(full_precision(p), full_precision(z.detach()), dim=1).mean()


class SimSiam(JointEmbedding):
    """A network predicts its own projection of another view; no negatives and no momentum."""

    name = "simsiam"
    family = "distillation"
    prerequisites = "batch norm"
    paper = "Chen & He 2020, Exploring Simple Siamese Representation Learning, arXiv:2011.10566"
    passes = 2
    recipe = {
        "train": {
            "optimizer": "momentum",
            "lr": 0.05,
            "weight_decay": 1e-4,
            "momentum": 0.9,
            "warmup": 0.0,
        }
    }

    class Options(ViewOptions):
        """SimSiam's options."""

        layers: int | None = Field(
            None, ge=1, description="layers of the projector; none: 3, or 2 up to 64 pixels"
        )
        out: int = Field(2048, ge=2, description="width of the projection and the prediction")
        hidden: int = Field(512, ge=1, description="hidden width of the predictor")
        crop_scale: tuple[float, float] = Field((0.2, 1.0), description="share of the image's area")

    def __init__(self, encoder: Encoder, options: Options, spec: ImageSpec) -> None:
        super().__init__(encoder, options, spec)
        layers = options.layers or (2 if is_small(spec) else 3)
        self.projector = mlp([encoder.width] * layers + [options.out], last_norm=True)
        self.predictor = mlp([options.out, options.hidden, options.out])
        self.pair = options.pair(spec)

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """Return two views [B, C, H, W] of images [B, C, h, w], from one distribution."""
        return self.pair(batch, rng)

    def compared(self, x: Tensor) -> Tensor:
        """Return the projections [B, out] of a view [B, C, H, W]."""
        return cast(Tensor, self.projector(self.encoder(x)))

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        """Return the mean of D(p₁, z₂) and D(p₂, z₁), in [-1, 1]; near -1 at once is a collapse."""
        z1, z2 = (self.compared(x) for x in views)  # [B, out]
        p1, p2 = self.predictor(z1), self.predictor(z2)  # [B, out]
        loss = (negative_cosine(p1, z2) + negative_cosine(p2, z1)) / 2
        return Losses(loss, {"spread": spread(z1)})

    def lr_constant(self, parameter: str) -> bool:
        """Return whether a parameter is the predictor's, whose rate does not decay (section 4.2)."""
        return parameter.startswith("predictor.")
