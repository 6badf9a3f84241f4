"""The contents of samples in shards."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from torch import Tensor

from ssl_zoo.data.lanes.contents import Contents
from ssl_zoo.data.lanes.order import LaneOrder
from ssl_zoo.data.shards.files import ShardFile, ShardReader
from ssl_zoo.data.shards.index import ShardIndex
from ssl_zoo.data.splits import Pass


class ShardContents(Contents):
    """The contents of samples in shards, by number; a shard is a part.

    Args:
        files: the shards.
        index: where in them each sample is.
        block: the number of samples of a lane that are shuffled with each other.
    """

    def __init__(self, files: list[ShardFile], index: ShardIndex, block: int) -> None:
        super().__init__(index.counts)
        self.files, self.index, self.block = files, index, block
        self._reader = ShardReader(files)

    def name(self, number: int) -> str:
        """Return the name of a sample: that of its shard and its key."""
        return f"{self.files[self.part(number)].url}:{self.index.keys[number]}"

    def file(self, number: int) -> Path:
        """Return the shard of a sample as a path."""
        return Path(self.files[self.part(number)].url)

    def open(self, number: int) -> IO[bytes]:
        """Return the image of a sample, as a file.

        Raises:
            SslZooError: it cannot be read.
        """
        offset, size = int(self.index.offsets[number]), int(self.index.sizes[number])
        return io.BytesIO(self._reader.read(self.part(number), offset, size))

    def batches(self, counts: Tensor, part: Pass) -> Iterator[Tensor]:
        """Yield the indices [B] of each of a process's batches in a pass, as `LaneOrder` says."""
        lanes = LaneOrder.number_of_lanes(part)
        return LaneOrder(counts, part.seed, lanes, self.block).batches(part)

    def signature(self, numbers: Tensor) -> bytes:
        """Return the places of samples with these numbers [M]."""
        return b"".join(x[numbers].numpy().tobytes() for x in (self.index.offsets, self.index.sizes))
