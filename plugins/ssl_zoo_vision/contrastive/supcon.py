"""SupCon: all views of a class attract each other; a baseline with labels."""

from __future__ import annotations

import torch
from torch import Tensor

from ssl_zoo.nn import mlp, sup_con, unit
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Encoder, Field, Losses
from ssl_zoo.views import Rng
from ssl_zoo_vision.augmentation import ViewOptions
from ssl_zoo_vision.joint_embedding import JointEmbedding


class SupCon(JointEmbedding):
    """All views of images of one class attract each other, those of other classes repel."""

    name = "supcon"
    family = "baseline"
    paper = "Khosla et al. 2020, Supervised Contrastive Learning, arXiv:2004.11362"
    passes = 2
    # The authors' rate is 0.5 at a batch of 1024.
    recipe = {"train": {"optimizer": "momentum", "lr": 0.125, "weight_decay": 1e-4}}
    needs = ("labels",)

    class Options(ViewOptions):
        """SupCon's options."""

        temperature: float = Field(0.1, gt=0, description="temperature τ")
        out: int = Field(128, ge=2, description="width of the embedding")
        crop_scale: tuple[float, float] = Field((0.2, 1.0), description="share of the image's area")

    def __init__(self, encoder: Encoder, options: Options, spec: ImageSpec) -> None:
        super().__init__(encoder, options, spec)
        self.head = mlp([encoder.width, encoder.width, options.out], norm=False)
        self.pair = options.pair(spec)

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """Return two views [B, C, H, W] of images [B, C, h, w], from one distribution."""
        return self.pair(batch, rng)

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        """Return L_out (equation 2) of both views' embeddings, given the labels [B]."""
        *images, labels = views
        z = unit(self.head(self.encoder(torch.cat(images))))  # [2B, out]
        return Losses(sup_con(z.chunk(2), labels, self.options.temperature))
