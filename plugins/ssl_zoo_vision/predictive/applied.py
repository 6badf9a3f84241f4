"""The parameters of the transforms that were applied to a view, as numbers to predict."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ssl_zoo.views import (
    ColorJitter,
    Drawn,
    GaussianBlur,
    Normalise,
    RandomAffine,
    RandomHorizontalFlip,
    RandomResizedCrop,
)

COLUMNS = {"crop": slice(0, 4), "colour": slice(4, 8), "blur": slice(8, 9), "flip": slice(9, 10)}
"""The columns of `describe` and `compare` by what they tell."""
NAMES = ("x", "y", "width", "height", "brightness", "contrast", "saturation", "hue", "blur", "same flip")
"""The quantity in each column."""


def by_view(drawn: Sequence[Drawn]) -> list[list[Drawn]]:
    """Return the transforms of each view; a view ends with the normalisation."""
    views: list[list[Drawn]] = [[]]
    for one in drawn:
        views[-1].append(one)
        if isinstance(one.transform, Normalise):
            views.append([])
    return [view for view in views if view]


def describe(view: Sequence[Drawn], like: Tensor) -> Tensor:
    """Return what was done to the images of a view, [B, 10]; neutral where nothing was.

    - crop: the centre (x, y) and the width and height of the part that is shown, as shares of the
      image's; x is that in the mirrored image where the view is mirrored.
    - colour: brightness, contrast, saturation: factor - 1, and the shift of hue, each divided by the
      width of its range.
    - blur: the Gaussian's deviation as a share of the largest.
    - flip: 1 if mirrored.

    Source: Lee et al. 2021 (AugSelf), arXiv:2111.09613, section 3.1.

    Args:
        view: its transforms, as `by_view` returns them.
        like: the batch [B, ...].
    """
    n, device = len(like), like.device
    found = torch.zeros(n, 10, device=device)
    found[:, 0:2], found[:, 2:4] = 0.5, 1.0
    for transform, drawn, shape in view:
        height, width = shape[-2:]
        if isinstance(transform, RandomResizedCrop):
            left, top, right, bottom = drawn.boxes(height, width).unbind(1)
            x = (left + right) / 2
            found[:, 0], found[:, 1] = torch.where(drawn.flip, 1 - x, x), (top + bottom) / 2
            found[:, 2], found[:, 3] = (right - left).abs(), bottom - top
            found[:, 9] = drawn.flip.float()
        elif isinstance(transform, RandomAffine):  # mirrors before it moves
            found[:, :2] = 0.5 - drawn.shift / drawn.shift.new_tensor([width, height])
            found[:, 2:4] = 1 / drawn.scale.unsqueeze(1)
            found[:, 9] = drawn.flip.float()
        elif isinstance(transform, RandomHorizontalFlip):
            found[:, 0] = torch.where(drawn.applied, 1 - found[:, 0], found[:, 0])
            found[:, 9] = (found[:, 9] - drawn.applied.float()).abs()
        elif isinstance(transform, ColorJitter):
            found[:, 4:8] = _colours(transform, drawn)
        elif isinstance(transform, GaussianBlur):
            found[:, 8] = drawn.sigma / transform.sigma[1]
    return found


def _colours(jitter: ColorJitter, drawn: Any) -> Tensor:
    """Return the changes of brightness, contrast, saturation and hue [B, 4], within ±1."""
    factors = []
    for name in ("brightness", "contrast", "saturation"):
        strength, factor = getattr(jitter, name), getattr(drawn, name)
        span = strength + min(1.0, strength)  # from max(0, 1 - strength) to 1 + strength
        factors.append((factor.flatten(1).mean(1) if factor.ndim > 1 else factor).sub(1) / (span or 1))
    return torch.stack([*factors, drawn.hue / (2 * jitter.hue or 1)], 1)


def compare(first: Tensor, second: Tensor) -> Tensor:
    """Return the differences of two views' descriptions [B, 10]; for the flip, 1 if it is the same."""
    differences = first - second
    differences[:, COLUMNS["flip"]] = (first == second)[:, COLUMNS["flip"]].to(differences.dtype)
    return differences


def as_texts(differences: Tensor, kinds: Iterable[str]) -> list[str]:
    """Return the differences [B, 10] of some kinds as texts for a picture, in per cent, one a line."""
    columns = [i for kind in kinds for i in range(len(NAMES))[COLUMNS[kind]]]
    rows = (100 * differences).tolist()
    return ["\n".join(f"{NAMES[i]} {row[i]:+.0f} %" for i in columns) for row in rows]
