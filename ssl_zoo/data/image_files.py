"""Images that are decoded by threads, and the record of unreadable ones."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ssl_zoo.data.decode import image_error_reason, to_square
from ssl_zoo.data.splits import ArrayFile
from ssl_zoo.errors import SslZooError, UserError
from ssl_zoo.text import printable

log = logging.getLogger("ssl_zoo.data")

MAX_UNREADABLE_SHARE = 0.1
"""The share of a data set's images that may be unreadable; with more the run stops."""
MIN_UNREADABLE_LIMIT = 10
"""The number of unreadable images that is always allowed, whatever their share, if any can be read."""


class UnreadableFiles:
    """The images of a data set, over all its splits, that could not be read.

    Attributes:
        reasons: the reason for each, by name.
        total: the number of images of the data set, readable or not.
    """

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}
        self.total = 0
        self._lock = threading.Lock()

    def record(self, name: str, error: Exception) -> None:
        """Record an image, with a warning for the first one.

        Raises:
            UserError: too many images cannot be read.
        """
        reason = image_error_reason(error)
        with self._lock:
            if not self.reasons:
                log.warning("cannot read %s: %s; unreadable files are skipped", name, reason)
            self.reasons[name] = reason
            count = len(self.reasons)
        limit = max(MIN_UNREADABLE_LIMIT, MAX_UNREADABLE_SHARE * self.total)
        if count == self.total or count > limit:
            raise UserError(
                f"data.source: {count} of {self.total} images cannot be read, the last being "
                f"{name}: {reason}; fix or remove them"
            )


@dataclass(frozen=True)
class Origin:
    """The files that images are read from.

    Attributes:
        root: the folder that contains the files, or the archive.
        files: the file of each image; the archive for each of its images.
    """

    root: Path
    files: Sequence[str | Path]

    def check(self) -> None:
        """Raise unless the archive, or anything in the folder, is still there.

        An empty folder may be the mount point of a disk that was removed.

        Raises:
            SslZooError: it is gone.
        """
        try:
            if self.root.is_file():
                return
            with os.scandir(self.root) as entries:
                exists = any(entries)
        except OSError:
            exists = False
        if not exists:
            raise SslZooError(
                f"data.source: {printable(self.root)} is gone; reconnect its disk, then start again, "
                "or resume the run with --resume"
            )


@dataclass(eq=False, kw_only=True)
class ImageFiles:
    """The images of a split, by number, and the size to which they are decoded.

    Attributes:
        open: opens the image with a given number; called from several threads.
        name: returns the name of the image with a given number, for messages.
        count: the number of images.
        side: the side of the decoded squares, in pixels.
        channels: the number of channels C of the decoded squares, 1 or 3.
        workers: the number of decoding threads.
        unreadable: the record of unreadable images, shared by the splits of a data set.
        origin: the files of the images; None where they are unknown.
        squares: all images decoded, [count, C, side, side], where a cache has them. Unreadable ones
            are recorded already, and their rows have no meaning.
    """

    open: Callable[[int], Image.Image]
    name: Callable[[int], str]
    count: int
    side: int
    channels: int
    workers: int
    unreadable: UnreadableFiles = field(default_factory=UnreadableFiles)
    origin: Origin | None = None
    squares: ArrayFile | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.unreadable.total += self.count

    def empty(self, count: int, pin: bool = False) -> Tensor:
        """Return uninitialised memory for decoded images, uint8 [count, C, side, side]."""
        shape = (count, self.channels, self.side, self.side)
        return torch.empty(shape, dtype=torch.uint8, pin_memory=pin)

    def decode(self, number: int) -> Tensor | None:
        """Return an image as uint8 [C, side, side]; record it and return None if it is unreadable.

        Raises:
            UserError: too many images cannot be read.
            SslZooError: their folder or archive is gone.
        """
        if self.squares is not None:
            unreadable = printable(self.name(number)) in self.unreadable.reasons
            return None if unreadable else self.squares.read(torch.tensor([number]))[0]
        try:
            with self.open(number) as image:
                return to_square(image, self.side, self.channels)
        except Exception as error:  # decoders raise errors of every kind for broken files
            if self.origin is not None:
                self.origin.check()
            self.unreadable.record(printable(self.name(number)), error)
            return None

    def decode_into(self, squares: Tensor, numbers: Tensor) -> Tensor:
        """Decode images by threads into existing memory.

        Args:
            squares: the destination, uint8 [N, C, side, side]; unchanged where an image is unreadable.
            numbers: the images to decode, int64 [N].

        Returns:
            Whether each image could be read, bool [N].

        Raises:
            UserError: too many images cannot be read.
        """

        def fill(row: int) -> bool:
            decoded = self.decode(int(numbers[row]))
            if decoded is not None:
                squares[row] = decoded
            return decoded is not None

        readable: list[bool] = []
        with ThreadPoolExecutor(self.workers) as pool:
            for chunk in torch.arange(len(numbers)).split(1024):
                readable += pool.map(fill, chunk.tolist())
        return torch.tensor(readable, dtype=torch.bool)
