"""Transforms that draw their parameters per image, with torchvision's distributions.

A transform is called with a batch [B, C, H, W] (uint8, or float in [0, 1]) and an `Rng`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ssl_zoo.spec import ImageSpec
from ssl_zoo.views import functional as F
from ssl_zoo.views.rng import Rng


class Transform(Protocol):
    """A function that turns a batch of images and an `Rng` into a batch of images."""

    def __call__(self, x: Tensor, rng: Rng, /) -> Tensor:
        """Return the transformed batch."""


class Compose:
    """A sequence of transforms that are applied one after another."""

    def __init__(self, *transforms: Transform) -> None:
        self.transforms = transforms

    def __call__(self, x: Tensor, rng: Rng) -> Tensor:
        """Transform [B, C, H, W] to [B, C, h, w]."""
        for transform in self.transforms:
            x = transform(x, rng)
        return x


def _apply(chosen: Tensor, op: Callable[..., Tensor], x: Tensor, *parameters: Tensor) -> Tensor:
    """Apply `op` to the images where `chosen` [B] is true, with their entries of the parameters [B]."""
    if x.device.type == "cpu":
        rows = chosen.nonzero().squeeze(1)
        changed = x.clone(memory_format=torch.contiguous_format)
        changed[rows] = op(x[rows], *(p[rows] for p in parameters))
        return changed
    # On other devices, selecting rows would wait for the device; computing all of them is cheaper.
    return torch.where(chosen.view(-1, 1, 1, 1), op(x, *parameters), x)


@dataclass(frozen=True)
class RandomResizedCrop:
    """A crop of random area and aspect ratio, resized to a square and mirrored with probability `flip`.

    Attributes:
        size: the side of the result, in pixels.
        scale: the range of the crop's area, as a share of the image's area.
        ratio: the range of the crop's width over its height; its logarithm is drawn uniformly.
        flip: the probability of a horizontal flip.
    """

    size: int
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5

    _TRIES = 10

    def __call__(self, x: Tensor, rng: Rng) -> Tensor:
        """Transform uint8 or float [B, C, H, W] to float [B, C, size, size]."""
        flip = rng.bernoulli(len(x), self.flip)
        top, left, height, width = self.boxes(len(x), x.shape[-2], x.shape[-1], rng)
        return F.resized_crop(x, top, left, height, width, self.size, flip)

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


@dataclass(frozen=True)
class ColorJitter:
    """A random change of brightness, contrast, saturation and hue, in random order.

    The order is drawn once per batch, not per image; for each image every order is as likely as in
    torchvision. Images of one channel have no saturation and hue to change.

    Attributes:
        brightness: the factor is uniform in [max(0, 1 - brightness), 1 + brightness].
        contrast: likewise.
        saturation: likewise.
        hue: the shift is uniform in [-hue, hue], as a share of a full turn; at most 0.5.
        p: the probability that an image is changed.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    p: float = 1.0

    def __call__(self, x: Tensor, rng: Rng) -> Tensor:
        """Transform [B, C, H, W] to float of the same shape."""
        chosen = rng.bernoulli(len(x), self.p)

        def draw(strength: float, neutral: float) -> Tensor:
            low = max(0.0, neutral - strength) if neutral else -strength
            drawn = rng.uniform(len(x), low=low, high=neutral + strength)
            return torch.where(chosen, drawn, neutral)

        operations = (
            (F.brightness, self.brightness, draw(self.brightness, 1.0)),
            (F.contrast, self.contrast, draw(self.contrast, 1.0)),
            (F.saturation, self.saturation, draw(self.saturation, 1.0)),
            (F.hue, self.hue, draw(self.hue, 0.0)),
        )
        x, own = F.to_float(x), None
        for i in rng.order(len(operations)):
            operation, strength, parameter = operations[i]
            if strength and (i < 2 or x.shape[1] > 1):
                x = own = operation(x, parameter, own)  # reuses memory that is in the cache
        return x


@dataclass(frozen=True)
class RandomGrayscale:
    """A conversion to gray with probability `p`; the number of channels stays."""

    p: float = 0.2

    def __call__(self, x: Tensor, rng: Rng) -> Tensor:
        """Transform [B, C, H, W] to float of the same shape."""
        chosen = rng.bernoulli(len(x), self.p)
        return F.to_float(x) if x.shape[1] == 1 else _apply(chosen, F.grayscale, F.to_float(x))


@dataclass(frozen=True)
class GaussianBlur:
    """A Gaussian blur with probability `p`.

    Attributes:
        kernel_size: the number of taps, odd; None for about a tenth of the image's side.
        sigma: the range of the Gaussian's standard deviation, in pixels.
        p: the probability that an image is blurred.
    """

    kernel_size: int | None = None
    sigma: tuple[float, float] = (0.1, 2.0)
    p: float = 0.5

    def __call__(self, x: Tensor, rng: Rng) -> Tensor:
        """Transform [B, C, H, W] to float of the same shape."""
        chosen = rng.bernoulli(len(x), self.p)
        sigma = rng.uniform(len(x), low=self.sigma[0], high=self.sigma[1])
        if not self.p:
            return F.to_float(x)
        kernel_size = self.kernel_size or F.default_kernel_size(x.shape[-1])
        return _apply(chosen, lambda y, s: F.gaussian_blur(y, s, kernel_size), F.to_float(x), sigma)


@dataclass(frozen=True)
class RandomSolarise:
    """An inversion of the pixels at or above `threshold`, with probability `p`."""

    p: float = 0.2
    threshold: float = 0.5

    def __call__(self, x: Tensor, rng: Rng) -> Tensor:
        """Transform [B, C, H, W] to float of the same shape."""
        chosen = rng.bernoulli(len(x), self.p)
        if not self.p:
            return F.to_float(x)
        return _apply(chosen, lambda y: F.solarise(y, self.threshold), F.to_float(x))


@dataclass(frozen=True)
class Normalise:
    """A normalisation to zero mean and unit deviation per channel, by the statistics of the data."""

    spec: ImageSpec

    def __call__(self, x: Tensor, rng: Rng) -> Tensor:
        """Normalise [B, C, H, W] in [0, 1]."""
        return self.spec.normalise(F.to_float(x))


class MultiCrop:
    """Several crops of each image, of different sizes (SwAV, arXiv:2006.09882, section 3.2).

    Args:
        crops: for each kind of crop, the number of crops and their complete augmentation.
    """

    def __init__(self, crops: Sequence[tuple[int, Transform]]) -> None:
        self.crops = crops

    def __call__(self, x: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """Transform [B, C, H, W] to one batch per crop, in the order of `crops`."""
        return tuple(crop(x, rng) for number, crop in self.crops for _ in range(number))


class PerSample:
    """An adapter that applies a transform of one image [C, H, W], such as torchvision's, to batches.

    It runs image by image with a seed drawn from the `Rng`. It is reproducible but slow, and several
    processes draw other parameters than a single process would.

    Args:
        transform: a function of one image that draws from torch's global generator.
    """

    def __init__(self, transform: Callable[[Tensor], Any]) -> None:
        self.transform = transform

    def __call__(self, x: Tensor, rng: Rng) -> Tensor:
        """Transform each image of [B, C, H, W] and stack the results."""
        seed = rng.seed()
        devices = [x.device] if x.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            return torch.stack([self.transform(image) for image in x])


def random_blocks(
    n: int, size: int, rng: Rng, number: int = 8, side: tuple[float, float] = (0.1, 0.27)
) -> Tensor:
    """Return masks [n, 1, size, size] that are true in random squares, which may overlap.

    With the defaults, the squares cover about a quarter of the image.

    Args:
        n: the number of masks.
        size: the side of the images, in pixels.
        rng: the source of random numbers.
        number: the number of squares in a mask.
        side: the range of a square's side, as a share of `size`.
    """
    sides = rng.uniform(n, number, low=side[0] * size, high=side[1] * size).round_().clamp_(min=1)
    position = rng.uniform(n, 2, number)
    top, left = (position * (size - sides + 1).unsqueeze(1)).floor_().unbind(1)
    return F.blocks(top, left, sides, size)
