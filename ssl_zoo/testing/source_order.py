"""Checks of how samples are read: by index, in passes, and one after another."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from ssl_zoo import tree
from ssl_zoo.data import Split, Stream
from ssl_zoo.data.splits import Pass
from ssl_zoo.testing.check import CheckSkipped, require, same
from ssl_zoo.testing.source_case import SourceCase, some
from ssl_zoo.tree import Tree

SEED = 7
MAX_COMPARED = 256
"""The number of samples of a stream that are compared with those of another pass."""
MAX_BATCHES = 6
"""The number of batches of a pass that are read."""


def check_batches_have_one_form(case: SourceCase) -> str:
    """Check that a batch has a row for each index, and one type and number of axes everywhere."""
    forms: dict[str, str] = {}
    for name, split in case.splits.items():
        for n in (1, 2, 5):
            leaves = list(tree.leaves(split.batch(some(split, n))))
            kinds = [type(leaf).__name__ for leaf in leaves if not isinstance(leaf, Tensor)]
            require(not kinds, f"a batch must be a tensor, or a named tuple of tensors, not {kinds[:1]}")
            rows = [len(leaf) if leaf.ndim else 0 for leaf in leaves]
            require(rows == [n] * len(rows), f"a batch of {n} in the {name} split has {rows} rows")
            form = ", ".join(f"{leaf.dtype} of {leaf.ndim} axes" for leaf in leaves)
            forms.setdefault(form.replace("torch.", ""), f"{name}, {n} samples")
    by_place = "; ".join(f"{form} ({place})" for form, place in forms.items())
    require(len(forms) == 1, f"batches are of different forms: {by_place}")
    return next(iter(forms))


def check_batches_follow_from_indices(case: SourceCase) -> None:
    """Check that indices alone decide on a batch: again, in another order, and in other threads."""
    for name, split in case.splits.items():
        indices = some(split, 6)
        batch, other = split.batch(indices), torch.tensor([3, 3, 0, 5, 1, 4, 2])
        again = same(batch, split.batch(indices))
        require(again, f"the same indices in the {name} split give other samples the second time")
        mixed = same(tree.rows(batch, other), split.batch(indices[other]))
        require(mixed, f"the indices {other.tolist()} in the {name} split give other samples")
        rising = indices.argsort()
        parts = tree.split(tree.rows(batch, rising), 2)
        alike = all(map(_agree, split.stream(indices[rising], 2), parts))
        require(alike, f"`stream` of the {name} split gives other samples than `batch`")
        if not split.resident:
            with ThreadPoolExecutor(max(1, split.readers)) as pool:
                read = list(pool.map(split.batch, [indices] * (2 * split.readers)))
            alike = all(same(batch, one) for one in read)
            require(alike, f"batches of the {name} split differ when {split.readers} threads read them")


def check_batches_are_new(case: SourceCase) -> None:
    """Check that changing a batch changes no later one, and reading a later one changes no batch."""
    for name, split in case.splits.items():
        indices = some(split, 4)
        first = split.batch(indices)
        before = tree.map_leaves(Tensor.clone, first)
        split.batch(indices.flip(0))
        require(same(first, before), f"a batch of the {name} split changes when the next is read: copy")
        for leaf in tree.leaves(first):
            leaf.copy_(leaf == 0)
        kept = same(before, split.batch(indices))
        tree.map_leaves(Tensor.copy_, first, before)
        require(kept, f"what is written into a batch of the {name} split is in later ones: copy")


def check_subsets_are_the_same_samples(case: SourceCase) -> None:
    """Check that a part of a split has the samples, labels, names and groups of its indices."""
    for name, split in case.splits.items():
        indices = some(split, 5)
        part = split.subset(indices)
        require(len(part) == 5, f"5 samples of the {name} split are a subset of {len(part)}")
        alike = same(part.batch(torch.arange(5)), split.batch(indices))
        require(alike, f"a subset of the {name} split has other samples")
        if split.labels is not None:
            right = part.labels is not None and part.labels.tolist() == split.labels[indices].tolist()
            require(right, f"a subset of the {name} split has other labels")
        for kind in ("names", "groups"):
            whole, own = getattr(split, kind), getattr(part, kind)
            if whole is not None and own is not None:
                right = list(own) == [whole[i] for i in indices.tolist()]
                require(right, f"a subset of the {name} split has other {kind}")


def check_passes_resume(case: SourceCase) -> str:
    """Check that a pass that is resumed in its middle yields the rest, and the samples it says."""
    split = case.data.train
    size, end = _batches(split)
    whole = list(split.batches(Pass(SEED, size, 0, end)))
    require(len(whole) == end, f"a pass of {end} batches of {size} yields {len(whole)}")
    numbers = torch.cat([numbers for _, numbers in whole])
    once = len(numbers.unique()) == len(numbers) == end * size
    require(once and 0 <= int(numbers.min()) <= int(numbers.max()) < len(split),
            f"a pass of {end * size} of {len(split)} samples yields {numbers.tolist()}")  # fmt: skip
    raw, first = whole[0]
    require(
        _agree(raw, split.at_pass(SEED).batch(first)),
        "a pass yields other samples than it gives the indices of",
    )
    for done in {1, end // 2}:
        rest = list(split.batches(Pass(SEED, size, done, end)))
        alike = len(rest) == end - done and all(map(_same_batch, rest, whole[done:]))
        require(alike, f"a pass resumed after {done} of {end} batches yields others than without a stop")
    return f"{end} batches of {size}"


def check_processes_share_a_pass(case: SourceCase) -> None:
    """Check that two processes share the batches of one, also when they resume."""
    split = case.data.train
    size, end = _batches(split)
    if size < 2:
        raise CheckSkipped(f"it has only {len(split)} samples to train on")
    share, done = size // 2, end // 2
    joint = list(split.batches(Pass(SEED, size, 0, end)))[done:]
    parts = [list(split.batches(Pass(SEED, share, done, end, rank, 2))) for rank in range(2)]
    for i, (raw, numbers) in enumerate(joint):
        for rank, part in enumerate(parts):
            mine = slice(rank * share, (rank + 1) * share)
            alike = _same_batch(part[i], (tree.rows(raw, mine), numbers[mine]))
            require(alike, f"process {rank} of 2 gets other samples than its share of a joint batch")


def _batches(split: Split) -> tuple[int, int]:
    """Return the size and the number of the batches of a pass to look at."""
    size = max(1, min(8, len(split) // 4)) // 2 * 2 or 1
    return size, min(MAX_BATCHES, len(split) // size)


def _same_batch(a: tuple[Tree, Tensor], b: tuple[Tree, Tensor]) -> bool:
    return a[1].tolist() == b[1].tolist() and _agree(a[0], b[0])


def _agree(a: Tree, b: Tree) -> bool:
    """Return whether batches are the same, as far as they are padded to one length."""
    pairs = zip(tree.leaves(a), tree.leaves(b), strict=True)
    return all(x.shape != y.shape or same(x, y) for x, y in pairs)


def check_streams_yield_each_sample_once(case: SourceCase) -> None:
    """Check that a stream yields as many samples as it says, each once, in order without a seed."""
    for name, stream in case.streams().items():
        n = len(stream)
        for seed in (None, SEED):
            read, shapes = [], set()
            for number, sample in stream.read(seed):
                read.append(number)
                shapes.add(tuple(tuple(leaf.shape) for leaf in tree.leaves(sample)))
            call = f"read({seed}) of the {name} stream"
            require(len(read) == n, f"{call} yields {len(read)} samples, and its length is {n}")
            require(sorted(read) == list(range(n)), f"{call} must yield each number below {n} once")
            rising = seed is not None or read == sorted(read)
            require(rising, f"{call} must yield the samples in their stored order")
            require(len(shapes) == 1, f"{call} yields samples of several shapes: {sorted(shapes)}")


def check_streams_follow_from_the_seed(case: SourceCase) -> None:
    """Check that `read` of a stream with the same seed yields the same samples, by their numbers."""
    for name, stream in case.streams().items():
        first, again = ([*itertools.islice(stream.read(SEED), MAX_COMPARED)] for _ in range(2))
        alike = _same_samples(first, again)
        require(alike, f"read({SEED}) of the {name} stream yields other samples the second time")
        wanted = dict(first)
        for number, sample in stream.read(None):
            right = number not in wanted or same(wanted[number], sample)
            require(right, f"sample {number} of the {name} stream is another with a seed than without")


def check_streams_start_anywhere(case: SourceCase) -> None:
    """Check that `read_from` of a stream yields the rest of `read`, wherever it starts."""
    for name, stream in case.streams().items():
        for seed, start in itertools.product((None, SEED), _starts(stream)):
            wanted = itertools.islice(stream.read(seed), start, start + MAX_COMPARED)
            read = itertools.islice(stream.read_from(seed, start), MAX_COMPARED)
            require(
                _same_samples(read, wanted),
                f"read_from({seed}, {start}) of the {name} stream is not the rest of read({seed})",
            )


def _starts(stream: Stream) -> list[int]:
    n = len(stream)
    return sorted({0, 1, n // 3, n // 2 + 1, n - 1})


def _same_samples(a: Iterable[tuple[int, Any]], b: Iterable[tuple[int, Any]]) -> bool:
    pairs = itertools.zip_longest(a, b)
    return all(p and q and p[0] == q[0] and same(p[1], q[1]) for p, q in pairs)
