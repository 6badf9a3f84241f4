"""MSN: partly hidden and small crops are assigned to prototypes as the teacher assigns a whole one."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from ssl_zoo import distributed
from ssl_zoo.nn import Prototypes, Teacher, by_size, mlp, output_shape, sinkhorn, soft_cross_entropy
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Encoder, Field, Losses
from ssl_zoo.views import Rng
from ssl_zoo.views.masks import mask_of, random_places
from ssl_zoo_vision.augmentation import MultiCropOptions, is_small
from ssl_zoo_vision.joint_embedding import JointEmbedding
from ssl_zoo_vision.transformers import ADAMW, VIT


def mean_entropy_gap(p: Tensor) -> Tensor:
    """Return log K - H(mean p) ≥ 0 of distributions [N, K], the mean over the joint batch's rows."""
    n = len(p) * distributed.world_size()
    mean = distributed.sum(p.sum(0)) / n  # [K]
    return cast(Tensor, math.log(len(mean)) - torch.special.entr(mean).sum())


class MSN(JointEmbedding):
    """Partly hidden crops have the teacher's assignments of another crop; prototypes are used alike."""

    name = "msn"
    paper = "Assran et al. 2022, Masked Siamese Networks, arXiv:2204.07141"
    family = "distillation"
    passes = 2
    any_size = True
    masked_views = (1,)
    recipe = {"train": {**ADAMW, "lr": 1e-3, "lr_scaling": "none"}, "backbone": VIT}

    class Options(MultiCropOptions):
        """MSN's options."""

        prototypes: int = Field(1024, ge=2, description="number K of prototypes")
        hidden: int = Field(2048, ge=1, description="hidden width of the head")
        out: int = Field(256, ge=2, description="width of the head's output")
        temperature: float = Field(0.1, gt=0, description="temperature τ of the assignments")
        sharpening: float = Field(0.25, gt=0, le=1, description="T; targets are raised to 1/T")
        entropy_weight: float = Field(1.0, ge=0, description="weight λ of the mean entropy")
        mask_ratio: float = Field(0.15, ge=0, lt=1, description="share of patches to leave out")
        momentum: float | None = Field(
            None, ge=0, le=1, description="initial momentum; none: 0.996, or 0.99 up to 64 pixels"
        )
        crop_scale: tuple[float, float] = Field((0.3, 1.0), description="area of a large crop")
        local_scale: tuple[float, float] = Field((0.05, 0.3), description="area of a small crop")

    def __init__(self, encoder: Encoder, options: Options, spec: ImageSpec) -> None:
        super().__init__(encoder, options, spec)
        self.head = mlp([encoder.width, options.hidden, options.hidden, options.out], act=nn.GELU)
        self.prototypes = Prototypes(options.out, options.prototypes)
        start = (0.99 if is_small(spec) else 0.996) if options.momentum is None else options.momentum
        # To 1 on a line over 1.25 times the run, as in the authors' code.
        self.target = Teacher(encoder, self.head, start=start, end=1 - (1 - start) / 5, kind="linear")
        self.rows, self.columns = output_shape(encoder, encoder.feature_map, spec)[2:]
        self.crops = options.multi_crop(spec, encoder, local=10)

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """Return the target's crop, the masked one and small ones [B, C, s, s], and masks [B, h, w]."""
        places = self.rows * self.columns
        hidden = random_places(len(batch), places, round(self.options.mask_ratio * places), rng)[1]
        return *self.crops(batch, rng), mask_of(hidden, (self.rows, self.columns))

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        """Return the cross entropy of all anchors with the target, and the prototypes' uneven use."""
        whole, masked, *small, mask = views
        tau, targets = self.options.temperature, self.targets(whole)  # [B, K]
        features = [self.encoder.pooled_and_map(masked, mask)[0], *by_size(self.encoder, small)]
        scores = self.prototypes(self.head(torch.cat(features)))  # [A · B, K], A anchors
        ce = soft_cross_entropy(targets.repeat(len(features), 1), scores, tau)
        gap = mean_entropy_gap((scores / tau).softmax(1))
        logs = {"cross_entropy": ce.detach(), "entropy_gap": gap.detach()}
        return Losses(ce + self.options.entropy_weight * gap, logs)

    def targets(self, x: Tensor) -> Tensor:
        """Return the teacher's assignments [B, K] of crops, sharpened and balanced."""
        scores = self.prototypes(self.target(x), trained=False) / self.options.temperature
        return sinkhorn((scores / self.options.sharpening).log_softmax(1))

    def after_step(self, progress: float) -> None:
        """Update the target network."""
        self.target.update(progress, self.encoder, self.head)

    @property
    def exported_encoder(self) -> Encoder:
        """The target's encoder, as in the authors' evaluation."""
        return cast(Encoder, self.target[0])

    def no_weight_decay(self) -> set[str]:
        """Return the parameters without weight decay, beside vectors: the prototypes."""
        return {"prototypes.weight"}
