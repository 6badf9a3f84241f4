"""Transforms that draw their parameters per image, with torchvision's distributions.

A transform is called with a batch [B, C, H, W] (uint8, or float in [0, 1]) and an `Rng`. Any number of
channels is taken. Brightness and contrast change all channels alike, or each by itself; blur and
solarisation treat all alike, and single channels may be dropped. Saturation, hue and conversion to gray
mean something for red, green and blue alone, and leave other images as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ssl_zoo.notices import Notice
from ssl_zoo.sizes import Size, height_width
from ssl_zoo.spec import ImageSpec
from ssl_zoo.views import functional as F
from ssl_zoo.views.ranges import Count, HueStrength, KernelSize, PositiveRange, Probability, Strength
from ssl_zoo.views.rng import Rng
from ssl_zoo.views.transform import RandomTransform

_NO_COLOURS = Notice(
    "no-colours",
    "Images of neither one nor three channels have no red, green and blue: views of them are made "
    "without changes of saturation and hue, and without conversion to gray.",
    "three channels; or the task's options, such as task.jitter and task.grayscale_p, at 0",
)


def _report_no_colours(x: Tensor, left_out: str) -> None:
    """Give a notice of what does nothing to images [B, C, H, W]; of gray ones that is plain."""
    if x.shape[1] not in (1, 3):
        _NO_COLOURS(f"views of images of {x.shape[1]} channels are made without {left_out}")


def _apply(chosen: Tensor, op: Callable[..., Tensor], x: Tensor, *parameters: Tensor) -> Tensor:
    """Apply `op` to the images where `chosen` [B] is true, with their entries of the parameters [B]."""
    if x.device.type == "cpu":
        rows = chosen.nonzero().squeeze(1)
        changed = x.clone(memory_format=torch.contiguous_format)
        changed[rows] = op(x[rows], *(p[rows] for p in parameters))
        return changed
    # On other devices, selecting rows would wait for the device; computing all of them is cheaper.
    return torch.where(chosen.view(-1, 1, 1, 1), op(x, *parameters), x)


class Chosen(NamedTuple):
    """The images that are changed.

    Attributes:
        applied: whether an image is changed, bool [B].
    """

    applied: Tensor


class DrawnJitter(NamedTuple):
    """The changes of colour.

    Attributes:
        applied: whether an image is changed, bool [B].
        brightness: the factor [B], or that of each channel [B, C], 1 for no change.
        contrast: likewise.
        saturation: the factor [B], 1 for no change.
        hue: the shift [B], as a share of a full turn, 0 for no change.
        order: the order of the four, int64 [B, 4] on the CPU, the same for all images.
    """

    applied: Tensor
    brightness: Tensor
    contrast: Tensor
    saturation: Tensor
    hue: Tensor
    order: Tensor


class DrawnDrop(NamedTuple):
    """The channels that are dropped.

    Attributes:
        applied: whether an image loses channels, bool [B].
        dropped: which of its channels, bool [B, C].
        fill: what stands in their place, [B, C, 1, 1], or [B, C, H, W] with noise.
    """

    applied: Tensor
    dropped: Tensor
    fill: Tensor


class DrawnShifts(NamedTuple):
    """The shifts of channels.

    Attributes:
        shift: the pixels by which a channel is shifted up and left, int64 [B, C, 2].
    """

    shift: Tensor


class DrawnBlur(NamedTuple):
    """The blurs.

    Attributes:
        applied: whether an image is blurred, bool [B].
        sigma: the standard deviation of the Gaussian [B], in pixels, 0 for no blur.
    """

    applied: Tensor
    sigma: Tensor


@dataclass(frozen=True)
class ColorJitter(RandomTransform[DrawnJitter]):
    """A random change of brightness, contrast, saturation and hue, in random order.

    The order is drawn once per batch, not per image; for each image every order is as likely as in
    torchvision. Only images of three channels have a saturation and a hue to change.

    Attributes:
        brightness: the factor is uniform in [max(0, 1 - brightness), 1 + brightness].
        contrast: likewise.
        saturation: likewise.
        hue: the shift is uniform in [-hue, hue], as a share of a full turn; at most 0.5.
        p: the probability that an image is changed.
        each: whether the brightness and contrast of each channel change by a factor of its own, as for
            bands of a spectrum or stains; otherwise all channels of an image change alike.
    """

    brightness: Strength = 0.0
    contrast: Strength = 0.0
    saturation: Strength = 0.0
    hue: HueStrength = 0.0
    p: Probability = 1.0
    each: bool = False

    def draw(self, x: Tensor, rng: Rng) -> DrawnJitter:
        """Draw the changes for a batch [B, C, H, W]."""
        chosen = rng.bernoulli(len(x), self.p)

        def draw(strength: float, neutral: float, *channels: int) -> Tensor:
            low = max(0.0, neutral - strength) if neutral else -strength
            drawn = rng.uniform(len(x), *channels, low=low, high=neutral + strength)
            return torch.where(chosen.view(-1, *(1 for _ in channels)), drawn, neutral)

        channels = [x.shape[1]] if self.each else []
        brightness, contrast = (draw(s, 1.0, *channels) for s in (self.brightness, self.contrast))
        saturation, hue = draw(self.saturation, 1.0), draw(self.hue, 0.0)
        if not F.is_colour(x):
            if self.p and (self.saturation or self.hue):
                _report_no_colours(x, "changes of saturation and hue")
            saturation, hue = torch.ones_like(saturation), torch.zeros_like(hue)
        order = torch.tensor(rng.order(4)).expand(len(x), -1)
        return DrawnJitter(chosen, brightness, contrast, saturation, hue, order)

    def apply(self, x: Tensor, drawn: DrawnJitter) -> Tensor:
        """Transform [B, C, H, W] to float of the same shape.

        Raises:
            ValueError: the parameters were drawn for several batches, in different orders.
        """
        if (drawn.order != drawn.order[:1]).any():
            raise ValueError("ColorJitter: the images of a batch must have one order of operations")
        operations = (
            (F.brightness, self.brightness, drawn.brightness),
            (F.contrast, self.contrast, drawn.contrast),
            (F.saturation, self.saturation, drawn.saturation),
            (F.hue, self.hue, drawn.hue),
        )
        x, own = F.to_float(x), None
        for i in drawn.order[:1].flatten().tolist():
            operation, strength, parameter = operations[i]
            if strength and (i < 2 or F.is_colour(x)):
                x = own = operation(x, parameter, own)  # reuses memory that is in the cache
        return x


@dataclass(frozen=True)
class RandomGrayscale(RandomTransform[Chosen]):
    """A conversion of colours to gray with probability `p`; the number of channels stays."""

    p: Probability = 0.2

    def draw(self, x: Tensor, rng: Rng) -> Chosen:
        """Draw which images of [B, C, H, W] are converted."""
        chosen = rng.bernoulli(len(x), self.p)
        if F.is_colour(x):
            return Chosen(chosen)
        if self.p:
            _report_no_colours(x, "conversion to gray")
        return Chosen(torch.zeros_like(chosen))

    def apply(self, x: Tensor, drawn: Chosen) -> Tensor:
        """Transform [B, C, H, W] to float of the same shape."""
        x = F.to_float(x)
        return _apply(drawn.applied, F.grayscale, x) if F.is_colour(x) else x


@dataclass(frozen=True)
class GaussianBlur(RandomTransform[DrawnBlur]):
    """A Gaussian blur with probability `p`.

    Attributes:
        kernel_size: the number of taps, odd; None for about a tenth of the image's shorter side.
        sigma: the range of the Gaussian's standard deviation, in pixels.
        p: the probability that an image is blurred.
    """

    kernel_size: KernelSize = None
    sigma: PositiveRange = (0.1, 2.0)
    p: Probability = 0.5

    def draw(self, x: Tensor, rng: Rng) -> DrawnBlur:
        """Draw the blurs for a batch [B, C, H, W]."""
        chosen = rng.bernoulli(len(x), self.p)
        sigma = rng.uniform(len(x), low=self.sigma[0], high=self.sigma[1])
        return DrawnBlur(chosen, sigma.masked_fill_(~chosen, 0))

    def apply(self, x: Tensor, drawn: DrawnBlur) -> Tensor:
        """Transform [B, C, H, W] to float of the same shape."""
        if not self.p:
            return F.to_float(x)
        kernel_size = self.kernel_size or F.default_kernel_size(min(x.shape[-2:]))
        blur = partial(F.gaussian_blur, kernel_size=kernel_size)
        return _apply(drawn.applied, blur, F.to_float(x), drawn.sigma)


@dataclass(frozen=True)
class RandomSolarise(RandomTransform[Chosen]):
    """An inversion of the pixels at or above `threshold`, with probability `p`."""

    p: Probability = 0.2
    threshold: Probability = 0.5

    def draw(self, x: Tensor, rng: Rng) -> Chosen:
        """Draw which images of [B, C, H, W] are solarised."""
        return Chosen(rng.bernoulli(len(x), self.p))

    def apply(self, x: Tensor, drawn: Chosen) -> Tensor:
        """Transform [B, C, H, W] to float of the same shape."""
        if not self.p:
            return F.to_float(x)
        return _apply(drawn.applied, partial(F.solarise, threshold=self.threshold), F.to_float(x))


@dataclass(frozen=True)
class RandomChannelDrop(RandomTransform[DrawnDrop]):
    """A loss of channels with probability `p`: other channels must tell what these would.

    Images of no more than `number` channels stay as they are.

    Attributes:
        p: the probability that an image loses channels.
        number: the number of channels that it loses, each as likely.
        fill: the intensity of a lost channel; one for all, or one for each.
        noise: the standard deviation of Gaussian noise that is added to it.
    """

    p: Probability = 0.2
    number: Count = 1
    fill: float | tuple[float, ...] = 0.0
    noise: Strength = 0.0

    def draw(self, x: Tensor, rng: Rng) -> DrawnDrop:
        """Draw the channels that images of [B, C, H, W] lose."""
        fill = torch.as_tensor(self.fill, device=x.device).view(-1, 1, 1).expand(*x.shape[:2], 1, 1)
        if not self.p:  # for which no number need be drawn
            dropped = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
            return DrawnDrop(dropped[:, 0], dropped, fill)
        chosen = rng.bernoulli(len(x), self.p) & (x.shape[1] > self.number)
        rank = rng.uniform(len(x), x.shape[1]).argsort(1).argsort(1)
        if self.noise:
            fill = fill + self.noise * rng.normal(*x.shape)
        return DrawnDrop(chosen, chosen[:, None] & (rank < self.number), fill)

    def apply(self, x: Tensor, drawn: DrawnDrop) -> Tensor:
        """Transform [B, C, H, W] to float of the same shape."""
        x = F.to_float(x)
        return torch.where(drawn.dropped[:, :, None, None], drawn.fill.to(x.dtype), x)


@dataclass(frozen=True)
class RandomChannelShift(RandomTransform[DrawnShifts]):
    """A shift of each channel by up to `pixels`, against cues from chromatic aberration.

    Borders are repeated. An image of one channel stays as it is.

    Attributes:
        pixels: the largest shift in either direction, vertically and horizontally.
    """

    pixels: Count = 1
    moves: ClassVar[bool] = True

    def draw(self, x: Tensor, rng: Rng) -> DrawnShifts:
        """Draw the shifts of the channels of [B, C, H, W]."""
        if x.shape[1] == 1 or not self.pixels:
            return DrawnShifts(torch.zeros(*x.shape[:2], 2, dtype=torch.int64, device=x.device))
        shift = (rng.uniform(*x.shape[:2], 2) * (2 * self.pixels + 1)).long() - self.pixels
        return DrawnShifts(shift)

    def apply(self, x: Tensor, drawn: DrawnShifts) -> Tensor:
        """Transform [B, C, H, W] to float of the same shape."""
        x = F.to_float(x)
        if x.shape[1] == 1:
            return x
        for dim, by in zip((2, 3), drawn.shift.unbind(2), strict=True):
            at = torch.arange(x.shape[dim], device=x.device) + by.unsqueeze(2)  # [B, C, side]
            x = x.gather(dim, at.clamp(0, x.shape[dim] - 1).unsqueeze(5 - dim).expand_as(x))
        return x


@dataclass(frozen=True)
class Normalise(RandomTransform[tuple[()]]):
    """A normalisation to zero mean and unit deviation per channel, by the statistics of the data."""

    spec: ImageSpec

    def draw(self, x: Tensor, rng: Rng) -> tuple[()]:
        """Return no parameters, as nothing is random."""
        return ()

    def apply(self, x: Tensor, drawn: tuple[()] = ()) -> Tensor:
        """Normalise [B, C, H, W] in [0, 1]."""
        return self.spec.normalise(F.to_float(x))


class PerSample(RandomTransform[int]):
    """An adapter that applies a transform of one image [C, H, W], such as torchvision's, to batches.

    It runs image by image with a seed drawn from the `Rng`. It is reproducible but slow, and several
    processes draw other parameters than a single process would. Its parameters are the seed alone.

    Args:
        transform: a function of one image that draws from torch's global generator.
    """

    def __init__(self, transform: Callable[[Tensor], Any]) -> None:
        self.transform = transform

    def draw(self, x: Tensor, rng: Rng) -> int:
        """Draw the seed for a batch."""
        return rng.seed()

    def apply(self, x: Tensor, drawn: int) -> Tensor:
        """Transform each image of [B, C, H, W] and stack the results."""
        devices = [x.device] if x.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(drawn)
            return torch.stack([self.transform(image) for image in x])


def random_blocks(
    n: int, size: Size, rng: Rng, number: int = 8, side: tuple[float, float] = (0.1, 0.27)
) -> Tensor:
    """Return masks [n, 1, *size] that are true in random squares, which may overlap.

    With the defaults, the squares cover about a quarter of the image.

    Args:
        n: the number of masks.
        size: the side of the images, or their height and width, in pixels.
        rng: the source of random numbers.
        number: the number of squares in a mask.
        side: the range of a square's side, as a share of the image's shorter one.
    """
    height_and_width = height_width(size)
    low, high = (share * min(height_and_width) for share in side)
    sides = rng.uniform(n, number, low=low, high=high).round_().clamp_(min=1)
    position = rng.uniform(n, 2, number)
    room = sides.new_tensor(height_and_width).view(2, 1) - sides.unsqueeze(1) + 1  # [n, 2, number]
    top, left = (position * room).floor_().unbind(1)
    return F.blocks(top, left, sides, size)
