"""Texts in files that are mapped, so that all processes of a machine share them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssl_zoo.data.computed import ComputedSequence

_WRITTEN_AT_ONCE = 2**16
"""The number of texts that are held while they are written."""


def write_texts(file: Path, texts: Sequence[str]) -> None:
    """Write texts, one after the other, and beside them where each of them ends.

    Args:
        file: the file; that of the ends has the further suffix ``.ends.npy``.
        texts: the texts, such as paths, which need not be UTF-8.

    Raises:
        OSError: a file cannot be written.
    """
    ends: NDArray[np.int64] = np.empty(len(texts), np.int64)
    end = 0
    with file.open("wb") as opened:
        for first in range(0, len(texts), _WRITTEN_AT_ONCE):
            encoded = [os.fsencode(text) for text in texts[first : first + _WRITTEN_AT_ONCE]]
            lengths = np.array([len(text) for text in encoded], np.int64)
            ends[first : first + len(encoded)] = end + lengths.cumsum()
            end += int(lengths.sum())
            opened.write(b"".join(encoded))
    np.save(_ends(file), ends)


def open_texts(file: Path) -> Sequence[str]:
    """Return the texts of a file, which are read where they are asked for.

    Raises:
        ValueError: the file and its ends do not fit together.
        OSError: one of them cannot be read.
    """
    ends = np.load(_ends(file), mmap_mode="r")
    if ends.dtype != np.int64 or file.stat().st_size != (ends[-1] if len(ends) else 0):
        raise ValueError(f"{file.name} does not have {len(ends):,} texts")
    if not file.stat().st_size:  # no file of this size can be mapped
        return ComputedSequence(len(ends), lambda i: "")
    texts = np.memmap(file, np.uint8, "r")

    def text(i: int) -> str:
        return os.fsdecode(texts[int(ends[i - 1]) if i else 0 : int(ends[i])].tobytes())

    return ComputedSequence(len(ends), text)


def _ends(file: Path) -> Path:
    return file.with_name(f"{file.name}.ends.npy")
