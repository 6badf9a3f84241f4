"""SimCLR: two views of an image attract, all other images of the batch repel."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ssl_zoo import distributed
from ssl_zoo.nn import mlp, nt_xent, unit
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Encoder, Field, Losses
from ssl_zoo.views import Rng
from ssl_zoo_vision.augmentation import SymmetricViewOptions, is_small
from ssl_zoo_vision.joint_embedding import JointEmbedding


class SimCLR(JointEmbedding):
    """Two augmented views of an image attract each other, all others in the batch repel."""

    name = "simclr"
    paper = "Chen et al. 2020, A Simple Framework for Contrastive Learning, arXiv:2002.05709"
    family = "contrastive"
    prerequisites = "batches of 256 or more"
    passes = 2
    recipe = {"train": {"optimizer": "lars", "lr": 0.3, "weight_decay": 1e-6, "warmup": 0.1}}

    class Options(SymmetricViewOptions):
        """SimCLR's options."""

        temperature: float | None = Field(
            None, gt=0, description="temperature τ; none: 0.1, or 0.5 up to 64 pixels"
        )
        hidden: int | None = Field(
            None, ge=1, description="hidden width of the head; none: the width of the features"
        )
        out: int = Field(128, ge=2, description="width of the embedding")
        decoupled: bool = Field(
            False, description="leave the positive out of the denominator (DCL, Yeh et al. 2021)"
        )

    def __init__(self, encoder: Encoder, options: Options, spec: ImageSpec) -> None:
        super().__init__(encoder, options, spec)
        self.head = mlp([encoder.width, options.hidden or encoder.width, options.out])
        self.temperature = options.temperature or (0.5 if is_small(spec) else 0.1)
        self.pair = options.pair(spec)

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """Return two views [B, C, H, W] of images [B, C, h, w], from one distribution."""
        return self.pair(batch, rng)

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        """Return NT-Xent, or DCL, of both views' embeddings, computed as one batch."""
        z = self.head(self.encoder(torch.cat(views)))  # [2B, out]
        z1, z2 = unit(z).chunk(2)
        loss = nt_xent(z1, z2, self.temperature, self.options.decoupled)
        if self.options.decoupled:  # which bounds no mutual information
            return Losses(loss)
        candidates = 2 * len(z1) * distributed.world_size() - 1
        return Losses(loss, {"mi_bound": math.log(candidates) - loss.detach()})
