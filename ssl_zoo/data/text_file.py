"""Texts in files that are read by position, so that a process holds none of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssl_zoo.data.computed import ComputedSequence
from ssl_zoo.data.positioned import PositionedFile

_WRITTEN_AT_ONCE = 2**16
"""The number of texts that are held while they are written."""


class TextWriter:
    """Writes texts, one after the other, and beside them where each of them ends.

    Args:
        file: the file; that of the ends has the further suffix ``.ends.npy``.

    Raises:
        OSError: a file cannot be written, also from its methods.
    """

    def __init__(self, file: Path) -> None:
        self._file, self._opened = file, file.open("wb")
        self._ends: list[NDArray[np.int64]] = []
        self._end = 0

    def write(self, texts: Sequence[str]) -> None:
        """Add texts, such as paths, which need not be UTF-8."""
        for first in range(0, len(texts), _WRITTEN_AT_ONCE):
            encoded = [os.fsencode(text) for text in texts[first : first + _WRITTEN_AT_ONCE]]
            ends = self._end + np.cumsum([len(text) for text in encoded], dtype=np.int64)
            self._ends.append(ends)
            self._end = int(ends[-1])
            self._opened.write(b"".join(encoded))

    def close(self) -> None:
        """Write where texts end, and close the file."""
        self._opened.close()
        np.save(_ends(self._file), np.concatenate([np.empty(0, np.int64), *self._ends]))


def open_texts(file: Path) -> Sequence[str]:
    """Return the texts of a file, of which each is read when it is asked for.

    Raises:
        ValueError: the file and its ends do not fit together.
        OSError: one of them cannot be read.
    """
    ends = np.load(_ends(file), mmap_mode="r")
    if ends.dtype != np.int64 or file.stat().st_size != (ends[-1] if len(ends) else 0):
        raise ValueError(f"{file.name} does not have {len(ends):,} texts")
    # Not through the maps, whose pages would count as memory of this process.
    texts, places, header = PositionedFile(file), PositionedFile(_ends(file)), ends.offset

    def text(i: int) -> str:
        first = max(i - 1, 0)
        read = places.read(header + 8 * first, 8 * (i - first + 1))
        start, end = (0, *np.frombuffer(read, np.int64).tolist())[-2:]
        return os.fsdecode(texts.read(start, end - start))

    return ComputedSequence(len(ends), text)


def _ends(file: Path) -> Path:
    return file.with_name(f"{file.name}.ends.npy")
