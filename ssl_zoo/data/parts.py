"""Parts of image files, each of them a sample: pages, the tiles of large images, or tiles of pages."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ssl_zoo import preprocess
from ssl_zoo.config.schema import DataConfig
from ssl_zoo.data.decode import UNSCALED, open_region, page_sizes
from ssl_zoo.notices import Notice
from ssl_zoo.pixel_files import Region, turn_upright
from ssl_zoo.sizes import Size, format_size, scale_size
from ssl_zoo.text import quantity

Picture = Image.Image | NDArray[Any]
"""A decoded image, or its pixels [C, h, w]."""
Decoder = Callable[[Path, int, int], Picture]
"""Opens a page of a file, by its number; a JPEG at a scale with at least as many pixels each way."""

PART_MARK = "#"
"""The mark between the name of a file and the place of a part, as in ``scan.tif#2,0``."""

_PAGES = Notice(
    "pages",
    "With `data.pages=samples`, each page of a file is a sample: those of a TIFF stack, the frames of "
    "a DICOM file or of an animation, and arrays along the first axis of an `.npy` file.",
    "data.pages",
)
_TILES = Notice(
    "tiles",
    "With `data.tile`, an image is a grid of tiles, and each of them a sample. To read one, those parts "
    "of a TIFF file are decoded that it touches; of any other the whole file, or its page alone with "
    "`data.pages=samples`, once for all of them where they are decoded in advance.",
    "data.tile; data.resident, data.cache",
)


class Part(NamedTuple):
    """A part of a file: its page, its place in the grid of tiles and its pixels.

    Attributes:
        file: the number of the file.
        page: the number of the page in the file; 0 where the file is one image.
        row: the row of the grid.
        column: the column of the grid.
        top: the first row of pixels.
        left: the first column of pixels.
        height: the height, in pixels; 0 for the whole page, whose size is unknown.
        width: the width, in pixels.
        cell: the height and the width of the parts of the page that are decoded alone; None where it is
            decoded as a whole.
    """

    file: int
    page: int = 0
    row: int = 0
    column: int = 0
    top: int = 0
    left: int = 0
    height: int = 0
    width: int = 0
    cell: tuple[int, int] | None = None

    @property
    def region(self) -> Region:
        """Its pixels, as a region of the page."""
        return Region(self.top, self.left, self.height, self.width)

    @property
    def decoded(self) -> Region | None:
        """The region that is decoded for it; None for the whole page."""
        return self.region.aligned(self.cell) if self.cell is not None and self.height else None


@dataclass(frozen=True)
class Parts:
    """The parts of image files.

    Attributes:
        paths: the files.
        members: the parts, in the order of the files.
        config: the ``data`` section, which tells how files are divided.
        tile: the height and width of the tiles of images, in pixels; None for whole images.
    """

    paths: Sequence[Path]
    members: Sequence[Part]
    config: DataConfig
    tile: tuple[int, int] | None

    def __len__(self) -> int:
        return len(self.members)

    @property
    def by_page(self) -> bool:
        """True if each page of a file is an image."""
        return self.config.pages == "samples"

    @property
    def owners(self) -> Tensor:
        """The number of each part's file, int64 [N]."""
        return torch.tensor([part.file for part in self.members], dtype=torch.long)

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """The height and width of the parts whose head can be read."""
        return [(part.height, part.width) for part in self.members if part.height]

    @property
    def pages(self) -> list[tuple[Path, int]]:
        """The file and the number in it of each page that is a part or has parts."""
        return [self._page(number) for number in self._first]

    def name(self, number: int) -> str:
        """Return the name of a part: that of its file, its page, and its row and column of tiles."""
        part = self.members[number]
        places = [str(part.page)] if self.by_page else []
        places += [f"{part.row},{part.column}"] if self.tile is not None else []
        return f"{self.paths[part.file]}{PART_MARK}{':'.join(places)}"

    def opener(self, decode: Decoder, workers: int) -> Callable[[int, int], Picture]:
        """Return a function that opens a part by its number, tiles at the scale of the file.

        Args:
            decode: decodes a page of a file.
            workers: the number of threads that call it.
        """
        if self.tile is None:
            return lambda number, side: decode(*self._page(number), side)

        def decode_upright(path: Path, page: int) -> Picture:
            image = decode(path, page, UNSCALED)
            with preprocess.opened(image):
                turn_upright(image)
            return image

        rows = len({part[:3] for part in self.members})
        images = _LastDecoded(decode_upright, self._threads_at(len(self.pages), workers))
        regions = _LastDecoded(self._open_region, self._threads_at(rows, workers))

        def open_tile(number: int, side: int) -> Picture:
            part = self.members[number]
            if not part.height:
                return decode(*self._page(number), side)
            region, decoded = part.region, part.decoded
            if decoded is None:
                return _crop(images(*self._page(number)), region)
            inside = region._replace(top=region.top - decoded.top, left=region.left - decoded.left)
            return _crop(regions(*self._page(number), decoded), inside)

        return open_tile

    def page_opener(self, decode: Decoder) -> Callable[[int, int], Picture]:
        """Return a function that opens a page by its number in `pages`, for a look at it.

        Where the tiles of a page are decoded alone, it opens what is decoded for the first one.

        Args:
            decode: decodes a page of a file.
        """

        def open_page(page: int, side: int) -> Picture:
            number = self._first[page]
            decoded = self.members[number].decoded
            if decoded is None:
                return decode(*self._page(number), side)
            return self._open_region(*self._page(number), decoded)

        return open_page

    @cached_property
    def _first(self) -> list[int]:
        """The number of the first part of each page."""
        first: dict[tuple[int, int], int] = {}
        for number, part in enumerate(self.members):
            first.setdefault((part.file, part.page), number)
        return list(first.values())

    def _threads_at(self, count: int, workers: int) -> int:
        """Return at how many of `count` equal shares of the parts threads are that read all in order."""
        return 2 + workers * count // max(1, len(self.members))

    def _open_region(self, path: Path, page: int, region: Region) -> Picture:
        pages = page if self.by_page else self.config.pages
        return open_region(path, region, self.config.channels, pages)

    def _page(self, number: int) -> tuple[Path, int]:
        """Return the file of a part and the number of the page."""
        part = self.members[number]
        return self.paths[part.file], part.page


def find_parts(paths: Sequence[Path], config: DataConfig, size: Size, workers: int, name: str) -> Parts:
    """Divide image files into the parts that are samples, from the heads of the files alone.

    Tiles cover all pixels, as the last of a row or column is moved inwards, and an image that is smaller
    is one tile. What cannot be opened is a part too, to be listed as unreadable when it is decoded: a
    file, or the first page that is missing of a file that is shorter than its head says.

    Args:
        paths: the files.
        config: the ``data`` section.
        size: the size of the network's input, of whose aspect tiles are.
        workers: the number of threads.
        name: the name of the data, for the notice.
    """
    tile = None if config.tile is None else scale_size(size, config.tile)

    def parts_of(file: int) -> list[Part]:
        found: list[Part] = []
        page = -1
        try:
            sizes = page_sizes(paths[file], config.channels, config.pages, tile)
            for page, height, width, cell in sizes:
                found += _cut(Part(file, page, height=height, width=width, cell=cell), tile)
        except Exception:  # decoders raise errors of every kind
            found.append(Part(file, page + 1))
        return found

    with ThreadPoolExecutor(workers) as pool:
        members = [part for parts in pool.map(parts_of, range(len(paths))) for part in parts]
    parts = Parts(paths, members, config, tile)
    files = quantity(len(paths), "files")
    if parts.by_page:
        _PAGES(f"{name}: {quantity(len(parts.pages), 'pages')} in {files}, those of a file on one side")
    if tile is not None:
        whole = "page" if parts.by_page else "file"
        _TILES(
            f"{name}: {quantity(len(parts), 'tiles')} of at most {format_size(tile)} pixels in "
            f"{files}, those of a file on one side; at each use all of the {whole} is decoded, but of a "
            "TIFF file only what the tile touches; in memory or data.cache, once"
        )
    return parts


def _cut(page: Part, tile: tuple[int, int] | None) -> Iterator[Part]:
    """Yield the tiles of a page, or the page itself where nothing is cut or its size is unknown."""
    if tile is None or not page.height:
        yield page
        return
    height, width = tile
    for row, top in enumerate(starts(page.height, height)):
        for column, left in enumerate(starts(page.width, width)):
            size = min(height, page.height), min(width, page.width)
            yield Part(page.file, page.page, row, column, top, left, *size, page.cell)


def starts(length: int, tile: int) -> list[int]:
    """Return the first pixel of each tile along a side of `length` pixels."""
    return [max(0, min(start, length - tile)) for start in range(0, length, tile)]


def _crop(image: Picture, region: Region) -> Picture:
    """Return a region of an image."""
    top, left, bottom, right = *region[:2], region.top + region.height, region.left + region.width
    if isinstance(image, np.ndarray):
        part = image[:, top:bottom, left:right]
        return part if part.shape == image.shape else part.copy()  # so that the rest can be freed
    if (right - left, bottom - top) == image.size:
        return image
    return image.crop((left, top, right, bottom))


class _LastDecoded:
    """The images that were decoded last, each by the first of the threads that ask for it.

    Args:
        decode: decodes an image.
        limit: the number of images that are kept.
    """

    def __init__(self, decode: Callable[..., Picture], limit: int) -> None:
        self._decode, self._limit = decode, limit
        self._images: OrderedDict[tuple[Hashable, ...], Future[Picture]] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, *key: Hashable) -> Picture:
        """Return the image that these arguments of `decode` name; raises what decoding it raises."""
        with self._lock:
            known = self._images.pop(key, None)
            decoded = self._images[key] = known or Future()
            while len(self._images) > self._limit:
                self._images.popitem(last=False)
        if known is None:
            try:
                decoded.set_result(self._decode(*key))
            except BaseException as error:
                decoded.set_exception(error)
        return decoded.result()
