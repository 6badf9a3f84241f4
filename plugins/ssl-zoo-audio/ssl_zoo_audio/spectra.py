"""Log-mel spectra and MFCC."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

WINDOW, HOP = 0.025, 0.010
"""The length of a frame and the distance of frames, in seconds."""
FLOOR = 1e-3
"""The power added to each mel band of a standardised clip, whose loud bands have 10^4 or more."""
LOG_MEAN, LOG_DEVIATION = 0.2, 4.4
"""About the mean and deviation of log-mel spectra of standardised speech, which networks take out."""
SILENCE = (math.log(FLOOR) - LOG_MEAN) / LOG_DEVIATION
"""The value of digital silence in a spectrum from which these are taken out."""


class Spectra(NamedTuple):
    """A batch of log-mel spectra, such as views of clips.

    Attributes:
        values: the spectra [B, F, mels].
        frames: the number of real frames of each, int64 [B]; those behind do not count.
    """

    values: Tensor
    frames: Tensor


def mel_filters(bins: int, mels: int, rate: int) -> Tensor:
    """Return triangular filters [bins, mels] at equal distances on the mel scale, each of height 1.

    mel(f) = 2595 · log10(1 + f / 700), as in HTK.

    Args:
        bins: the number of frequencies from 0 to half of the rate, both included.
        mels: the number of filters.
        rate: samples per second.
    """
    highest = 2595 * math.log10(1 + rate / 2 / 700)
    points = 700 * (10 ** (torch.linspace(0, highest, mels + 2, dtype=torch.float64) / 2595) - 1)
    frequencies = torch.linspace(0, rate / 2, bins, dtype=torch.float64)[:, None]
    rising = (frequencies - points[:-2]) / (points[1:-1] - points[:-2])
    falling = (points[2:] - frequencies) / (points[2:] - points[1:-1])
    return torch.minimum(rising, falling).clamp(min=0)


class LogMel(nn.Module):
    """Log-mel spectra: ln(FLOOR + the power in each of `mels` bands), of 25 ms every 10 ms.

    Frames lie within the clip, so that none of a clip's own sees its padding. The Fourier transform is
    a product with a matrix, which every device and format has.

    Args:
        rate: samples per second.
        mels: the number of bands.
    """

    basis: Tensor
    filters: Tensor

    def __init__(self, rate: int = 16000, mels: int = 80) -> None:
        super().__init__()
        self.window, self.hop, self.mels = round(WINDOW * rate), round(HOP * rate), mels
        length = self.window + self.window % 2  # of the transform
        while not (mel_filters(length // 2 + 1, mels, rate) > 0).any(0).all():
            length *= 2  # narrow bands would lie between two frequencies
        bins = length // 2 + 1
        time = torch.arange(self.window, dtype=torch.float64)
        angle = -2 * math.pi / length * time[:, None] * torch.arange(bins)
        hann = 0.5 - 0.5 * torch.cos(2 * math.pi / self.window * time)
        basis = torch.cat([angle.cos(), angle.sin()], 1) * hann[:, None]
        self.register_buffer("basis", basis.float(), persistent=False)
        filters = mel_filters(bins, mels, rate) * (self.window / length)
        self.register_buffer("filters", filters.float(), persistent=False)

    def frames(self, length: Tensor) -> Tensor:
        """Return the number of frames of clips of these lengths, at least 1, int64."""
        return ((length - self.window) // self.hop + 1).clamp(min=1)

    def forward(self, wave: Tensor) -> Tensor:
        """Return the spectra [B, F, mels] of waves [B, T], in float32."""
        with torch.autocast(wave.device.type, enabled=False):
            wave = nn.functional.pad(wave.float(), (0, max(0, self.window - wave.shape[1])))
            parts = wave.unfold(1, self.window, self.hop) @ self.basis  # [B, F, 2 · bins]
            power = parts.square().unflatten(-1, (2, -1)).sum(-2)
            log_mel: Tensor = (power @ self.filters + FLOOR).log()
            return log_mel


class MFCC(nn.Module):
    """Mel-frequency cepstral coefficients with their first and second differences, [B, F, 3 · n].

    The coefficients are the first `coefficients` of the orthonormal DCT-II of a log-mel spectrum; the
    differences are slopes over five frames, as in HTK's and Kaldi's deltas. HuBERT clusters 39 of them
    (arXiv:2106.07447, section 4.2).

    Args:
        rate: samples per second.
        coefficients: n.
        mels: the number of bands of the spectrum.
    """

    dct: Tensor

    def __init__(self, rate: int = 16000, coefficients: int = 13, mels: int = 40) -> None:
        super().__init__()
        self.log_mel = LogMel(rate, mels)
        self.width = 3 * coefficients
        band = torch.arange(mels, dtype=torch.float64)[:, None]
        dct = torch.cos(math.pi / mels * (band + 0.5) * torch.arange(coefficients)) * (2 / mels) ** 0.5
        dct[:, 0] *= 0.5**0.5
        self.register_buffer("dct", dct.float(), persistent=False)

    def forward(self, wave: Tensor, length: Tensor) -> Tensor:
        """Return the features [B, F, 3 · n] of waves [B, T] of these lengths [B]."""
        with torch.autocast(wave.device.type, enabled=False):
            first = self.log_mel(wave) @ self.dct
            last = self.log_mel.frames(length) - 1
            slopes = slope(first, last)
            return torch.cat([first, slopes, slope(slopes, last)], 2)


def at_places(frames: Tensor, valid: Tensor, hop: int, frame_hop: int) -> Tensor:
    """Return the frames with which the places of a network begin, [B, T, D], of frames [B, F, D].

    Frame f begins at f · `frame_hop` samples, and place t at t · `hop`: it has the last frame that
    begins no later. If `hop` is a multiple of `frame_hop`, the places of a clip that is shifted by `hop`
    are shifted by 1.

    Args:
        frames: features of frames.
        valid: which places are real, bool [B, T].
        hop: the distance of places, in samples.
        frame_hop: the distance of frames, in samples.
    """
    frame = torch.arange(valid.shape[1], device=frames.device) * hop // frame_hop
    return frames[:, frame.clamp(max=frames.shape[1] - 1)]


def slope(x: Tensor, last: Tensor) -> Tensor:
    """Return the slope of each column over five frames, Σ n · (x[t + n] - x[t - n]) / 10 for n = 1, 2.

    The first and last frame of a clip continue beyond its ends.

    Args:
        x: frames [B, F, D].
        last: the index of the last frame of each clip, int64 [B].
    """
    place = torch.arange(x.shape[1], device=x.device).expand(len(x), -1)

    def at(offset: int) -> Tensor:
        index = torch.minimum((place + offset).clamp(min=0), last[:, None])
        return x.gather(1, index[..., None].expand_as(x))

    return (at(1) - at(-1) + 2 * (at(2) - at(-2))) / 10
