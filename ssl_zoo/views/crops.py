"""Random crops, and the boxes that they are cut from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ssl_zoo.sizes import Size
from ssl_zoo.views import functional as F
from ssl_zoo.views.ranges import PositiveRange, Probability, ShareRange
from ssl_zoo.views.rng import Rng
from ssl_zoo.views.transform import Compose, PlacedTransform, RandomTransform, Transform


class DrawnCrop(NamedTuple):
    """The box of each image that is cut out, each [B], in pixels.

    Attributes:
        top: the first row.
        left: the first column.
        height: the height.
        width: the width.
        flip: whether the crop is mirrored, bool.
    """

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor
    flip: Tensor

    def boxes(self, height: int, width: int) -> Tensor:
        """Return the boxes [B, 4] as `RandomResizedCrop.placed` does, in images of height × width."""
        left, right = self.left / width, (self.left + self.width) / width
        first, last = torch.where(self.flip, right, left), torch.where(self.flip, left, right)
        return torch.stack([first, self.top / height, last, (self.top + self.height) / height], 1)


@dataclass(frozen=True)
class RandomResizedCrop(RandomTransform[DrawnCrop]):
    """A crop of random area and aspect ratio, resized to one size and mirrored with probability `flip`.

    Attributes:
        size: the side of the result, or its height and width, in pixels.
        scale: the range of the crop's area, as a share of the image's area.
        ratio: the range of the crop's width over its height; its logarithm is drawn uniformly. It
            is that in the image, whatever the shape of the result, as in torchvision.
        flip: the probability of a horizontal flip.
    """

    size: Size
    scale: ShareRange = (0.08, 1.0)
    ratio: PositiveRange = (3 / 4, 4 / 3)
    flip: Probability = 0.5
    moves: ClassVar[bool] = True

    _TRIES = 10

    def draw(self, x: Tensor, rng: Rng) -> DrawnCrop:
        """Draw a box for each image of [B, C, H, W], and whether it is mirrored."""
        flip = rng.bernoulli(len(x), self.flip)
        top, left, height, width = self.boxes(len(x), x.shape[-2], x.shape[-1], rng)
        return DrawnCrop(top, left, height, width, flip)

    def apply(self, x: Tensor, drawn: DrawnCrop) -> Tensor:
        """Transform uint8 or float [B, C, H, W] to float [B, C, height, width]."""
        top, left, height, width, flip = drawn
        return F.resized_crop(x, top, left, height, width, self.size, flip)

    def placed(self, x: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
        """Return crops [B, C, height, width] and their boxes [B, 4].

        A box is the place in the image of the crop's left, top, right and bottom side, as shares of
        the image's width and height in [0, 1]. In a mirrored crop left and right are exchanged, so
        its left is the larger: the pixel at the share u of a crop's width is always at
        left + u · (right - left) of the image's (as in PixPro, arXiv:2011.10043).
        """
        drawn = self.draw_recorded(x, rng)
        return self.apply(x, drawn), drawn.boxes(x.shape[-2], x.shape[-1])

    def boxes(self, n: int, height: int, width: int, rng: Rng) -> tuple[Tensor, ...]:
        """Draw `n` boxes in an image of height × width.

        As in torchvision's `RandomResizedCrop.get_params`, a box is the first of ten tries that fits,
        otherwise the largest centred one whose aspect ratio is in range.

        Returns:
            The first row, first column, height and width of each box, each [n] in pixels.
        """
        area = rng.uniform(n, self._TRIES, low=self.scale[0], high=self.scale[1])
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        ratio = rng.uniform(n, self._TRIES, low=low, high=high).exp_()
        w = (area * ratio * (height * width)).sqrt_().round_()
        h = (area / ratio * (height * width)).sqrt_().round_()
        fits = (w >= 1) & (w <= width) & (h >= 1) & (h <= height)
        first = fits.int().argmax(1, keepdim=True)
        w, h = w.gather(1, first).squeeze(1), h.gather(1, first).squeeze(1)

        position = rng.uniform(n, 2)
        top = (position[:, 0] * (height - h + 1)).floor_()
        left = (position[:, 1] * (width - w + 1)).floor_()

        aspect = min(max(width / height, self.ratio[0]), self.ratio[1])
        full_w, full_h = round(min(width, height * aspect)), round(min(height, width / aspect))
        none = ~fits.any(1)
        return (
            top.masked_fill_(none, (height - full_h) // 2),
            left.masked_fill_(none, (width - full_w) // 2),
            h.masked_fill_(none, full_h),
            w.masked_fill_(none, full_w),
        )


class MultiCrop:
    """Several crops of each image, of different sizes (SwAV, arXiv:2006.09882, section 3.2).

    Args:
        crops: for each kind of crop, the number of crops and their complete augmentation.
    """

    def __init__(self, crops: Sequence[tuple[int, Transform]]) -> None:
        self.crops = crops

    def __call__(self, x: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """Transform [B, C, H, W] to one batch per crop, in the order of `crops`."""
        return tuple(crop(x, rng) for crop in self._each())

    @property
    def is_placed(self) -> bool:
        """True if `placed` tells the boxes of all crops, see `Compose.is_placed`."""
        return all(isinstance(crop, Compose) and crop.is_placed for _, crop in self.crops)

    def placed(self, x: Tensor, rng: Rng) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Return one batch per crop and, likewise, the boxes [B, 4], as `RandomResizedCrop.placed` does.

        Raises:
            TypeError: an augmentation does not begin with a crop that tells its boxes.
        """
        batches, boxes = [], []
        for crop in self._each():
            if not isinstance(crop, PlacedTransform):
                raise TypeError(f"{type(crop).__name__} tells no boxes; use a RandomResizedCrop")
            batch, box = crop.placed(x, rng)
            batches.append(batch)
            boxes.append(box)
        return tuple(batches), tuple(boxes)

    def _each(self) -> list[Transform]:
        return [crop for number, crop in self.crops for _ in range(number)]


def cells(boxes: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return where the places of a feature map lie in the image: centres [B, N, 2], diagonals [B].

        centres, diagonals = cells(boxes, (7, 7))  # x and y, in the unit of the boxes; row by row

    Args:
        boxes: the boxes [B, 4] of crops, mirrored ones too, see `RandomResizedCrop.placed`.
        grid: the number of rows and of columns of the map; N is their product.
    """
    rows, columns = grid
    left, top, right, bottom = boxes.unsqueeze(2).unbind(1)  # [B, 1]
    width, height = (right - left) / columns, (bottom - top) / rows
    x = left + width * (torch.arange(columns, device=boxes.device) + 0.5)  # [B, columns]
    y = top + height * (torch.arange(rows, device=boxes.device) + 0.5)  # [B, rows]
    centres = torch.stack([x.repeat(1, rows), y.repeat_interleave(columns, 1)], 2)
    return centres, torch.hypot(width, height).squeeze(1)
