"""ESSL: on top of a joint-embedding task, the rotation of a small crop is predicted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_zoo import Encoder, Field, ImageSpec, Losses, Rng
from ssl_zoo.nn import full_precision
from ssl_zoo.sizes import height_width
from ssl_zoo.views import Compose, Drawn, Normalise, RandomResizedCrop
from ssl_zoo.views.functional import rotate90
from ssl_zoo.views.turns import DrawnTurns, RandomQuarterTurn
from ssl_zoo_vision.augmentation import part_of
from ssl_zoo_vision.predictive.on_top import OnTop, OnTopOptions


class ESSL(OnTop):
    """Features are to be invariant to another task's changes and sensitive to quarter turns.

    A third, small crop of each image is turned by 0°, 90°, 180° and 270°, and the turn is predicted.
    """

    name = "essl"
    paper = "Dangovski et al. 2021, Equivariant Contrastive Learning (E-SSL), arXiv:2111.00899"
    family = "predictive"
    passes = 6

    class Options(OnTopOptions):
        """ESSL's options."""

        weight: float = Field(0.4, ge=0, description="weight λ of the prediction of turns")
        size: float = Field(0.5, gt=0, le=1, description="sides of the small crop, as a share")
        crop_scale: tuple[float, float] = Field(
            (0.2, 1.0), description="share of the image's area in it"
        )
        hidden: int = Field(2048, ge=1, description="hidden width of the head")

    def __init__(self, encoder: Encoder, options: Options, spec: ImageSpec) -> None:
        super().__init__(encoder, options, spec)
        side = min(height_width(part_of(spec, encoder, options.size)))
        crop = RandomResizedCrop(side, options.crop_scale, flip=0.5 if spec.mirror else 0.0)
        self.small = Compose(crop, Normalise(spec))
        width = options.hidden
        self.head = nn.Sequential(
            *(nn.Linear(encoder.width, width), nn.LayerNorm(width), nn.ReLU()),
            *(nn.Linear(width, width), nn.LayerNorm(width), nn.ReLU()),
            nn.Linear(width, 4),
        )

    def extra(self, batch: Tensor, drawn: Sequence[Drawn], rng: Rng) -> Tensor:
        """Return a small, upright crop [B, C, h, h] of each image."""
        return self.small(batch, rng)

    def term(self, views: tuple[Tensor, ...], extra: Tensor, outputs: Sequence[Tensor]) -> Losses:
        """Return the cross entropy of the turn, of the small crops in all four."""
        turned = torch.cat([rotate90(extra, quarters) for quarters in range(4)])  # [4B, C, h, h]
        logits = self.logits(turned)
        turns = torch.arange(4, device=logits.device).repeat_interleave(len(extra))
        loss = F.cross_entropy(logits, turns)
        accuracy = (logits.detach().argmax(1) == turns).float().mean()
        return Losses(loss, {"rotation": loss.detach(), "rotation_accuracy": accuracy})

    def logits(self, x: Tensor) -> Tensor:
        """Return the logits [n, 4] of the turns of small crops [n, C, h, h]."""
        return full_precision(self.head(self.encoder(x)))

    def gallery(self, views: tuple[Tensor, ...]) -> dict[str, Any]:
        """Return the base's columns, and the small crops, each in one of the turns."""
        return {**super().gallery(views), "turned": self.turn(views[-1])}

    def reconstructions(self, views: tuple[Tensor, ...]) -> dict[str, Any]:
        """Return the base's columns, and the small crops, turned back as predicted."""
        turned = self.turn(views[-1])
        upright = turn(turned, -self.logits(turned).argmax(1))
        return {**super().reconstructions(views), "turned back": upright}

    @staticmethod
    def turn(x: Tensor) -> Tensor:
        """Return images [B, C, h, h], the first as it is, the next turned by 90°, and so on."""
        return turn(x, torch.arange(len(x), device=x.device))


def turn(x: Tensor, quarters: Tensor) -> Tensor:
    """Return images [B, C, h, h], each turned by a number of quarters, int64 [B]."""
    return RandomQuarterTurn().apply(x, DrawnTurns(quarters % 4))
