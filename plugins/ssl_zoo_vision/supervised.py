"""Supervised training: the baseline with labels, under the same budget."""

from __future__ import annotations

from torch import Tensor

from ssl_zoo.options import CropOptions
from ssl_zoo.spec import ImageSpec
from ssl_zoo.supervised import SupervisedTask
from ssl_zoo.task import Encoder, Field
from ssl_zoo.views import Rng


class Supervised(SupervisedTask):
    """Predict the classes: the supervised baseline of the pretext tasks."""

    name = "supervised"
    paper = "He et al. 2016, Deep Residual Learning for Image Recognition, arXiv:1512.03385"
    recipe = {"train": {"optimizer": "sgd", "lr": 0.1, "weight_decay": 5e-4}}

    class Options(CropOptions):
        """The options of supervised training."""

        crop_scale: tuple[float, float] = Field((0.5, 1.0), description="share of the image's area")
        smoothing: float = Field(0.0, ge=0, lt=1, description="label smoothing")

    def __init__(self, encoder: Encoder, options: Options, spec: ImageSpec) -> None:
        super().__init__(encoder, options, spec)
        self.smoothing = options.smoothing
        self.augment = options.view(spec)

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """Return a random crop [B, C, H, W] of each image [B, C, h, w]."""
        return (self.augment(batch, rng),)
