"""Splits of samples in shards."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from ssl_zoo.data.lazy import LazySplit
from ssl_zoo.data.sample_files import SampleFiles
from ssl_zoo.data.shards.files import ShardFile, ShardReader
from ssl_zoo.data.shards.index import ShardIndex
from ssl_zoo.data.shards.order import LaneOrder
from ssl_zoo.data.splits import Pass

MAX_HASHED = 4096
"""The number of samples by whose places shards are recognised."""


class ShardContents:
    """The contents of samples in shards, by number.

    Args:
        files: the shards.
        index: where in them each sample is.
    """

    def __init__(self, files: list[ShardFile], index: ShardIndex) -> None:
        self.files, self.index = files, index
        self.ends = index.counts.cumsum(0)  # of each shard in the numbers of samples, [S]
        self._reader = ShardReader(files)

    def shard(self, number: int) -> int:
        """Return the number of a sample's shard."""
        return int(torch.searchsorted(self.ends, number, right=True))

    def name(self, number: int) -> str:
        """Return the name of a sample: that of its shard and its key."""
        return f"{self.files[self.shard(number)].url}:{self.index.keys[number]}"

    def file(self, number: int) -> Path:
        """Return the shard of a sample as a path."""
        return Path(self.files[self.shard(number)].url)

    def open(self, number: int) -> IO[bytes]:
        """Return the image of a sample, as a file.

        Raises:
            SslZooError: it cannot be read.
        """
        offset, size = int(self.index.offsets[number]), int(self.index.sizes[number])
        return io.BytesIO(self._reader.read(self.shard(number), offset, size))


class ShardSplit(LazySplit):
    """A split of samples in shards, of which each process reads few places in sequence.

    Args:
        files: the samples, by number, decoded.
        contents: where they are.
        block: the number of samples that are shuffled with each other.
        labels: the class of each sample, int64 [N], or None.
        numbers: the samples that belong to the split, int64 [N], rising; None for all.
    """

    def __init__(
        self,
        files: SampleFiles,
        contents: ShardContents,
        block: int,
        labels: Tensor | None,
        numbers: Tensor | None = None,
    ) -> None:
        super().__init__(files, labels, numbers)
        self.contents, self.block = contents, block

    @property
    def counts(self) -> Tensor:
        """The number of this split's samples in each shard, int64 [S]."""
        if self._numbers is None:
            return self.contents.index.counts
        ends = torch.searchsorted(self._numbers, self.contents.ends)
        return ends.diff(prepend=ends.new_zeros(1))

    def contents_hash(self) -> str:
        """Return a hash of the number of samples in each shard, and of the places of some."""
        index, digest = self.contents.index, hashlib.blake2b(digest_size=16)
        some = self.spread(MAX_HASHED)
        numbers = some if self._numbers is None else self._numbers[some]
        for values in (self.counts, index.offsets[numbers], index.sizes[numbers]):
            digest.update(values.numpy().tobytes())
        return digest.hexdigest()

    def batch_indices(self, part: Pass) -> Iterator[Tensor]:
        """Yield the indices [B] of each of a process's batches in a pass, as `LaneOrder` says."""
        lanes = LaneOrder.number_of_lanes(part)
        return LaneOrder(self.counts, part.seed, lanes, self.block).batches(part)

    def subset(self, indices: Tensor) -> LazySplit:
        """Return the samples with these indices [M] as a split; of shards, if the indices rise."""
        if len(indices) > 1 and not bool((indices.diff() > 0).all()):
            return super().subset(indices)
        labels = self.labels[indices] if self.labels is not None else None
        return ShardSplit(self.files, self.contents, self.block, labels, self.numbers[indices])
