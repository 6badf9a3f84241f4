"""Splits of samples that lie in parts of large files."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterable, Iterator

import torch
from torch import Tensor

from ssl_zoo.data.lanes.contents import Contents
from ssl_zoo.data.lazy import LazySplit
from ssl_zoo.data.read_ahead import PREFETCHED_BATCHES
from ssl_zoo.data.sample_files import SampleFiles
from ssl_zoo.data.splits import Pass
from ssl_zoo.tree import Tree

MAX_HASHED = 4096
"""The number of samples by whose places a split is recognised."""


class LaneSplit(LazySplit):
    """A split of samples that lie in parts, of which each process reads few places in sequence.

    Args:
        files: the samples, by number, decoded.
        contents: where they are.
        labels: the class of each sample, int64 [N], or None.
        numbers: the samples that belong to the split, int64 [N], rising; None for all.
    """

    def __init__(
        self,
        files: SampleFiles,
        contents: Contents,
        labels: Tensor | None,
        numbers: Tensor | None = None,
    ) -> None:
        super().__init__(files, labels, numbers)
        self.contents = contents

    @property
    def counts(self) -> Tensor:
        """The number of this split's samples in each part, int64 [P]."""
        if self._numbers is None:
            return self.contents.counts
        ends = torch.searchsorted(self._numbers, self.contents.ends)
        return ends.diff(prepend=ends.new_zeros(1))

    def contents_hash(self) -> str:
        """Return a hash of the number of samples in each part, and of the places of some."""
        digest = hashlib.blake2b(self.counts.numpy().tobytes(), digest_size=16)
        some = self.spread(MAX_HASHED)
        digest.update(self.contents.signature(some if self._numbers is None else self._numbers[some]))
        return digest.hexdigest()

    def batch_indices(self, part: Pass) -> Iterator[Tensor]:
        """Yield the indices [B] of each of a process's batches in a pass, lane by lane."""
        return self.contents.batches(self.counts, part)

    def read_batches(
        self, chunks: Iterable[Tensor], *, prefetch: int = PREFETCHED_BATCHES, pin: bool = False
    ) -> Generator[Tree]:
        """Yield batches as `LazySplit.read_batches` does, whose parts are fetched ahead."""
        with self.contents.fetch_ahead(chunks, self._numbers, prefetch) as ahead:
            yield from super().read_batches(ahead, prefetch=prefetch, pin=pin)

    def sample(self, limit: int) -> Tensor:
        """Return the rising indices of at most `limit` samples, as `Contents.sample` draws them."""
        return self.contents.sample(self.counts, limit, self.labels)

    def subset(self, indices: Tensor) -> LazySplit:
        """Return the samples with these indices [M] as a split; in lanes, if the indices rise."""
        if len(indices) > 1 and not bool((indices.diff() > 0).all()):
            return super().subset(indices)
        labels = self.labels[indices] if self.labels is not None else None
        return LaneSplit(self.files, self.contents, labels, self.numbers[indices])
