"""CIE Lab: lightness and colour of sRGB images, and the colours that sRGB has.

L is the lightness in [0, 100]; a runs from green to red and b from blue to yellow, within ±110. White is
D65. Equal distances in Lab look about equally large, so that errors of colour are measured in it.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

_SRGB = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)
"""The shares of linear red, green and blue in X, Y and Z (IEC 61966-2-1)."""
_TO_XYZ = F.normalize(torch.tensor(_SRGB, dtype=torch.float64), p=1)  # of white, whose rows sum to 1
_FROM_XYZ = torch.linalg.inv(_TO_XYZ)
_DELTA = 6 / 29


def to_lab(rgb: Tensor) -> Tensor:
    """Return images [B, 3, H, W] in sRGB, in [0, 1], as L, a and b [B, 3, H, W]."""
    linear = torch.where(rgb > 0.04045, ((rgb + 0.055) / 1.055).clamp(min=0) ** 2.4, rgb / 12.92)
    t = _mix(_TO_XYZ, linear)
    root = torch.where(t > _DELTA**3, t.clamp(min=0) ** (1 / 3), t / (3 * _DELTA**2) + 4 / 29)
    x, y, z = root.unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def from_lab(lab: Tensor) -> Tensor:
    """Return L, a and b [B, 3, H, W] as sRGB in [0, 1]; colours that it does not have are clipped."""
    lightness, a, b = lab.unbind(1)
    y = (lightness + 16) / 116
    root = torch.stack([y + a / 500, y, y - b / 200], 1)
    t = torch.where(root > _DELTA, root**3, 3 * _DELTA**2 * (root - 4 / 29))
    linear = _mix(_FROM_XYZ, t).clamp(0, 1)
    return torch.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)


def to_gray(rgb: Tensor) -> Tensor:
    """Return the gray images of the same lightness, in three channels, [B, 3, H, W] in sRGB."""
    lightness = to_lab(rgb)[:, :1]
    return from_lab(torch.cat([lightness, torch.zeros_like(lightness).expand(-1, 2, -1, -1)], 1))


@cache
def ab_bins(side: int = 10) -> Tensor:
    """Return the centres (a, b) of the squares of the ab plane in which there is a colour of sRGB.

    They are the multiples of `side` to which colours on a grid of the sRGB cube round. Zhang et al.
    2016, arXiv:1603.08511, section 2.1, has 313 of them, as it counts squares at the gamut's edge too.

    Args:
        side: the side of a square.

    Returns:
        float32 [Q, 2], in lexicographic order; shared, so do not modify it.
    """
    steps = torch.linspace(0, 1, 33, dtype=torch.float64)
    cube = torch.cartesian_prod(steps, steps, steps)  # [33³, 3]
    ab = to_lab(cube[:, :, None, None])[:, 1:, 0, 0]
    centres: Tensor = (ab / side).round().unique(dim=0).float() * side
    return centres


def _mix(matrix: Tensor, x: Tensor) -> Tensor:
    """Return the channels of [B, 3, H, W] mixed by a matrix [3, 3]; no product of autocast's."""
    return (matrix.to(x)[:, :, None, None] * x.unsqueeze(1)).sum(2)
