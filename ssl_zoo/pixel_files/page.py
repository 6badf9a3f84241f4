"""Pages of image files, and what their readers share."""

from __future__ import annotations

import contextlib
import importlib
import math
from collections.abc import Callable, Iterator, Sequence
from os import SEEK_END, PathLike
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

PICTURE_BYTES, DEEP_PICTURE_BYTES = 4, 14
"""The bytes that a pixel takes while Pillow decodes and converts it: with 8 bits, and with more."""

READ_AT_ONCE = 2**20
"""The bytes that are read at once into an array, so that the file is not in memory twice."""


class Page(NamedTuple):
    """A page of an image file, which is not decoded yet.

    Attributes:
        number: its number in the file, from 0.
        shape: the number of channels, the height and the width, as the image is seen; all 0 where the
            head does not tell them.
        itemsize: the number of bytes of a value.
        read: decodes it to pixels [C, h, w]; None where Pillow does.
        offset: the place of its directory in a TIFF file.
    """

    number: int
    shape: tuple[int, int, int]
    itemsize: int
    read: Callable[[], NDArray[Any]] | None
    offset: int = 0

    @property
    def nbytes(self) -> int:
        """The number of bytes that decoding it takes."""
        channels, height, width = self.shape
        if self.read is None:
            return height * width * (PICTURE_BYTES if self.itemsize == 1 else DEEP_PICTURE_BYTES)
        return channels * height * width * self.itemsize


def page_numbers(start: int, count: int, present: int) -> Iterator[int]:
    """Yield the numbers of pages from `start` on.

    Args:
        start: the first number.
        count: the number of pages by the head of the file.
        present: the number of those for which the file has data.

    Raises:
        ValueError: these are fewer; after the numbers of those that there are.
    """
    yield from range(start, min(count, present))
    if present < count:
        raise ValueError(f"the head counts {count:,} pages, and the file ends after {present:,}")


def opened_file(
    file: str | PathLike[str] | IO[bytes],
) -> contextlib.AbstractContextManager[IO[bytes]]:
    """Return a context with an open file, which is closed at its end if it was opened here."""
    if isinstance(file, str | PathLike):
        return open(file, "rb")  # noqa: PTH123
    return contextlib.nullcontext(file)


def library(name: str, extra: str) -> Any:
    """Import a library that reads files.

    Raises:
        ImportError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"needs {name}: pip install 'ssl-zoo[{extra}]'") from error


def read_array(
    stream: IO[bytes], first: int, dtype: np.dtype[Any], shape: Sequence[int]
) -> NDArray[Any]:
    """Return an array whose values lie one after the other from the byte `first` on.

    Raises:
        ValueError: the file ends before.
    """
    size = dtype.itemsize * math.prod(shape)
    if stream.seek(0, SEEK_END) < first + size:  # before memory is taken for what is not there
        raise ValueError("the file is shorter than its head says")
    stream.seek(first)
    array = np.empty(shape, dtype)
    values = array.reshape(-1).view(np.uint8).data
    for start in range(0, size, READ_AT_ONCE):
        end = min(size, start + READ_AT_ONCE)
        values[start:end] = stream.read(end - start)
    return array


def bands(pixels: NDArray[Any], axes: str) -> NDArray[Any]:
    """Return an array with named axes, such as "YXS", as pixels [C, h, w]."""
    order = [i for i, axis in enumerate(axes) if axis not in "YX"] + [axes.index("Y"), axes.index("X")]
    pixels = pixels.transpose(order)
    return pixels.reshape(-1, *pixels.shape[-2:])
