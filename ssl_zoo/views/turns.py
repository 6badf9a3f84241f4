"""Random mirrorings and quarter turns, which move each pixel as a whole, without interpolation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ssl_zoo.errors import Unsuitable
from ssl_zoo.views import functional as F
from ssl_zoo.views.random import Chosen
from ssl_zoo.views.ranges import Probability
from ssl_zoo.views.rng import Rng
from ssl_zoo.views.transform import RandomTransform


@dataclass(frozen=True)
class _RandomFlip(RandomTransform[Chosen]):
    """A mirroring along one axis of [B, C, H, W]."""

    axis: ClassVar[int]
    moves: ClassVar[bool] = True

    p: Probability = 0.5

    def draw(self, x: Tensor, rng: Rng) -> Chosen:
        """Draw which images of [B, C, H, W] are mirrored."""
        return Chosen(rng.bernoulli(len(x), self.p))

    def apply(self, x: Tensor, drawn: Chosen) -> Tensor:
        """Transform [B, C, H, W] to float of the same shape."""
        return F.flip(F.to_float(x), drawn.applied, self.axis)


class RandomHorizontalFlip(_RandomFlip):
    """A mirroring that exchanges left and right.

    Attributes:
        p: the probability that an image is mirrored.
    """

    axis = -1


class RandomVerticalFlip(_RandomFlip):
    """A mirroring that exchanges top and bottom.

    Attributes:
        p: the probability that an image is mirrored.
    """

    axis = -2


class DrawnTurns(NamedTuple):
    """The turns.

    Attributes:
        quarters: the number of quarter turns counter-clockwise, int64 [B], in 0..3.
    """

    quarters: Tensor


@dataclass(frozen=True)
class RandomQuarterTurn(RandomTransform[DrawnTurns]):
    """A rotation by 90°, 180° or 270°, each as likely, for images that have no upper side.

    With the default `p` all four orientations are as likely.

    Attributes:
        p: the probability that an image is turned.
    """

    p: Probability = 0.75
    moves: ClassVar[bool] = True

    def draw(self, x: Tensor, rng: Rng) -> DrawnTurns:
        """Draw the turns for a batch [B, C, H, W]."""
        chosen = rng.bernoulli(len(x), self.p)
        return DrawnTurns(chosen * (1 + (rng.uniform(len(x)) * 3).long()))

    def apply(self, x: Tensor, drawn: DrawnTurns) -> Tensor:
        """Transform square images [B, C, H, H] to float of the same shape.

        Raises:
            Unsuitable: the images are not square.
        """
        if x.shape[-1] != x.shape[-2]:
            raise Unsuitable(
                f"random_quarter_turn turns square images, not {x.shape[-2]}×{x.shape[-1]}; put it "
                "after random_resized_crop with a square --image-size, or leave it out"
            )
        x, odd = F.to_float(x), (drawn.quarters % 2 == 1).view(-1, 1, 1, 1)
        x = torch.where(odd, F.rotate90(x, 1), x)
        half = (drawn.quarters >= 2).view(-1, 1, 1, 1)
        return torch.where(half, x.flip(-2, -1), x)
