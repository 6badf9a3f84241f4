"""NNCLR: the nearest neighbour of a view, among earlier embeddings, attracts the other view."""

from __future__ import annotations

from typing import cast

from torch import Tensor

from ssl_zoo.nn import FeatureQueue, info_nce, mlp, unit
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Encoder, Field, Losses
from ssl_zoo.views import Rng
from ssl_zoo_vision.augmentation import SymmetricViewOptions, is_small
from ssl_zoo_vision.joint_embedding import JointEmbedding


class NNCLR(JointEmbedding):
    """The nearest neighbour of a view, in a queue of earlier embeddings, attracts the other view."""

    name = "nnclr"
    family = "contrastive"
    paper = "Dwibedi et al. 2021, With a Little Help from My Friends, arXiv:2104.14548"
    passes = 2
    recipe = {"train": {"optimizer": "lars", "lr": 0.3, "weight_decay": 1e-6, "warmup": 0.1}}

    class Options(SymmetricViewOptions):
        """NNCLR's options."""

        temperature: float = Field(0.1, gt=0, description="temperature τ")
        queue: int | None = Field(
            None,
            ge=1,
            description="number of embeddings to choose from; none: 98304, or 4096 up to 64 pixels",
        )
        hidden: int = Field(2048, ge=1, description="hidden width of the projector")
        predictor: int = Field(4096, ge=1, description="hidden width of the predictor")
        out: int = Field(256, ge=2, description="width of the projection and the prediction")

    def __init__(self, encoder: Encoder, options: Options, spec: ImageSpec) -> None:
        super().__init__(encoder, options, spec)
        widths = [encoder.width, options.hidden, options.hidden, options.out]
        self.projector = mlp(widths, last_norm=True)
        self.predictor = mlp([options.out, options.predictor, options.out])
        self.queue = FeatureQueue(options.queue or (4096 if is_small(spec) else 98304), options.out)
        self.pair = options.pair(spec)

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """Return two views [B, C, H, W] of images [B, C, h, w], from one distribution."""
        return self.pair(batch, rng)

    def compared(self, x: Tensor) -> Tensor:
        """Return the projections [B, out] of a view [B, C, H, W]."""
        return cast(Tensor, self.projector(self.encoder(x)))

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        """Return InfoNCE of each view's neighbours and the other's predictions (equations 3 and 4)."""
        projections = [self.compared(x) for x in views]  # [B, out]
        predictions = [self.predictor(z) for z in projections]  # [B, out]
        z1, z2 = (unit(z) for z in projections)
        p1, p2 = (unit(p) for p in predictions)
        nn1, nn2 = self.queue.nearest(z1), self.queue.nearest(z2)  # [B, out]
        self.queue.note(z1)
        tau = self.options.temperature
        loss = (info_nce(nn1, p2, None, tau) + info_nce(nn2, p1, None, tau)) / 2
        # The cosine of an embedding and its neighbour: near 1 once the queue holds similar images.
        return Losses(loss, {"neighbour": (z1.detach() * nn1).sum(1).mean()})

    def after_step(self, progress: float) -> None:
        """Replace the oldest embeddings of the queue by the first views' (section 3.2)."""
        self.queue.update()
