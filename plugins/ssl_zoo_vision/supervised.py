"""Supervised training: the baseline with labels, under the same budget."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ssl_zoo.errors import UserError
from ssl_zoo.nn import full_precision
from ssl_zoo.options import CropOptions
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Encoder, Field, Losses, Task
from ssl_zoo.views import Compose, Normalise, Rng


class Supervised(Task):
    """Predict the classes: the supervised baseline of the pretext tasks."""

    name = "supervised"
    paper = "He et al. 2016, Deep Residual Learning for Image Recognition, arXiv:1512.03385"
    family = "baseline"
    passes = 1
    recipe = {"train": {"optimizer": "sgd", "lr": 0.1, "weight_decay": 5e-4}}
    needs = ("labels",)

    class Options(CropOptions):
        """The options of supervised training."""

        crop_scale: tuple[float, float] = Field((0.5, 1.0), description="share of the image's area")
        smoothing: float = Field(0.0, ge=0, lt=1, description="label smoothing")

    def __init__(self, encoder: Encoder, options: Options, spec: ImageSpec) -> None:
        super().__init__(encoder, options, spec)
        if spec.classes is None:
            raise UserError("data.source: task 'supervised' needs labels, and this data has none")
        self.head = nn.Linear(encoder.width, spec.classes)
        self.augment = Compose(options.crop(spec), Normalise(spec))

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """Return a random crop [B, C, H, W] of each image [B, C, h, w]."""
        return (self.augment(batch, rng),)

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        """Return the cross entropy of crops [B, C, H, W] with their labels [B]."""
        x, labels = views
        logits = full_precision(self.head(self.encoder(x)))  # [B, classes]
        loss = F.cross_entropy(logits, labels, label_smoothing=self.options.smoothing)
        accuracy = (logits.detach().argmax(1) == labels).float().mean()
        return Losses(loss, {"accuracy": accuracy})
