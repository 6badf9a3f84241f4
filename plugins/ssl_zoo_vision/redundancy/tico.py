"""TiCo: views are alike, and embeddings avoid the directions in which earlier ones lay."""

from __future__ import annotations

import torch
from torch import Tensor

from ssl_zoo import distributed
from ssl_zoo.nn import DeferredUpdate, Teacher, mlp, unit
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Encoder, Field, Losses
from ssl_zoo.views import Rng
from ssl_zoo_vision.augmentation import AsymmetricViewOptions
from ssl_zoo_vision.joint_embedding import JointEmbedding


class SecondMoment(DeferredUpdate):
    """The moving average C ← β · C + (1 - β) · zᵀz / N of embeddings (Zhu et al. 2022, equation 4).

    Args:
        width: the width of the embeddings.
        momentum: β; C [width, width] is 0 at first.
    """

    moment: Tensor

    def __init__(self, width: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("moment", torch.zeros(width, width))

    @torch.no_grad()
    def forward(self, z: Tensor) -> Tensor:
        """Return C with the joint batch of z [B, width], unit rows, in it; noted, without gradient."""
        batch = distributed.sum(z.T @ z) / (len(z) * distributed.world_size())
        self.note(batch)
        return self.moment.lerp(batch.to(self.moment.dtype), 1 - self.momentum)

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the mean of what was noted, which is the same in all processes."""
        if self._notes:
            batch = torch.stack([moment for (moment,) in self._notes]).mean(0)
            self.moment.lerp_(batch.to(self.moment.dtype), 1 - self.momentum)
        self.clear()


def tico_loss(z1: Tensor, z2: Tensor, c: Tensor, rho: float = 8.0) -> Tensor:
    """Return 1 - mean z₁·z₂ + ρ · mean z₁ᵀCz₁ (Zhu et al. 2022, equation 6).

    Args:
        z1: embeddings of the first views [B, D], unit rows, which alone get a gradient.
        z2: the teacher's embeddings of the second views [B, D], unit rows, without gradient.
        c: the second moment C [D, D] with this batch in it, without gradient.
        rho: ρ, the weight of the covariance contrast.
    """
    return 1 - (z1 * z2).sum(1).mean() + rho * ((z1 @ c) * z1).sum(1).mean()


class TiCo(JointEmbedding):
    """Transformation invariance and covariance contrast, against a momentum teacher."""

    name = "tico"
    family = "redundancy"
    paper = "Zhu et al. 2022, TiCo: Transformation Invariance and Covariance, arXiv:2206.10698"
    passes = 2
    recipe = {"train": {"optimizer": "lars", "lr": 0.2, "weight_decay": 1.5e-6, "warmup": 0.1}}

    class Options(AsymmetricViewOptions):
        """TiCo's options."""

        rho: float = Field(8.0, ge=0, description="weight ρ of the covariance contrast")
        beta: float = Field(0.9, ge=0, lt=1, description="momentum β of the second moment")
        momentum: float = Field(0.99, ge=0, le=1, description="initial momentum of the teacher")
        hidden: int = Field(4096, ge=1, description="hidden width of the head")
        out: int = Field(256, ge=2, description="width of the embedding")

    def __init__(self, encoder: Encoder, options: Options, spec: ImageSpec) -> None:
        super().__init__(encoder, options, spec)
        self.head = mlp([encoder.width, options.hidden, options.out])
        self.teacher = Teacher(encoder, self.head, start=options.momentum)
        self.moment = SecondMoment(options.out, options.beta)
        self.pair = options.pair(spec)

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """Return two views [B, C, H, W] of images [B, C, h, w], from BYOL's two distributions."""
        return self.pair(batch, rng)

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        """Return the loss of the student's first view and the teacher's second, at least 0."""
        z1 = unit(self.head(self.encoder(views[0])))  # [B, out]
        z2 = unit(self.teacher(views[1]))
        with torch.autocast(z1.device.type, enabled=False):
            return Losses(tico_loss(z1, z2, self.moment(z1), self.options.rho))

    def after_step(self, progress: float) -> None:
        """Update the teacher by a momentum that grows to 1 on a cosine, and keep the second moment."""
        self.teacher.update(progress, self.encoder, self.head)
        self.moment.update()
