"""Images that are decoded when they are needed, by threads."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ssl_zoo.data.decode import read_error, to_square
from ssl_zoo.data.splits import ArrayFile, ArraySplit, MappedSplit, Split
from ssl_zoo.errors import SslZooError, UserError
from ssl_zoo.text import printable

log = logging.getLogger("ssl_zoo.data")

MOST_UNREADABLE = 0.1
"""The share of a data set's images that may be unreadable; with more the run stops."""
FEWEST_UNREADABLE = 10
"""So many unreadable images are borne, whatever their share, if any can be read."""
NEAR = 64
"""How far from an unreadable image one of its class is looked for, in either direction."""


class Unreadable:
    """The images of a data set, over all its splits, that could not be read.

    Attributes:
        names: for each the reason.
        total: the number of images of the data set, readable or not.
    """

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self.total = 0
        self._noting = threading.Lock()

    def note(self, name: str, error: Exception) -> None:
        """Note one, and say so the first time.

        Raises:
            UserError: there are too many by now.
        """
        why = read_error(error)
        with self._noting:
            if not self.names:
                log.warning("cannot read %s: %s; it is skipped, as will be others", name, why)
            self.names[name] = why
            bad = len(self.names)
        if bad == self.total or bad > max(FEWEST_UNREADABLE, MOST_UNREADABLE * self.total):
            raise UserError(
                f"data.source: {bad} of {self.total} images cannot be read, the last being "
                f"{name}: {why}; mend or remove them"
            )


@dataclass(frozen=True)
class Origin:
    """Where the bytes of images lie.

    Attributes:
        root: the folder below which they lie, or the archive.
        files: the file of each image; of an archive that itself.
    """

    root: Path
    files: Sequence[str | Path]

    def check(self) -> None:
        """Make sure that the folder or archive is still there, and not empty for want of its disk.

        Raises:
            SslZooError: it is not.
        """
        try:
            if self.root.is_file():
                return
            with os.scandir(self.root) as entries:
                there = any(entries)
        except OSError:
            there = False
        if not there:
            raise SslZooError(
                f"data.source: {printable(self.root)} is gone; bring its disk back, then start again, "
                "or go on with a run that had begun: --resume"
            )


@dataclass(eq=False)
class Pictures:
    """Images by number, and what they become.

    Attributes:
        open: the number of an image to the image, called from several threads.
        name: the image's name, for messages.
        count: how many there are.
        side: pixels of the squares that the images become.
        channels: 1 or 3.
        workers: the number of threads.
        unreadable: where those are noted that cannot be read; shared by a data set's splits.
        origin: where their bytes lie; None where that cannot be told.
        squares: all of them decoded, [count, C, side, side], where a cache has them. Those that
            cannot be read are noted already, and their rows mean nothing.
    """

    open: Callable[[int], Image.Image]
    name: Callable[[int], str]
    count: int
    side: int
    channels: int
    workers: int
    unreadable: Unreadable = field(default_factory=Unreadable)
    origin: Origin | None = None
    squares: ArrayFile | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.unreadable.total += self.count

    def decode(self, number: int) -> Tensor | None:
        """One image as uint8 [C, side, side]; None, and a note, if it cannot be read.

        Raises:
            UserError: too many could not be read.
            SslZooError: where they lay there is nothing any more.
        """
        if self.squares is not None:
            known = printable(self.name(number)) in self.unreadable.names
            return None if known else self.squares.read(torch.tensor([number]))[0]
        try:
            with self.open(number) as image:
                return to_square(image, self.side, self.channels)
        except Exception as error:  # whatever a decoder makes of a broken file
            if self.origin is not None:
                self.origin.check()
            self.unreadable.note(printable(self.name(number)), error)
            return None

    def decode_into(self, squares: Tensor, numbers: Tensor) -> Tensor:
        """Decode images by threads into memory that is there.

        Args:
            squares: where to, uint8 [N, C, side, side]; unchanged where an image cannot be read.
            numbers: which images, int64 [N].

        Returns:
            Whether each could be read, bool [N].

        Raises:
            UserError: too many could not be read.
        """

        def fill(row: int) -> bool:
            decoded = self.decode(int(numbers[row]))
            if decoded is not None:
                squares[row] = decoded
            return decoded is not None

        read: list[bool] = []
        with ThreadPoolExecutor(self.workers) as pool:
            for chunk in torch.arange(len(numbers)).split(1024):
                read += pool.map(fill, chunk.tolist())
        return torch.tensor(read, dtype=torch.bool)


class LazySplit(Split):
    """Images that are decoded when they are needed.

    An image that cannot be read is skipped: it is noted, and one near it, of its class if there is
    any, stands in its place, so that a batch keeps its size and follows from the indices alone.

    Args:
        pictures: the images.
        labels: int64 [N] or None.
        numbers: which of the images, int64 [N]; None for all.
    """

    def __init__(self, pictures: Pictures, labels: Tensor | None, numbers: Tensor | None = None) -> None:
        self.pictures = pictures
        self.labels = labels
        self.numbers = torch.arange(pictures.count) if numbers is None else numbers
        self.skipped = pictures.unreadable.names

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def names(self) -> list[str]:
        """The name of each of the N images, as `Pictures` has it, readable or not."""
        return [self.pictures.name(number) for number in self.numbers.tolist()]

    @property
    def nbytes(self) -> int:
        """The size of all decoded images together."""
        return len(self) * self.pictures.channels * self.pictures.side**2

    def empty(self, count: int, pin: bool = False) -> Tensor:
        """Room for so many decoded images, uint8 [count, C, side, side]."""
        shape = (count, self.pictures.channels, self.pictures.side, self.pictures.side)
        return torch.empty(shape, dtype=torch.uint8, pin_memory=pin)

    def _stand_ins(self, index: int) -> Iterator[int]:
        """The number itself, then those near it that are of its class, and at last any other."""
        count = len(self)
        yield index
        if self.labels is not None:
            near = (index + sign * step for step in range(1, min(NEAR, count)) for sign in (1, -1))
            yield from (i % count for i in near if self.labels[i % count] == self.labels[index])
        yield from ((index + step) % count for step in range(1, count))

    def readable(self, index: int, square: Tensor) -> None:
        """Fill [C, side, side] with the image of this number, or one that stands in for it.

        Raises:
            UserError: none can be read, or too many cannot.
        """
        for i in self._stand_ins(index):
            decoded = self.pictures.decode(int(self.numbers[i]))
            if decoded is not None:
                square.copy_(decoded)
                return
        name = printable(self.pictures.name(int(self.numbers[index])))
        raise UserError(
            f"data.source: none of the {len(self)} images of a split can be read, "
            f"such as {name}: {self.skipped[name]}; mend or remove them"
        )

    def any_readable(self) -> bool:
        """Whether an image can be read; those that are tried before it are noted.

        Raises:
            UserError: too many cannot be read.
        """
        return any(self.pictures.decode(number) is not None for number in self.numbers.tolist())

    def batch(self, indices: Tensor) -> Tensor:
        """uint8 [B, C, side, side] of the images of these numbers [B]."""
        return torch.cat([self.empty(0), *batches(self, indices, 64, drop_last=False)])

    def subset(self, indices: Tensor) -> LazySplit:
        """The samples of these numbers [M] as a split of their own."""
        labels = self.labels[indices] if self.labels is not None else None
        return LazySplit(self.pictures, labels, self.numbers[indices])

    def resident(self, device: torch.device) -> ArraySplit:
        """Decode everything once and keep it on the device; what cannot be read is left out."""
        squares = self.empty(len(self))
        kept = self.pictures.decode_into(squares, self.numbers)
        if not kept.all():
            squares = squares[kept]
        labels = self.labels[kept] if self.labels is not None else None
        names = [name for name, was_read in zip(self.names, kept.tolist(), strict=True) if was_read]
        return ArraySplit(squares.to(device), labels, self.skipped, names)

    def mapped(self) -> MappedSplit:
        """The same images as a cache has them; what cannot be read is left out."""
        assert self.pictures.squares is not None
        names = self.names
        whole = MappedSplit(self.pictures.squares, self.labels, self.skipped, names, self.numbers)
        kept = [i for i, name in enumerate(names) if printable(name) not in self.skipped]
        return whole.subset(torch.tensor(kept, dtype=torch.long))

    def begin(self, pool: ThreadPoolExecutor, indices: Tensor, pin: bool) -> Callable[[], Tensor]:
        """Have a pool's threads decode the batch of these numbers [B]; the result waits for it."""
        batch = self.empty(len(indices), pin)
        filled = [
            pool.submit(self.readable, i, square)
            for i, square in zip(indices.tolist(), batch, strict=True)
        ]

        def whole() -> Tensor:
            for future in filled:
                future.result()
            return batch

        return whole


def batches(
    split: Split,
    indices: Tensor,
    batch_size: int,
    drop_last: bool,
    prefetch: int = 2,
    pin: bool = False,
) -> Generator[Tensor]:
    """Raw batches in the order of `indices`.

    A lazy split is decoded ahead of who takes the batches, by its worker threads, and a mapped one is
    read ahead. The result does not depend on their number. In memory lie at most prefetch + 1 batches
    of squares (N·C·side² bytes) beside the one handed out, and for each worker that decodes one image
    in the size at which it does (at most `MOST_PIXELS`, and a converted copy of it). Closing the
    iterator ends the threads.

    Args:
        split: the samples.
        indices: which samples, int64 [N].
        batch_size: the number of samples in a batch.
        drop_last: whether to leave out a last batch that is not full.
        prefetch: batches to decode, or read, ahead.
        pin: whether these lie in pinned memory, from which a GPU copies without making anybody wait.
    """
    chunks = [c for c in indices.split(batch_size) if len(c) == batch_size or not drop_last]
    if not isinstance(split, LazySplit | MappedSplit):
        yield from map(split.batch, chunks)
        return
    workers = split.pictures.workers if isinstance(split, LazySplit) else prefetch + 1
    pool = ThreadPoolExecutor(workers, thread_name_prefix="ssl-zoo-decode")
    ahead: list[Callable[[], Tensor]] = []

    def read(chunk: Tensor) -> Tensor:
        return split.batch(chunk).pin_memory() if pin else split.batch(chunk)

    try:
        for chunk in chunks:
            if isinstance(split, LazySplit):
                ahead.append(split.begin(pool, chunk, pin))
            else:
                ahead.append(pool.submit(read, chunk).result)
            if len(ahead) > prefetch:
                yield ahead.pop(0)()
        while ahead:
            yield ahead.pop(0)()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
