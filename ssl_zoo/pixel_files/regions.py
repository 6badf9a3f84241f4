"""Regions of TIFF pages, of which only the tiles or strips that they touch are read.

Each tile or strip is decoded by itself. So a file of these alone has the pixels that the whole page has
there, and is read as the whole one is: by the same library, in the same mode, with any compression.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Mapping
from typing import IO, NamedTuple

from ssl_zoo.pixel_files.page import Page
from ssl_zoo.pixel_files.tiff import TAG_TYPES, TiffEntry, TiffLayout, tiff_layout

WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER = 256, 257, 258, 259, 262, 266
ORIENTATION, SAMPLES, ROWS, PLANAR, PREDICTOR, DEPTH = 274, 277, 278, 284, 317, 32997
STRIPS, TILES = (273, 279), (324, 325)
"""The tags of the places and the sizes of strips, and of tiles."""
TILE_SIDES = (323, 322)
"""The tags of the height and the width of a tile."""
COPIED = (
    *(BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER, SAMPLES, PLANAR, PREDICTOR, *TILE_SIDES),
    *(292, 293, 320, 332, 334, 338, 339, 340, 341),  # fax, palette, inks, alpha, types and limits
    *(347, 529, 530, 531, 532, 42113),  # tables of JPEG, YCbCr, what stands where there is no data
)
"""The tags that tell how pixels are stored."""
TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 16: 8, 17: 8}
"""The size of a value of each type, in bytes."""
MAX_TAG_BYTES = 1 << 20
"""The largest size of the values of a tag that is copied."""
UNCOMPRESSED, OLD_JPEG, YCBCR = 1, 6, 6


class Region(NamedTuple):
    """A rectangle of pixels: its first row and column, its height and its width."""

    top: int
    left: int
    height: int
    width: int

    def aligned(self, sides: tuple[int, int]) -> Region:
        """Return the region of all cells that it touches of a grid with cells of these sides."""
        (top, bottom), (left, right) = (
            (first // side * side, -(-(first + length) // side) * side)
            for first, length, side in zip(self[:2], self[2:], sides, strict=True)
        )
        return Region(top, left, bottom - top, right - left)


class Segments(NamedTuple):
    """The tiles or strips of a page of a TIFF file.

    Attributes:
        layout: the layout of the file.
        entries: the tags of the page.
        page: the page.
        planes: the number of planes that are stored one after the other.
        sides: the height and the width of a segment; (1, 1) where single pixels can be read.
        stored: the height and the width of a segment as it is stored.
        pixel: the size of a pixel in a plane in bytes, where single pixels can be read.
    """

    layout: TiffLayout
    entries: Mapping[int, TiffEntry]
    page: Page
    planes: int
    sides: tuple[int, int]
    stored: tuple[int, int]
    pixel: int

    @classmethod
    def of(cls, stream: IO[bytes], page: Page) -> Segments | None:
        """Return the segments of a page of a TIFF file; None if it can only be read as a whole.

        Raises:
            ValueError: its tags lie beyond the end of the file.
        """
        if not page.offset or 0 in page.shape:  # without a directory, or unknown
            return None
        layout = tiff_layout(stream)
        entries = dict(layout.entries(stream, page.offset))
        places, sizes = TILES if TILES[0] in entries else STRIPS

        def first(tag: int, default: int) -> int:
            entry = entries.get(tag)
            return layout.values(stream, entry, 0, 1)[0] if entry is not None else default

        counted = {WIDTH, LENGTH, ROWS, PLANAR, SAMPLES, BITS, *TILE_SIDES, places, sizes}
        kinds = {ORIENTATION, COMPRESSION, PHOTOMETRIC, FILL_ORDER, PREDICTOR}
        integers = (counted | kinds) & entries.keys()
        if any(entries[tag].kind not in TAG_TYPES or not entries[tag].number for tag in integers):
            return None
        height, width = first(LENGTH, 0), first(WIDTH, 0)
        turned = page.read is None and first(ORIENTATION, 1) != 1  # by Pillow, after decoding
        compression, samples = first(COMPRESSION, UNCOMPRESSED), first(SAMPLES, 1)
        planes = samples if first(PLANAR, 1) == 2 else 1
        stored = min(first(ROWS, height), height), width
        if places == TILES[0]:
            stored = first(TILE_SIDES[0], 0), first(TILE_SIDES[1], 0)
        known = places in entries and compression != OLD_JPEG and DEPTH not in entries
        if turned or not known or not all(stored):
            return None
        count = planes * -(-height // stored[0]) * -(-width // stored[1])
        bits = first(BITS, 1) * samples // planes
        plain = compression == UNCOMPRESSED and first(PHOTOMETRIC, 0) != YCBCR and bits % 8 == 0
        plain &= first(FILL_ORDER, 1) == first(PREDICTOR, 1) == 1 and places == STRIPS[0]
        if BITS in entries:  # all channels have as many
            plain &= len(set(layout.values(stream, entries[BITS]))) == 1
        listed = {entries[tag].number for tag in (places, sizes) if tag in entries}
        if listed != {count} or (sizes not in entries and not plain):
            return None
        sides = (1, 1) if plain else stored
        return cls(layout, entries, page, planes, sides, stored, bits // 8 if plain else 0)

    def part(self, region: Region) -> Page:
        """Return the page as it is where only a region of it is decoded, as far as it reaches."""
        _, height, width = self.page.shape
        rows, columns = min(region.height, height - region.top), min(region.width, width - region.left)
        return self.page._replace(shape=(self.page.shape[0], rows, columns))

    def largest(self, height: int, width: int) -> Page:
        """Return what is decoded for a tile of this height and width that touches the most segments."""
        tile = zip((height, width), self.sides, strict=True)
        rows, columns = ((-(-(length - 1) // side) + 1) * side for length, side in tile)
        return self.part(Region(0, 0, rows, columns))

    def cut(self, stream: IO[bytes], region: Region) -> io.BytesIO:
        """Return a TIFF file with a region, as far as the page reaches, as its first page.

        Args:
            stream: the file.
            region: the region, aligned to `sides`.

        Raises:
            ValueError: the file ends before, or has tags that are too large.
        """
        region = Region(*region[:2], *self.part(region).shape[1:])
        layout, order = self.layout, self.layout.order
        inline = struct.calcsize(layout.link)
        file = io.BytesIO()
        stream.seek(0)
        file.write(stream.read(layout.first) + bytes(inline))
        tags = {tag: self._copied(stream, tag) for tag in COPIED if tag in self.entries}
        places, sizes = [], []
        for data in self._data(stream, region):
            places.append(file.tell() if data else 0)
            sizes.append(len(data))
            file.write(data + bytes(len(data) % 2))
        listed = TILES if TILES[0] in self.entries else STRIPS
        rows = region.height if self.pixel else min(self.stored[0], region.height)
        described = {WIDTH: [region.width], LENGTH: [region.height], listed[0]: places, listed[1]: sizes}
        described |= {ROWS: [rows]} if listed == STRIPS else {}
        for tag, values in described.items():
            number = len(values)
            tags[tag] = TiffEntry(4, number, struct.pack(f"{order}{number}I", *values))
        packed = []
        for tag, (kind, number, value) in sorted(tags.items()):
            if len(value) > inline:
                place = struct.pack(layout.link, file.tell())
                file.write(value + bytes(len(value) % 2))
                value = place
            packed.append(struct.pack(layout.entry, tag, kind, number, value))
        directory = file.tell()
        file.write(struct.pack(layout.number, len(packed)) + b"".join(packed) + bytes(inline))
        file.seek(layout.first)
        file.write(struct.pack(layout.link, directory))
        file.seek(0)
        return file

    def _copied(self, stream: IO[bytes], tag: int) -> TiffEntry:
        """Return a tag with its values in place of their offset."""
        entry = self.entries[tag]
        size = TYPE_BYTES.get(entry.kind, 0) * entry.number
        if not 0 < size <= MAX_TAG_BYTES:
            raise ValueError(f"the values of tag {tag} cannot be copied")
        if size <= len(entry.value):
            return entry._replace(value=entry.value[:size])
        (place,) = struct.unpack(self.layout.link, entry.value)
        return entry._replace(value=_read(stream, place, size))

    def _data(self, stream: IO[bytes], region: Region) -> Iterator[bytes]:
        """Yield the segments of a region as they are stored, plane by plane; for plain ones a plane."""
        height, width = self.page.shape[1:]
        down, across = -(-height // self.stored[0]), -(-width // self.stored[1])
        rows, columns = (
            range(first // side, -(-(first + length) // side))
            for first, length, side in zip(region[:2], region[2:], self.stored, strict=True)
        )
        places, sizes = TILES if TILES[0] in self.entries else STRIPS
        for plane in range(self.planes):
            parts = []
            for row in rows:
                number = (plane * down + row) * across + columns.start
                offsets = self._values(stream, places, number, len(columns))
                if self.pixel:
                    parts.append(self._pixels(stream, region, row, offsets[0]))
                    continue
                counts = self._values(stream, sizes, number, len(columns))
                for offset, count in zip(offsets, counts, strict=True):
                    yield _read(stream, offset, count)
            if self.pixel:
                yield b"".join(parts)

    def _pixels(self, stream: IO[bytes], region: Region, strip: int, offset: int) -> bytes:
        """Return the pixels of a region in a strip that is not compressed."""
        first = strip * self.stored[0]
        rows = range(max(region.top, first), min(region.top + region.height, first + self.stored[0]))
        step = self.pixel * self.stored[1]
        begin, size = offset + self.pixel * region.left, self.pixel * region.width
        return b"".join(_read(stream, begin + (row - first) * step, size) for row in rows)

    def _values(self, stream: IO[bytes], tag: int, first: int, count: int) -> tuple[int, ...]:
        return self.layout.values(stream, self.entries[tag], first, count)


def _read(stream: IO[bytes], offset: int, size: int) -> bytes:
    """Return bytes of a file.

    Raises:
        ValueError: it ends before.
    """
    stream.seek(offset)
    data = stream.read(size)
    if len(data) < size:
        raise ValueError("the file ends before its pixels")
    return data
