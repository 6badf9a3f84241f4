"""From an image to the input of a network.

Exports contain the code below, so it needs only NumPy and Pillow.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from os import PathLike
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps


def stored_side(size: int) -> int:
    """Return the side of the square that an image is decoded to, for an input of `size` pixels."""
    return round(size * 8 / 7)


def image_input(
    source: str | PathLike[str] | IO[bytes] | Image.Image,
    size: int,
    channels: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> NDArray[np.float32]:
    """Return an image as the input of a network, as in evaluation.

    Args:
        source: an image file, or a decoded image. A JPEG file is decoded at a smaller scale where that
            has enough pixels, which gives slightly other values than decoding it before.
        size: the side of the input, in pixels.
        channels: the number of channels of the input.
        mean: the mean of each channel, for intensities in [0, 1].
        std: the standard deviation of each channel, likewise.

    Returns:
        float32 [1, channels, size, size].

    Raises:
        ValueError: the network takes neither one channel nor three, as image files have.
    """
    if channels not in (1, 3):
        raise ValueError(f"image files have 1 or 3 channels, and the network takes {channels}")
    side = stored_side(size)
    if isinstance(source, Image.Image):
        square = to_square(source.copy(), side, 3)
    else:
        with Image.open(source) as image:
            image.draft(None, (side, side))  # a JPEG at the smallest of its scales that is large enough
            square = to_square(image, side, 3)
    x = resize(square / 255, size)
    if channels != 3:
        x = x.mean(0, keepdims=True).repeat(channels, 0)
    centre, scale = (np.asarray(values).reshape(-1, 1, 1) for values in (mean, std))
    return np.asarray((x - centre) / scale, np.float32)[None]


def to_square(image: Image.Image, side: int, channels: int) -> NDArray[np.uint8]:
    """Return the central square of an image, which may be changed in place.

    The EXIF orientation is applied, transparent pixels are blended with white, 16 bits become 8, and
    CMYK and palettes become RGB.

    Args:
        image: an image; of an animation the first frame is used.
        side: the side of the result, in pixels; a smaller image is enlarged.
        channels: the number of channels of the result, 1 or 3.

    Returns:
        uint8 [channels, side, side].
    """
    mode = "L" if channels == 1 else "RGB"
    image.load()
    with contextlib.suppress(Exception):  # the pixels are valid even if the metadata are not
        ImageOps.exif_transpose(image, in_place=True)
    if has_more_than_8_bits(image):
        image = _in_8_bits(image)
    if image.has_transparency_data:
        # Pillow weights colours by alpha when it resizes, so blending can follow.
        square = _fit(_convert(image, "RGBA"), side)
        image = Image.alpha_composite(Image.new("RGBA", square.size, "white"), square)
    image = _fit(_convert(image, mode), side)
    return np.array(image, dtype=np.uint8).reshape(side, side, channels).transpose(2, 0, 1)


def has_more_than_8_bits(image: Image.Image) -> bool:
    """Return whether a channel of an image has more than 8 bits."""
    return image.mode.startswith(("I", "F"))


def _convert(image: Image.Image, mode: str) -> Image.Image:
    return image if image.mode == mode else image.convert(mode)


def _fit(image: Image.Image, side: int) -> Image.Image:
    if image.size == (side, side):
        return image
    return ImageOps.fit(image, (side, side), Image.Resampling.BILINEAR)


def _in_8_bits(image: Image.Image) -> Image.Image:
    """Convert integers of more than 8 bits, or floats, to 8 bits; the range follows from the maximum."""
    # In place, as there may be many values.
    pixels = np.nan_to_num(np.array(image, dtype=np.float32), copy=False)
    np.clip(pixels, 0, None, out=pixels)
    maximum = float(pixels.max())
    ranges = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
    white = next((top for top in ranges if maximum <= top), maximum)
    pixels *= 255 / white
    return Image.fromarray(np.rint(pixels, out=pixels).astype(np.uint8))


def resize(x: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Shrink [C, s, s] to [C, size, size] as torch does: bilinear and antialiased."""
    side = x.shape[-1]
    centre = (np.arange(size)[:, None] + 0.5) * side / size
    weight = np.maximum(1 - np.abs(np.arange(side) + 0.5 - centre) * size / side, 0)  # [size, side]
    weight /= weight.sum(1, keepdims=True)
    resized: NDArray[np.float64] = weight @ x @ weight.T
    return resized
