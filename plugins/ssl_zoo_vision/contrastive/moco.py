"""MoCo: a query is matched to its key among a queue of keys from a momentum encoder."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from ssl_zoo import distributed
from ssl_zoo.nn import FeatureQueue, Teacher, info_nce, mlp, shuffled_groups, unit
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Encoder, Field, Losses
from ssl_zoo.views import Rng
from ssl_zoo_vision.augmentation import ViewOptions, is_small
from ssl_zoo_vision.joint_embedding import JointEmbedding


class MoCo(JointEmbedding):
    """A query is matched to its key among a queue of keys from a momentum encoder.

    Keys are shuffled over the joint batch and normalised in groups (section 3.3, "shuffling BN").
    """

    name = "moco"
    paper = "He et al. 2019, 2020, Momentum Contrast (v1, v2), arXiv:1911.05722, arXiv:2003.04297"
    family = "contrastive"
    passes = 2
    recipe = {
        "train": {
            "optimizer": "momentum",
            "lr": 0.03,
            "weight_decay": 1e-4,
            "momentum": 0.9,
            "warmup": 0.0,
        }
    }

    class Options(ViewOptions):
        """MoCo's options; the defaults are those of v2.

        For v1, set temperature=0.07, head=linear, blur_p=0, jitter=[0.4, 0.4, 0.4, 0.4], jitter_p=1.
        """

        temperature: float = Field(0.2, gt=0, description="temperature τ")
        momentum: float | None = Field(
            None, ge=0, le=1, description="momentum of keys; none: 0.999, or 0.99 up to 64 pixels"
        )
        queue: int | None = Field(
            None, ge=1, description="number of negatives; none: 65536, or 4096 up to 64 pixels"
        )
        head: Literal["mlp", "linear"] = Field(
            "mlp", description="mlp: head of MoCo v2; linear: head of MoCo v1"
        )
        out: int = Field(128, ge=2, description="width of the embedding")
        symmetric: bool = Field(False, description="use each view once as query and once as key")
        key_groups: int = Field(2, ge=1, description="groups in which keys are batch-normalised")
        crop_scale: tuple[float, float] = Field((0.2, 1.0), description="share of the image's area")

    def __init__(self, encoder: Encoder, options: Options, spec: ImageSpec) -> None:
        super().__init__(encoder, options, spec)
        small = is_small(spec)
        widths = [encoder.width, options.out]
        self.head = mlp(widths if options.head == "linear" else [encoder.width, *widths], norm=False)
        momentum = (0.99 if small else 0.999) if options.momentum is None else options.momentum
        self.key_encoder = Teacher(
            encoder, self.head, start=momentum, end=momentum, local_batchnorm=True
        )
        self.queue = FeatureQueue(options.queue or (4096 if small else 65536), options.out)
        self.pair = options.pair(spec)

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """Return two views [B, C, H, W] and a permutation [N] of the joint batch."""
        shuffle = rng.permutation(len(batch) * distributed.world_size())
        return *self.pair(batch, rng), shuffle

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        """Return InfoNCE of the queries against their keys and the queue from before this step."""
        view_1, view_2, shuffle = views
        pairs = [(view_1, view_2), (view_2, view_1)] if self.options.symmetric else [(view_1, view_2)]
        loss = torch.stack([self.contrast(*pair, shuffle) for pair in pairs]).mean()
        candidates = len(self.queue.features) + 1
        return Losses(loss, {"mi_bound": math.log(candidates) - loss.detach()})

    def contrast(self, query_view: Tensor, key_view: Tensor, shuffle: Tensor) -> Tensor:
        """Return InfoNCE of the queries of one view [B, C, H, W], and note the keys of the other."""
        q = unit(self.head(self.encoder(query_view)))  # [B, out]
        keys = shuffled_groups(self.key_encoder, key_view, shuffle, self.options.key_groups)
        k = unit(keys)  # [B, out]
        self.queue.note(k)
        return info_nce(q, k, self.queue.features, self.options.temperature)

    def after_step(self, progress: float) -> None:
        """Update the key encoder by momentum, and replace the oldest negatives by the new keys."""
        self.key_encoder.update(progress, self.encoder, self.head)
        self.queue.update()
