"""BYOL-A's augmentations of log-mel spectra."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_zoo import Rng, distributed


def random_part(x: Tensor, frames: Tensor, number: int, rng: Rng) -> Tensor:
    """Return a part of `number` frames of each spectrum at random; a shorter clip begins again.

    Args:
        x: spectra [B, F, mels].
        frames: how many frames of each are real, int64 [B].
        number: the number of frames to return.
        rng: the source of random numbers.
    """
    first = rng.uniform(len(x), 1) * (frames[:, None] - number + 1).clamp(min=1)
    place = (first.long() + torch.arange(number, device=x.device)) % frames[:, None]
    return x.gather(1, place[..., None].expand(-1, -1, x.shape[2]))


def log_mixup(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    """Return the log of mixed energies, log((1 - λ) e^a + λ e^b), of log spectra (section III-B.1).

    Args:
        a: log spectra [B, F, mels], in natural logarithms.
        b: those mixed in, likewise.
        share: λ, in [0, 1), of a shape that is broadcast.
    """
    return torch.logaddexp(a + torch.log1p(-share), b + share.log())


def resized_crop(
    x: Tensor, rng: Rng, bands: tuple[float, float], scale: tuple[float, float], virtual: float
) -> Tensor:
    """Crop a part of spectra, at random in time and frequency, and resize it (section III-B.2).

    The spectrum lies in the middle of a canvas longer by `virtual`, which is 0 elsewhere, so that a
    crop may reach beyond its ends.

    Args:
        x: spectra [B, F, mels], with mean 0.
        rng: the source of random numbers.
        bands: the range of the crop's size in frequency, as a share of the spectrum's; at most 1.
        scale: the range of its size in time, likewise; at most `virtual`.
        virtual: the length of the canvas, as a multiple of the spectrum's.

    Returns:
        Crops [B, F, mels], by linear interpolation.
    """
    n = len(x)
    canvas = x.new_tensor([1.0, virtual])  # frequency, time
    low, high = x.new_tensor([bands, scale]).T
    size = torch.minimum(rng.uniform(n, 2) * (high - low) + low, canvas)
    centre = rng.uniform(n, 2, low=-1, high=1) * (canvas - size)  # the spectrum is from -1 to 1
    theta = torch.cat([torch.diag_embed(size), centre[..., None]], 2)  # [B, 2, 3]
    grid = F.affine_grid(theta, [n, 1, *x.shape[1:]], align_corners=False)
    return F.grid_sample(x[:, None], grid, align_corners=False)[:, 0]


def standardise_batch(x: Tensor) -> Tensor:
    """Return values with mean 0 and deviation 1 over the joint batch of all processes."""
    sums = torch.stack([x.sum(), x.square().sum(), x.new_tensor(x.numel())])
    total, squares, count = distributed.sum(sums).unbind()
    mean = total / count
    return (x - mean) * (squares / count - mean.square()).clamp(min=1e-6).rsqrt()
