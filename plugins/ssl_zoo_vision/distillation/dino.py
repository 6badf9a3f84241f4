"""DINO: a student matches the centred and sharpened output of its momentum teacher for other crops."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_zoo.nn import Centre, Prototypes, Teacher, across, by_size, mlp, schedule
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Encoder, Field, Losses
from ssl_zoo.views import Rng
from ssl_zoo_vision.augmentation import AsymmetricViewOptions, MultiCropOptions, is_small
from ssl_zoo_vision.joint_embedding import JointEmbedding
from ssl_zoo_vision.transformers import ADAMW


class DINO(JointEmbedding):
    """A student sees all crops of an image and matches its teacher's output for the large ones."""

    name = "dino"
    paper = "Caron et al. 2021, Emerging Properties in Self-Supervised ViTs, arXiv:2104.14294"
    family = "distillation"
    passes = 4
    any_size = True
    recipe = {"train": {**ADAMW, "lr": 5e-4}}
    paper_outputs, paper_momentum, paper_local, paper_large = 65536, 0.996, 8, (0.4, 1.0)

    class Options(MultiCropOptions, AsymmetricViewOptions):
        """DINO's options."""

        prototypes: int | None = Field(
            None, ge=2, description="number K of outputs; none: the paper's, or 1024 up to 64 pixels"
        )
        hidden: int = Field(2048, ge=1, description="hidden width of the head")
        out: int = Field(256, ge=2, description="width of the head before its last layer")
        train_gain: bool = Field(False, description="train the last layer's gain, not fix it at 1")
        temperature: float = Field(0.1, gt=0, description="temperature of the student")
        teacher_start: float = Field(0.04, gt=0, description="initial temperature of the teacher")
        teacher_end: float = Field(0.07, gt=0, description="its temperature after 30 % of training")
        momentum: float | None = Field(
            None, gt=0, le=1, description="initial momentum; none: the paper's, or 0.99 up to 64 pixels"
        )
        freeze_last: float = Field(0.01, ge=0, lt=1, description="share of training, last layer fixed")
        crop_scale: tuple[float, float] | None = Field(None, description="large crop; none: the paper's")
        local_scale: tuple[float, float] = Field((0.05, 0.4), description="area of a small crop")

    def __init__(self, encoder: Encoder, options: Options, spec: ImageSpec) -> None:
        super().__init__(encoder, options, spec)
        widths = [encoder.width, options.hidden, options.hidden, options.out]
        self.head = mlp(widths, norm=False, act=nn.GELU, std=0.02)
        outputs = options.prototypes or (1024 if is_small(spec) else self.paper_outputs)
        self.prototypes = Prototypes(options.out, outputs, options.train_gain)
        momentum = options.momentum or (0.99 if is_small(spec) else self.paper_momentum)
        self.teacher = Teacher(encoder, self.head, self.prototypes, start=momentum)
        self.centre = Centre(outputs)
        self.crops = options.multi_crop(spec, encoder, self.paper_local, self.paper_large)

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """Return two large crops and the small ones, each [B, C, s, s]."""
        return self.crops(batch, rng)

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        """Return the cross entropy of crops and the teacher's other large crops; log K if collapsed."""
        scores = self.teacher(torch.cat(views[:2]))  # [2B, K]
        self.centre.note(scores)
        return self.matched(self.targets(scores, self.centre), by_size(self.encoder, views))

    def targets(self, scores: Tensor, centre: Centre) -> Tensor:
        """Return the targets [N, K] of the teacher's scores [N, K], centred and sharpened."""
        return F.softmax(centre(scores) / self.teacher_temperature, dim=-1)

    def matched(self, targets: Tensor, features: list[Tensor]) -> Losses:
        """Return the loss of all crops' features [B, D], the large ones' first (equation 3)."""
        z = self.head(torch.cat(features)).chunk(len(features))  # [B, out] for each crop
        loss = across(targets.chunk(2), z, self.options.temperature, self.scores)
        return Losses(loss, {"target_entropy": torch.special.entr(targets).sum(1).mean()})

    def scores(self, z: Tensor) -> Tensor:
        """Return the scores [N, K] of the head's output [N, out]."""
        return cast(Tensor, self.prototypes(z, self.progress >= self.options.freeze_last))

    def compared(self, x: Tensor) -> Tensor:
        """Return the teacher's centred scores [B, K]; without the centre all images look alike."""
        return cast(Tensor, self.centre(self.teacher(x)))

    @property
    def teacher_temperature(self) -> float:
        """The temperature of the teacher at this step."""
        start, end = self.options.teacher_start, self.options.teacher_end
        return schedule(start, end, self.progress, "linear", share=0.3)

    def after_step(self, progress: float) -> None:
        """Update the centre, and the teacher by a momentum that grows to 1 on a cosine."""
        self.centre.update()
        self.teacher.update(progress, self.encoder, self.head, self.prototypes)

    @property
    def exported_encoder(self) -> Encoder:
        """The teacher's encoder, which is better than the student's (section 5.1)."""
        return cast(Encoder, self.teacher[0])
