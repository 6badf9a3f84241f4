"""A split of a data set: samples by number, and their labels where there are any."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

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


class MappedSplit(ArraySplit):
    """Samples that lie in a file, mapped into the memory of the CPU: read as they are asked for.

    Args:
        samples: [R, ...], all that are in the file. They can only be read: to write into them ends
            the process.
        labels: int64 [N] or None.
        skipped: files that are missing from the samples, with the reason.
        names: what each of the N samples is called, or None.
        rows: which of the R are the split's, int64 [N].
    """

    def __init__(
        self,
        samples: Tensor,
        labels: Tensor | None,
        skipped: Mapping[str, str],
        names: Sequence[str] | None,
        rows: Tensor,
    ) -> None:
        super().__init__(samples, labels, skipped, names)
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: Tensor) -> Tensor:
        """A copy of the samples of these numbers, on the CPU."""
        # NumPy copies rows of bytes as a whole, several times as fast as PyTorch's indexing does.
        return torch.from_numpy(self.samples.numpy()[self.rows[indices.cpu()].numpy()])

    def subset(self, indices: Tensor) -> MappedSplit:
        """The samples of these numbers [M] as a split of their own, of the same file."""
        labels = self.labels[indices] if self.labels is not None else None
        names = [self._names[i] for i in indices.tolist()] if self._names is not None else None
        return MappedSplit(self.samples, labels, self.skipped, names, self.rows[indices])

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

    @property
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
