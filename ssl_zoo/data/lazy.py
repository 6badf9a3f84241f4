"""A split of samples that are decoded by threads when they are needed."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import Tensor

from ssl_zoo import tree
from ssl_zoo.data.computed import ComputedSequence
from ssl_zoo.data.mapped import MappedSplit
from ssl_zoo.data.read_ahead import PREFETCHED_BATCHES, read_ahead
from ssl_zoo.data.sample_files import SampleFiles, copy_row
from ssl_zoo.data.splits import ArraySplit, Split, select
from ssl_zoo.errors import UserError
from ssl_zoo.text import printable
from ssl_zoo.tree import Tree

STAND_IN_DISTANCE = 64
"""The maximum distance in indices of an unreadable image from its replacement of the same class."""


class LazySplit(Split):
    """A split of samples that are decoded when they are needed.

    An unreadable image is skipped: it is recorded, and another one near it, of the same class if there
    is one, takes its place. So a batch keeps its size and depends on the indices alone.

    Args:
        files: the samples, by number.
        labels: the class of each sample, int64 [N], or None.
        numbers: the samples that belong to the split, int64 [N]; None for all.
    """

    resident = False

    def __init__(self, files: SampleFiles, labels: Tensor | None, numbers: Tensor | None = None) -> None:
        self.files = files
        self.labels = labels
        self.skipped = files.unreadable.reasons
        self._numbers = numbers

    def __len__(self) -> int:
        return self.files.count if self._numbers is None else len(self._numbers)

    @cached_property
    def numbers(self) -> Tensor:
        """The number of each sample among the files, int64 [N]."""
        return torch.arange(self.files.count) if self._numbers is None else self._numbers

    def number(self, index: int) -> int:
        """Return the number of a sample among the files, for which that of no other is needed."""
        return index if self._numbers is None else int(self._numbers[index])

    @property
    def names(self) -> Sequence[str]:
        """The name of each of the N samples, readable or not."""
        return self._of_each(self.files.name)

    @property
    def groups(self) -> Sequence[str] | None:
        """The name of what each of the N samples is a part of, readable or not; None for no parts."""
        return None if self.files.group is None else self._of_each(self.files.group)

    def _of_each(self, text: Callable[[int], str]) -> Sequence[str]:
        return ComputedSequence(len(self), lambda index: text(self.number(index)))

    @property
    def nbytes(self) -> int:
        """The size of all decoded samples together, in bytes."""
        return len(self) * self.files.sample_nbytes

    def batch(self, indices: Tensor) -> Tree:
        """Decode the samples with these indices [B] to a batch [B, ...]."""
        return tree.join([self.files.empty(0), *self.stream(indices, 64)])

    def read_batches(
        self, chunks: Iterable[Tensor], *, prefetch: int = PREFETCHED_BATCHES, pin: bool = False
    ) -> Generator[Tree]:
        """Yield batches as `Split.read_batches` does, decoded ahead by threads.

        The result does not depend on the number of threads. Besides the yielded batch, at most prefetch
        + 1 batches are in memory (B · C · side² bytes each), and one image per thread at its decoded
        size. Closing the generator ends the threads.
        """
        yield from read_ahead(chunks, partial(self._begin, pin=pin), self.files.workers, prefetch)

    def _begin(self, pool: ThreadPoolExecutor, indices: Tensor, pin: bool) -> Callable[[], Tree]:
        """Start to decode a batch in `pool` and return a function that waits for it."""
        batch = self.files.empty(len(indices), pin)
        futures = [pool.submit(self._fill, batch, *pair) for pair in enumerate(indices.tolist())]

        def wait() -> Tree:
            for future in futures:
                future.result()
            return batch

        return wait

    def _fill(self, batch: Tree, row: int, index: int) -> None:
        """Fill a row of a batch with the sample at `index`, or with its replacement.

        Raises:
            UserError: none can be read, or too many cannot.
        """
        for i in self.stand_ins(index):
            decoded = self.files.decode(self.number(i))
            if decoded is not None:
                copy_row(decoded, batch, row)
                return
        name = printable(self.files.name(self.number(index)))
        raise UserError(
            f"data.source: none of the {len(self)} {self.files.unreadable.noun} of a split can be read, "
            f"such as {name}: {self.skipped[name]}; fix or remove them"
        )

    def stand_ins(self, index: int) -> Iterator[int]:
        """Yield `index`, then the indices that replace it: nearby ones of its class, then all others."""
        count = len(self)
        yield index
        if self.labels is not None:
            distances = range(1, min(STAND_IN_DISTANCE, count))
            near = (index + sign * distance for distance in distances for sign in (1, -1))
            yield from (i % count for i in near if self.labels[i % count] == self.labels[index])
        yield from ((index + step) % count for step in range(1, count))

    def readable(self) -> bool:
        """Return whether any image can be read; unreadable ones tried before it are recorded.

        Raises:
            UserError: too many cannot be read.
        """
        return any(self.files.decode(self.number(i)) is not None for i in range(len(self)))

    def subset(self, indices: Tensor) -> LazySplit:
        """Return the samples with these indices [M] as a split."""
        labels = self.labels[indices] if self.labels is not None else None
        return LazySplit(self.files, labels, self.numbers[indices])

    def to(self, device: torch.device) -> ArraySplit:
        """Decode all samples into the memory of `device`; unreadable ones are left out."""
        samples = self.files.empty(len(self))
        readable = self.files.decode_into(samples, self.numbers)
        if not readable.all():
            samples = tree.rows(samples, readable)
        labels = self.labels[readable] if self.labels is not None else None
        kept = readable.nonzero().flatten()
        names, groups = select(self.names, kept), select(self.groups, kept)
        return ArraySplit(tree.move(samples, device), labels, self.skipped, names, groups)

    def cached(self, name: str, folder: Path) -> Split:
        """Return the samples as the cache in `folder` holds them; unreadable ones are left out.

        Raises:
            UserError: there can be no cache of them, as `decoded_cache.provide` says.
        """
        decoded = self.files.cached(name, folder)
        if decoded is None:
            return self
        names = self.names
        whole = MappedSplit(decoded, self.numbers, self.labels, self.skipped, names, self.groups)
        readable = [i for i, name in enumerate(names) if printable(name) not in self.skipped]
        return whole.subset(torch.tensor(readable, dtype=torch.long))
