"""From an image file, or an image in memory, to a square of uint8."""

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

NO_PICTURES = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PALM", "PDF", "WMF")
"""Formats that Pillow has a name for but does not decode by itself: for EPS it runs Ghostscript."""
GRAY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "F")
MOST_PIXELS = 90_000_000
"""An image of which more pixels must be decoded counts as unreadable: 4 bytes each in RGB, and up to
14, or 1.3 GB together, where a channel has more than 8 bits."""

# What Pillow warns of (odd EXIF, many pixels) is settled here: an image can be read, or it is noted.
# The filter is set once because filters belong to the process, and threads must not change them.
warnings.filterwarnings("ignore", module=r"PIL\.")


@cache
def formats() -> tuple[str, ...]:
    """Pillow's names of the formats that are read, whatever a file is called.

    HEIC is among them only where pillow-heif is installed.
    """
    with contextlib.suppress(ImportError):
        importlib.import_module("pillow_heif").register_heif_opener()
    Image.init()
    return tuple(name for name in Image.ID if name not in NO_PICTURES)


def open_image(file: Path | IO[bytes], side: int) -> Image.Image:
    """Open an image, a JPEG at the smallest of its scales that still has `side` pixels each way.

    Raises:
        ValueError: this is no file, or too many pixels would have to be decoded.
        OSError: this is no image, or it cannot be read.
    """
    if isinstance(file, Path) and not stat.S_ISREG(file.stat().st_mode):
        raise ValueError("a pipe or device, not a file")  # which may be waited for without end
    image = Image.open(file, formats=formats())
    # By its name Pillow would map a file of plain pixels: cut off meanwhile, it would end the process.
    image.filename = ""
    image.draft(None, (side, side))
    if image.width * image.height > MOST_PIXELS:
        image.close()
        raise ValueError(f"{image.width}×{image.height} pixels are more than {MOST_PIXELS:,}")
    return image


def to_square(image: Image.Image, side: int, channels: int) -> Tensor:
    """The centre of an image as a square.

    The orientation that a camera noted is applied, transparency is laid on white, 16 bits become 8,
    and CMYK and palettes become RGB.

    Args:
        image: any of Pillow's images; of an animation the first frame.
        side: pixels of the result; a smaller image is enlarged.
        channels: 1 or 3.

    Returns:
        uint8 [channels, side, side].
    """
    mode = "L" if channels == 1 else "RGB"
    image.load()
    with contextlib.suppress(Exception):  # its pixels are good, however broken the rest
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith(("I", "F")):
        image = _in_8_bits(image)
    if image.has_transparency_data:
        # Pillow weights colours by their alpha when it resizes, so white can come afterwards.
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
    """Integers of more than 8 bits, or floats, as 8 bits; the largest value tells their range."""
    # In place, as there may be `MOST_PIXELS` of them.
    pixels = np.nan_to_num(np.array(image, dtype=np.float32), copy=False)
    np.clip(pixels, 0, None, out=pixels)
    most = float(pixels.max())
    ranges = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
    white = next((top for top in ranges if most <= top), most)
    pixels *= 255 / white
    return Image.fromarray(np.rint(pixels, out=pixels).astype(np.uint8))


def is_gray(image: Any) -> bool:
    """Whether an image has a single channel of colour."""
    return getattr(image, "mode", None) in GRAY_MODES


def read_error(error: BaseException) -> str:
    """Return why an image cannot be read, in one line that does not repeat the file name."""
    return "not an image" if isinstance(error, UnidentifiedImageError) else error_reason(error)
