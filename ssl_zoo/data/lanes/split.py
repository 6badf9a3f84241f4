"""Splits of samples that lie in parts of large files."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterable, Iterator

import torch
from torch import Tensor

from ssl_zoo.data.lanes.contents import Contents
from ssl_zoo.data.lazy import LazySplit
from ssl_zoo.data.order import sample_indices
from ssl_zoo.data.read_ahead import PREFETCHED_BATCHES
from ssl_zoo.data.sample_files import SampleFiles
from ssl_zoo.data.splits import Pass
from ssl_zoo.tree import Tree

MAX_HASHED = 4096
"""The number of samples by whose places a split is recognised."""

MIN_PARTS = 4
"""The least number of parts of which samples are taken that are measured, if there are as many."""


def sample_of_parts(counts: Tensor, limit: int) -> Tensor:
    """Return the rising indices of at most `limit` samples of as few parts as have them, int64.

    They are of `MIN_PARTS` parts at least, which are drawn at random, and always the same ones.

    Args:
        counts: the number of samples in each part, int64 [P].
        limit: the maximum number of samples.
    """
    filled = counts.nonzero().flatten()
    drawn = filled[torch.randperm(len(filled), generator=torch.Generator().manual_seed(0))]
    enough = int(torch.searchsorted(counts[drawn].cumsum(0), limit)) + 1
    chosen = drawn[: max(enough, MIN_PARTS)].sort().values
    begins = counts.cumsum(0) - counts
    ranges = [torch.arange(int(begins[i]), int(begins[i] + counts[i])) for i in chosen.tolist()]
    indices = torch.cat([torch.arange(0), *ranges])
    return indices[sample_indices(len(indices), limit)]


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
        """Return the rising indices of at most `limit` samples, of few parts where these are whole."""
        if self.contents.whole_parts:
            return sample_of_parts(self.counts, limit)
        return super().sample(limit)

    def subset(self, indices: Tensor) -> LazySplit:
        """Return the samples with these indices [M] as a split; in lanes, if the indices rise."""
        if len(indices) > 1 and not bool((indices.diff() > 0).all()):
            return super().subset(indices)
        labels = self.labels[indices] if self.labels is not None else None
        return LaneSplit(self.files, self.contents, labels, self.numbers[indices])
