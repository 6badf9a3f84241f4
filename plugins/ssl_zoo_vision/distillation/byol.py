"""BYOL: an online network predicts the output of a momentum copy for another view."""

from __future__ import annotations

from typing import cast

from torch import Tensor

from ssl_zoo.nn import Teacher, byol_loss, mlp, spread
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Encoder, Field, Losses
from ssl_zoo.views import Rng
from ssl_zoo_vision.augmentation import AsymmetricViewOptions, is_small
from ssl_zoo_vision.joint_embedding import JointEmbedding


class BYOL(JointEmbedding):
    """An online network predicts a momentum network's projection of another view; no negatives."""

    name = "byol"
    paper = "Grill et al. 2020, Bootstrap Your Own Latent, arXiv:2006.07733"
    family = "distillation"
    prerequisites = "batch norm"
    passes = 4
    recipe = {"train": {"optimizer": "lars", "lr": 0.2, "weight_decay": 1.5e-6, "warmup": 0.1}}

    class Options(AsymmetricViewOptions):
        """BYOL's options."""

        momentum: float | None = Field(
            None,
            ge=0,
            le=1,
            description="initial momentum of the target; none: 0.996, or 0.99 up to 64 pixels",
        )
        hidden: int = Field(4096, ge=1, description="hidden width of the projector and the predictor")
        out: int = Field(256, ge=2, description="width of the projection and the prediction")

    def __init__(self, encoder: Encoder, options: Options, spec: ImageSpec) -> None:
        super().__init__(encoder, options, spec)
        self.projector = mlp([encoder.width, options.hidden, options.out])
        self.predictor = mlp([options.out, options.hidden, options.out])
        small = is_small(spec)
        momentum = (0.99 if small else 0.996) if options.momentum is None else options.momentum
        self.target = Teacher(encoder, self.projector, start=momentum)
        self.pair = options.pair(spec)

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """Return two views [B, C, H, W] of images [B, C, h, w], from two distributions (appendix B)."""
        return self.pair(batch, rng)

    def compared(self, x: Tensor) -> Tensor:
        """Return the projections [B, out] of a view [B, C, H, W]."""
        return cast(Tensor, self.projector(self.encoder(x)))

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        """Return the loss of each view's prediction and the other's target projection, in [0, 8]."""
        predictions = [self.predictor(self.compared(x)) for x in views]  # [B, out]
        targets = [self.target(x) for x in views]  # [B, out], batch statistics
        loss = byol_loss(predictions[0], targets[1]) + byol_loss(predictions[1], targets[0])
        return Losses(loss, {"spread": spread(targets[0])})

    def after_step(self, progress: float) -> None:
        """Update the target network by a momentum that grows to 1 on a cosine (section 3.3)."""
        self.target.update(progress, self.encoder, self.projector)
