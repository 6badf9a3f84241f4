"""What a reader of samples in parts of large files defines."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from ssl_zoo.data.splits import Pass


class Contents(ABC):
    """The contents of samples that lie in parts, one after the other, by number.

    Args:
        counts: the number of samples in each part, int64 [P].

    Attributes:
        whole_parts: whether a part is fetched whole, so that scattered samples cost a part each.
    """

    whole_parts = False

    def __init__(self, counts: Tensor) -> None:
        self.counts = counts
        self.ends = counts.cumsum(0)  # of each part in the numbers of samples, [P]

    def part(self, number: int) -> int:
        """Return the number of a sample's part."""
        return int(torch.searchsorted(self.ends, number, right=True))

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

    @abstractmethod
    def signature(self, numbers: Tensor) -> bytes:
        """Return what changes if samples with these numbers [M] are replaced, or parts of them are."""
