"""From an image to the input of a network.

The one place that knows how pixels are stored: their types, channels and range. Exports contain the code
below, so it needs only NumPy and Pillow, and tifffile or pydicom for files that Pillow cannot read.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Sequence
from os import PathLike
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, TiffImagePlugin


def stored_side(size: int) -> int:
    """Return the side of the square that an image is decoded to, for an input of `size` pixels."""
    return round(size * 8 / 7)


def image_input(
    source: str | PathLike[str] | IO[bytes] | Image.Image | NDArray[Any],
    size: int,
    channels: int,
    mean: Sequence[float],
    std: Sequence[float],
    limits: tuple[float, float] | None = None,
    pages: str = "first",
    widen: bool = False,
) -> NDArray[np.float32]:
    """Return an image as the input of a network, as in evaluation.

    Args:
        source: an image file, a decoded image, or pixels of any type [C, h, w]. A JPEG file is decoded
            at a smaller scale where that has enough pixels, which gives slightly other values than
            decoding it before.
        size: the side of the input, in pixels.
        channels: the number of channels of the input.
        mean: the mean of each channel, for intensities in [0, 1].
        std: the standard deviation of each channel, likewise.
        limits: the values that become the intensities 0 and 1; others are clipped to them. None for
            0 and 255, the limits of 8 bits.
        pages: what the pages of a TIFF file are: "channels", or "first" to read the first one only.
        widen: whether values of 8 bits are shares of the range of 16 bits, so that white stays white.

    Returns:
        float32 [1, channels, size, size].

    Raises:
        ValueError: the image has another number of channels, or more than 8 bits without `limits`.
        ImportError: the library that reads the file is not installed.
    """
    side = stored_side(size)
    if isinstance(source, np.ndarray):
        image: Image.Image | NDArray[Any] = plain(source)
    elif isinstance(source, Image.Image):
        image = source.copy()
    else:
        image = open_pixels(source, side, channels, pages)
    with opened(image):
        square = to_square(image, side, 3 if channels == 1 else channels)
    if widen:
        square = widened(square)
    if limits is None and square.dtype != np.uint8:
        raise ValueError(f"the image has values of {square.dtype}, and the network takes 8 bits")
    if limits is None:
        x = resize(square / 255, size)
    else:
        x = resize(np.clip((square - np.float64(limits[0])) / (limits[1] - limits[0]), 0, 1), size)
    if channels == 1:
        x = x.mean(0, keepdims=True)
    centre, scale = (np.asarray(values).reshape(-1, 1, 1) for values in (mean, std))
    return np.asarray((x - centre) / scale, np.float32)[None]


def opened(image: Image.Image | NDArray[Any]) -> contextlib.AbstractContextManager[Any]:
    """Return a context that closes the file of an image."""
    return image if isinstance(image, Image.Image) else contextlib.nullcontext(image)


def open_pixels(
    file: str | PathLike[str] | IO[bytes],
    side: int,
    channels: int | None = None,
    pages: str = "first",
    formats: tuple[str, ...] | None = None,
    max_pixels: int | None = None,
) -> Image.Image | NDArray[Any]:
    """Open an image file: by Pillow where it keeps all that the file has, otherwise as pixels [C, h, w].

    Args:
        file: the file.
        side: the least side at which a JPEG file is decoded, in pixels.
        channels: the number of channels that is wanted; None for any. It tells the axis of the channels
            of an array, and that an alpha channel is a channel like the others.
        pages: as for `image_input`.
        formats: the formats that Pillow may read; None for all.
        max_pixels: the largest width · height that is decoded, of a JPEG at its scale; None for any.

    Raises:
        ValueError: there are more pixels, which the head of the file tells before they are read.
        ImportError: the library that reads the file is not installed; the message says which.
    """
    with _opened_file(file) as stream:
        start = stream.tell()
        head = stream.read(132)
        stream.seek(start)
        if head.startswith(b"\x93NUMPY"):
            return _read_npy(stream, channels, max_pixels)
        if head[128:] == b"DICM":
            return _read_dicom(stream, pages, max_pixels)
        if head.startswith(b"\x89PNG") and head[24:26] == b"\x10\x02":  # 16 bits, red, green and blue
            _check_pixels([int.from_bytes(head[i : i + 4], "big") for i in (20, 16)], max_pixels)
            return plain(_bands(library("imagecodecs", "tiff").png_decode(stream.read()), "YXS"))
        is_tiff = head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
        if is_tiff and (pages == "channels" or not _pillow_reads(stream, channels)):
            stream.seek(start)
            return _read_tiff(stream, pages, max_pixels)
        stream.seek(start)
    image = Image.open(file, formats=formats)
    image.draft(None, (side, side))  # a JPEG at the smallest of its scales that is large enough
    try:
        _check_pixels(image.size[::-1], max_pixels)
    except ValueError:
        image.close()
        raise
    return image


def _check_pixels(sides: Sequence[int], limit: int | None) -> None:
    """Raise if an image of this height and width has too many pixels to decode.

    Raises:
        ValueError: there are.
    """
    height, width = sides
    if limit is not None and width * height > limit:
        raise ValueError(f"{width}×{height} pixels are more than {limit:,}")


def _opened_file(
    file: str | PathLike[str] | IO[bytes],
) -> contextlib.AbstractContextManager[IO[bytes]]:
    """Return a context with an open file, which is closed at its end if it was opened here."""
    if isinstance(file, str | PathLike):
        return open(file, "rb")  # noqa: PTH123
    return contextlib.nullcontext(file)


def plain(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return pixels in one of the types uint8, uint16, int16 and float32, in which data sets are stored.

    Other integers and floats become float32, and what is not finite becomes 0; bits become 0 and 255.

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
    return np.nan_to_num(pixels.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)


def widened(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return values of 8 bits as those of 16, 255 as 65,535; others as they are."""
    return pixels * np.uint16(257) if pixels.dtype == np.uint8 else pixels


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


def _pillow_reads(stream: IO[bytes], channels: int | None) -> bool:
    """Return whether Pillow keeps all bits and channels of a TIFF file; true if it is broken."""
    try:
        head = stream.read(8)
        head += stream.read(8) if head[2:4] in (b"+\0", b"\0+") else b""
        tags = TiffImagePlugin.ImageFileDirectory_v2(head)
        stream.seek(tags.next)
        tags.load(stream)
        samples, bits = int(tags.get(277, 1)), max(tags.get(258, (1,)))
        photometric, extra = tags.get(262), tuple(tags.get(338, ()))
    except Exception:  # Pillow names the reason as it opens the file
        return True
    if photometric in (3, 5, 6):  # a palette, CMYK or YCbCr
        return True
    if samples in (2, 4) and bits == 8 and extra[:1] in ((1,), (2,)):  # the last one is alpha
        return channels != samples
    return samples == 1 or (samples == 3 and bits <= 8)


def library(name: str, extra: str) -> Any:
    """Import a library that reads files.

    Raises:
        ImportError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"needs {name}: pip install 'ssl-zoo[{extra}]'") from error


def _read_npy(stream: IO[bytes], channels: int | None, limit: int | None) -> NDArray[Any]:
    """Return an array in NumPy's format as pixels [C, h, w].

    Raises:
        ValueError: it is not an image, or has too many pixels.
    """
    start = stream.tell()
    form = np.lib.format
    readers = {(1, 0): form.read_array_header_1_0, (2, 0): form.read_array_header_2_0}
    version = form.read_magic(stream)
    if version not in readers:
        raise ValueError(f"an array in version {version[0]} of NumPy's format is not an image")
    shape, _, dtype = readers[version](stream)
    if not dtype.hasobject:  # otherwise reading it is refused
        like = np.broadcast_to(np.uint8(0), shape)  # of this shape, without its memory
        _check_pixels(_channels_first(like, channels).shape[1:], limit)
    stream.seek(start)
    return plain(_channels_first(np.load(stream, allow_pickle=False), channels))


def _read_tiff(stream: IO[bytes], pages: str, limit: int | None) -> NDArray[Any]:
    """Return the first page of a TIFF file, or all pages as channels, as pixels [C, h, w].

    Raises:
        ValueError: a page has too many pixels.
    """
    with library("tifffile", "tiff").TiffFile(stream) as tiff:
        parts = tiff.series if pages == "channels" else tiff.pages[:1]
        for part in parts:
            _check_pixels([part.shape[part.axes.index(axis)] for axis in "YX"], limit)
        bands = [_bands(part.asarray(), part.axes) for part in parts]
    return plain(np.concatenate(bands))


def _bands(pixels: NDArray[Any], axes: str) -> NDArray[Any]:
    """Return an array with named axes, such as "YXS", as pixels [C, h, w]."""
    order = [i for i, axis in enumerate(axes) if axis not in "YX"] + [axes.index("Y"), axes.index("X")]
    pixels = pixels.transpose(order)
    return pixels.reshape(-1, *pixels.shape[-2:])


def _read_dicom(stream: IO[bytes], pages: str, limit: int | None) -> NDArray[Any]:
    """Return the stored values of a DICOM file after its modality LUT, as pixels [C, h, w].

    In computed tomography these are Hounsfield units. The window of the file is not applied, as it
    may differ within a data set. MONOCHROME1, in which low values are bright, is negated.

    Raises:
        ValueError: it has too many pixels.
    """
    pydicom = library("pydicom", "dicom")
    start = stream.tell()
    head = pydicom.dcmread(stream, stop_before_pixels=True)
    _check_pixels([int(head.get(name, 0)) for name in ("Rows", "Columns")], limit)
    stream.seek(start)
    data = pydicom.dcmread(stream)
    pixels = data.pixel_array
    if data.get("SamplesPerPixel", 1) > 1:
        pixels = pixels[0] if pixels.ndim == 4 else pixels
        return plain(pixels.transpose(2, 0, 1))
    pixels = pixels[None] if pixels.ndim == 2 else pixels if pages == "channels" else pixels[:1]
    pixels = importlib.import_module("pydicom.pixels").apply_modality_lut(pixels, data)
    sign = -1 if data.get("PhotometricInterpretation") == "MONOCHROME1" else 1
    values = np.asarray(pixels, np.float64) * sign
    limits = np.iinfo(np.int16)
    if values.min() >= limits.min and values.max() <= limits.max and (values == np.rint(values)).all():
        return values.astype(np.int16)
    return plain(values)


def to_square(image: Image.Image | NDArray[Any], side: int, channels: int) -> NDArray[Any]:
    """Return the central square of an image, which may be changed in place.

    The EXIF orientation is applied. Images of 8 bits, for one channel or three: transparent pixels are
    blended with white, CMYK and palettes become RGB. All others keep their values and channels; a
    single channel is repeated, and several are averaged for one.

    Args:
        image: an image, of an animation the first frame; or pixels of a type of `plain`, [C, h, w].
        side: the side of the result, in pixels; a smaller image is enlarged.
        channels: the number of channels of the result.

    Returns:
        [channels, side, side], in the type of the image: uint8, uint16, int16 or float32.

    Raises:
        ValueError: the image has another number of channels.
    """
    turn_upright(image)
    return fit_image(image, (side, side), channels)


def turn_upright(image: Image.Image | NDArray[Any]) -> None:
    """Apply the EXIF orientation of an image to it; pixels have none."""
    if isinstance(image, Image.Image):
        image.load()
        with contextlib.suppress(Exception):  # the pixels are valid even if the metadata are not
            ImageOps.exif_transpose(image, in_place=True)


def fit_image(image: Image.Image | NDArray[Any], size: tuple[int, int], channels: int) -> NDArray[Any]:
    """Return the middle of an upright image that has the aspect of `size`; otherwise as `to_square`.

    Args:
        image: the image.
        size: the width and the height of the result, in pixels.
        channels: the number of channels of the result.
    """
    if isinstance(image, np.ndarray):
        return _fit_pixels(image, size, channels)
    if has_more_than_8_bits(image) or channels not in (1, 3):
        return _fit_pixels(_pixels_of(image), size, channels)
    mode = "L" if channels == 1 else "RGB"
    if image.has_transparency_data:
        # Pillow weights colours by alpha when it resizes, so blending can follow.
        image = _fit(_convert(image, "RGBA"), size)
        image = Image.alpha_composite(Image.new("RGBA", size, "white"), image)
    image = _fit(_convert(image, mode), size)
    pixels = np.array(image, dtype=np.uint8).reshape(image.height, image.width, channels)
    return pixels.transpose(2, 0, 1)


def _pixels_of(image: Image.Image) -> NDArray[Any]:
    """Return all channels of an image, alpha among them, as pixels [C, h, w]."""
    if image.mode not in ("L", "LA", "RGB", "RGBA", "CMYK") and not has_more_than_8_bits(image):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    pixels = np.array(image)
    tags = getattr(image, "tag_v2", {})
    if image.mode == "I" and tags.get(258) == (16,):  # Pillow widens signed values
        pixels = pixels.astype(np.int16)
    return plain(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))


def _fit_pixels(pixels: NDArray[Any], size: tuple[int, int], channels: int) -> NDArray[Any]:
    """Return pixels [C, h, w] as `fit_image`."""
    number = len(pixels)
    if number != channels and 1 not in (number, channels):
        raise ValueError(f"the image has {number} channels, and {channels} are taken")
    if pixels.shape[1:] != size[::-1]:
        exact = pixels.dtype in (np.uint8, np.float32)
        planes = [plane if exact else plane.astype(np.float32) for plane in pixels]
        fitted = np.stack([np.asarray(_fit(Image.fromarray(plane), size)) for plane in planes])
        pixels = fitted if exact else np.rint(fitted).astype(pixels.dtype)
    if number == channels:
        return pixels
    if number == 1:
        return pixels.repeat(channels, 0)
    mean = pixels.mean(0, keepdims=True, dtype=np.float64)
    averaged: NDArray[Any] = (mean if pixels.dtype.kind == "f" else np.rint(mean)).astype(pixels.dtype)
    return averaged


def has_more_than_8_bits(image: Image.Image) -> bool:
    """Return whether a channel of an image has more than 8 bits."""
    return image.mode.startswith(("I", "F"))


def _convert(image: Image.Image, mode: str) -> Image.Image:
    return image if image.mode == mode else image.convert(mode)


def _fit(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image if image.size == size else ImageOps.fit(image, size, Image.Resampling.BILINEAR)


def resize(x: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Shrink [C, s, s] to [C, size, size] as torch does: bilinear and antialiased."""
    side = x.shape[-1]
    centre = (np.arange(size)[:, None] + 0.5) * side / size
    weight = np.maximum(1 - np.abs(np.arange(side) + 0.5 - centre) * size / side, 0)  # [size, side]
    weight /= weight.sum(1, keepdims=True)
    resized: NDArray[np.float64] = weight @ x @ weight.T
    return resized
