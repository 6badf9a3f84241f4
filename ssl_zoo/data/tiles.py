"""Tiles: large images as grids of smaller ones, each of which is a sample."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from ssl_zoo.data.decode import open_pixels
from ssl_zoo.notices import Notice
from ssl_zoo.text import quantity

Picture = Image.Image | NDArray[Any]
"""A decoded image, or its pixels [C, h, w]."""

UNSCALED = 65_536
"""The side at which no JPEG is decoded at a smaller scale, in pixels; the largest that it can have."""
TILE_MARK = "#"
"""The mark between the name of a file and the place of a tile, as in ``scan.tif#2,0``."""

_TILES = Notice(
    "tiles",
    "With `data.tile`, an image is a grid of tiles, and each of them a sample. To read one, its file is "
    "decoded, once for all of them where they are decoded in advance.",
    "data.tile; data.resident, data.cache",
)


class Box(NamedTuple):
    """A tile of an image: its place in the grid and its pixels.

    Attributes:
        file: the number of the file.
        row: the row of the grid.
        column: the column of the grid.
        top: the first row of pixels.
        left: the first column of pixels.
        height: the height, in pixels; 0 for the whole image, whose size is unknown.
        width: the width, in pixels.
    """

    file: int
    row: int = 0
    column: int = 0
    top: int = 0
    left: int = 0
    height: int = 0
    width: int = 0


@dataclass(frozen=True)
class Tiles:
    """The tiles of image files.

    Attributes:
        paths: the files.
        boxes: the tiles, in the order of the files.
    """

    paths: Sequence[Path]
    boxes: Sequence[Box]

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def owners(self) -> Tensor:
        """The number of each tile's file, int64 [N]."""
        return torch.tensor([box.file for box in self.boxes], dtype=torch.long)

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """The height and width of the tiles of readable files."""
        return [(box.height, box.width) for box in self.boxes if box.height]

    def name(self, number: int) -> str:
        """Return the name of a tile: that of its file, and its row and column."""
        box = self.boxes[number]
        return f"{self.paths[box.file]}{TILE_MARK}{box.row},{box.column}"

    def opener(self, decode: Callable[[Path], Picture], workers: int) -> Callable[[int, int], Picture]:
        """Return a function that opens a tile by its number, at the scale of the file.

        Args:
            decode: decodes a file.
            workers: the number of threads that call it.
        """
        # As many as the threads are at where they read all tiles in order.
        limit = 2 + workers * len(self.paths) // max(1, len(self.boxes))
        files = _LastFiles(lambda number: _upright(decode(self.paths[number])), limit)

        def open_tile(number: int, _side: int) -> Picture:
            box = self.boxes[number]
            image = files(box.file)
            if not box.height:
                return image.copy()
            rows, columns = slice(box.top, box.top + box.height), slice(box.left, box.left + box.width)
            if isinstance(image, np.ndarray):
                return image[:, rows, columns]
            return image.crop((columns.start, rows.start, columns.stop, rows.stop))

        return open_tile


def find_tiles(
    paths: Sequence[Path], tile: int, channels: int | None, pages: str, workers: int, name: str
) -> Tiles:
    """Divide images into tiles, of which the last of a row or column is moved inwards.

    So they cover all pixels, and an image that is smaller is one tile. A file that cannot be opened is
    one too, to be listed as unreadable when it is decoded.

    Args:
        paths: the files.
        tile: the side of a tile, in pixels of the file.
        channels: as for `open_pixels`.
        pages: likewise.
        workers: the number of threads.
        name: the name of the data, for the notice.
    """

    def boxes(file: int) -> list[Box]:
        try:
            height, width = image_size(paths[file], channels, pages)
        except Exception:  # decoders raise errors of every kind
            return [Box(file)]
        return [
            Box(file, row, column, top, left, min(tile, height), min(tile, width))
            for row, top in enumerate(starts(height, tile))
            for column, left in enumerate(starts(width, tile))
        ]

    with ThreadPoolExecutor(workers) as pool:
        tiles = Tiles(paths, [box for of_file in pool.map(boxes, range(len(paths))) for box in of_file])
    _TILES(
        f"{name}: {quantity(len(tiles), 'tiles')} of at most {tile}×{tile} pixels in "
        f"{quantity(len(paths), 'files')}, those of a file on one side; where they are decoded at each "
        "use, all of the file is; in memory or data.cache, once"
    )
    return tiles


def starts(length: int, tile: int) -> list[int]:
    """Return the first pixel of each tile along a side of `length` pixels."""
    return [max(0, min(start, length - tile)) for start in range(0, length, tile)]


def image_size(path: Path, channels: int | None, pages: str) -> tuple[int, int]:
    """Return the height and width of an image as it is seen, from its header where Pillow reads it.

    Raises:
        Exception: of any kind, where it cannot be read.
    """
    image = open_pixels(path, UNSCALED, channels, pages)
    if isinstance(image, np.ndarray):
        return image.shape[1], image.shape[2]
    with image:
        exif = Image.Image.getexif(image)  # that of PNG files would decode them
        turned = exif.get(0x0112, 1) in (5, 6, 7, 8)  # the orientation
        return (image.width, image.height) if turned else (image.height, image.width)


def _upright(image: Picture) -> Picture:
    if isinstance(image, np.ndarray):
        return image
    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # the pixels are valid even if the metadata are not
        return image


class _LastFiles:
    """The files that were decoded last, each by the first of the threads that ask for it.

    Args:
        decode: decodes the file with a number.
        limit: the number of files that are kept.
    """

    def __init__(self, decode: Callable[[int], Picture], limit: int) -> None:
        self._decode, self._limit = decode, limit
        self._files: OrderedDict[int, Future[Picture]] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, number: int) -> Picture:
        """Return a decoded file; raises what decoding it raises."""
        with self._lock:
            known = self._files.pop(number, None)
            decoded = self._files[number] = known or Future()
            while len(self._files) > self._limit:
                self._files.popitem(last=False)
        if known is None:
            try:
                decoded.set_result(self._decode(number))
            except BaseException as error:
                decoded.set_exception(error)
        return decoded.result()
