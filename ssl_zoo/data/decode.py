"""Decoding of an image, from a file or from memory, to a square of uint8."""

from __future__ import annotations

import contextlib
import importlib
import stat
import warnings
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ssl_zoo.text import error_reason

UNDECODED_FORMATS = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PALM", "PDF", "WMF")
"""Formats that Pillow recognises but does not decode by itself; for EPS it runs Ghostscript."""
GRAY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "F")
MAX_PIXELS = 90_000_000
"""Images of more pixels, at the scale at which they are decoded, count as unreadable.

Decoding takes 4 bytes for a pixel in RGB, and up to 14 (1.3 GB in total) with more than 8 bits."""

# Pillow's warnings (odd EXIF, many pixels) are not shown: an image is decoded or recorded as unreadable.
# The filter is set once, because filters are global and must not be changed by threads.
warnings.filterwarnings("ignore", module=r"PIL\.")


@cache
def formats() -> tuple[str, ...]:
    """Return Pillow's names of the formats that are decoded, regardless of a file's suffix.

    HEIC is among them only if pillow-heif is installed.
    """
    with contextlib.suppress(ImportError):
        importlib.import_module("pillow_heif").register_heif_opener()
    Image.init()
    return tuple(name for name in Image.ID if name not in UNDECODED_FORMATS)


def open_image(file: Path | IO[bytes], side: int) -> Image.Image:
    """Open an image; a JPEG at the smallest of its scales with at least `side` pixels each way.

    Raises:
        ValueError: it is not a regular file, or too many pixels would have to be decoded.
        OSError: it is not an image, or it cannot be read.
    """
    if isinstance(file, Path) and not stat.S_ISREG(file.stat().st_mode):
        raise ValueError("a pipe or device, not a file")  # reading it could block for ever
    image = Image.open(file, formats=formats())
    # With a name Pillow maps uncompressed files: truncation while reading would end the process.
    image.filename = ""
    image.draft(None, (side, side))
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise ValueError(f"{image.width}×{image.height} pixels are more than {MAX_PIXELS:,}")
    return image


def to_square(image: Image.Image, side: int, channels: int) -> Tensor:
    """Return the central square of an image.

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
    array = np.array(image, dtype=np.uint8)
    return torch.from_numpy(array.reshape(side, side, channels)).permute(2, 0, 1)


def _convert(image: Image.Image, mode: str) -> Image.Image:
    return image if image.mode == mode else image.convert(mode)


def _fit(image: Image.Image, side: int) -> Image.Image:
    if image.size == (side, side):
        return image
    return ImageOps.fit(image, (side, side), Image.Resampling.BILINEAR)


def _in_8_bits(image: Image.Image) -> Image.Image:
    """Convert integers of more than 8 bits, or floats, to 8 bits; the range follows from the maximum."""
    # In place, as there may be `MAX_PIXELS` values.
    pixels = np.nan_to_num(np.array(image, dtype=np.float32), copy=False)
    np.clip(pixels, 0, None, out=pixels)
    maximum = float(pixels.max())
    ranges = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
    white = next((top for top in ranges if maximum <= top), maximum)
    pixels *= 255 / white
    return Image.fromarray(np.rint(pixels, out=pixels).astype(np.uint8))


def is_gray(image: Any) -> bool:
    """Return whether an image is gray."""
    return getattr(image, "mode", None) in GRAY_MODES


def has_more_than_8_bits(image: Image.Image) -> bool:
    """Return whether a channel of an image has more than 8 bits."""
    return image.mode.startswith(("I", "F"))


def image_error_reason(error: BaseException) -> str:
    """Return why an image cannot be read, in one line that does not repeat the file name."""
    return "not an image" if isinstance(error, UnidentifiedImageError) else error_reason(error)
