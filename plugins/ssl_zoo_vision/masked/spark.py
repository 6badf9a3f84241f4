"""SparK: a convolutional network sees some cells of an image, and a decoder paints the others."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_zoo.errors import UserError
from ssl_zoo.nn import full_precision
from ssl_zoo.options import CropOptions
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Encoder, Field, Losses
from ssl_zoo.views import Rng
from ssl_zoo.views.masks import mask_of, random_places
from ssl_zoo_vision.decoders import BlockDecoder, LateralDecoder
from ssl_zoo_vision.masked.patch_task import PatchTask
from ssl_zoo_vision.patches import freeze_unreached, moments, normalised, take
from ssl_zoo_vision.transformers import MASKED_ADAMW

MIN_CELLS = 4
"""The smallest number of cells along a side of an image."""


class SparK(PatchTask):
    """Cells are hidden from all convolutions, and painted from the maps of several stages."""

    name = "spark"
    paper = "Tian et al. 2023, Designing BERT for Convolutional Networks, arXiv:2301.03580"
    prerequisites = "a convolutional network"
    recipe = {"train": {**MASKED_ADAMW, "clip_norm": 5.0}}

    class Options(CropOptions):
        """SparK's options."""

        mask_ratio: float = Field(0.6, gt=0, lt=1, description="share of cells that are hidden")
        decoder: Literal["stages", "block"] = Field(
            "stages", description="a U-Net on all stages; or one block on the last, as in FCMAE"
        )
        width: int | None = Field(
            None, ge=16, multiple_of=16, description="of the decoder; none: 768, or 512 for a block"
        )
        crop_scale: tuple[float, float] = Field((0.67, 1.0), description="share of the image's area")

    def __init__(self, encoder: Encoder, options: Options, spec: ImageSpec) -> None:
        super().__init__(encoder, options, spec)
        if min(self.grid.shape) < MIN_CELLS:
            raise UserError(
                f"data.image_size: images of {spec.height} × {spec.width} have {self.grid.rows} × "
                f"{self.grid.columns} cells, too few to hide some; choose a larger --image-size, or a "
                "network with a smaller stride, such as --set backbone.options.output_stride=8"
            )
        self.hidden = self.grid.share(options.mask_ratio)
        if options.decoder == "block":
            self.stages = [-1]
            self.decoder: nn.Module = BlockDecoder(self.grid, options.width or 512)
        else:
            maps = stage_shapes(encoder, spec)
            self.stages = [index for index, _ in maps]
            self.decoder = LateralDecoder([shape for _, shape in maps], self.grid, options.width or 768)
        freeze_unreached(encoder, spec, self.maps_of)

