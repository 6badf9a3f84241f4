"""Splits whose samples are rows of an array in a file, read when they are needed."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_zoo.data.positioned import PositionedFile
from ssl_zoo.data.splits import ArraySplit, Split, select
from ssl_zoo.errors import SslZooError


class ArrayFile:
    """An array [R, ...] of numbers in a `.npy` file, read by rows.

    The file stays open, so it remains readable when it is removed or replaced.

    Args:
        file: the file.

    Attributes:
        whole: the array, mapped into memory. Writing to it ends the process, and so does reading rows
            of a file that was truncated meanwhile or whose disk was removed; `read` raises instead.

    Raises:
        ValueError: the file holds another kind of array; NumPy raises other errors too.
    """

    def __init__(self, file: Path) -> None:
        mapped = np.load(file, mmap_mode="r")
        if mapped.dtype.kind not in "buif" or not mapped.flags.c_contiguous:
            raise ValueError(f"{file} does not hold a contiguous array of numbers")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            self.whole = torch.from_numpy(mapped)
        self._offset, self._dtype = mapped.offset, mapped.dtype
        self._file = PositionedFile(file)

    def read(self, numbers: Tensor) -> Tensor:
        """Return a copy of the rows with these numbers [B], on the CPU.

        Raises:
            SslZooError: they cannot be read.
        """
        shape = self.whole.shape[1:]
        size = math.prod(shape) * self._dtype.itemsize
        rows = np.empty((len(numbers), size), np.uint8)
        for row, number in zip(rows, numbers.tolist(), strict=True):
            row[:] = self._bytes(number * size, size)
        return torch.from_numpy(rows.view(self._dtype).reshape(len(numbers), *shape))

    def values(self, first: int, count: int) -> Tensor:
        """Return a copy of `count` numbers [count], from the one with the index `first` on, on the CPU.

        Raises:
            SslZooError: they cannot be read.
        """
        size = self._dtype.itemsize
        return torch.from_numpy(self._bytes(first * size, count * size).view(self._dtype).copy())

    def _bytes(self, start: int, size: int) -> NDArray[np.uint8]:
        """Return `size` bytes of the array, from the one with the index `start` on.

        Raises:
            SslZooError: they cannot be read.
        """
        try:
            read = self._file.read(self._offset + start, size)
        except OSError as error:
            raise SslZooError(f"cannot read {self._file.path}: {error.strerror}") from error
        if len(read) < size:
            raise SslZooError(f"cannot read {self._file.path}: the file was truncated")
        return np.frombuffer(read, np.uint8)


class ImageFile:
    """Images [C, h, w] of different sizes, one after the other in a `.npy` file.

    Args:
        file: the file.
        channels: the number of channels C.
        sizes: the height and width of each image, int64 [N, 2].

    Raises:
        ValueError: the file holds another number of pixels; NumPy raises other errors too.
    """

    def __init__(self, file: Path, channels: int, sizes: Tensor) -> None:
        self.pixels, self.channels, self.sizes = ArrayFile(file), channels, sizes
        ends = sizes.prod(1).cumsum(0) * channels
        self._starts = torch.cat([ends.new_zeros(1), ends])
        if self.pixels.whole.shape != (int(self._starts[-1]),):
            raise ValueError(f"{file} does not hold {len(sizes)} images of these sizes")

    def read(self, number: int) -> Tensor:
        """Return a copy of the image with this number, [C, h, w] on the CPU.

        Raises:
            SslZooError: it cannot be read.
        """
        first, end = self._starts[number : number + 2].tolist()
        return self.pixels.values(first, end - first).view(self.channels, *self.sizes[number].tolist())


class MappedSplit(Split):
    """A split whose samples are rows of a file, read when they are needed.

    Args:
        file: the file, of R rows.
        rows: the row of each sample, int64 [N].
        labels: the class of each sample, int64 [N], or None.
        skipped: the unreadable files missing from the samples, with the reason for each.
        names: the name of each of the N samples, or None.
        groups: the name of what each of the N samples is a part of, or None.
    """

    resident = False
    readers = 3

    def __init__(
        self,
        file: ArrayFile,
        rows: Tensor,
        labels: Tensor | None = None,
        skipped: Mapping[str, str] = MappingProxyType({}),
        names: Sequence[str] | None = None,
        groups: Sequence[str] | None = None,
    ) -> None:
        self.file = file
        self.rows = rows
        self.labels = labels
        self.skipped = skipped
        self._names, self._groups = names, groups

    @property
    def nbytes(self) -> int:
        """The size of the samples, in bytes."""
        return len(self) * math.prod(self.file.whole.shape[1:]) * self.file.whole.element_size()

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: Tensor) -> Tensor:
        """Return a copy of the samples with these indices, on the CPU."""
        return self.file.read(self.rows[indices.cpu()])

    def subset(self, indices: Tensor) -> MappedSplit:
        """Return the samples with these indices [M] as a split of the same file."""
        labels = self.labels[indices] if self.labels is not None else None
        names, groups = select(self._names, indices), select(self._groups, indices)
        return MappedSplit(self.file, self.rows[indices], labels, self.skipped, names, groups)

    def to(self, device: torch.device) -> Split:
        """Return the same samples in the memory of `device`; on a CPU they stay in the file."""
        if device.type == "cpu":
            return self
        shape = (len(self), *self.file.whole.shape[1:])
        samples = torch.empty(shape, dtype=self.file.whole.dtype, device=device)
        for part, chunk in zip(samples.split(1024), torch.arange(len(self)).split(1024), strict=True):
            part.copy_(self.batch(chunk))
        return ArraySplit(samples, self.labels, self.skipped, self._names, self._groups)
