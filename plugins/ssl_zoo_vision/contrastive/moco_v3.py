"""MoCo v3: a predicted query is matched to its key among the momentum encoder's keys of the batch."""

from __future__ import annotations

import math
from typing import cast

from torch import Tensor

from ssl_zoo import distributed
from ssl_zoo.nn import Teacher, info_nce, mlp, unit
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Encoder, Field, Losses
from ssl_zoo.views import Rng
from ssl_zoo_vision.augmentation import AsymmetricViewOptions, is_small
from ssl_zoo_vision.joint_embedding import JointEmbedding


class MoCoV3(JointEmbedding):
    """A predicted query is matched to its key among the keys of the batch; there is no queue.

    The projection of a transformer's patches keeps its random start (section 4, "a trick").
    """

    name = "moco-v3"
    family = "contrastive"
    prerequisites = "batches of 256 or more"
    paper = (
        "Chen et al. 2021, An Empirical Study of Training Self-Supervised Vision Transformers, "
        "arXiv:2104.02057"
    )
    passes = 4
    recipe = {"train": {"optimizer": "lars", "lr": 0.3, "weight_decay": 1e-6, "warmup": 0.1}}

    class Options(AsymmetricViewOptions):
        """MoCo v3's options, and the recipe, are those for a ResNet.

        For a transformer, also set train.optimizer=adamw, train.lr=1.5e-4 and train.weight_decay=0.1.
        """

        temperature: float | None = Field(
            None,
            gt=0,
            description="temperature τ; none: 1, or 0.2 for a transformer and up to 64 pixels",
        )
        momentum: float = Field(0.99, ge=0, le=1, description="initial momentum of the key encoder")
        hidden: int = Field(4096, ge=1, description="hidden width of the projector and the predictor")
        out: int = Field(256, ge=2, description="width of the projection and the prediction")
        layers: int | None = Field(
            None, ge=1, description="layers of the projector; none: 2, or 3 for a transformer"
        )
        freeze_patches: bool = Field(
            True, description="leave a transformer's patch projection at its random start"
        )
        crop_scale: tuple[float, float] = Field((0.2, 1.0), description="share of the image's area")

    def __init__(self, encoder: Encoder, options: Options, spec: ImageSpec) -> None:
        super().__init__(encoder, options, spec)
        vit = encoder.embed_width is not None
        hidden = [options.hidden] * ((options.layers or (3 if vit else 2)) - 1)
        self.projector = mlp([encoder.width, *hidden, options.out], last_norm=True)
        widths = [options.out, options.hidden, options.out]
        self.predictor = mlp(widths, last_norm=vit, bias=False)
        self.temperature = options.temperature or (0.2 if vit or is_small(spec) else 1.0)
        if vit and options.freeze_patches:
            for name, parameter in encoder.named_parameters():
                if "patch_embed." in name:
                    parameter.requires_grad_(False)
        self.key_encoder = Teacher(encoder, self.projector, start=options.momentum)
        self.pair = options.pair(spec)

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """Return two views [B, C, H, W] of images [B, C, h, w], from two distributions."""
        return self.pair(batch, rng)

    def compared(self, x: Tensor) -> Tensor:
        """Return the projections [B, out] of a view [B, C, H, W]."""
        return cast(Tensor, self.projector(self.encoder(x)))

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        """Return 2τ times InfoNCE of each view's queries and the other's keys (algorithm 1)."""
        tau = self.temperature
        queries = [self.predictor(self.compared(x)) for x in views]  # [B, out]
        q1, q2 = (unit(q) for q in queries)
        k1, k2 = (unit(self.key_encoder(x)) for x in views)
        loss = info_nce(q1, k2, None, tau) + info_nce(q2, k1, None, tau)
        candidates = len(q1) * distributed.world_size()
        return Losses(2 * tau * loss, {"mi_bound": math.log(candidates) - loss.detach() / 2})

    def after_step(self, progress: float) -> None:
        """Update the key encoder by a momentum that grows to 1 on a cosine."""
        self.key_encoder.update(progress, self.encoder, self.projector)
