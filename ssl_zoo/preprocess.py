"""From an image to the input of a network.

With `ssl_zoo.pixel_files` the one place that knows how pixels are stored: their types, channels and
range. Exports contain the code below, so it needs only NumPy and Pillow.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from os import PathLike
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ssl_zoo.pixel_files import open_pixels, plain, turn_upright
from ssl_zoo.sizes import Size, height_width


class OtherChannels(ValueError):
    """An image has another number of channels than is taken.

    Attributes:
        number: its number of channels.
    """

    def __init__(self, number: int, channels: int) -> None:
        super().__init__(f"the image has {number} channels, and {channels} are taken")
        self.number = number


def stored_size(size: Size) -> tuple[int, int]:
    """Return the height and width that an image is decoded to, for an input of `size` pixels."""
    height, width = (round(side * 8 / 7) for side in height_width(size))
    return height, width


def image_input(
    source: str | PathLike[str] | IO[bytes] | Image.Image | NDArray[Any],
    size: Size,
    channels: int,
    mean: Sequence[float],
    std: Sequence[float],
    limits: tuple[float, float] | None = None,
    pages: str | int = "first",
    widen: bool = False,
    interpolation: str = "bilinear",
) -> NDArray[np.float32]:
    """Return an image as the input of a network, as in evaluation.

    Args:
        source: an image file, a decoded image, or pixels of any type [C, h, w]. A JPEG file is decoded
            at a smaller scale where that has enough pixels, which gives slightly other values than
            decoding it before.
        size: the side of the input, or its height and width, in pixels.
        channels: the number of channels of the input.
        mean: the mean of each channel, for intensities in [0, 1].
        std: the standard deviation of each channel, likewise.
        limits: the values that become the intensities 0 and 1; others are clipped to them. None for
            0 and 255, the limits of 8 bits.
        pages: the pages of a file that are read, as for `ssl_zoo.pixel_files.open_pixels`.
        widen: whether values of 8 bits are shares of the range of 16 bits, so that white stays white.
        interpolation: how the middle of the image is shrunk to the input, "bilinear" or "bicubic".

    Returns:
        float32 [1, channels, height, width].

    Raises:
        OtherChannels: the image has another number of channels.
        ValueError: it has more than 8 bits, and there are no `limits`.
        ImportError: the library that reads the file is not installed.
    """
    stored = stored_size(size)
    if isinstance(source, np.ndarray):
        image: Image.Image | NDArray[Any] = plain(source)
    elif isinstance(source, Image.Image):
        image = source.copy()
    else:
        image = open_pixels(source, max(stored), channels, pages)
    with opened(image):
        pixels = to_size(image, stored, 3 if channels == 1 else channels)
    if widen:
        pixels = widened(pixels)
    if limits is None and pixels.dtype != np.uint8:
        raise ValueError(f"the image has values of {pixels.dtype}, and the network takes 8 bits")
    if limits is None:
        x = resize(pixels / 255, size, interpolation)
    else:
        intensities = np.clip((pixels - np.float64(limits[0])) / (limits[1] - limits[0]), 0, 1)
        x = resize(np.nan_to_num(intensities, nan=0.0), size, interpolation)
    if channels == 1:
        x = x.mean(0, keepdims=True)
    centre, scale = (np.asarray(values).reshape(-1, 1, 1) for values in (mean, std))
    return np.asarray((x - centre) / scale, np.float32)[None]


def opened(image: Image.Image | NDArray[Any]) -> contextlib.AbstractContextManager[Any]:
    """Return a context that closes the file of an image."""
    return image if isinstance(image, Image.Image) else contextlib.nullcontext(image)


def widened(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return values of 8 bits as those of 16, 255 as 65,535; others as they are."""
    return pixels * np.uint16(257) if pixels.dtype == np.uint8 else pixels


def to_size(image: Image.Image | NDArray[Any], size: Size, channels: int) -> NDArray[Any]:
    """Return the middle of an image that has the aspect of `size`; the image may be changed in place.

    The EXIF orientation is applied. Images of 8 bits, for one channel or three: transparent pixels are
    blended with white, CMYK and palettes become RGB. All others keep their values and channels, but for
    values that are not finite, as `without_holes` says; a single channel is repeated, and several are
    averaged for one.

    Args:
        image: an image, of an animation the first frame; or pixels of a type of `plain`, [C, h, w].
        size: the side of the result, or its height and width, in pixels; a smaller image is enlarged.
        channels: the number of channels of the result.

    Returns:
        [channels, height, width], in the type of the image: uint8, uint16, int16 or float32.

    Raises:
        OtherChannels: the image has another number of channels.
    """
    turn_upright(image)
    return fit_image(image, height_width(size)[::-1], channels)


def fit_image(image: Image.Image | NDArray[Any], size: tuple[int, int], channels: int) -> NDArray[Any]:
    """Return the middle of an upright image that has the aspect of `size`; otherwise as `to_size`.

    Args:
        image: the image.
        size: the width and the height of the result, in pixels.
        channels: the number of channels of the result.
    """
    if isinstance(image, np.ndarray):
        return _fit_pixels(image, size, channels)
    if has_more_than_8_bits(image) or channels not in (1, 3):
        return _fit_pixels(_pixels_of(image), size, channels)
    mode = "L" if channels == 1 else "RGB"
    if image.has_transparency_data:
        # Pillow weights colours by alpha when it resizes, so blending can follow.
        image = _fit(_convert(image, "RGBA"), size)
        image = Image.alpha_composite(Image.new("RGBA", size, "white"), image)
    image = _fit(_convert(image, mode), size)
    pixels = np.array(image, dtype=np.uint8).reshape(image.height, image.width, channels)
    return pixels.transpose(2, 0, 1)


def unscaled(image: Image.Image | NDArray[Any], channels: int) -> NDArray[Any]:
    """Return all pixels of an image, in its own size, and with values that are not finite.

    Args:
        image: the image.
        channels: the number of channels that is wanted, as for `to_size`.

    Returns:
        [C, h, w], in the type of the image; C is `channels`, or 1 where it would be repeated.

    Raises:
        OtherChannels: the image has another number of channels.
    """
    if isinstance(image, np.ndarray) or has_more_than_8_bits(image) or channels not in (1, 3):
        pixels = image if isinstance(image, np.ndarray) else _pixels_of(image)
        return _with_channels(pixels, 1 if len(pixels) == 1 else channels)
    return fit_image(image, image.size, channels)


def without_holes(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return pixels [C, h, w] in which values that are not finite have become others.

    NaN and negative infinity become the smallest value of their channel, infinity the largest: before
    an image is resized, as they would spread. A channel without any finite value stays as it is.
    """
    if pixels.dtype.kind != "f" or np.isfinite(pixels).all():
        return pixels
    filled = pixels.copy()
    for channel in filled:
        finite = channel[np.isfinite(channel)]
        if len(finite):
            low, high = finite.min(), finite.max()
            np.nan_to_num(channel, copy=False, nan=low, posinf=high, neginf=low)
    return filled


def _pixels_of(image: Image.Image) -> NDArray[Any]:
    """Return all channels of an image, alpha among them, as pixels [C, h, w]."""
    if image.mode not in ("L", "LA", "RGB", "RGBA", "CMYK") and not has_more_than_8_bits(image):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    pixels = np.array(image)
    tags = getattr(image, "tag_v2", {})
    if image.mode == "I" and tags.get(258) == (16,):  # Pillow widens signed values
        pixels = pixels.astype(np.int16)
    return plain(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))


def _fit_pixels(pixels: NDArray[Any], size: tuple[int, int], channels: int) -> NDArray[Any]:
    """Return pixels [C, h, w] as `fit_image`."""
    _check_channels(len(pixels), channels)
    pixels = without_holes(pixels)
    if pixels.shape[1:] != size[::-1]:
        exact = pixels.dtype in (np.uint8, np.float32)
        planes = [plane if exact else plane.astype(np.float32) for plane in pixels]
        fitted = np.stack([np.asarray(_fit(Image.fromarray(plane), size)) for plane in planes])
        pixels = fitted if exact else np.rint(fitted).astype(pixels.dtype)
    return _with_channels(pixels, channels)


def _check_channels(number: int, channels: int) -> None:
    if number != channels and 1 not in (number, channels):
        raise OtherChannels(number, channels)


def _with_channels(pixels: NDArray[Any], channels: int) -> NDArray[Any]:
    """Return pixels [C, h, w] with this number of channels: one repeated, or the mean of several."""
    number = len(pixels)
    _check_channels(number, channels)
    if number == channels:
        return pixels
    if number == 1:
        return pixels.repeat(channels, 0)
    mean = pixels.mean(0, keepdims=True, dtype=np.float64)
    averaged: NDArray[Any] = (mean if pixels.dtype.kind == "f" else np.rint(mean)).astype(pixels.dtype)
    return averaged


def has_more_than_8_bits(image: Image.Image) -> bool:
    """Return whether a channel of an image has more than 8 bits."""
    return image.mode.startswith(("I", "F"))


def _convert(image: Image.Image, mode: str) -> Image.Image:
    return image if image.mode == mode else image.convert(mode)


def _fit(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image if image.size == size else ImageOps.fit(image, size, Image.Resampling.BILINEAR)


def resize(x: NDArray[np.float64], size: Size, interpolation: str = "bilinear") -> NDArray[np.float64]:
    """Shrink intensities [C, H, W] in [0, 1] to [C, height, width] as torch does, antialiased.

    Where bicubic interpolation overshoots, values are clipped to [0, 1], as those of 8 bits are.
    """
    sides = zip(x.shape[1:], height_width(size), strict=True)
    rows, columns = (_weights(old, new, interpolation) for old, new in sides)
    resized: NDArray[np.float64] = np.clip(rows @ x @ columns.T, 0, 1)
    return resized


def _weights(old: int, new: int, interpolation: str) -> NDArray[np.float64]:
    """Return the weight of each of `old` pixels in each of `new`, [new, old]; each row sums to 1."""
    centre = (np.arange(new)[:, None] + 0.5) * old / new
    distance = np.abs(np.arange(old) + 0.5 - centre) * new / old
    if interpolation == "bicubic":  # Keys 1981, with a = -1/2, as Pillow and torch with antialiasing
        near = (1.5 * distance - 2.5) * distance**2 + 1
        far = ((2.5 - 0.5 * distance) * distance - 4) * distance + 2
        weight = np.where(distance < 1, near, np.where(distance < 2, far, 0))
    else:
        weight = np.maximum(1 - distance, 0)
    normalised: NDArray[np.float64] = weight / weight.sum(1, keepdims=True)
    return normalised
