"""Histograms of oriented gradients, as the target of a prediction."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_zoo_vision.patches import patchify

BINS = 9
"""The number of directions, which have no sign."""

MIN_LENGTH = 1e-3
"""The length of a cell's histogram by which shorter ones are divided too, as a mean over pixels."""


def hog(x: Tensor, cell: int) -> Tensor:
    """Return the histogram of oriented gradients of each cell of each channel.

    Gradients are Sobel's, with a reflected border. Each pixel votes with its gradient's length for one
    of nine directions in [0, π); a cell's votes are divided by their L2 norm. As in MaskFeat
    (arXiv:2112.09133, section 3.1, and the authors' code) votes are not shared by two bins, and there
    are no blocks of cells, nor values that are clipped at 0.2.

    Args:
        x: images [B, C, H, W].
        cell: the side of a cell in pixels, which divides H and W.

    Returns:
        [B, 9·C, H/cell, W/cell], the bins of a channel together; near 0 in cells that are flat.
    """
    b, c = x.shape[:2]
    padded = F.pad(x, (1, 1, 1, 1), mode="reflect").flatten(0, 1)  # [B·C, H+2, W+2]
    # Differences first: at a border they are exactly 0, and the direction is no matter of rounding.
    gx = _smoothed(padded[:, :, :-2] - padded[:, :, 2:], 1)  # [B·C, H, W]
    gy = _smoothed(padded[:, :-2] - padded[:, 2:], 2)
    turns = torch.atan2(gx, gy) / math.pi  # in [-1, 1]
    bins = (turns * BINS).floor().long() % BINS
    length = torch.hypot(gx, gy)
    votes = length.new_zeros(b * c, BINS, *x.shape[2:]).scatter_(
        1, bins.unsqueeze(1), length.unsqueeze(1)
    )
    # Shorter ones are rounding, of an even background that was resized, and are not amplified.
    cells = F.normalize(F.avg_pool2d(votes, cell), dim=1, eps=MIN_LENGTH)  # [B·C, 9, h, w]
    return cells.view(b, c * BINS, *cells.shape[2:])


def cell_side(patch: tuple[int, int]) -> int:
    """Return the side of the cells of patches [h, w]: the largest up to 8 pixels that divides both."""
    return max(side for side in range(1, 9) if math.gcd(*patch) % side == 0)


def patch_histograms(x: Tensor, patch: tuple[int, int]) -> Tensor:
    """Return the histograms of the cells of each patch.

    Args:
        x: images [B, C, H, W].
        patch: the height and width of a patch in pixels, which divide H and W.

    Returns:
        [B, N, P] for the N patches, P = 9·C·h·w/cell².
    """
    cell = cell_side(patch)
    return patchify(hog(x, cell), (patch[0] // cell, patch[1] // cell))


def _smoothed(x: Tensor, dim: int) -> Tensor:
    """Return x filtered by 1, 2, 1 along one dimension, which becomes shorter by two."""
    size = x.shape[dim] - 2
    first, middle, last = (x.narrow(dim, start, size) for start in range(3))
    return first + 2 * middle + last
