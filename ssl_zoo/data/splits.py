"""Splits: samples by index, and their labels where they are known."""

from __future__ import annotations

import math
import os
import threading
import warnings
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from ssl_zoo.errors import SslZooError


class Split(ABC):
    """A sequence of samples, with their labels where they are known.

    A subclass must define `__len__` and `batch`; the other members have defaults, for samples that are
    quick to access and all readable.

    Attributes:
        labels: the class of each sample, int64 [N] on the CPU; None unless all are known.
        skipped: the unreadable files met so far, with the reason for each.
        resident: whether the samples are in memory.
    """

    labels: Tensor | None = None
    skipped: Mapping[str, str] = MappingProxyType({})
    resident: bool = True

    @property
    def names(self) -> Sequence[str] | None:
        """The name of each of the N samples, such as its file; None where they have only indices."""
        return None

    @property
    def nbytes(self) -> int:
        """The size of all samples in memory, in bytes."""
        return len(self) * self.batch(torch.arange(min(1, len(self)))).nbytes

    @abstractmethod
    def __len__(self) -> int:
        """Return the number N of samples."""

    @abstractmethod
    def batch(self, indices: Tensor) -> Tensor:
        """Return the samples [B, ...] with these indices [B]; images as uint8 [B, C, h, w]."""

    def stream(
        self,
        indices: Tensor,
        batch_size: int,
        *,
        drop_last: bool = False,
        prefetch: int = 2,
        pin: bool = False,
    ) -> Generator[Tensor]:
        """Yield raw batches in the order of `indices`.

        Args:
            indices: the samples to read, int64 [N].
            batch_size: the number of samples in a batch.
            drop_last: whether to leave out a last batch that is not full.
            prefetch: the number of batches to read ahead, where reading takes time.
            pin: whether to read these into pinned memory, from which a GPU copies asynchronously.
        """
        yield from map(self.batch, self._chunks(indices, batch_size, drop_last))

    @staticmethod
    def _chunks(indices: Tensor, batch_size: int, drop_last: bool) -> list[Tensor]:
        """Return the indices of each batch."""
        return [c for c in indices.split(batch_size) if len(c) == batch_size or not drop_last]

    def readable(self) -> bool:
        """Return whether any sample can be read."""
        return len(self) > 0

    def subset(self, indices: Tensor) -> Split:
        """Return the samples with these indices [M] as a split."""
        labels = self.labels[indices] if self.labels is not None else None
        return ArraySplit(self.batch(indices), labels, self.skipped, self._names_of(indices))

    def _names_of(self, indices: Tensor) -> list[str] | None:
        names = self.names
        return [names[i] for i in indices.tolist()] if names is not None else None

    def to(self, device: torch.device) -> Split:
        """Return the same samples in the memory of `device`."""
        samples = self.batch(torch.arange(len(self))).to(device)
        return ArraySplit(samples, self.labels, self.skipped, self.names)

    def cached(self, name: str, folder: Path) -> Split:
        """Return the same samples from a cache on disk; the split itself where it needs none.

        Args:
            name: the name of the source and the split, for file names and messages.
            folder: the folder of the cache; it need not exist.
        """
        return self


class ArraySplit(Split):
    """A split with its samples in memory, on the device.

    Args:
        samples: [N, ...]; images as uint8 [N, C, h, w].
        labels: the class of each sample, int64 [N], or None.
        skipped: the unreadable files missing from the samples, with the reason for each.
        names: the name of each of the N samples, or None.
    """

    def __init__(
        self,
        samples: Tensor,
        labels: Tensor | None,
        skipped: Mapping[str, str] | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        self.samples = samples
        self.labels = labels
        self.skipped = {} if skipped is None else skipped
        self._names = names

    @property
    def names(self) -> Sequence[str] | None:
        """The name of each of the N samples, or None."""
        return self._names

    @property
    def nbytes(self) -> int:
        """The size of the samples, in bytes."""
        return self.samples.nbytes

    def __len__(self) -> int:
        return len(self.samples)

    def batch(self, indices: Tensor) -> Tensor:
        """Return the samples with these indices, on the device."""
        return self.samples[indices.to(self.samples.device)]

    def to(self, device: torch.device) -> ArraySplit:
        """Return the same samples in the memory of `device`."""
        return ArraySplit(self.samples.to(device), self.labels, self.skipped, self._names)


class ArrayFile:
    """An array uint8 [R, ...] in a `.npy` file, read by rows.

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
        if mapped.dtype != np.uint8 or not mapped.flags.c_contiguous:
            raise ValueError(f"{file} does not hold a contiguous uint8 array")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            self.whole = torch.from_numpy(mapped)
        self._file, self._offset = file, mapped.offset
        self._opened = file.open("rb", buffering=0)
        self._seeking = threading.Lock()
        weakref.finalize(self, self._opened.close)

    def read(self, numbers: Tensor) -> Tensor:
        """Return a copy of the rows with these numbers [B], on the CPU.

        Raises:
            SslZooError: they cannot be read.
        """
        rows = np.empty((len(numbers), *self.whole.shape[1:]), np.uint8)
        for row, number in zip(rows, numbers.tolist(), strict=True):
            try:
                read = self._read_at(self._offset + number * row.nbytes, row.nbytes)
            except OSError as error:
                raise SslZooError(f"cannot read {self._file}: {error.strerror}") from error
            if len(read) < row.nbytes:
                raise SslZooError(f"cannot read {self._file}: the file was truncated")
            row[:] = np.frombuffer(read, np.uint8).reshape(row.shape)
        return torch.from_numpy(rows)

    def _read_at(self, offset: int, size: int) -> bytes:
        """Return at most `size` bytes from `offset`, for several threads at once.

        Raises:
            OSError: they cannot be read.
        """
        if hasattr(os, "pread"):
            return os.pread(self._opened.fileno(), size, offset)
        with self._seeking:  # Windows has no pread
            self._opened.seek(offset)
            return self._opened.read(size)


class MappedSplit(Split):
    """A split whose samples are rows of a file, read when they are needed.

    Args:
        file: the file, of R rows.
        rows: the row of each sample, int64 [N].
        labels: the class of each sample, int64 [N], or None.
        skipped: the unreadable files missing from the samples, with the reason for each.
        names: the name of each of the N samples, or None.
    """

    resident = False

    def __init__(
        self,
        file: ArrayFile,
        rows: Tensor,
        labels: Tensor | None,
        skipped: Mapping[str, str],
        names: Sequence[str] | None,
    ) -> None:
        self.file = file
        self.rows = rows
        self.labels = labels
        self.skipped = skipped
        self._names = names

    @property
    def names(self) -> Sequence[str] | None:
        """The name of each of the N samples, or None."""
        return self._names

    @property
    def nbytes(self) -> int:
        """The size of the samples, in bytes."""
        return len(self) * math.prod(self.file.whole.shape[1:])

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: Tensor) -> Tensor:
        """Return a copy of the samples with these indices, on the CPU."""
        return self.file.read(self.rows[indices.cpu()])

    def stream(
        self,
        indices: Tensor,
        batch_size: int,
        *,
        drop_last: bool = False,
        prefetch: int = 2,
        pin: bool = False,
    ) -> Generator[Tensor]:
        """Yield batches as `Split.stream` does, read ahead by threads; closing it ends them."""

        def read(chunk: Tensor) -> Tensor:
            return self.batch(chunk).pin_memory() if pin else self.batch(chunk)

        def begin(pool: ThreadPoolExecutor, chunk: Tensor) -> Callable[[], Tensor]:
            return pool.submit(read, chunk).result

        chunks = self._chunks(indices, batch_size, drop_last)
        yield from read_ahead(chunks, begin, prefetch + 1, prefetch)

    def subset(self, indices: Tensor) -> MappedSplit:
        """Return the samples with these indices [M] as a split of the same file."""
        labels = self.labels[indices] if self.labels is not None else None
        names = self._names_of(indices)
        return MappedSplit(self.file, self.rows[indices], labels, self.skipped, names)

    def to(self, device: torch.device) -> Split:
        """Return the same samples in the memory of `device`; on a CPU they stay in the file."""
        if device.type == "cpu":
            return self
        shape = (len(self), *self.file.whole.shape[1:])
        samples = torch.empty(shape, dtype=torch.uint8, device=device)
        for part, chunk in zip(samples.split(1024), torch.arange(len(self)).split(1024), strict=True):
            part.copy_(self.batch(chunk))
        return ArraySplit(samples, self.labels, self.skipped, self._names)


def read_ahead(
    chunks: Iterable[Tensor],
    begin: Callable[[ThreadPoolExecutor, Tensor], Callable[[], Tensor]],
    workers: int,
    prefetch: int,
) -> Generator[Tensor]:
    """Yield a batch for each chunk of indices, reading ahead in threads.

    Args:
        chunks: the indices of each batch.
        begin: starts to read a batch in the pool and returns a function that waits for it.
        workers: the number of threads.
        prefetch: the number of batches to read ahead.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="ssl-zoo-decode")
    pending: deque[Callable[[], Tensor]] = deque()
    try:
        for chunk in chunks:
            pending.append(begin(pool, chunk))
            if len(pending) > prefetch:
                yield pending.popleft()()
        while pending:
            yield pending.popleft()()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
