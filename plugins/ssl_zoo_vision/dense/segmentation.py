"""A linear classifier of pixels on frozen feature maps, and its mean IoU."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_zoo.evaluation.linear import Axes, fit_chosen, logits
from ssl_zoo_vision.dense.canvases import IGNORED

PIXELS = 25_600
"""From about so many pixels of the training images a classifier learns."""
HOLDOUT = 0.1
"""The share of the training images that chooses the penalty."""


@dataclass(frozen=True)
class Segmenter:
    """A linear classifier of pixels.

    Attributes:
        axes: the coordinates of features that it takes.
        weight: [1 + K, d + 1], for the ground and each class; the bias is the last column.
    """

    axes: Axes
    weight: Tensor

    def __call__(self, maps: Tensor, side: int) -> Tensor:
        """The classes [B, side, side], 0 for the ground, of maps [B, d, h, w].

        The logits are enlarged bilinearly, which gives what enlarging the features would.
        """
        b, _, h, w = maps.shape
        places = logits(self.weight, self.axes(maps.movedim(1, -1).flatten(0, 2)))
        small = places.view(b, h, w, -1).movedim(-1, 1)
        large = F.interpolate(small, (side, side), mode="bilinear", align_corners=False)
        return large.argmax(1)


def at_pixels(maps: Tensor, pixels: Tensor, side: int) -> Tensor:
    """The features [B, P, d] of pixels, as in maps [B, d, h, w] bilinearly enlarged to this side.

    Args:
        maps: of images.
        pixels: int64 [B, P], row · side + column.
        side: of the images.
    """
    column, row = pixels % side, pixels // side
    grid = (torch.stack([column, row], -1) + 0.5) / side * 2 - 1
    found = F.grid_sample(maps, grid[:, :, None], padding_mode="border", align_corners=False)
    return found[..., 0].transpose(1, 2)


def fit_segmenter(maps: Tensor, masks: Tensor, classes: int, seed: int) -> Segmenter:
    """Multinomial logistic regression on the features of random pixels.

    The penalty is the one of `PENALTIES` with the best mean IoU on the pixels of a tenth of the images;
    the classifier is then fitted to all.

    Args:
        maps: [N, d, h, w].
        masks: uint8 [N, S, S] as in `Canvases`.
        classes: K.
        seed: which pixels.
    """
    number, side = masks.shape[:2]
    generator = torch.Generator().manual_seed(seed)
    shape = (number, max(1, PIXELS // number))
    pixels = torch.randint(side * side, shape, generator=generator)
    y = masks.flatten(1).gather(1, pixels).flatten().to(maps.device).long()
    x = at_pixels(maps, pixels.to(maps.device), side).flatten(0, 1)
    # Whole images are held out, since the pixels of one are much alike.
    order = torch.randperm(number, generator=generator)
    held = torch.isin(torch.arange(number), order[: max(1, round(HOLDOUT * number))])
    held = held.repeat_interleave(shape[1]).to(maps.device)
    counts = y != IGNORED
    x, y, held = x[counts], y[counts], held[counts]
    axes = Axes.of(x)
    x = axes(x)
    x_held, y_held = x[held], y[held]

    def held_iou(weight: Tensor) -> float:
        return mean_iou(confusion(y_held, logits(weight, x_held).argmax(1), classes + 1))

    kept = x[~held], y[~held]
    return Segmenter(axes, fit_chosen((x, y), kept, classes + 1, axes.variance, held_iou))


def confusion(truth: Tensor, said: Tensor, kinds: int) -> Tensor:
    """How many pixels of each true class (row) are said to be of each (column), [kinds, kinds]."""
    truth, said = truth.flatten().long(), said.flatten()
    counts = truth != IGNORED
    pairs = truth[counts] * kinds + said[counts]
    return torch.bincount(pairs, minlength=kinds**2).view(kinds, kinds)


def mean_iou(pixels: Tensor) -> float:
    """The IoU of what is and what is said to be a class, the mean over those that occur, in percent.

    Args:
        pixels: what `confusion` gives.
    """
    both = pixels.diagonal()
    true = pixels.sum(1)
    either = true + pixels.sum(0) - both
    occurs = true > 0
    return 100 * float((both[occurs] / either[occurs]).mean())
