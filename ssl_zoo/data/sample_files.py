"""Samples that are decoded from files by threads, and the record of unreadable ones."""

from __future__ import annotations

import logging
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from ssl_zoo import tree
from ssl_zoo.data.mapped import ArrayFile
from ssl_zoo.errors import SslZooError, UserError
from ssl_zoo.text import error_reason, printable
from ssl_zoo.tree import Tree

log = logging.getLogger("ssl_zoo.data")
T = TypeVar("T")

MAX_UNREADABLE_SHARE = 0.1
"""The share of a data set's samples that may be unreadable; with more the run stops."""
MIN_UNREADABLE_LIMIT = 10
"""The number of unreadable samples that is always allowed, whatever their share, if any can be read."""


class LostData(SslZooError):
    """Data that can be read no more, as where a disk or a server is gone; a sample is not at fault."""


class Excluded(Exception):  # noqa: N818: it is no error
    """A sample that can be read, but that a setting excludes, such as a silent clip."""


class SkippedSamples(dict[str, str]):
    """The reason why a sample has no row, by its name.

    Args:
        reasons: the reasons.
        excluded: the names of those that can be read, but that a setting excludes; the others are
            unreadable.
    """

    def __init__(self, reasons: Mapping[str, str] | None = None, excluded: Iterable[str] = ()) -> None:
        super().__init__({} if reasons is None else reasons)
        self._excluded = set(excluded)

    @classmethod
    def join(cls, *parts: Mapping[str, str]) -> SkippedSamples:
        """Return the samples of several mappings; those of a plain one are unreadable."""
        joint = cls()
        for part in parts:
            joint.update(part)
            joint._excluded |= part._excluded if isinstance(part, cls) else set()
        return joint

    def exclude(self, name: str, reason: str) -> None:
        """Add a sample that a setting excludes."""
        self[name] = reason
        self._excluded.add(name)

    @property
    def unreadable(self) -> dict[str, str]:
        """The samples that cannot be read."""
        return {name: reason for name, reason in self.items() if name not in self._excluded}

    @property
    def num_unreadable(self) -> int:
        """The number of samples that cannot be read."""
        return len(self) - len(self._excluded)

    @property
    def excluded(self) -> dict[str, str]:
        """The samples that a setting excludes."""
        return {name: reason for name, reason in self.items() if name in self._excluded}


class UnreadableFiles:
    """The samples of a data set, over all its splits, that could not be read or are excluded.

    Args:
        noun: the plural noun for them in messages.

    Attributes:
        reasons: the reason for each, by name.
        total: the number of samples of the data set, readable or not.
    """

    def __init__(self, noun: str = "samples") -> None:
        self.noun = noun
        self.reasons = SkippedSamples()
        self.total = 0
        self._lock = threading.Lock()

    def exclude(self, name: str, reason: str) -> None:
        """Record a sample that can be read, but that a setting excludes; there may be any number.

        Raises:
            UserError: no sample is left.
        """
        with self._lock:
            self.reasons.exclude(name, reason)
            count = len(self.reasons)
        if count == self.total:
            raise UserError(
                f"data.source: none of the {self.total} {self.noun} is left, the last being {name}: "
                f"{reason}; change the setting, or add others"
            )

    def record(self, name: str, reason: str) -> None:
        """Record a sample, with a warning for the first one.

        Raises:
            UserError: too many samples cannot be read.
        """
        with self._lock:
            if not self.reasons.num_unreadable:
                log.warning("cannot read %s: %s; unreadable files are skipped", name, reason)
            self.reasons[name] = reason
            count = self.reasons.num_unreadable
        limit = max(MIN_UNREADABLE_LIMIT, MAX_UNREADABLE_SHARE * self.total)
        if len(self.reasons) == self.total or count > limit:
            raise UserError(
                f"data.source: {count} of {self.total} {self.noun} cannot be read, the last being "
                f"{name}: {reason}; fix or remove them"
            )


@dataclass(frozen=True)
class Origin:
    """The files that samples are read from.

    Attributes:
        root: the folder that contains the files, or the archive.
        files: the file of each sample; the archive for each of its samples.
        folders: the folders that contain the files, where `root` contains all of these.
        division: how files are divided into samples, other than one from each; caches depend on it.
    """

    root: Path
    files: Sequence[str | Path]
    folders: Sequence[Path] = ()
    division: str = ""

    def check(self) -> None:
        """Raise unless the archive, or anything in each folder, is still there.

        An empty folder may be the mount point of a disk that was removed.

        Raises:
            LostData: it is gone.
        """
        for folder in self.folders or (self.root,):
            try:
                if folder.is_file():
                    continue
                with os.scandir(folder) as entries:
                    exists = any(entries)
            except OSError:
                exists = False
            if not exists:
                raise LostData(
                    f"data.source: {printable(folder)} is gone; reconnect its disk, then start again, "
                    "or resume the run with --resume"
                )


@dataclass(eq=False, kw_only=True)
class SampleFiles(ABC):
    """The samples of a split, by number, which a `LazySplit` decodes in threads.

    A subclass for a modality defines `read` and `empty`; all its samples have one shape, such as a
    waveform cut or padded to a length, beside that length.

    Attributes:
        name: returns the name of the sample with a given number, for messages.
        count: the number of samples.
        workers: the number of decoding threads.
        unreadable: the record of unreadable samples, shared by the splits of a data set.
        origin: the files of the samples; None where they are unknown.
        group: returns the name of what the sample with a given number is a part of, such as its file;
            None where samples are whole.
    """

    name: Callable[[int], str]
    count: int
    workers: int = 2
    unreadable: UnreadableFiles = field(default_factory=UnreadableFiles)
    origin: Origin | None = None
    group: Callable[[int], str] | None = None

    def __post_init__(self) -> None:
        self.unreadable.total += self.count

    @abstractmethod
    def read(self, number: int) -> Tree:
        """Decode the sample with a given number, without a leading axis; called from several threads.

        Raises:
            Excluded: a setting excludes it; it is skipped then, and listed apart.
            Exception: of any other kind, where it cannot be read; it is skipped then.
        """

    @abstractmethod
    def empty(self, count: int, pin: bool = False) -> Tree:
        """Return uninitialised memory for `count` decoded samples [count, ...], pinned or not."""

    def cached(self, name: str, folder: Path) -> ArrayFile | None:
        """Return the decoded samples from a cache on disk; None where the modality has none."""
        return None

    def reason(self, error: Exception) -> str:
        """Return in a line why a sample could not be read."""
        return error_reason(error)

    @property
    def sample_nbytes(self) -> int:
        """The size of a decoded sample, in bytes."""
        return tree.nbytes(self.empty(1))

    def decode(self, number: int) -> Tree | None:
        """Return a decoded sample; record it and return None if it is unreadable or excluded.

        Raises:
            UserError: too many samples cannot be read.
            LostData: their folder or archive is gone.
        """
        try:
            return self.read(number)
        except Excluded as excluded:
            self.unreadable.exclude(printable(self.name(number)), str(excluded))
            return None
        except LostData:
            raise
        except Exception as error:  # decoders raise errors of every kind for broken files
            if self.origin is not None:
                self.origin.check()
            self.unreadable.record(printable(self.name(number)), self.reason(error))
            return None

    def decode_into(self, batch: Tree, numbers: Tensor) -> Tensor:
        """Decode samples by threads into existing memory.

        Args:
            batch: the destination [N, ...]; unchanged where a sample is unreadable.
            numbers: the samples to decode, int64 [N].

        Returns:
            Whether each sample could be read, bool [N].

        Raises:
            UserError: too many samples cannot be read.
        """

        def fill(row: int) -> bool:
            decoded = self.decode(int(numbers[row]))
            if decoded is not None:
                copy_row(decoded, batch, row)
            return decoded is not None

        readable = list(self._in_threads(fill, range(len(numbers)), 1024))
        return torch.tensor(readable, dtype=torch.bool)

    def decode_all(self, numbers: Tensor) -> Iterator[Tree | None]:
        """Yield decoded samples in the order of `numbers` [N], with None for one that is unreadable.

        Raises:
            UserError: too many samples cannot be read.
        """
        return self._in_threads(self.decode, numbers.tolist(), 4 * self.workers)

    def _in_threads(
        self, function: Callable[[int], T], arguments: Sequence[int], ahead: int
    ) -> Iterator[T]:
        """Yield what a function returns for each argument, computed by threads for `ahead` at a time."""
        with ThreadPoolExecutor(self.workers) as pool:
            for start in range(0, len(arguments), ahead):
                yield from pool.map(function, arguments[start : start + ahead])


def copy_row(sample: Tree, batch: Tree, row: int) -> None:
    """Copy a sample into a row of a batch."""
    tree.map_leaves(lambda target, source: target[row].copy_(source), batch, sample)
