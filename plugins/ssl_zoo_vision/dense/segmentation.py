"""A linear pixel classifier on frozen feature maps, and its mean IoU."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_zoo.evaluation.linear import Axes, fit_chosen, logits
from ssl_zoo_vision.dense.canvases import IGNORED

PIXELS = 25_600
"""The approximate number of training pixels of the classifier."""
HOLDOUT = 0.1
"""The fraction of the training images on which the penalty is chosen."""


@dataclass(frozen=True)
class Segmenter:
    """A linear pixel classifier.

    Attributes:
        axes: the coordinates of its input features.
        weight: [1 + K, d + 1], for the background and each class; the bias is the last column.
    """

    axes: Axes
    weight: Tensor

    def __call__(self, maps: Tensor, side: int) -> Tensor:
        """Return the classes [B, side, side], 0 for the background, of maps [B, d, h, w].

        The logits are enlarged bilinearly, which equals enlarging the features.
        """
        b, _, h, w = maps.shape
        places = logits(self.weight, self.axes(maps.movedim(1, -1).flatten(0, 2)))
        small = places.view(b, h, w, -1).movedim(-1, 1)
        large = F.interpolate(small, (side, side), mode="bilinear", align_corners=False)
        return large.argmax(1)


def at_pixels(maps: Tensor, pixels: Tensor, side: int) -> Tensor:
    """Return the features [B, P, d] of pixels in maps [B, d, h, w] enlarged bilinearly.

    Args:
        maps: the maps of images.
        pixels: int64 [B, P], row · side + column.
        side: the side of the images.
    """
    column, row = pixels % side, pixels // side
    grid = (torch.stack([column, row], -1) + 0.5) / side * 2 - 1
    sampled = F.grid_sample(maps, grid[:, :, None], padding_mode="border", align_corners=False)
    return sampled[..., 0].transpose(1, 2)


def fit_segmenter(maps: Tensor, masks: Tensor, classes: int, seed: int) -> Segmenter:
    """Fit multinomial logistic regression to the features of random pixels.

    The penalty is the one of `PENALTIES` with the best mean IoU on the pixels of a held-out tenth of
    the images; the classifier is then fitted to all.

    Args:
        maps: [N, d, h, w].
        masks: uint8 [N, S, S] as in `Canvases`.
        classes: K.
        seed: the seed of the choice of pixels.
    """
    number, side = masks.shape[:2]
    generator = torch.Generator().manual_seed(seed)
    shape = (number, max(1, PIXELS // number))
    pixels = torch.randint(side * side, shape, generator=generator)
    y = masks.flatten(1).gather(1, pixels).flatten().to(maps.device).long()
    x = at_pixels(maps, pixels.to(maps.device), side).flatten(0, 1)
    # Whole images are held out, as pixels of one image are similar.
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

    rest = x[~held], y[~held]
    return Segmenter(axes, fit_chosen((x, y), rest, classes + 1, axes.variance, held_iou))


def confusion(truth: Tensor, predicted: Tensor, kinds: int) -> Tensor:
    """Count the pixels [kinds, kinds] of each true class (row) and predicted class (column)."""
    truth, predicted = truth.flatten().long(), predicted.flatten()
    counts = truth != IGNORED
    pairs = truth[counts] * kinds + predicted[counts]
    return torch.bincount(pairs, minlength=kinds**2).view(kinds, kinds)


def mean_iou(pixels: Tensor) -> float:
    """Return the mean IoU over the classes that occur, in percent.

    Args:
        pixels: the result of `confusion`.
    """
    both = pixels.diagonal()
    true = pixels.sum(1)
    either = true + pixels.sum(0) - both
    occurs = true > 0
    return 100 * float((both[occurs] / either[occurs]).mean())
