"""Pages of arrays in NumPy's format."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import islice
from os import SEEK_END
from threading import Lock
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ssl_zoo.pixel_files.page import Page, page_numbers, read_array

MAX_COLOURS = 4
"""The largest length of the last axis of an array that is taken for colours, so that it is one page."""

_PARSING = Lock()
"""Held while NumPy parses a head, as Python's parser fails at times while two threads are in it: of
CPython 3.11 "AST constructor recursion depth mismatch", by which an image counted as unreadable."""


def npy_pages(stream: IO[bytes], channels: int | None, apart: bool, start: int) -> Iterator[Page]:
    """Yield an array in NumPy's format as a page, or what lies along its first axis as pages.

    An array [N, h, w, C] or [N, C, h, w] has N pages. So has [N, h, w], unless several `channels` are
    wanted or its last axis can be that of colours, which has at most 4 values.

    Raises:
        ValueError: it is not an image, or the file is shorter than its head says.
    """
    form = np.lib.format
    readers = {(1, 0): form.read_array_header_1_0, (2, 0): form.read_array_header_2_0}
    version = form.read_magic(stream)
    if version not in readers:
        raise ValueError(f"an array in version {version[0]} of NumPy's format is not an image")
    with _PARSING:
        shape, by_columns, dtype = readers[version](stream)
    if dtype.hasobject:
        raise ValueError("an array of Python objects is not an image")
    first = stream.tell()

    def read_whole() -> NDArray[Any]:
        # Not by np.load, which parses the head again.
        if by_columns:
            return read_array(stream, first, dtype, shape[::-1]).transpose()
        return read_array(stream, first, dtype, shape)

    planes = len(shape) == 3 and channels in (None, 1) and shape[2] > MAX_COLOURS
    if not apart or not (planes or len(shape) == 4):
        like = _channels_first(np.broadcast_to(np.uint8(0), shape), channels)  # takes no memory
        found = Page(0, _shape(like), dtype.itemsize, lambda: _channels_first(read_whole(), channels))
        yield from islice([found], start, None)
    else:
        like = _channels_first(np.broadcast_to(np.uint8(0), shape[1:]), channels)
        size, end = dtype.itemsize * like.size, stream.seek(0, SEEK_END)

        def read(number: int) -> NDArray[Any]:
            if by_columns:  # a page lies all over the file
                return _channels_first(read_whole()[number], channels)
            array = read_array(stream, first + number * size, dtype, shape[1:])
            return _channels_first(array, channels)

        for number in page_numbers(start, shape[0], (end - first) // max(1, size)):
            yield Page(number, _shape(like), dtype.itemsize, partial(read, number))


def _shape(pixels: NDArray[Any]) -> tuple[int, int, int]:
    channels, height, width = pixels.shape
    return channels, height, width


def _channels_first(pixels: NDArray[Any], channels: int | None) -> NDArray[Any]:
    """Return an array [h, w], [C, h, w] or [h, w, C] as [C, h, w]; C is the smaller of the two if open.

    Raises:
        ValueError: it has other axes.
    """
    if pixels.ndim == 2:
        return pixels[None]
    if pixels.ndim != 3 or 0 in pixels.shape:
        raise ValueError(f"an array of shape {list(pixels.shape)} is not an image")
    first, last = pixels.shape[0] == channels, pixels.shape[2] == channels
    if last if first != last else pixels.shape[2] < pixels.shape[0]:
        return pixels.transpose(2, 0, 1)
    return pixels
