"""The order of a pass over parts, against a slow one that is read as the text says."""

from __future__ import annotations

import pytest
import torch

from ssl_zoo.data.lanes.order import LaneOrder
from ssl_zoo.data.splits import Pass
from ssl_zoo.views import derive_seed


def literal(
    counts: list[int], seed: int, lanes: int, block: int, joint: int, end: int
) -> list[list[int]]:
    """Return the indices of the joint batches of a pass."""
    firsts = [sum(counts[:shard]) for shard in range(len(counts))]
    shards = torch.randperm(len(counts), generator=torch.Generator().manual_seed(seed)).tolist()
    sequence = [firsts[shard] + i for shard in shards for i in range(counts[shard])]
    batches: list[list[int]] = [[] for _ in range(end)]
    for lane in range(lanes):
        mine = sequence[len(sequence) * lane // lanes : len(sequence) * (lane + 1) // lanes]
        shuffled = []
        for number, start in enumerate(range(0, len(mine), block)):
            part = mine[start : start + block]
            generator = torch.Generator().manual_seed(derive_seed("block", seed, lane, number))
            shuffled += [part[i] for i in torch.randperm(len(part), generator=generator).tolist()]
        taken = joint // lanes
        for number, batch in enumerate(batches):
            batch += shuffled[number * taken : (number + 1) * taken]
    return batches


SHARDS = {"equal": [40] * 5, "unequal": [1, 90, 7, 0, 33, 69], "one": [200], "tiny": [1] * 200}


@pytest.mark.parametrize("block", [1, 3, 7, 1000])
@pytest.mark.parametrize("shards", SHARDS)
def test_a_pass_is_the_literal_one_for_any_number_of_processes_and_from_any_batch(
    shards: str, block: int
) -> None:
    counts, joint, end = SHARDS[shards], 16, 12
    expected = literal(counts, 5, 16, block, joint, end)
    seen = [index for batch in expected for index in batch]
    assert len(set(seen)) == len(seen) == joint * end  # of 200: fewer than one batch is left out
    for processes in (1, 2, 4, 8, 16):
        for first in (0, 7):
            shares = []
            for rank in range(processes):
                part = Pass(5, joint // processes, first, end, rank, processes)
                lanes = LaneOrder.number_of_lanes(part)
                assert lanes == 16
                shares.append(list(LaneOrder(torch.tensor(counts), 5, lanes, block).batches(part)))
            joined = [torch.cat(batch).tolist() for batch in zip(*shares, strict=True)]
            assert joined == expected[first:]


def test_a_process_reads_few_shards_at_a_time_and_passes_differ() -> None:
    counts = torch.full((32,), 100)
    part = Pass(1, 12, 0, 66, 0, 4)  # 12 lanes of the 48, each within three shards
    batches = list(LaneOrder(counts, 1, LaneOrder.number_of_lanes(part), 50).batches(part))
    read = [set((batch // 100).tolist()) for batch in batches]
    assert max(map(len, read)) <= 12
    assert len(set().union(*read)) < 20  # the other processes read the rest
    other = list(LaneOrder(counts, 2, LaneOrder.number_of_lanes(part), 50).batches(part))
    assert not any(torch.equal(a, b) for a, b in zip(batches, other, strict=True))


def test_lanes_can_be_shared_by_processes_that_48_is_no_multiple_of() -> None:
    for joint, processes in ((70, 7), (4096, 64), (30, 5)):
        part = Pass(0, joint // processes, 0, 1, 0, processes)
        lanes = LaneOrder.number_of_lanes(part)
        assert joint % lanes == lanes % processes == 0
