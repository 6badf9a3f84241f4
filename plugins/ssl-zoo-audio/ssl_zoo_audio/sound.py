"""Batches of clips of unequal length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Sound(NamedTuple):
    """A batch of clips.

    Attributes:
        wave: samples, float32 [B, T], 0 behind the end of each clip.
        length: the number of samples of each clip, int64 [B].
    """

    wave: Tensor
    length: Tensor

    def valid(self) -> Tensor:
        """Return which samples are of the clip, bool [B, T]."""
        return within(self.length, self.wave.shape[1])


def within(length: Tensor, number: int) -> Tensor:
    """Return which of `number` places are below the lengths [B], bool [B, number]."""
    return torch.arange(number, device=length.device) < length[:, None]


def pad_clips(clips: Sequence[Tensor], longest: int) -> Sound:
    """Return clips [T_i] as a batch of `longest` samples each; what is beyond is cut off."""
    wave = torch.zeros(len(clips), longest)
    length = torch.tensor([min(len(clip), longest) for clip in clips], dtype=torch.long)
    for row, clip, n in zip(wave, clips, length.tolist(), strict=True):
        row[:n] = clip[:n]
    return Sound(wave, length)


def standardise(sound: Sound) -> Sound:
    """Give each clip mean 0 and variance 1 over its own samples, as wav2vec 2.0's input has.

    Padding stays 0 and does not count. Digital silence becomes 0.
    """
    valid = sound.valid()
    n = sound.length.clamp(min=1)[:, None]
    centred = (sound.wave - sound.wave.sum(1, keepdim=True) / n) * valid
    variance = centred.square().sum(1, keepdim=True) / n
    return Sound(centred * (variance + 1e-7).rsqrt(), sound.length)


def masked_statistics(x: Tensor, valid: Tensor) -> Tensor:
    """Return mean and standard deviation over real places, [B, 2 · D], of x [B, T, D].

    Args:
        x: features of places.
        valid: which of them are real, bool [B, T].
    """
    x, mask = x.float(), valid[..., None]
    n = mask.sum(1).clamp(min=1)
    mean = (x * mask).sum(1) / n
    variance = ((x - mean[:, None]).square() * mask).sum(1) / n
    return torch.cat([mean, (variance + 1e-6).sqrt()], 1)
