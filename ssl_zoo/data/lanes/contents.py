"""The interface of readers of samples that lie in parts of large files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from ssl_zoo.data.order import sample_indices
from ssl_zoo.data.splits import Pass


class Contents(ABC):
    """The contents of samples that lie in parts, one after the other, by number.

    Args:
        counts: the number of samples in each part, int64 [P].
    """

    def __init__(self, counts: Tensor) -> None:
        self.counts = counts
        self.ends = counts.cumsum(0)  # of each part in the numbers of samples, [P]

    def part(self, number: int) -> int:
        """Return the number of a sample's part."""
        return int(torch.searchsorted(self.ends, number, right=True))

    def parts(self, numbers: Tensor) -> Tensor:
        """Return the numbers of the parts of samples, int64, of the shape of `numbers`."""
        return torch.searchsorted(self.ends, numbers, right=True)

    @abstractmethod
    def name(self, number: int) -> str:
        """Return the name of a sample."""

    @abstractmethod
    def file(self, number: int) -> Path:
        """Return the file of a sample as a path."""

    @abstractmethod
    def open(self, number: int) -> IO[bytes]:
        """Return the image of a sample, as a file; several threads may ask for it.

        Raises:
            SslZooError: it cannot be read.
        """

    @abstractmethod
    def batches(self, counts: Tensor, part: Pass) -> Iterator[Tensor]:
        """Yield the indices [B] of each of a process's batches in a pass over a split.

        Args:
            counts: the number of the split's samples in each part, int64 [P].
            part: the pass.
        """

    def fetch_ahead(
        self, chunks: Iterable[Tensor], numbers: Tensor | None, prefetch: int
    ) -> AbstractContextManager[Iterable[Tensor]]:
        """Provide the indices [B] of batches; override it to fetch their parts before they are opened.

        Args:
            chunks: the indices [B] of the samples of each batch in a split.
            numbers: the number of each of its samples, int64 [N]; None if these are the indices.
            prefetch: the number of batches that are read ahead.
        """
        return nullcontext(chunks)

    def sample(self, counts: Tensor, limit: int, labels: Tensor | None = None) -> Tensor:
        """Return the rising indices of at most `limit` samples of a split drawn at random, int64.

        They are always the same ones. Override it where parts are fetched whole, so that scattered
        samples cost a part each.

        Args:
            counts: the number of the split's samples in each part, int64 [P].
            limit: the maximum number of samples.
            labels: the class of each sample of the split, int64; None where classes are unknown.
        """
        return sample_indices(int(counts.sum()), limit)

    @abstractmethod
    def signature(self, numbers: Tensor) -> bytes:
        """Return bytes that change if samples with these numbers [M], or their parts, are replaced."""
