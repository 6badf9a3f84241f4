"""Opening of image files: as a picture by Pillow, or as pixels."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from os import PathLike
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from ssl_zoo.pixel_files.arrays import MAX_COLOURS, npy_pages
from ssl_zoo.pixel_files.dicom import dicom_pages
from ssl_zoo.pixel_files.page import Page, bands, library, opened_file
from ssl_zoo.pixel_files.tiff import tiff_layout, tiff_pages


def open_pixels(
    file: str | PathLike[str] | IO[bytes],
    side: int,
    channels: int | None = None,
    pages: str | int = "first",
    formats: tuple[str, ...] | None = None,
    max_bytes: int | None = None,
) -> Image.Image | NDArray[Any]:
    """Open an image file: by Pillow where it keeps all that the file has, otherwise as pixels [C, h, w].

    Args:
        file: the file.
        side: the least side at which a JPEG file is decoded, in pixels.
        channels: the number of channels that is wanted; None for any. It tells the axis of the channels
            of an array, and that an alpha channel is a channel like the others.
        pages: the pages of a TIFF or DICOM file that are read: the "first", all of them as "channels",
            or one by its number, as also of an array [N, h, w] and of an animation.
        formats: the formats that Pillow may read; None for all.
        max_bytes: the limit of what decoding takes, of a JPEG at its scale, in place of Pillow's limit;
            None for the latter.

    Raises:
        ValueError: it would take more, which the head of the file tells before they are read; or
            there is no such page.
        ImportError: the library that reads the file is not installed; the message says which.
    """
    number = pages if isinstance(pages, int) else 0
    source = file
    with opened_file(file) as stream:
        begin = stream.tell()
        found = find_pages(stream, channels, pages, number)
        if found is not None:
            chosen = list(found if pages == "channels" else islice(found, 1))
            if not chosen or chosen[0].number != number:
                raise ValueError(f"has no page {number}")
            if chosen[0].read is not None:
                check_size(chosen, max_bytes)
                return plain(np.concatenate([page.read() for page in chosen if page.read]))
            if number:  # Pillow would read the tags of all pages before it
                source, number = tiff_layout(stream).starting_at(file, chosen[0].offset), 0
        stream.seek(begin)
    image = _identify(source, formats) if max_bytes is not None else Image.open(source, formats=formats)
    if number:
        image.seek(number)
    image.draft(None, (side, side))  # a JPEG at the smallest of its scales that is large enough
    itemsize = 2 if image.mode.startswith(("I", "F")) else 1
    try:
        check_size([Page(0, (1, *image.size[::-1]), itemsize, None)], max_bytes)
    except ValueError:
        image.close()
        raise
    return image


def _identify(source: str | PathLike[str] | IO[bytes], formats: tuple[str, ...] | None) -> Image.Image:
    """Return ``Image.open`` of a file, also of one with more pixels than Pillow allows in this process.

    Raises:
        UnidentifiedImageError: it is not an image of these formats.
    """
    Image.init()
    with opened_file(source) as stream:
        begin = stream.tell()
        head = stream.read(16)
        stream.seek(begin)
    for name in Image.ID if formats is None else formats:
        factory, accept = Image.OPEN[name]
        with contextlib.suppress(SyntaxError, IndexError, TypeError, struct.error):
            accepted = accept is None or accept(head)
            if accepted and not isinstance(accepted, str):  # a string tells what is missing
                image: Image.Image = factory(source, "")  # type: ignore[arg-type]
                return image
        if not isinstance(source, str | PathLike):
            source.seek(begin)
    raise UnidentifiedImageError("cannot identify image file")


def find_pages(
    stream: IO[bytes], channels: int | None, pages: str | int, start: int = 0
) -> Iterator[Page] | None:
    """Return the pages of a file, from the one numbered `start` on; None if Pillow reads it.

    Only heads are read. An array is one page, unless `pages` is a number or "samples".

    Args:
        stream: the open file, which stays where it is.
        channels: as for `open_pixels`.
        pages: likewise, or "samples" for all of them one by one.
        start: the number of the first one.
    """
    begin = stream.tell()
    head = stream.read(132)
    stream.seek(begin)
    if head.startswith(b"\x93NUMPY"):
        return npy_pages(stream, channels, pages not in ("first", "channels"), start)
    if head[128:] == b"DICM":
        return dicom_pages(stream, start)
    if head.startswith(b"\x89PNG") and head[24:26] == b"\x10\x02":  # 16 bits, red, green and blue
        width, height = struct.unpack(">II", head[16:24])
        return islice([Page(0, (3, height, width), 2, partial(_read_png, stream))], start, None)
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return tiff_pages(stream, channels, pages == "channels", start)
    return None


def check_size(pages: Sequence[Page], max_bytes: int | None) -> None:
    """Raise if pages are too large to decode.

    Raises:
        ValueError: all of them together take too many bytes.
    """
    size = sum(page.nbytes for page in pages)
    if max_bytes is None or size <= max_bytes:
        return
    (_, height, width), channels = pages[0].shape, sum(page.shape[0] for page in pages)
    stacked = len(pages) > 1 or (channels > MAX_COLOURS and not pages[0].offset)
    what = f"{channels:,} channels of " if channels > 1 else ""
    remedy = (
        "if they are pages, data.pages=samples takes them one by one"
        if stacked
        else "data.tile reads a TIFF file that is saved in tiles a part at a time"
    )
    raise ValueError(
        f"{what}{width}×{height} pixels take {size / 1e6:,.0f} MB, more than {max_bytes / 1e6:,.0f}; "
        f"{remedy}"
    )


def _read_png(stream: IO[bytes]) -> NDArray[Any]:
    return bands(library("imagecodecs", "tiff").png_decode(stream.read()), "YXS")


def plain(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return pixels in one of the types uint8, uint16, int16 and float32, in which data sets are stored.

    Other integers and floats become float32, and bits 0 and 255. NaN and infinity stay what they are.

    Raises:
        ValueError: they are no numbers.
    """
    if pixels.dtype.kind not in "buif":
        raise ValueError(f"values of {pixels.dtype} are not pixels")
    if pixels.dtype == bool:
        return pixels.astype(np.uint8) * np.uint8(255)
    native = pixels.dtype.newbyteorder("=")
    if native in (np.uint8, np.uint16, np.int16):
        return pixels.astype(native, copy=False)
    with np.errstate(over="ignore"):  # what is too large becomes infinite
        return pixels.astype(np.float32, copy=False)


def turn_upright(image: Image.Image | NDArray[Any]) -> None:
    """Apply the EXIF orientation of an image to it; pixels have none."""
    if isinstance(image, Image.Image):
        image.load()
        with contextlib.suppress(Exception):  # the pixels are valid even if the metadata are not
            ImageOps.exif_transpose(image, in_place=True)
