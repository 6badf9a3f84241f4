"""Opening of image files, with limits, and the resizing of whole images."""

from __future__ import annotations

import contextlib
import importlib
import stat
import warnings
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import count, islice
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ssl_zoo import pixel_files, preprocess
from ssl_zoo.pixel_files import Page, Region, Segments
from ssl_zoo.text import error_reason

UNDECODED_FORMATS = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PALM", "PDF", "WMF")
"""Formats that Pillow recognises but does not decode by itself; for EPS it runs Ghostscript."""
GRAY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "F")
MAX_ASPECT = 32
"""The length of an image that is kept whole, in units of the largest window's; more is cut off."""
MAX_BYTES = 2_000_000_000
"""The bytes that may be decoded at once: an image at its scale, or the part of it that a tile needs.

Images that take more count as unreadable. Of 8 bits, 500 million pixels in RGB are allowed."""

UNSCALED = 65_536
"""The side at which no JPEG is decoded at a smaller scale, in pixels; the largest that it can have."""

# Pillow's warnings (odd EXIF, many pixels) are not shown: an image is decoded or recorded as unreadable.
# The filter is set once, because filters are global and must not be changed by threads.
warnings.filterwarnings("ignore", module=r"PIL\.")


@cache
def formats() -> tuple[str, ...]:
    """Return Pillow's names of the formats that are decoded, regardless of a file's suffix.

    HEIC is among them only if pillow-heif is installed.
    """
    with contextlib.suppress(ImportError):
        importlib.import_module("pillow_heif").register_heif_opener()
    Image.init()
    return tuple(name for name in Image.ID if name not in UNDECODED_FORMATS)


def open_image(file: Path | IO[bytes], side: int) -> Image.Image:
    """Open an image by Pillow; a JPEG at its smallest scale with at least `side` pixels each way.

    Raises:
        ValueError: as `open_pixels`, or Pillow does not read such a file.
        OSError: it is not an image, or it cannot be read.
    """
    image = open_pixels(file, side)
    if not isinstance(image, Image.Image):
        raise ValueError("not a picture, but an array of values")
    return image


def open_pixels(
    file: Path | IO[bytes], side: int, channels: int | None = None, pages: str | int = "first"
) -> Image.Image | NDArray[Any]:
    """Open an image as `ssl_zoo.pixel_files.open_pixels`, with limits.

    Raises:
        ValueError: it is not a regular file, or too many pixels would have to be decoded.
        OSError: it is not an image, or it cannot be read.
        ImportError: the library that reads the file is not installed.
    """
    if isinstance(file, Path) and not stat.S_ISREG(file.stat().st_mode):
        raise ValueError("a pipe or device, not a file")  # reading it could block for ever
    image = pixel_files.open_pixels(file, side, channels, pages, formats(), MAX_BYTES)
    if isinstance(image, Image.Image):
        # With a name Pillow maps uncompressed files: truncation while reading would end the process.
        vars(image)["filename"] = ""
    return image


def page_sizes(
    path: Path, channels: int | None, pages: str, tile: tuple[int, int] | None = None
) -> Iterator[tuple[int, int, int, tuple[int, int] | None]]:
    """Yield the number, the height and the width of each image that a file has, from its head.

    Sizes are those of images as they are seen, and 0 of those that are too large to decode. The last
    value is the height and the width of the tiles or strips that `open_region` decodes alone, or None.

    Args:
        path: the file.
        channels: as for `open_pixels`.
        pages: likewise; with "samples" each page is an image, otherwise the file is one, numbered 0.
        tile: the height and the width of the tiles that are wanted; None for whole images.

    Raises:
        Exception: of any kind, where the file, or the next page of it, cannot be read.
    """
    with pixel_files.opened_file(path) as stream:
        found = pixel_files.find_pages(stream, channels, pages)
        if found is None:
            yield from _frame_sizes(path, pages == "samples")
            return
        whole = found if pages == "channels" else islice(found, 1)
        for image in ([page] for page in found) if pages == "samples" else [list(whole)]:
            number, (_, height, width) = image[0].number, image[0].shape
            segments = [] if tile is None else _segments(stream, image)
            try:
                parts = [each.largest(*tile) for each in segments if tile is not None]
                pixel_files.check_size(parts or image, MAX_BYTES)
            except ValueError:
                height = width = 0
            yield number, height, width, segments[0].sides if segments else None


def open_region(
    path: Path, region: Region, channels: int | None, pages: str | int
) -> Image.Image | NDArray[Any]:
    """Decode a region of a page of a TIFF file; nothing else of the file is read but its head.

    Args:
        path: the file.
        region: the region, aligned to the sides that `page_sizes` gives; cut off where the page ends.
        channels: as for `open_pixels`.
        pages: likewise.

    Raises:
        ValueError: the region is too large, or the file ends before.
        OSError: it cannot be decoded.
        ImportError: the library that reads the file is not installed.
    """
    with pixel_files.opened_file(path) as stream:
        found = pixel_files.find_pages(stream, channels, pages, pages if isinstance(pages, int) else 0)
        if found is None:
            raise ValueError("is no TIFF file any longer")
        segments = _segments(stream, list(found if pages == "channels" else islice(found, 1)))
        if not segments:
            raise ValueError("is stored otherwise than it was")
        pixel_files.check_size([each.part(region) for each in segments], MAX_BYTES)
        files = [each.cut(stream, region) for each in segments]
    kind = pages if pages == "channels" else "first"
    images = [
        pixel_files.open_pixels(file, UNSCALED, channels, kind, formats(), MAX_BYTES) for file in files
    ]
    arrays = [image for image in images if isinstance(image, np.ndarray)]
    if arrays:
        return pixel_files.plain(np.concatenate(arrays))
    (picture,) = images
    assert isinstance(picture, Image.Image)
    picture.load()
    return picture


def _segments(stream: IO[bytes], pages: Sequence[Page]) -> list[Segments]:
    """Return the segments of each page of an image; none if one can only be decoded as a whole."""
    found = [Segments.of(stream, page) for page in pages]
    segments = [each for each in found if each is not None]
    alike = len({(each.page.shape[1:], each.sides) for each in segments}) == 1
    return segments if alike and len(segments) == len(pages) else []


def _frame_sizes(path: Path, all_frames: bool) -> Iterator[tuple[int, int, int, None]]:
    """Yield what `page_sizes` yields of the first or all frames of a file that Pillow reads."""
    with open_image(path, UNSCALED) as image:
        for number in count():
            if number:
                try:
                    image.seek(number)
                except EOFError:
                    return
            exif = Image.Image.getexif(image)  # that of PNG files would decode them
            turned = exif.get(0x0112, 1) in (5, 6, 7, 8)  # the orientation
            height, width = (image.width, image.height) if turned else (image.height, image.width)
            yield number, height, width, None
            if not all_frames:
                return


def has_pages(file: Path | IO[bytes]) -> bool:
    """Return whether a file that Pillow does not read has several pages."""
    with contextlib.suppress(ValueError), pixel_files.opened_file(file) as stream:
        return len(list(islice(pixel_files.find_pages(stream, None, "first") or (), 2))) > 1
    return False


def to_canvas(image: Image.Image | NDArray[Any], window: tuple[int, int], channels: int) -> NDArray[Any]:
    """Return a whole image [channels, h, w], otherwise as `ssl_zoo.preprocess.to_size`.

    It is as large as a window of this height and width in one direction, and not smaller in the other;
    there, of one that is longer than `MAX_ASPECT` windows it is the middle.
    """
    pixel_files.turn_upright(image)
    size = image.shape[1:] if isinstance(image, np.ndarray) else image.size[::-1]
    # The side of the window that is the larger share of the image's: scaled, the two are equal.
    whole, part = min(zip(size, window, strict=True), key=lambda sides: sides[0] / sides[1])
    height, width = (
        min(max(side, round(n * part / whole)), MAX_ASPECT * side)
        for n, side in zip(size, window, strict=True)
    )
    return preprocess.fit_image(image, (width, height), channels)


def excess(size: tuple[int, int], window: tuple[int, int]) -> float:
    """Return the area of an image in units of that of the largest window in it of a given aspect.

    For squares it is the longer side over the shorter one.

    Args:
        size: the height and width of the image.
        window: a height and a width of that aspect.
    """
    sides = size[0] * window[1], size[1] * window[0]
    return max(sides) / min(sides)


def is_gray(image: Any) -> bool:
    """Return whether an image is gray."""
    return getattr(image, "mode", None) in GRAY_MODES


def image_error_reason(error: BaseException) -> str:
    """Return why an image cannot be read, in one line that does not repeat the file name."""
    if isinstance(error, preprocess.OtherChannels):
        hint = f"data.channels={error.number} takes such images, and 1 the mean of the channels of any"
        return f"{error}; {hint}"
    return "not an image" if isinstance(error, UnidentifiedImageError) else error_reason(error)
