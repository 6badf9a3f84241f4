"""The order of a pass over parts: read in sequence, shuffled, the same for any number of processes.

The parts, such as tar archives, are taken in a random order, and their samples, one part after the
other, form a sequence. It is cut into *lanes* of equal length, each read by one process from its
beginning to its end. A joint batch takes as many samples from each lane; within a lane, samples are
shuffled in blocks. All of this follows from the seed and the numbers of samples in the parts, so nothing
is stored, and nothing has to be read to go on in the middle. Parts of unequal length, or fewer parts
than processes, make no difference: a lane may begin and end within a part.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Tensor

from ssl_zoo.data.splits import Pass
from ssl_zoo.views import derive_seed

LANES = 48
"""The maximum number of lanes, or that of processes; 2⁴ · 3 shares a factor with most batch sizes."""


class LaneOrder:
    """The order of one pass.

    Args:
        counts: the number of samples in each part, int64 [P].
        seed: the seed of the pass.
        lanes: the number of lanes.
        block: the number of samples of a lane that are shuffled with each other.
    """

    def __init__(self, counts: Tensor, seed: int, lanes: int, block: int) -> None:
        self.seed, self.lanes, self.block = seed, lanes, block
        self._parts = torch.randperm(len(counts), generator=torch.Generator().manual_seed(seed))
        self._ends = counts[self._parts].cumsum(0)  # of each part in the sequence, [P]
        begins = self._ends - counts[self._parts]
        self._shifts = (counts.cumsum(0) - counts)[self._parts] - begins  # from there to indices, [P]
        self._shuffled: dict[int, tuple[int, Tensor]] = {}  # the last block of each lane

    @staticmethod
    def number_of_lanes(part: Pass, limit: int = LANES) -> int:
        """Return the number of lanes of a pass, a factor of the joint batch that processes can share.

        It is the same for all numbers of processes that share it as a factor, as 1, 2, 4, 8 and 16 do
        with 48.

        Args:
            part: the pass.
            limit: the maximum number of lanes, a factor of `LANES`, unless there are more processes.
        """
        return math.lcm(math.gcd(part.joint, limit), part.world_size)

    def batches(self, part: Pass) -> Iterator[Tensor]:
        """Yield the indices [B] of each of a process's batches, lane by lane."""
        taken = part.joint // self.lanes  # of each lane for a joint batch
        mine = self._lanes_of(part)
        for number in range(part.first, part.end):
            yield torch.cat([self._indices(lane, number * taken, taken) for lane in mine])

    def _lanes_of(self, part: Pass) -> range:
        """Return the lanes that a process reads."""
        share = self.lanes // part.world_size
        return range(part.rank * share, (part.rank + 1) * share)

    def _bounds(self, lane: int) -> tuple[int, int]:
        """Return where a lane begins and ends in the sequence."""
        total = int(self._ends[-1])
        return total * lane // self.lanes, total * (lane + 1) // self.lanes

    def _block_at(self, begin: int, place: int) -> tuple[int, int, int]:
        """Return the block of a place in the sequence: its number, and where it begins and ends.

        Args:
            begin: where the lane begins, whose end may cut the block off.
            place: the place.
        """
        number = (place - begin) // self.block
        start = begin + number * self.block
        return number, start, start + self.block

    def _indices(self, lane: int, first: int, count: int) -> Tensor:
        """Return the indices [count] of samples of a lane, from the one with the number `first` on."""
        begin, end = self._bounds(lane)
        place, stop = begin + first, begin + first + count
        parts = []
        while place < stop:
            number, start, close = self._block_at(begin, place)
            start, close = max(start, begin), min(close, end)
            order = self._order_of(lane, number, close - start)
            parts.append(start + order[place - start : stop - start])
            place = close
        places = torch.cat(parts)  # in the sequence
        return places + self._shifts[torch.searchsorted(self._ends, places, right=True)]

    def _order_of(self, lane: int, block: int, size: int) -> Tensor:
        """Return the order of a block of a lane, int64 [size]."""
        if self._shuffled.get(lane, (-1,))[0] != block:
            seed = derive_seed("block", self.seed, lane, block)
            order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
            self._shuffled[lane] = (block, order)
        return self._shuffled[lane][1]


class PartOrder(LaneOrder):
    """The order of one pass in which whole parts are shuffled with each other.

    It is for parts that are fetched whole, as few of them have to be in memory. A block is as many whole
    parts as have about `block` samples: it ends with the part in which the sequence passes a multiple of
    that number. The ends of a lane cut it off.
    """

    def __init__(self, counts: Tensor, seed: int, lanes: int, block: int) -> None:
        super().__init__(counts, seed, lanes, block)
        passed = (self._ends // block).diff(prepend=self._ends.new_zeros(1)) > 0
        passed[-1] = True
        self._closes = self._ends[passed].numpy()  # of each block in the sequence
        self._sizes = counts[self._parts]
        self._between = lru_cache(4 * lanes)(self._parts_between)

    def _block_at(self, begin: int, place: int) -> tuple[int, int, int]:
        number = int(self._closes.searchsorted(place, "right"))
        return number, int(self._closes[number - 1]) if number else 0, int(self._closes[number])

    def parts(self, part: Pass, first: int, last: int) -> list[int]:
        """Return the parts that a process needs, those first that it needs first.

        They are those of the blocks that the joint batches `first` to `last` are in, and at least of one
        block after that of `first` in each lane.
        """
        taken = part.joint // self.lanes
        now: list[int] = []
        next_: list[int] = []
        for lane in self._lanes_of(part):
            begin, end = self._bounds(lane)
            _, start, close = self._block_at(begin, begin + first * taken)
            _, _, reached = self._block_at(begin, begin + (last + 1) * taken - 1)
            now += self._between(max(start, begin), min(reached, end))
            if reached == close < begin + part.end * taken:
                _, _, ahead = self._block_at(begin, close)
                next_ += self._between(close, min(ahead, end))
        return list(dict.fromkeys(now + next_))

    def _parts_between(self, start: int, stop: int) -> list[int]:
        """Return the parts with samples at places of the sequence."""
        first, last = torch.searchsorted(
            self._ends, torch.tensor([start, stop - 1]), right=True
        ).tolist()
        found = slice(first, last + 1)
        parts: list[int] = self._parts[found][self._sizes[found] > 0].tolist()
        return parts
