"""Colorization: the colours of an image are predicted from its lightness."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_zoo import CropOptions, Encoder, Field, ImageSpec, Losses, Rng, Task, Unsuitable
from ssl_zoo.nn import full_precision, output_shape
from ssl_zoo.views.lab import from_lab, to_gray, to_lab
from ssl_zoo_vision.augmentation import is_small
from ssl_zoo_vision.decoders import UpDecoder
from ssl_zoo_vision.predictive.colour_bins import ColourBins, has_colours


class Colorization(Task):
    """The colour of each place, as a class of the ab plane, is predicted from the gray image."""

    name = "colorization"
    paper = "Zhang et al. 2016, Colorful Image Colorization, arXiv:1603.08511"
    family = "predictive"
    prerequisites = "colour images"
    passes = 1
    input_note = "gray images of the same CIE lightness (ssl_zoo.views.lab.to_gray), in three channels"
    # The paper's rate of 3e-5 is for batches of 40 and 450,000 steps.
    recipe = {
        "train": {"optimizer": "adamw", "lr": 1e-3, "lr_scaling": "none", "weight_decay": 1e-3}
        | {"optimizer_options": {"betas": [0.9, 0.99]}}
    }

    class Options(CropOptions):
        """Colorization's options."""

        stride: int | None = Field(
            None,
            ge=1,
            description="pixels a side for each colour to predict; none: 4, or 2 up to 64 pixels",
        )
        uniform: float = Field(0.5, ge=0, le=1, description="share λ of equal weights; 1: they alone")
        hidden: int = Field(256, ge=32, description="width of the decoder's first layer")
        crop_scale: tuple[float, float] = Field((0.5, 1.0), description="share of the image's area")

    def __init__(self, encoder: Encoder, options: Options, spec: ImageSpec) -> None:
        super().__init__(encoder, options, spec)
        if spec.channels != 3:
            raise Unsuitable(
                f"data.channels: colorization learns red, green and blue, and these images have "
                f"{spec.channels} channels; give images in colour, or choose another task"
            )
        self.stride = options.stride or (2 if is_small(spec) else 4)
        size = math.ceil(spec.height / self.stride), math.ceil(spec.width / self.stride)
        _, width, *grid = output_shape(encoder, encoder.feature_map, spec)
        self.bins = ColourBins()
        self.decoder = UpDecoder(width, (grid[0], grid[1]), size, len(self.bins), options.hidden)
        self.augment = options.view(spec)

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """Return crops [B, 3, H, W] in colour, which is never changed, as it is what to predict."""
        return (self.augment(batch, rng),)

    def gray(self, x: Tensor) -> Tensor:
        """Return prepared images [B, 3, H, W] without their colours, normalised as these are."""
        gray: Tensor = self.spec.normalise(to_gray(self.spec.denormalise(x)))
        return gray

    def logits(self, x: Tensor) -> Tensor:
        """Return the logits [B, Q, h, w] of the colours of prepared images, from their lightness."""
        return full_precision(self.decoder(self.encoder.feature_map(self.gray(x))))

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        """Return the cross entropy of colours, weighted by their rarity, over images that have any."""
        (x,) = views
        ab = to_lab(self.spec.denormalise(x))[:, 1:]  # [B, 2, H, W]
        coloured = has_colours(ab)  # [B]
        places = ab[:, :, :: self.stride, :: self.stride]  # [B, 2, h, w]
        loss = self.bins.cross_entropy(self.logits(x), places, coloured, self.options.uniform)
        return Losses(loss, weight=coloured.sum())

    def after_step(self, progress: float) -> None:
        """Take the batch's colours into their frequencies."""
        self.bins.update()

    def features(self, x: Tensor) -> Tensor:
        """Return the pooled features [B, D] of the gray images."""
        return super().features(self.gray(x))

    def gallery(self, views: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Return the image and the input of the network."""
        return {"image": views[0], "input": self.gray(views[0])}

    def reconstructions(self, views: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Return the image in the colours that are predicted, by their annealed mean."""
        lightness = to_lab(self.spec.denormalise(views[0]))[:, :1]
        ab = F.interpolate(self.bins.mean(self.logits(views[0])), lightness.shape[2:], mode="bilinear")
        return {"colours": self.spec.normalise(from_lab(torch.cat([lightness, ab], 1)))}
