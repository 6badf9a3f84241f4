"""The order of a pass over parts, against a slow one that is read as the text says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ssl_zoo import tree
from ssl_zoo.data.lanes.order import LaneOrder, PartOrder
from ssl_zoo.data.splits import Pass
from ssl_zoo.views import derive_seed
from tests.core.parquet_files import pictures, streamed
from tests.core.test_shards import opened, sharded


def literal(
    counts: list[int], seed: int, lanes: int, block: int, joint: int, end: int, whole: bool = False
) -> list[list[int]]:
    """Return the indices of the joint batches of a pass.

    Args:
        counts: the number of samples in each part.
        seed: the seed of the pass.
        lanes: the number of lanes.
        block: the number of samples that are shuffled with each other.
        joint: the number of samples in a batch.
        end: the number of batches.
        whole: whether they are rounded to whole parts.
    """
    firsts = [sum(counts[:part]) for part in range(len(counts))]
    parts = torch.randperm(len(counts), generator=torch.Generator().manual_seed(seed)).tolist()
    sequence = [firsts[part] + i for part in parts for i in range(counts[part])]
    block_of, number = [], 0  # of each place in the sequence, where blocks are whole parts
    for part in parts:
        block_of += [number] * counts[part]
        number += len(block_of) // block > (len(block_of) - counts[part]) // block
    batches: list[list[int]] = [[] for _ in range(end)]
    for lane in range(lanes):
        begin, stop = (len(sequence) * number // lanes for number in (lane, lane + 1))
        blocks: dict[int, list[int]] = {}
        for place in range(begin, stop):
            of_place = block_of[place] if whole else (place - begin) // block
            blocks.setdefault(of_place, []).append(sequence[place])
        shuffled = []
        for number, members in blocks.items():
            generator = torch.Generator().manual_seed(derive_seed("block", seed, lane, number))
            order = torch.randperm(len(members), generator=generator)
            shuffled += [members[i] for i in order.tolist()]
        taken = joint // lanes
        for number, batch in enumerate(batches):
            batch += shuffled[number * taken : (number + 1) * taken]
    return batches


PARTS = {"equal": [40] * 5, "unequal": [1, 90, 7, 0, 33, 69], "one": [200], "tiny": [1] * 200}


@pytest.mark.parametrize("order", [LaneOrder, PartOrder])
@pytest.mark.parametrize("block", [1, 3, 7, 1000])
@pytest.mark.parametrize("parts", PARTS)
def test_a_pass_is_the_literal_one_for_any_number_of_processes_and_from_any_batch(
    parts: str, block: int, order: type[LaneOrder]
) -> None:
    counts, joint, end = PARTS[parts], 16, 12
    expected = literal(counts, 5, 16, block, joint, end, whole=order is PartOrder)
    seen = [index for batch in expected for index in batch]
    assert len(set(seen)) == len(seen) == joint * end  # of 200: fewer than one batch is left out
    for processes in (1, 2, 4, 8, 16):
        for first in (0, 7):
            shares = []
            for rank in range(processes):
                part = Pass(5, joint // processes, first, end, rank, processes)
                lanes = LaneOrder.number_of_lanes(part)
                assert lanes == 16
                shares.append(list(order(torch.tensor(counts), 5, lanes, block).batches(part)))
            joined = [torch.cat(batch).tolist() for batch in zip(*shares, strict=True)]
            assert joined == expected[first:]


def test_a_process_reads_few_parts_at_a_time_and_passes_differ() -> None:
    counts = torch.full((32,), 100)
    part = Pass(1, 12, 0, 66, 0, 4)  # 12 lanes of the 48, each within three parts
    batches = list(LaneOrder(counts, 1, LaneOrder.number_of_lanes(part), 50).batches(part))
    read = [set((batch // 100).tolist()) for batch in batches]
    assert max(map(len, read)) <= 12
    assert len(set().union(*read)) < 20  # the other processes read the rest
    other = list(LaneOrder(counts, 2, LaneOrder.number_of_lanes(part), 50).batches(part))
    assert not any(torch.equal(a, b) for a, b in zip(batches, other, strict=True))


@pytest.mark.parametrize("block", [1, 25, 60])
def test_the_parts_of_whole_blocks_are_known_before_they_are_needed(block: int) -> None:
    counts = torch.tensor([9, 11, 0, 10] * 100)
    part_of = torch.arange(len(counts)).repeat_interleave(counts)
    part = Pass(3, 16, 5, 90, 1, 2)  # 8 of 16 lanes of 187 samples, of which batches take two
    order = PartOrder(counts, 3, LaneOrder.number_of_lanes(part), block)
    known: set[int] = set()
    for number, indices in enumerate(order.batches(part), part.first):
        parts = order.parts(part, max(part.first, number - 3), number)
        read = set(part_of[indices].tolist())
        assert read <= set(parts)
        assert number == part.first or read <= known  # fetched during the batch before, or earlier
        known = set(parts)
        assert 2 not in {int(i) % 4 for i in parts}  # those without samples
        # Two blocks of each lane, which are at most a part longer, and as much where lanes part them.
        assert counts[parts].sum() <= 8 * 2 * (block + 11 + 11)


def test_lanes_can_be_shared_by_processes_that_48_is_no_multiple_of() -> None:
    for joint, processes in ((70, 7), (4096, 64), (30, 5)):
        part = Pass(0, joint // processes, 0, 1, 0, processes)
        lanes = LaneOrder.number_of_lanes(part)
        assert joint % lanes == lanes % processes == 0


@pytest.mark.parametrize("source", ["shards", "row groups"])
def test_a_pass_is_the_same_for_any_number_of_processes_and_resumes_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.setenv("SSL_ZOO_DATA", str(tmp_path / "cache"))
    if source == "shards":
        train = opened(sharded(tmp_path, 30), options={"shuffle": 3}).train
    else:
        pytest.importorskip("datasets")
        train = streamed(pictures(tmp_path / "hub"), tmp_path, options={"shuffle": 10}).train
    alone = list(train.batches(Pass(3, 16, 0, 3)))
    numbers = torch.cat([n for _, n in alone]).tolist()
    assert len(set(numbers)) == len(numbers) == 48
    for raw, indices in alone:
        assert torch.equal(raw, train.batch(indices))
    rest = list(train.batches(Pass(3, 16, 1, 3)))
    for (a, _), (b, _) in zip(alone[1:], rest, strict=True):
        assert torch.equal(a, b)
    shares = [list(train.batches(Pass(3, 4, 1, 3, rank, 4))) for rank in range(4)]
    for (joint, _), *parts in zip(rest, *shares, strict=True):
        assert torch.equal(joint, tree.join([raw for raw, _ in parts]))
