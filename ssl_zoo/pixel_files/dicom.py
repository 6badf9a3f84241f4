"""Frames of DICOM files."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from functools import partial
from os import SEEK_CUR, SEEK_END
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ssl_zoo.pixel_files.page import Page, bands, library, page_numbers


def dicom_pages(stream: IO[bytes], start: int) -> Iterator[Page]:
    """Yield the frames of a DICOM file: the stored values after its modality LUT.

    In computed tomography these are Hounsfield units. The window of the file is not applied, as it
    may differ within a data set. MONOCHROME1, in which low values are bright, is negated.

    Raises:
        ValueError: the file is shorter than its head says.
    """
    pydicom = library("pydicom", "dicom")
    pixels = importlib.import_module("pydicom.pixels")
    begin = stream.tell()
    head = pydicom.dcmread(stream, stop_before_pixels=True)
    samples, rows, columns, bits = (
        int(head.get(name) or 0) for name in ("SamplesPerPixel", "Rows", "Columns", "BitsAllocated")
    )
    count = int(head.get("NumberOfFrames") or 1)
    source, present = stream, count
    if begin or head.file_meta.TransferSyntaxUID.is_deflated:  # pydicom cannot read one frame alone
        stream.seek(begin)
        source = pydicom.dcmread(stream)
    else:
        present = max(1, _dicom_frames(stream, head, rows * columns * samples * bits))

    def read(number: int) -> NDArray[Any]:
        frame = pixels.pixel_array(source, index=number)
        if samples > 1:
            return bands(frame, "YXS")
        values = np.asarray(pixels.apply_modality_lut(frame[None], head), np.float64)
        values = -values if head.get("PhotometricInterpretation") == "MONOCHROME1" else values
        limits = np.iinfo(np.int16)
        fits = values.min() >= limits.min and values.max() <= limits.max
        return values.astype(np.int16) if fits and (values == np.rint(values)).all() else values

    for number in page_numbers(start, count, present):
        yield Page(number, (samples, rows, columns), -(-bits // 8), partial(read, number))


def _dicom_frames(stream: IO[bytes], head: Any, bits: int) -> int:
    """Return for how many frames a DICOM file has data, at the beginning of which the stream is.

    Args:
        stream: the file.
        head: all that precedes the data.
        bits: the number of bits of a frame that is not compressed.
    """
    if head.file_meta.TransferSyntaxUID.is_encapsulated:
        encapsulation = importlib.import_module("pydicom.encaps")
        stream.seek(12, SEEK_CUR)  # the tag, its type and length
        encapsulation.parse_basic_offsets(stream)
        return int(encapsulation.parse_fragments(stream)[0])  # a frame has at least one
    if head.get("PhotometricInterpretation") == "YBR_FULL_422":
        bits = bits * 2 // 3
    start = stream.tell()
    return 8 * (stream.seek(0, SEEK_END) - start) // max(1, bits)
