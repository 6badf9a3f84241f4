"""Splits whose samples can only be read one after another."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import torch
from torch import Tensor

from ssl_zoo import tree
from ssl_zoo.data.read_ahead import PREFETCHED_BATCHES, read_ahead
from ssl_zoo.data.splits import Pass, Split
from ssl_zoo.errors import UserError
from ssl_zoo.tree import Tree


class Stream(Split):
    """Samples that are read one after another, such as records in archives.

    A subclass must define `__len__` and `read`. Training, with exact resumption, follows the order of
    the stream; evaluation reads it in its stored order. Samples that are asked for out of order cost a
    pass up to them, so samples to evaluate on are better a `Split` with random access.
    """

    resident = False

    @abstractmethod
    def read(self, seed: int | None) -> Iterator[tuple[int, Tree]]:
        """Yield each sample once, with its number in the stored order, from 0 on.

        A sample is a tensor or a named tuple of tensors, without a leading axis, and all have one
        shape. Another thread reads, but only one at a time for each iterator.

        Args:
            seed: the seed of the order, which it alone determines, such as by the order of archives
                and a buffer in which records are shuffled; None for the stored order.
        """

    def read_from(self, seed: int | None, start: int) -> Iterator[tuple[int, Tree]]:
        """Yield the samples of `read` without the first `start`; override it to skip archives."""
        return itertools.islice(self.read(seed), start, None)

    def spread(self, limit: int) -> Tensor:
        """Return the numbers of the first samples, at most `limit`, as others cost a pass, int64."""
        return torch.arange(min(limit, len(self)))

    def batches(self, part: Pass) -> Generator[tuple[Tree, Tensor]]:
        """Yield the raw batches of a pass for one process, and the numbers [B] of their samples.

        Each process reads the whole stream, and keeps its share.

        Raises:
            UserError: the stream ends early.
        """
        samples = self.read_from(part.seed, part.first * part.joint)
        mine = slice(part.rank * part.batch_size, (part.rank + 1) * part.batch_size)

        def read(number: int) -> tuple[Tree, Tensor]:
            joint = list(itertools.islice(samples, part.joint))
            if len(joint) < part.joint:
                raise self._ended(number * part.joint + len(joint))
            raw, numbers = _stacked(joint[mine])
            return (tree.pin(raw) if part.pin else raw), numbers

        yield from _ahead(read, range(part.first, part.end))

    def read_batches(
        self, chunks: Iterable[Tensor], *, prefetch: int = PREFETCHED_BATCHES, pin: bool = False
    ) -> Generator[Tree]:
        """Yield a raw batch for each chunk of indices; if all of these rise, they cost a single pass."""
        chunks = list(chunks)
        indices = torch.cat([torch.arange(0), *chunks])
        if len(indices) < 2 or bool((indices.diff() > 0).all()):
            samples = self._wanted(indices)
            groups = (itertools.islice(samples, len(chunk)) for chunk in chunks)
            batches: Iterator[Tree] = (_stacked(group)[0] for group in groups)
        else:
            batches = map(self.batch, chunks)
        with closing(_ahead(lambda _: next(batches), range(len(chunks)), prefetch)) as ahead:
            yield from (tree.pin(batch) if pin else batch for batch in ahead)

    def batch(self, indices: Tensor) -> Tree:
        """Return the samples with these numbers in the stored order, [B, ...]; costs a pass."""
        if not len(indices):
            return tree.rows(self.batch(torch.zeros(1, dtype=torch.long)), slice(0))
        ordered, inverse = indices.unique(return_inverse=True)
        return tree.rows(_stacked(self._wanted(ordered))[0], inverse)

    def _wanted(self, ordered: Tensor) -> Iterator[tuple[int, Tree]]:
        """Yield the samples with these rising numbers, with their numbers.

        Raises:
            UserError: the stream ends early.
        """
        wanted = iter(ordered.tolist())
        number = next(wanted, None)
        read = 0
        for i, sample in self.read(None):
            if number is None:
                return
            read += 1
            if i == number:
                yield i, sample
                number = next(wanted, None)
        if number is not None:
            raise self._ended(read)

    def _ended(self, number: int) -> UserError:
        return UserError(
            f"data.source: the stream ended after {number:,} samples, and it says that it has "
            f"{len(self):,}; give it the right number"
        )


def _stacked(samples: Iterable[tuple[int, Tree]]) -> tuple[Tree, Tensor]:
    """Return samples as a batch, and their numbers [B]."""
    numbers, trees = zip(*samples, strict=True)
    return tree.map_leaves(lambda *parts: torch.stack(parts), *trees), torch.tensor(numbers)


def _ahead(
    read: Callable[[int], Tree], numbers: range, prefetch: int = PREFETCHED_BATCHES
) -> Generator[Tree]:
    """Yield what a function returns for each number, called ahead in a thread, one after the other."""

    def begin(pool: ThreadPoolExecutor, number: int) -> Callable[[], Tree]:
        return pool.submit(read, number).result

    return read_ahead(numbers, begin, 1, prefetch)
