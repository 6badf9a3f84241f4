"""Splits: samples by index, and their labels where they are known."""

from __future__ import annotations

import copy
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ssl_zoo import tree
from ssl_zoo.data.order import Order, random_order, sample_indices
from ssl_zoo.data.read_ahead import PREFETCHED_BATCHES, read_ahead
from ssl_zoo.tree import Tree

if TYPE_CHECKING:
    from ssl_zoo.data.canvas import Canvas


@dataclass(frozen=True)
class Pass:
    """A part of a pass over a split, as one of several processes sees it.

    The samples of a pass form joint batches, one after the other, of which each process takes its
    share. A last one that is not full is left out.

    Attributes:
        seed: the seed of the order of the samples, which it determines.
        batch_size: the number of samples in this process's share of a joint batch.
        first: the number of joint batches that are done already.
        end: the number of joint batches in the pass.
        rank: the number of this process.
        world_size: the number of processes.
        pin: whether to read into pinned memory, from which a GPU copies asynchronously.
    """

    seed: int
    batch_size: int
    first: int
    end: int
    rank: int = 0
    world_size: int = 1
    pin: bool = False

    @property
    def joint(self) -> int:
        """The number of samples in a joint batch."""
        return self.batch_size * self.world_size


class Split(ABC):
    """A sequence of samples, with their labels where they are known.

    A subclass must define `__len__` and `batch`; the other members have defaults. Samples that can only
    be read one after another are a `Stream`.

    Attributes:
        labels: the class of each sample, int64 [N] on the CPU; None unless all are known.
        skipped: the unreadable files met so far, with the reason for each.
        resident: whether the samples are in memory; if not, batches are read ahead by threads.
        readers: the number of threads that may call `batch` at the same time to read ahead.
        canvas: the larger images that passes of training see in place of the samples; None for none.
    """

    labels: Tensor | None = None
    skipped: Mapping[str, str] = MappingProxyType({})
    resident: bool = True
    readers: int = 1
    canvas: Canvas | None = None
    _names: Sequence[str] | None = None
    _groups: Sequence[str] | None = None

    @property
    def names(self) -> Sequence[str] | None:
        """The name of each of the N samples, such as its file; None where they have only indices."""
        return self._names

    @property
    def groups(self) -> Sequence[str] | None:
        """The name of what each of the N samples is a part of, such as a document; None for no parts.

        A sample that is whole is a group of its own.
        """
        return self._groups

    @property
    def nbytes(self) -> int:
        """The size of all samples in memory, in bytes."""
        return len(self) * tree.nbytes(self.batch(torch.arange(min(1, len(self)))))

    @abstractmethod
    def __len__(self) -> int:
        """Return the number N of samples."""

    @abstractmethod
    def batch(self, indices: Tensor) -> Tree:
        """Return the samples [B, ...] with these indices [B], int64 on the CPU, as a new batch.

        It may lie on any device, and what it holds follows from the indices alone. Unless the split is
        `resident`, further threads call this, at most `readers` at a time.
        """

    def order(self, generator: torch.Generator) -> Order:
        """Draw the order of a pass over the split, a permutation of the indices, int64 [N].

        Override it where neighbours are cheaper to read together, such as the rows of a group in a
        file: draw the order of groups, and an order within each few of them. Of very many samples
        return what computes the order by parts, such as a `KeyedOrder`.
        """
        return random_order(len(self), generator)

    def batch_indices(self, part: Pass) -> Iterator[Tensor]:
        """Yield the indices [B] of each of a process's batches in a pass."""
        order = self.order(torch.Generator().manual_seed(part.seed))
        for number in range(part.first, part.end):
            start = number * part.joint + part.rank * part.batch_size
            yield order[start : start + part.batch_size]

    def at_pass(self, seed: int) -> Split:
        """Return the samples as a pass of training with this seed sees them.

        They are the same samples in the same order, such as another part of each; evaluation sees this
        split itself. Override it where a sample has more to show than evaluation takes of it.
        """
        return self if self.canvas is None else self.canvas.at_pass(seed)

    def with_canvas(self, canvas: Canvas | None) -> Split:
        """Return the same samples, of which passes of training see another canvas."""
        changed = copy.copy(self)
        changed.canvas = canvas
        return changed

    def contents_hash(self) -> str | None:
        """Return a hash that changes if samples are replaced though their names stay, None for none."""
        return None

    def spread(self, limit: int) -> Tensor:
        """Return the rising indices of at most `limit` samples, spread over the split, int64."""
        number = min(limit, len(self))
        return torch.linspace(0, len(self) - 1, number, dtype=torch.float64).long()

    def sample(self, limit: int) -> Tensor:
        """Return the rising indices of at most `limit` samples drawn at random, always the same, int64.

        Measurements and evaluation during training read these. Override it where samples that lie
        together are much cheaper to read, with samples of places drawn at random that have about as
        many of the classes.
        """
        return sample_indices(len(self), limit)

    def batches(self, part: Pass) -> Generator[tuple[Tree, Tensor]]:
        """Yield the raw batches of a pass for one process, and the indices [B] of their samples.

        They are those of `at_pass`.
        """

        def generate() -> Generator[Tensor]:  # closing it closes the other, if that is a generator
            yield from self.batch_indices(part)

        with closing(generate()) as indices:
            # Not asked for more, a generator does not end before the last batches are read.
            to_read, read = itertools.tee(itertools.islice(indices, part.end - part.first))
            with closing(self.at_pass(part.seed).read_batches(to_read, pin=part.pin)) as raw:
                yield from zip(raw, read, strict=True)

    def stream(
        self,
        indices: Tensor,
        batch_size: int,
        *,
        drop_last: bool = False,
        prefetch: int = PREFETCHED_BATCHES,
        pin: bool = False,
    ) -> Generator[Tree]:
        """Yield raw batches in the order of `indices`.

        Args:
            indices: the samples to read, int64 [N].
            batch_size: the number of samples in a batch.
            drop_last: whether to leave out a last batch that is not full.
            prefetch: the number of batches to read ahead, where reading takes time.
            pin: whether to read these into pinned memory, from which a GPU copies asynchronously.
        """
        chunks = indices.split(batch_size)
        full = (c for c in chunks if len(c) == batch_size or not drop_last)
        return self.read_batches(full, prefetch=prefetch, pin=pin)

    def read_batches(
        self, chunks: Iterable[Tensor], *, prefetch: int = PREFETCHED_BATCHES, pin: bool = False
    ) -> Generator[Tree]:
        """Yield a raw batch for each chunk of indices, which are asked for only as far as is read ahead.

        Args:
            chunks: the indices [B] of the samples of each batch.
            prefetch: the number of batches to read ahead, where reading takes time.
            pin: whether to read these into pinned memory, from which a GPU copies asynchronously.
        """
        if self.resident:
            yield from map(self.batch, chunks)
            return

        def of(chunk: Tensor) -> Tree:
            return tree.pin(self.batch(chunk)) if pin else self.batch(chunk)

        def begin(pool: ThreadPoolExecutor, chunk: Tensor) -> Callable[[], Tree]:
            return pool.submit(of, chunk).result

        yield from read_ahead(chunks, begin, self.readers, prefetch)

    def readable(self) -> bool:
        """Return whether any sample can be read."""
        return len(self) > 0

    def subset(self, indices: Tensor) -> Split:
        """Return the samples with these indices [M] as a split."""
        labels = self.labels[indices] if self.labels is not None else None
        names, groups = select(self.names, indices), select(self.groups, indices)
        return ArraySplit(self.batch(indices), labels, self.skipped, names, groups)

    def to(self, device: torch.device) -> Split:
        """Return the same samples in the memory of `device`."""
        samples = tree.move(self.batch(torch.arange(len(self))), device)
        return ArraySplit(samples, self.labels, self.skipped, self.names, self.groups)

    def cached(self, name: str, folder: Path) -> Split:
        """Return the same samples from a cache on disk; the split itself where it needs none.

        Args:
            name: the name of the source and the split, for file names and messages.
            folder: the folder of the cache; it need not exist.
        """
        return self


def select(values: Sequence[str] | None, indices: Tensor) -> list[str] | None:
    """Return the values at these indices, None if there are none."""
    return None if values is None else [values[i] for i in indices.tolist()]


class ArraySplit(Split):
    """A split with its samples in memory, on the device.

    Args:
        samples: a batch of all samples, [N, ...]; images as uint8 [N, C, h, w].
        labels: the class of each sample, int64 [N], or None.
        skipped: the unreadable files missing from the samples, with the reason for each.
        names: the name of each of the N samples, or None.
        groups: the name of what each of the N samples is a part of, or None.
    """

    def __init__(
        self,
        samples: Tree,
        labels: Tensor | None,
        skipped: Mapping[str, str] | None = None,
        names: Sequence[str] | None = None,
        groups: Sequence[str] | None = None,
    ) -> None:
        self.samples = samples
        self.labels = labels
        self.skipped = {} if skipped is None else skipped
        self._names, self._groups = names, groups

    @property
    def nbytes(self) -> int:
        """The size of the samples, in bytes."""
        return tree.nbytes(self.samples)

    def __len__(self) -> int:
        return tree.size(self.samples)

    def batch(self, indices: Tensor) -> Tree:
        """Return the samples with these indices, on the device."""
        return tree.rows(self.samples, indices)

    def to(self, device: torch.device) -> ArraySplit:
        """Return the same samples in the memory of `device`."""
        samples = tree.move(self.samples, device)
        return ArraySplit(samples, self.labels, self.skipped, self._names, self._groups)
