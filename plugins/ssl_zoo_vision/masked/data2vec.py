"""data2vec: at hidden places, predict what a momentum teacher makes of the whole image."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_zoo.errors import Unsuitable, UserError
from ssl_zoo.nn import Teacher, full_precision, layer_normalised, output_shape, places_of, spread
from ssl_zoo.options import CropOptions
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Encoder, Field, Losses
from ssl_zoo_vision.augmentation import is_small
from ssl_zoo_vision.masked.token_task import TokenTask
from ssl_zoo_vision.patches import take
from ssl_zoo_vision.transformers import MASKED_ADAMW, MASKED_VIT


class Data2Vec(TokenTask):
    """A student predicts the mean of its teacher's last blocks at the places hidden from it."""

    name = "data2vec"
    paper = "Baevski et al. 2022, data2vec: A General Framework, arXiv:2202.03555"
    prerequisites = "a ViT"
    passes = 2
    recipe = {"train": {**MASKED_ADAMW, "clip_norm": 3.0}, "backbone": MASKED_VIT}

    class Options(CropOptions):
        """data2vec's options."""

        layers: int | None = Field(
            None,
            ge=1,
            description="last blocks of the teacher to average; none: 6, or 2 if it has fewer",
        )
        mask_ratio: float = Field(0.612, gt=0, lt=1, description="share of hidden patches; 120 of 196")
        momentum: tuple[float, float] | None = Field(
            None,
            description="momentum of the teacher, which rises linearly in the first 30 % of training; "
            "none: from 0.999 to 0.9998, or from 0.99 to 0.999 up to 64 pixels; the paper's is 0.9998 "
            "throughout, which leaves the first network in the teacher of a run of few thousand steps",
        )
        beta: float = Field(2.0, gt=0, description="error up to which the smooth L1 loss is quadratic")

    def __init__(self, encoder: Encoder, options: Options, spec: ImageSpec) -> None:
        super().__init__(encoder, options, spec, options.mask_ratio)
        small = is_small(spec)
        try:
            shape = self._shape_of_last(encoder, options.layers or 6)
        except UserError as error:
            if options.layers is not None:
                raise UserError(f"task.layers: {error}; choose fewer") from error
            shape = self._shape_of_last(encoder, 2)
        if shape[1:] != (self.grid.width, *self.grid.shape):
            reason = "its last blocks have maps of several sizes"
            raise Unsuitable(f"backbone.name: {reason}; choose --backbone vit_small_patch16_224")
        start, end = options.momentum or ((0.99, 0.999) if small else (0.999, 0.9998))
        self.teacher = Teacher(encoder, start=start, end=end, kind="linear", share=0.3)
        self.head = nn.Linear(self.grid.width, self.grid.width)

    def _shape_of_last(self, encoder: Encoder, layers: int) -> tuple[int, ...]:
        """Average so many last blocks, and return the shape [1, d, h, w] of the first one's map."""
        self.last = range(-layers, 0)
        return output_shape(encoder, lambda x: encoder.stages(x, self.last)[1][0], self.spec)

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        """Return the smooth L1 loss over hidden places, and the spread of the student's features."""
        x, hidden = views
        z = self.encode(x, hidden)  # [B, M, d]
        target = take(self.targets(x), hidden)  # [B, M, d]
        predicted = full_precision(self.head(z))
        loss = F.smooth_l1_loss(predicted, target, beta=self.options.beta)
        return Losses(loss, {"spread": spread(z.mean(1))})

    @torch.no_grad()
    def targets(self, x: Tensor) -> Tensor:
        """Return the normalised mean [B, N, d] of the teacher's normalised last blocks (section 3.3)."""
        _, maps = cast(Encoder, self.teacher[0]).stages(x, self.last)  # [B, d, h, w] each
        blocks = [layer_normalised(places_of(block)) for block in maps]
        return layer_normalised(torch.stack(blocks).mean(0))

    def after_step(self, progress: float) -> None:
        """Update the teacher."""
        self.teacher.update(progress, self.encoder)

    def answers(self, views: tuple[Tensor, ...]) -> Tensor:
        """Return the patches [B, M, P] whose targets are nearest to the predictions."""
        x, hidden = views
        predicted = full_precision(self.head(self.encode(x, hidden)))
        return self.nearest_patches(x, predicted, self.targets(x))
