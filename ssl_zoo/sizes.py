"""Sizes of images in pixels: the side of a square, or height and width."""

from __future__ import annotations

import re
from typing import Any

Size = int | tuple[int, int]
"""The side of a square, or the height and the width, in pixels."""


def height_width(size: Size) -> tuple[int, int]:
    """Return the height and the width of a size."""
    return (size, size) if isinstance(size, int) else size


def longer_side(size: Size) -> int:
    """Return the longer side of a size, by which images count as small."""
    return max(height_width(size))


def scale_size(size: Size, shorter_side: int) -> tuple[int, int]:
    """Return the height and width of the same aspect that have this shorter side."""
    sides = height_width(size)
    height, width = (round(shorter_side * side / min(sides)) for side in sides)
    return height, width


def format_size(size: Size) -> str:
    """Return a size as text, such as "32×64", the height first."""
    return "×".join(map(str, height_width(size)))


def shape_name(size: Size) -> str:
    """Return "square", or the height and width such as "32×64", as a noun for a part of an image."""
    return "square" if isinstance(size, int) else format_size(size)


def write_size(size: Size) -> str:
    """Return a size as `parse_size` reads it: "32" for a square, otherwise such as "32x64"."""
    return "x".join(map(str, dict.fromkeys(height_width(size))))


def parse_size(value: Any) -> Size:
    """Return a size in its one form, in which a square is its side.

        parse_size("32x64"), parse_size([32, 64])  # (32, 64), of height 32 and width 64
        parse_size("32"), parse_size((32, 32))     # 32

    Args:
        value: a number, a height and a width, or the text of either.

    Raises:
        ValueError: it is none of these.
    """
    sides = re.split("[x×]", value.lower()) if isinstance(value, str) else value
    sides = sides if isinstance(sides, list | tuple) and len(sides) > 1 else [value, value]
    try:
        height, width = (int(side) for side in sides)
        valid = (height, width) == tuple(map(float, sides)) and min(height, width) > 0
    except (TypeError, ValueError, OverflowError):
        valid = False
    if not valid:
        raise ValueError("give one side or HEIGHTxWIDTH in pixels, such as 64 or 32x64")
    return height if height == width else (height, width)
