"""BYOL-A's augmentations of log-mel spectra."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_zoo import Rng, distributed
from ssl_zoo_audio.sound import within


def random_part(
    x: Tensor, frames: Tensor, number: int, rng: Rng, padding: float
) -> tuple[Tensor, Tensor]:
    """Return a random part of `number` frames of each spectrum; a shorter clip is padded behind its end.

    Args:
        x: spectra [B, F, mels].
        frames: how many frames of each are real, int64 [B].
        number: the number of frames to return.
        rng: the source of random numbers.
        padding: the value of padding.

    Returns:
        The parts [B, number, mels], and how many frames of each are real, int64 [B].
    """
    spare = (frames - number).clamp(min=0)[:, None]  # [B, 1]
    place = (rng.uniform(len(x), 1) * (spare + 1)).long() + torch.arange(number, device=x.device)
    index = place.clamp(max=x.shape[1] - 1)[..., None].expand(-1, -1, x.shape[2])
    kept = frames.clamp(max=number)
    return torch.where(within(kept, number)[..., None], x.gather(1, index), padding), kept


def log_mixup(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    """Return the log of mixed energies, log((1 - λ) e^a + λ e^b), of log spectra (section III-B.1).

    Args:
        a: log spectra [B, F, mels], in natural logarithms.
        b: those mixed in, likewise.
        share: λ, in [0, 1), of a shape that is broadcast.
    """
    return torch.logaddexp(a + torch.log1p(-share), b + share.log())


def resized_crop(
    x: Tensor,
    frames: Tensor,
    rng: Rng,
    frequency_scale: tuple[float, float],
    scale: tuple[float, float],
    canvas: float,
) -> Tensor:
    """Crop a part of spectra, at random in time and frequency, and resize it (section III-B.2).

    The real frames of a spectrum lie in the middle of a canvas that is longer, and has their mean
    elsewhere, so that a crop may reach beyond their ends. It is resized to as many frames as are real.

    Args:
        x: spectra [B, F, mels].
        frames: how many frames of each are real, int64 [B]; those behind do not count.
        rng: the source of random numbers.
        frequency_scale: the range of the crop's size in frequency, as a share of the spectrum's; at
            most 1.
        scale: the range of its size in time, likewise; at most `canvas`.
        canvas: the length of the canvas, as a multiple of the spectrum's.

    Returns:
        Crops [B, F, mels], by linear interpolation, 0 behind the real frames.
    """
    n = len(x)
    whole = x.new_tensor([1.0, canvas])  # frequency, time
    low, high = x.new_tensor([frequency_scale, scale]).T
    size = torch.minimum(rng.uniform(n, 2) * (high - low) + low, whole)
    centre = rng.uniform(n, 2, low=-1, high=1) * (whole - size)  # the real part is from -1 to 1
    share = torch.stack([torch.ones(n, device=x.device), frames / x.shape[1]], 1)
    offset = size - 1 + share * (1 - size + centre)  # of the whole spectrum from -1 to 1
    theta = torch.cat([torch.diag_embed(size), offset[..., None]], 2)  # [B, 2, 3]
    grid = F.affine_grid(theta, [n, 1, *x.shape[1:]], align_corners=False)
    real = within(frames, x.shape[1])[..., None]
    mean = (x * real).sum((1, 2), keepdim=True) / (frames[:, None, None] * x.shape[2])
    inside = ((x - mean) * real)[:, None]
    return (F.grid_sample(inside, grid, align_corners=False)[:, 0] + mean) * real


def match_statistics(views: Sequence[Tensor], like: Tensor, frames: Tensor) -> list[Tensor]:
    """Give the real frames of each view the mean and deviation of those of `like`; others become 0.

    All are over the joint batch of all processes. Augmentation then does not move spectra from where
    evaluation has them, as a standardisation to mean 0 and deviation 1 would.

    Args:
        views: augmented spectra [B, F, mels].
        like: the spectra that they are of, [B, F, mels].
        frames: how many frames of each are real, int64 [B].
    """
    real = within(frames, like.shape[1])[..., None]
    kept = torch.stack([*views, like]) * real
    count = frames.sum() * like.shape[2]
    moments = torch.stack([kept.sum((1, 2, 3)), kept.square().sum((1, 2, 3))], 1) / count
    means, squares = distributed.mean(moments, count).unbind(1)
    deviations = (squares - means.square()).clamp(min=1e-6).sqrt()
    shift, scale = (x[:-1, None, None, None] for x in (means, deviations[-1] / deviations))
    return list(((kept[:-1] - shift) * scale + means[-1]) * real)
