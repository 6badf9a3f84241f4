"""Random rotations, shifts, changes of scale and shears."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import Tensor

from ssl_zoo.sizes import Size
from ssl_zoo.views import functional as F
from ssl_zoo.views.ranges import PositiveRange, Probability, Strength
from ssl_zoo.views.rng import Rng
from ssl_zoo.views.transform import RandomTransform


class DrawnAffine(NamedTuple):
    """The changes of each image, as `ssl_zoo.views.functional.affine` takes them.

    Attributes:
        angle: the clockwise rotation [B], in degrees.
        shift: the shift to the right and downwards [B, 2], in pixels.
        scale: the factor of enlargement [B].
        shear: the horizontal shear [B], in degrees.
        flip: whether the image is mirrored first, bool [B].
    """

    angle: Tensor
    shift: Tensor
    scale: Tensor
    shear: Tensor
    flip: Tensor


@dataclass(frozen=True)
class RandomAffine(RandomTransform[DrawnAffine]):
    """A small random change of an image's geometry, after which the whole image is resized to one size.

    The distributions are those of torchvision's `RandomAffine`, whose shifts are whole pixels; here
    they are not. Unlike a crop it leaves all of the image in sight, or nearly.

    Attributes:
        size: the side of the result, or its height and width, in pixels.
        degrees: the largest rotation to either side, in degrees.
        translate: the largest shift, as a share of the image's side.
        scale: the range of the factor of enlargement.
        shear: the largest horizontal shear to either side, in degrees.
        flip: the probability of a horizontal flip.
    """

    moves: ClassVar[bool] = True

    size: Size
    degrees: Strength = 0.0
    translate: Probability = 0.0
    scale: PositiveRange = (1.0, 1.0)
    shear: Strength = 0.0
    flip: Probability = 0.0

    def draw(self, x: Tensor, rng: Rng) -> DrawnAffine:
        """Draw the changes for a batch [B, C, H, W]."""
        n, (height, width) = len(x), x.shape[-2:]
        flip = rng.bernoulli(n, self.flip)
        angle = rng.uniform(n, low=-self.degrees, high=self.degrees)
        shift = rng.uniform(n, 2, low=-self.translate, high=self.translate)
        scale = rng.uniform(n, low=self.scale[0], high=self.scale[1])
        shear = rng.uniform(n, low=-self.shear, high=self.shear)
        return DrawnAffine(angle, shift * shift.new_tensor([width, height]), scale, shear, flip)

    def apply(self, x: Tensor, drawn: DrawnAffine) -> Tensor:
        """Transform uint8 or float [B, C, H, W] to float [B, C, height, width]."""
        angle, shift, scale, shear, flip = drawn
        x = F.to_float(x)
        x = F.flip(x, flip, -1) if self.flip else x
        return F.affine(x, angle, shift, scale, shear, self.size)
