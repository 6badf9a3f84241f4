"""A split of a data set: samples by number, and their labels where there are any."""

from __future__ import annotations

import os
import warnings
import weakref
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ssl_zoo.errors import SslZooError
from ssl_zoo.spec import Spec


class Split(ABC):
    """Samples by number.

    Attributes:
        labels: the class of each sample, int64 [N] on the CPU; None where they are not all known.
        skipped: the files that could not be read so far, with the reason.
    """

    labels: Tensor | None
    skipped: Mapping[str, str]

    @property
    def names(self) -> Sequence[str] | None:
        """What each of the N samples is called, such as its file; None where they have numbers alone."""
        return None

    @abstractmethod
    def __len__(self) -> int:
        """The number N of samples."""

    @abstractmethod
    def batch(self, indices: Tensor) -> Tensor:
        """The samples [B, ...] of these numbers [B]; for images uint8 [B, C, h, w]."""


class ArraySplit(Split):
    """Samples that lie in memory, on the device.

    Args:
        samples: [N, ...]; for images uint8 [N, C, h, w].
        labels: int64 [N] or None.
        skipped: files that are missing from the samples, with the reason.
        names: what each of the N samples is called, or None.
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
        """What each of the N samples is called, or None."""
        return self._names

    def __len__(self) -> int:
        return len(self.samples)

    def batch(self, indices: Tensor) -> Tensor:
        """The samples of these numbers, on the device."""
        return self.samples[indices.to(self.samples.device)]

    def subset(self, indices: Tensor) -> ArraySplit:
        """The samples of these numbers [M] as a split of their own."""
        labels = self.labels[indices] if self.labels is not None else None
        names = [self._names[i] for i in indices.tolist()] if self._names is not None else None
        return ArraySplit(self.batch(indices), labels, self.skipped, names)


class ArrayFile:
    """The rows of an array uint8 [R, ...] in a file of NumPy's own format.

    The file stays open, so that who removes or replaces it disturbs nobody.

    Args:
        file: the file.

    Attributes:
        whole: all of them, mapped into memory. To write into them ends the process, and so does to
            read those that have been cut off, or that lie on a disk that is gone; `read` does not.

    Raises:
        ValueError: it holds something else; NumPy raises other errors too.
    """

    def __init__(self, file: Path) -> None:
        mapped = np.load(file, mmap_mode="r")
        if mapped.dtype != np.uint8 or not mapped.flags.c_contiguous:
            raise ValueError(f"{file} holds no rows of uint8")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            self.whole = torch.from_numpy(mapped)
        self._file, self._offset = file, mapped.offset
        self._opened = os.open(file, os.O_RDONLY)
        weakref.finalize(self, os.close, self._opened)

    def read(self, numbers: Tensor) -> Tensor:
        """A copy of the rows of these numbers [B], on the CPU.

        Raises:
            SslZooError: they cannot be read.
        """
        rows = np.empty((len(numbers), *self.whole.shape[1:]), np.uint8)
        for row, number in zip(rows, numbers.tolist(), strict=True):
            try:
                read = os.pread(self._opened, row.nbytes, self._offset + number * row.nbytes)
            except OSError as error:
                raise SslZooError(f"cannot read {self._file}: {error.strerror}") from error
            if len(read) < row.nbytes:
                raise SslZooError(f"cannot read {self._file}: it has been cut off")
            row[:] = np.frombuffer(read, np.uint8).reshape(row.shape)
        return torch.from_numpy(rows)


class MappedSplit(ArraySplit):
    """Samples that lie in a file, mapped for who looks at them all, and read as they are asked for.

    Args:
        file: all that are in the file, [R, ...].
        labels: int64 [N] or None.
        skipped: files that are missing from the samples, with the reason.
        names: what each of the N samples is called, or None.
        rows: which of the R are the split's, int64 [N].
    """

    def __init__(
        self,
        file: ArrayFile,
        labels: Tensor | None,
        skipped: Mapping[str, str],
        names: Sequence[str] | None,
        rows: Tensor,
    ) -> None:
        super().__init__(file.whole, labels, skipped, names)
        self.file = file
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: Tensor) -> Tensor:
        """A copy of the samples of these numbers, on the CPU."""
        return self.file.read(self.rows[indices.cpu()])

    def subset(self, indices: Tensor) -> MappedSplit:
        """The samples of these numbers [M] as a split of their own, of the same file."""
        labels = self.labels[indices] if self.labels is not None else None
        names = [self._names[i] for i in indices.tolist()] if self._names is not None else None
        return MappedSplit(self.file, labels, self.skipped, names, self.rows[indices])

    def to(self, device: torch.device) -> ArraySplit:
        """The same samples in the memory of another device; on a CPU they stay in the file."""
        if device.type == "cpu":
            return self
        shape = (len(self), *self.samples.shape[1:])
        samples = torch.empty(shape, dtype=self.samples.dtype, device=device)
        for part, numbers in zip(samples.split(1024), torch.arange(len(self)).split(1024), strict=True):
            part.copy_(self.batch(numbers))
        return ArraySplit(samples, self.labels, self.skipped, self._names)


@dataclass(frozen=True)
class DataSet:
    """What a source gives.

    Attributes:
        name: what the user called it.
        spec: what its samples look like.
        train: what is trained on, without labels.
        test: what is evaluated on; None where there is nothing.
        bank: the labelled samples that evaluation learns from; `train` for most sources.
        classes: the names of the classes, where they are known.
    """

    name: str
    spec: Spec
    train: Split
    test: Split | None
    bank: Split
    classes: tuple[str, ...] | None = None

    @cached_property
    def labelled(self) -> bool:
        """Whether there are labels of two classes at least to learn from, and others to test on."""
        if self.test is None or self.test.labels is None or self.bank.labels is None:
            return False
        return len(self.bank.labels.unique()) > 1


def holdout(n: int, share: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Split 0..n-1 at random, always in the same way: what is kept, and what is held out, sorted.

    Of two samples or more at least one is kept and one is held out; a single one is kept.
    """
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    held = min(max(1, round(share * n)), n - 1)
    return order[held:].sort().values, order[:held].sort().values
