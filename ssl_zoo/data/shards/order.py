"""The order of a pass over shards: read in sequence, shuffled, and the same for any number of processes.

The shards are taken in a random order, and their samples, one shard after the other, form a sequence.
It is cut into *lanes* of equal length, each read by one process from its beginning to its end. A joint
batch takes as many samples from each lane; within a lane, samples are shuffled in blocks. All of this
follows from the seed and the numbers of samples in the shards, so nothing is stored, and nothing has to
be read to go on in the middle. Shards of unequal length, or fewer shards than processes, make no
difference: a lane may begin and end within a shard.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ssl_zoo.data.splits import Pass
from ssl_zoo.views import derive_seed

LANES = 48
"""The most lanes, unless there are more processes; as 2⁴ · 3 it shares a factor with most batches."""


class LaneOrder:
    """The order of one pass.

    Args:
        counts: the number of samples in each shard, int64 [S].
        seed: the seed of the pass.
        lanes: the number of lanes.
        block: the number of samples of a lane that are shuffled with each other.
    """

    def __init__(self, counts: Tensor, seed: int, lanes: int, block: int) -> None:
        self.seed, self.lanes, self.block = seed, lanes, block
        shards = torch.randperm(len(counts), generator=torch.Generator().manual_seed(seed))
        self._ends = counts[shards].cumsum(0)  # of each shard in the sequence, [S]
        begins = self._ends - counts[shards]
        self._shifts = (counts.cumsum(0) - counts)[shards] - begins  # from there to indices, [S]
        self._shuffled: dict[int, tuple[int, Tensor]] = {}  # the last block of each lane

    @staticmethod
    def number_of_lanes(part: Pass) -> int:
        """Return the number of lanes of a pass, a factor of the joint batch that processes can share.

        It is the same for all numbers of processes that share 48 as a factor, as 1, 2, 4, 8 and 16 do.
        """
        return math.lcm(math.gcd(part.joint, LANES), part.world_size)

    def batches(self, part: Pass) -> Iterator[Tensor]:
        """Yield the indices [B] of each of a process's batches, lane by lane."""
        taken = part.joint // self.lanes  # of each lane for a joint batch
        share = self.lanes // part.world_size
        mine = range(part.rank * share, (part.rank + 1) * share)
        for number in range(part.first, part.end):
            yield torch.cat([self._indices(lane, number * taken, taken) for lane in mine])

    def _indices(self, lane: int, first: int, count: int) -> Tensor:
        """Return the indices [count] of samples of a lane, from the one with the number `first` on."""
        total = int(self._ends[-1])
        begin, end = (total * number // self.lanes for number in (lane, lane + 1))
        parts = []
        for block in range(first // self.block, (first + count - 1) // self.block + 1):
            start = block * self.block
            places = self._block(lane, block, min(self.block, end - begin - start))
            parts.append(begin + start + places[max(first - start, 0) : first + count - start])
        places = torch.cat(parts)  # in the sequence
        return places + self._shifts[torch.searchsorted(self._ends, places, right=True)]

    def _block(self, lane: int, block: int, size: int) -> Tensor:
        """Return the order of a block of a lane, int64 [size]."""
        if self._shuffled.get(lane, (-1,))[0] != block:
            seed = derive_seed("block", self.seed, lane, block)
            order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
            self._shuffled[lane] = (block, order)
        return self._shuffled[lane][1]
