"""From an image file, or an image in memory, to a square of uint8."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

GRAY_MODES = ("1", "L", "I", "I;16", "I;16B", "I;16L", "F")


def open_image(file: Path, side: int) -> Image.Image:
    """Open an image file, decoding a JPEG at the smallest of its scales that has `side` pixels."""
    with warnings.catch_warnings():
        # A picture so large that Pillow warns of a decompression bomb counts as unreadable.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        image = Image.open(file)
        image.draft(None, (side, side))
        return image


def to_square(image: Image.Image, side: int, channels: int) -> Tensor:
    """The centre of an image as a square.

    The orientation that a camera noted is applied, transparency is laid on white, 16 bits become 8,
    and CMYK and palettes become RGB.

    Args:
        image: any of Pillow's images; of an animation the first frame.
        side: pixels of the result.
        channels: 1 or 3.

    Returns:
        uint8 [channels, side, side].
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        pixels = np.asarray(image, dtype=np.float64)
        image = Image.fromarray((pixels / 257 if pixels.max() > 255 else pixels).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (side, side):
        image = ImageOps.fit(image, (side, side), Image.Resampling.BILINEAR)
    array = np.array(image, dtype=np.uint8)
    return torch.from_numpy(array.reshape(side, side, channels)).permute(2, 0, 1)


def is_gray(image: Any) -> bool:
    """Whether an image has a single channel."""
    return getattr(image, "mode", None) in GRAY_MODES
