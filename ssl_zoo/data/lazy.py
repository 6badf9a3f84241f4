"""Images that are decoded when they are needed, by threads."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from PIL import Image
from torch import Tensor

from ssl_zoo.data.decode import to_square
from ssl_zoo.data.splits import ArraySplit, Split
from ssl_zoo.errors import SslZooError

log = logging.getLogger("ssl_zoo.data")

MOST_UNREADABLE = 0.1
"""The share of unreadable images at which a run stops."""
FEWEST_UNREADABLE = 10
"""So many unreadable images are borne, whatever their share."""


class LazySplit(Split):
    """Images that are decoded when they are needed.

    An image that cannot be read is skipped: it is noted, and the next one that can be read stands in
    its place, so that a batch keeps its size and follows from the indices alone.

    Args:
        images: the number of an image to the image, called from several threads.
        names: the images' names, for messages.
        labels: int64 [N] or None.
        side: pixels of the squares that the images become.
        channels: 1 or 3.
        workers: the number of threads.
    """

    def __init__(
        self,
        images: Callable[[int], Image.Image],
        names: Callable[[int], str],
        count: int,
        labels: Tensor | None,
        side: int,
        channels: int,
        workers: int,
    ) -> None:
        self.images = images
        self.names = names
        self.count = count
        self.labels = labels
        self.side = side
        self.channels = channels
        self.workers = workers
        self.skipped: dict[str, str] = {}
        self._tried: set[int] = set()
        self._noting = threading.Lock()

    def __len__(self) -> int:
        return self.count

    def decode(self, index: int) -> Tensor | None:
        """One image as uint8 [C, side, side]; None, and a note, if it cannot be read.

        Raises:
            SslZooError: too many could not be read.
        """
        try:
            square = to_square(self.images(index), self.side, self.channels)
        except Exception as error:  # whatever a decoder makes of a broken file
            self._note(index, error)
            return None
        with self._noting:
            self._tried.add(index)
        return square

    def _note(self, index: int, error: Exception) -> None:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        name = self.names(index)
        with self._noting:
            self._tried.add(index)
            if not self.skipped:
                log.warning("cannot read %s: %s; it is skipped, as will be others", name, reason)
            self.skipped[name] = reason
            bad, tried = len(self.skipped), len(self._tried)
        if bad == self.count:
            raise SslZooError(f"none of the {bad} images can be read; the first is {name}: {reason}")
        if bad > FEWEST_UNREADABLE and bad > MOST_UNREADABLE * tried:
            raise SslZooError(
                f"{bad} of {tried} images cannot be read, the last being {name}: {reason}; "
                "mend or remove them"
            )

    def readable(self, index: int) -> Tensor:
        """The image of this number, or the next one that can be read."""
        while (square := self.decode(index)) is None:
            index = (index + 1) % self.count
        return square

    def batch(self, indices: Tensor) -> Tensor:
        """uint8 [B, C, side, side] of the images of these numbers [B]."""
        with ThreadPoolExecutor(self.workers) as pool:
            return torch.stack(list(pool.map(self.readable, indices.tolist())))

    def resident(self, device: torch.device) -> ArraySplit:
        """Decode everything once and keep it on the device; what cannot be read is left out."""
        squares = torch.empty(self.count, self.channels, self.side, self.side, dtype=torch.uint8)

        def fill(index: int) -> bool:
            square = self.decode(index)
            if square is not None:
                squares[index] = square
            return square is not None

        with ThreadPoolExecutor(self.workers) as pool:
            kept = torch.tensor(list(pool.map(fill, range(self.count))), dtype=torch.bool)
        if not kept.all():
            squares = squares[kept]
        labels = self.labels[kept] if self.labels is not None else None
        return ArraySplit(squares.to(device), labels, self.skipped)


def batches(
    split: Split, indices: Tensor, batch_size: int, drop_last: bool, prefetch: int = 2
) -> Generator[Tensor]:
    """Raw batches in the order of `indices`.

    Of a lazy split `prefetch` batches are decoded ahead, so at most prefetch + 1 batches of squares
    lie in memory, and one image in full size for each worker. The result does not depend on the
    number of workers. Closing the iterator ends them.

    Args:
        split: the samples.
        indices: which samples, int64 [N].
        batch_size: the number of samples in a batch.
        drop_last: whether to leave out a last batch that is not full.
        prefetch: batches to decode ahead.
    """
    chunks = [c for c in indices.split(batch_size) if len(c) == batch_size or not drop_last]
    if not isinstance(split, LazySplit):
        yield from map(split.batch, chunks)
        return
    pool = ThreadPoolExecutor(split.workers, thread_name_prefix="ssl-zoo-decode")
    ahead: list[list[Future[Tensor]]] = []
    try:
        for chunk in chunks:
            ahead.append([pool.submit(split.readable, i) for i in chunk.tolist()])
            if len(ahead) > prefetch:
                yield torch.stack([future.result() for future in ahead.pop(0)])
        while ahead:
            yield torch.stack([future.result() for future in ahead.pop(0)])
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
