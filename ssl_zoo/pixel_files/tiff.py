"""Pages of TIFF files, by their directories."""

from __future__ import annotations

import io
import math
import re
import struct
from collections.abc import Iterator
from functools import cache, partial
from os import SEEK_END, PathLike
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssl_zoo.pixel_files.page import Page, bands, library, opened_file, page_numbers, read_array

TAGS = (254, 256, 257, 258, 259, 262, 270, 273, 274, 277, 338, 339)
"""The tags of a page of a TIFF file that tell how it is stored."""
TAG_TYPES = {1: "B", 2: "B", 3: "H", 4: "I", 16: "Q"}
"""The types of their values, as `struct` names them."""
MAX_TAGS, MAX_TAG_VALUES = 4096, 4096
"""The numbers of tags, and of values of one, that are read."""


class TiffEntry(NamedTuple):
    """A tag of a page: the type and the number of its values, and these or their offset."""

    kind: int
    number: int
    value: bytes


class TiffLayout(NamedTuple):
    """The layout of a TIFF file, classic or big.

    Attributes:
        order: the order of bytes, as `struct` names it.
        first: the place of the offset of the first directory.
        link: the format of an offset.
        number: the format of the number of entries of a directory.
        entry: the format of an entry: tag, type, number of values, and the values or their offset.
    """

    order: str
    first: int
    link: str
    number: str
    entry: str

    def directories(self, stream: IO[bytes]) -> Iterator[int]:
        """Yield the place of the directory of each page.

        Raises:
            ValueError: a page comes after itself, or lies beyond the end of the file.
        """
        seen: set[int] = set()
        (offset,) = _unpack(stream, self.first, self.link)
        while offset:
            if offset in seen:
                raise ValueError(f"the head counts pages without end, and the file has {len(seen):,}")
            seen.add(offset)
            yield offset
            (count,) = _unpack(stream, offset, self.number)
            entries = offset + struct.calcsize(self.number)
            (offset,) = _unpack(stream, entries + count * struct.calcsize(self.entry), self.link)

    def tags(self, stream: IO[bytes], offset: int) -> dict[int, tuple[int, ...]]:
        """Return the values of the tags of a page that tell how it is stored.

        Raises:
            ValueError: they lie beyond the end of the file.
        """
        return {
            tag: self.values(stream, entry)
            for tag, entry in self.entries(stream, offset)
            if tag in TAGS and entry.kind in TAG_TYPES and 0 < entry.number <= MAX_TAG_VALUES
        }

    def entries(self, stream: IO[bytes], offset: int) -> Iterator[tuple[int, TiffEntry]]:
        """Yield the tags of the page whose directory is at `offset`, by number.

        Raises:
            ValueError: they lie beyond the end of the file.
        """
        (count,) = _unpack(stream, offset, self.number)
        start, length = offset + struct.calcsize(self.number), struct.calcsize(self.entry)
        for entry in range(min(count, MAX_TAGS)):
            tag, *described = _unpack(stream, start + entry * length, self.entry)
            yield tag, TiffEntry(*described)

    def values(
        self, stream: IO[bytes], entry: TiffEntry, first: int = 0, count: int | None = None
    ) -> tuple[int, ...]:
        """Return the integers of a tag, of a type in `TAG_TYPES`: all, or `count` from `first` on.

        Raises:
            ValueError: they lie beyond the end of the file.
        """
        letter = TAG_TYPES[entry.kind]
        size = struct.calcsize(self.order + letter)
        form = f"{self.order}{entry.number if count is None else count}{letter}"
        if size * entry.number <= len(entry.value):
            return struct.unpack_from(form, entry.value, size * first)
        return _unpack(stream, struct.unpack(self.link, entry.value)[0] + size * first, form)

    def starting_at(self, file: str | PathLike[str] | IO[bytes], offset: int) -> IO[bytes]:
        """Return the file as one whose first page is that with the directory at `offset`."""
        return io.BufferedReader(_Patched(file, self.first, struct.pack(self.link, offset)))


def tiff_layout(stream: IO[bytes]) -> TiffLayout:
    """Return the layout of a TIFF file."""
    stream.seek(0)
    head = stream.read(4)
    order = "<" if head.startswith(b"I") else ">"
    first, link, number, entry = (8, "Q", "Q", "HHQ8s") if 43 in head else (4, "I", "H", "HHI4s")
    return TiffLayout(order, first, order + link, order + number, order + entry)


def tiff_pages(stream: IO[bytes], channels: int | None, all_bands: bool, start: int) -> Iterator[Page]:
    """Yield the pages of a TIFF file except overviews, which are smaller copies of others.

    Args:
        stream: the file.
        channels: as for `open_pixels`.
        all_bands: whether Pillow reads none.
        start: the number of the first page.

    Raises:
        ValueError: the chain of pages breaks off, or has no end.
    """
    layout = tiff_layout(stream)

    @cache
    def tiff() -> Any:
        stream.seek(0)
        return library("tifffile", "tiff").TiffFile(stream)

    def read(number: int) -> NDArray[Any]:
        page = tiff().pages[number]
        return bands(page.asarray(), page.axes)

    number, offset = -1, 0
    for number, offset in enumerate(layout.directories(stream)):
        if number < start:
            continue
        try:
            tags = layout.tags(stream, offset)
        except ValueError:
            if number:
                raise
            yield Page(0, (0, 0, 0), 1, None, offset)  # Pillow names the reason as it opens the file
            return
        if number and tags.get(254, (0,))[0] & 1:
            continue
        by_pillow = not all_bands and _pillow_reads(tags, channels)
        samples = tags.get(277, (1,))[0]
        height, width = (tags.get(tag, (0,))[0] for tag in (257, 256))
        if by_pillow and tags.get(274, (1,))[0] in (5, 6, 7, 8):  # the orientation
            height, width = width, height
        itemsize = -(-max(tags.get(258, (1,))) // 8)
        decode = None if by_pillow else partial(read, number)
        yield Page(number, (samples, height, width), itemsize, decode, offset)
    if number == 0:
        yield from _imagej_planes(stream, layout, layout.tags(stream, offset), max(1, start))


def _imagej_planes(
    stream: IO[bytes], layout: TiffLayout, tags: dict[int, tuple[int, ...]], start: int
) -> Iterator[Page]:
    """Yield the pages that follow the first one without directories, as ImageJ writes above 4 GB.

    Raises:
        ValueError: the file is shorter than its head says.
    """
    text = bytes(tags.get(270, ()))
    found = re.search(rb"\bimages=(\d+)", text) if text.startswith(b"ImageJ=") else None
    if found is None or tags.get(259, (1,)) != (1,) or len(tags.get(273, ())) != 1:
        return
    shape = tags[257][0], tags[256][0], tags.get(277, (1,))[0]
    kind = {2: "i", 3: "f"}.get(tags.get(339, (1,))[0], "u")
    dtype = np.dtype(f"{layout.order}{kind}{max(tags[258]) // 8}")
    size, end, count = math.prod(shape) * dtype.itemsize, stream.seek(0, SEEK_END), int(found[1])

    def read(number: int) -> NDArray[Any]:
        return bands(read_array(stream, tags[273][0] + number * size, dtype, shape), "YXS")

    for number in page_numbers(start, count, (end - tags[273][0]) // size):
        yield Page(number, (shape[2], *shape[:2]), dtype.itemsize, partial(read, number))


def _pillow_reads(tags: dict[int, tuple[int, ...]], channels: int | None) -> bool:
    """Return whether Pillow keeps all bits and channels of a page of a TIFF file."""
    samples, bits = tags.get(277, (1,))[0], max(tags.get(258, (1,)))
    photometric, extra = tags.get(262, (None,))[0], tags.get(338, ())
    if photometric in (3, 5, 6):  # a palette, CMYK or YCbCr
        return True
    if samples in (2, 4) and bits == 8 and extra[:1] in ((1,), (2,)):  # the last one is alpha
        return channels != samples
    return samples == 1 or (samples == 3 and bits <= 8)


class _Patched(io.RawIOBase):
    """A file of which some bytes are others."""

    def __init__(self, file: str | PathLike[str] | IO[bytes], first: int, values: bytes) -> None:
        self._context = opened_file(file)
        self._file = self._context.__enter__()
        self._first, self._values = first, values

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._file.fileno()

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def readinto(self, buffer: Any) -> int:
        start = self._file.tell()
        read = bytearray(self._file.read(len(buffer)))
        for place, value in enumerate(self._values, self._first - start):
            if 0 <= place < len(read):
                read[place] = value
        buffer[: len(read)] = read
        return len(read)

    def close(self) -> None:
        if not self.closed:
            self._context.__exit__(None, None, None)
        super().close()


def _unpack(stream: IO[bytes], offset: int, form: str) -> tuple[Any, ...]:
    """Return the values at a place of a file, in a format of `struct`.

    Raises:
        ValueError: the file ends before.
    """
    try:
        stream.seek(offset)
        return struct.unpack(form, stream.read(struct.calcsize(form)))
    except (struct.error, OverflowError) as error:
        raise ValueError("a page lies beyond the end of the file") from error
