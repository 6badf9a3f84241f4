"""Parts of image files, each of them a sample: pages, the tiles of large images, or tiles of pages."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ssl_zoo import preprocess
from ssl_zoo.config.schema import DataConfig
from ssl_zoo.data.decode import UNSCALED, page_sizes
from ssl_zoo.notices import Notice
from ssl_zoo.pixel_files import turn_upright
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
    "With `data.tile`, an image is a grid of tiles, and each of them a sample. To read one, its file is "
    "decoded, or its page alone with `data.pages=samples`, once for all of them where they are decoded "
    "in advance.",
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
    """

    file: int
    page: int = 0
    row: int = 0
    column: int = 0
    top: int = 0
    left: int = 0
    height: int = 0
    width: int = 0


@dataclass(frozen=True)
class Parts:
    """The parts of image files.

    Attributes:
        paths: the files.
        members: the parts, in the order of the files.
        by_page: whether each page of a file is an image.
        tile: the height and width of the tiles of images, in pixels; None for whole images.
    """

    paths: Sequence[Path]
    members: Sequence[Part]
    by_page: bool
    tile: tuple[int, int] | None

    def __len__(self) -> int:
        return len(self.members)

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
        pages = dict.fromkeys((part.file, part.page) for part in self.members)
        return [(self.paths[file], page) for file, page in pages]

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
        # As many as the threads are at where they read all tiles in order.
        limit = 2 + workers * len(self.pages) // max(1, len(self.members))

        def decode_upright(path: Path, page: int) -> Picture:
            image = decode(path, page, UNSCALED)
            with preprocess.opened(image):
                turn_upright(image)
            return image

        images = _LastImages(decode_upright, limit)

        def open_tile(number: int, side: int) -> Picture:
            part = self.members[number]
            if not part.height:
                return decode(*self._page(number), side)
            image = images(*self._page(number))
            rows, columns = (
                slice(part.top, part.top + part.height),
                slice(part.left, part.left + part.width),
            )
            if isinstance(image, np.ndarray):
                return image[:, rows, columns]
            return image.crop((columns.start, rows.start, columns.stop, rows.stop))

        return open_tile

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
            for page, height, width in page_sizes(paths[file], config.channels, config.pages):
                found += _cut(Part(file, page, height=height, width=width), tile)
        except Exception:  # decoders raise errors of every kind
            found.append(Part(file, page + 1))
        return found

    with ThreadPoolExecutor(workers) as pool:
        members = [part for parts in pool.map(parts_of, range(len(paths))) for part in parts]
    parts = Parts(paths, members, config.pages == "samples", tile)
    files = quantity(len(paths), "files")
    if parts.by_page:
        _PAGES(f"{name}: {quantity(len(parts.pages), 'pages')} in {files}, those of a file on one side")
    if tile is not None:
        whole = "page" if parts.by_page else "file"
        _TILES(
            f"{name}: {quantity(len(parts), 'tiles')} of at most {format_size(tile)} pixels in "
            f"{files}, those of a file on one side; where they are decoded at each use, all of the "
            f"{whole} is; in memory or data.cache, once"
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
            yield Part(page.file, page.page, row, column, top, left, *size)


def starts(length: int, tile: int) -> list[int]:
    """Return the first pixel of each tile along a side of `length` pixels."""
    return [max(0, min(start, length - tile)) for start in range(0, length, tile)]


class _LastImages:
    """The pages that were decoded last, each by the first of the threads that ask for it.

    Args:
        decode: decodes a page of a file.
        limit: the number of pages that are kept.
    """

    def __init__(self, decode: Callable[[Path, int], Picture], limit: int) -> None:
        self._decode, self._limit = decode, limit
        self._images: OrderedDict[tuple[Path, int], Future[Picture]] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, path: Path, page: int) -> Picture:
        """Return a decoded page; raises what decoding it raises."""
        with self._lock:
            known = self._images.pop((path, page), None)
            decoded = self._images[path, page] = known or Future()
            while len(self._images) > self._limit:
                self._images.popitem(last=False)
        if known is None:
            try:
                decoded.set_result(self._decode(path, page))
            except BaseException as error:
                decoded.set_exception(error)
        return decoded.result()
