"""The files of shards: local ones, and copies of those behind URLs and pipes."""

from __future__ import annotations

import gzip
import hashlib
import importlib
import os
import re
import shutil
import threading
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ssl_zoo.data.folder import split_role
from ssl_zoo.data.positioned import PositionedFile
from ssl_zoo.errors import SslZooError, UserError
from ssl_zoo.runtime.files import commit_file, file_lock, write_errors
from ssl_zoo.text import error_reason, printable

PIPES = "SSL_ZOO_PIPES"
"""The environment variable that allows ``pipe:``, as that runs commands, and settings may be others'."""
MAX_OPEN = 64
"""The number of shards that are open at a time."""
_COPIED_AT_ONCE = 2**20


@dataclass(frozen=True)
class ShardFile:
    """A shard as the user names it.

    Attributes:
        url: the path, the URL or ``pipe:`` and a command.
        split: the split that the user says all its samples are of; None for none.
        folder: the folder for copies of shards that are not plain local files.
        keep: how many bytes of copies are kept there; None for all.
    """

    url: str
    split: str | None
    folder: Path
    keep: int | None = None

    @property
    def remote(self) -> bool:
        """True if the shard must be fetched before it can be read by position."""
        return is_remote(self.url) or self.url.endswith((".gz", ".tgz"))

    def named_split(self) -> str:
        """Return the split that the name of the file is that of, such as ``val-000.tar``."""
        name = re.split(r"[/\s]", self.url.rstrip("/"))[-1]
        role = split_role(name.partition(".")[0])
        return "train" if role is None else role[0]

    def state(self) -> str:
        """Return what changes if a local file does.

        Raises:
            UserError: there is no such file.
        """
        if is_remote(self.url):
            return ""
        try:
            found = Path(self.url).stat()
        except OSError as error:
            raise UserError(
                f"data.source: cannot read the shard {printable(self.url)}: {error_reason(error)}; add "
                "it, or leave it out"
            ) from error
        return f"{found.st_size} {found.st_mtime_ns}"

    def local(self) -> Path:
        """Return the file, or a copy of it, which is fetched if it is missing.

        Raises:
            UserError: it cannot be fetched, or a pipe is not allowed.
            Unwritable: the copy cannot be written.
        """
        if not self.remote:
            return Path(self.url)
        digest = hashlib.blake2b(f"{self.url} {self.state()}".encode(), digest_size=16).hexdigest()
        copy = self.folder / f"{digest}.tar"
        if not copy.exists():
            with write_errors(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
            with file_lock(copy.with_suffix(".lock"), required=False):
                if not copy.exists():
                    self._fetch(copy)
        os.utime(copy)  # the copies used longest ago are removed first
        return copy

    def _fetch(self, copy: Path) -> None:
        """Copy the shard, after removing others that are in the way.

        Raises:
            UserError: it cannot be fetched.
            Unwritable: the copy cannot be written.
        """
        if self.keep is not None:
            _remove_oldest(self.folder, self.keep)
        part = copy.with_suffix(".part")
        try:
            with self._opened() as source, write_errors(copy), part.open("wb") as target:
                shutil.copyfileobj(source, target, _COPIED_AT_ONCE)
        except (OSError, EOFError, ValueError) as error:
            part.unlink(missing_ok=True)
            raise UserError(
                f"data.source: cannot fetch the shard {printable(self.url)}: {error_reason(error)}; "
                "check it, or leave it out"
            ) from error
        with write_errors(copy):
            commit_file(part, copy)

    def _opened(self) -> AbstractContextManager[Any]:
        """Open the shard for reading from its beginning to its end."""
        if not is_remote(self.url):
            return gzip.open(self.url)
        if self.url.startswith("pipe:") and os.environ.get(PIPES) != "1":
            raise UserError(
                f"data.source: {printable(self.url)} would run a command; if it is yours, allow it with "
                f"the environment variable {PIPES}=1"
            )
        return closing(webdataset("gopen").gopen(self.url, "rb"))


def is_remote(url: str) -> bool:
    """Return whether a text is a URL or a pipe."""
    return url.startswith("pipe:") or len(urlsplit(url).scheme) > 1


def expand(text: str) -> list[str]:
    """Return the shards that a text with braces names, such as ``train-{000..099}.tar``.

    Raises:
        UserError: webdataset is not installed.
    """
    return list(webdataset("shardlists").expand_urls(text))


def webdataset(module: str) -> Any:
    """Return a module of the library.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(f"webdataset.{module}")
    except ImportError as error:
        raise UserError("data.source: shards need webdataset: pip install 'ssl-zoo[shards]'") from error


def _remove_oldest(folder: Path, keep: int) -> None:
    """Remove the copies used longest ago, until the others take at most `keep` bytes."""
    copies = sorted(folder.glob("*.tar"), key=lambda copy: copy.stat().st_mtime, reverse=True)
    total = 0
    for copy in copies:
        total += copy.stat().st_size
        if total > keep:
            copy.unlink(missing_ok=True)


class ShardReader:
    """Reads parts of shards, from several threads; the ones read last stay open.

    Args:
        files: the shards.
    """

    def __init__(self, files: Sequence[ShardFile]) -> None:
        self._files = files
        self._open: OrderedDict[int, PositionedFile] = OrderedDict()
        self._lock = threading.Lock()
        self._opening: dict[int, threading.Lock] = {}

    def read(self, shard: int, offset: int, size: int) -> bytes:
        """Return a part of a shard.

        Raises:
            SslZooError: it cannot be read.
        """
        content = self._opened(shard).read(offset, size)
        if len(content) < size:
            url = printable(self._files[shard].url)
            raise SslZooError(f"data.source: the shard {url} has been cut off; copy it again")
        return content

    def _opened(self, shard: int) -> PositionedFile:
        """Return a shard, which is fetched and opened if it is not open."""
        with self._lock:
            opening = self._opening.setdefault(shard, threading.Lock())
        with opening:  # while other threads read other shards
            with self._lock:
                if (file := self._open.get(shard)) is not None:
                    self._open.move_to_end(shard)
                    return file
            file = PositionedFile(self._files[shard].local())
            with self._lock:
                self._open[shard] = file
                if len(self._open) > MAX_OPEN:  # closed once no thread reads it
                    self._open.popitem(last=False)
            return file
