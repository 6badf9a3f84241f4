"""SparK: a convolutional network sees some cells of an image, and a decoder paints the others."""

from __future__ import annotations

from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from ssl_zoo.errors import Unsuitable
from ssl_zoo.nn import full_precision
from ssl_zoo.options import CropOptions
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Encoder, Field, Losses
from ssl_zoo.views import Rng
from ssl_zoo.views.masks import mask_of, random_places
from ssl_zoo_vision.augmentation import is_small
from ssl_zoo_vision.decoders import BlockDecoder, LateralDecoder, stages_by_size
from ssl_zoo_vision.masked.patch_task import PatchTask
from ssl_zoo_vision.patches import freeze_unreached, moments, normalised, take
from ssl_zoo_vision.transformers import FCMAE_ADAMW, MASKED_ADAMW, Recipe, with_train

MIN_CELLS = 4
"""The smallest number of cells along a side of an image."""


class SparK(PatchTask):
    """Cells are hidden from all convolutions, and painted from the maps of several stages."""

    name = "spark"
    paper = "Tian et al. 2023, Designing BERT for Convolutional Networks, arXiv:2301.03580"
    prerequisites = "a convolutional network"
    recipe = {
        "train": {**MASKED_ADAMW, "clip_norm": 5.0},
        "backbone": {"name": "resnet10_narrow", "stem_stride": 1},
        "data": {"image_size": 32},  # 4 × 4 cells
    }

    class Options(CropOptions):
        """SparK's options."""

        mask_ratio: float = Field(0.6, gt=0, lt=1, description="share of cells that are hidden")
        decoder: Literal["stages", "block"] = Field(
            "stages", description="a U-Net on all stages, or one block on the last (ConvNeXt V2's FCMAE)"
        )
        width: int | None = Field(
            None, ge=32, multiple_of=32, description="none: 768, 512 of a block, 128 up to 64 pixels"
        )
        crop_scale: tuple[float, float] | None = Field(
            None, description="share of the image's area; none: 0.67 to 1, or 0.2 to 1 with a block"
        )

    @classmethod
    def recipe_for(cls, options: Any) -> Recipe:
        """Return the recipe; FCMAE clips no gradient, and has a shorter memory of squares."""
        return with_train(cls.recipe, FCMAE_ADAMW if options.decoder == "block" else {})

    def __init__(self, encoder: Encoder, options: Options, spec: ImageSpec) -> None:
        block = options.decoder == "block"
        scale = options.crop_scale or (0.2 if block else 0.67, 1.0)
        super().__init__(encoder, options.model_copy(update={"crop_scale": scale}), spec)
        rows, columns = self.grid.shape
        if min(rows, columns) < MIN_CELLS:
            raise Unsuitable(
                f"data.image_size: {spec.height} × {spec.width} pixels are {rows} × {columns} cells; "
                f"choose --image-size {MIN_CELLS * max(self.grid.patch)}, or a network of smaller stride"
            )
        self.hidden = self.grid.share(options.mask_ratio)  # M
        self.stages, maps = zip(*stages_by_size(encoder, spec)[-1 if block else 0 :], strict=True)
        width = options.width or (128 if is_small(spec) else 512 if block else 768)
        self.decoder: nn.Module
        if block:
            self.decoder = BlockDecoder(maps[-1], self.grid.patch, spec.channels, width)
        else:
            self.decoder = LateralDecoder(maps, spec.size, spec.channels, width)
        freeze_unreached(encoder, spec, lambda network, x: network.stages(x, self.stages)[1][-1])

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """Return crops [B, C, H, W] and the hidden cells [B, M]."""
        return self.augment(batch, rng), random_places(len(batch), self.grid.places, self.hidden, rng)[1]

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        """Return the mean squared error of the normalised pixels of hidden cells."""
        target = normalised(take(self.grid.patches(views[0]), views[1]))  # [B, M, P]
        return Losses(F.mse_loss(self.predict(*views), target))

    def predict(self, x: Tensor, hidden: Tensor) -> Tensor:
        """Return the predictions [B, M, P] for the hidden cells."""
        mask = mask_of(hidden, self.grid.shape)  # [B, h, w]
        maps = self.encoder.stages(x, self.stages, mask)[1]
        return full_precision(take(self.grid.patches(self.decoder(maps, mask)), hidden))

    def hidden_places(self, views: tuple[Tensor, ...]) -> Tensor:
        """Return the hidden cells [B, M]."""
        return views[1]

    def answers(self, views: tuple[Tensor, ...]) -> Tensor:
        """Return the painted cells [B, M, P], with their true mean and deviation."""
        mean, deviation = moments(take(self.grid.patches(views[0]), views[1]))
        return self.predict(*views) * deviation + mean
