"""The files of shards: local ones, and copies of those behind URLs and pipes."""

from __future__ import annotations

import gzip
import hashlib
import importlib
import os
import re
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ssl_zoo.data.folder import split_role
from ssl_zoo.data.positioned import PositionedFile
from ssl_zoo.data.sample_files import LostData
from ssl_zoo.errors import SslZooError, Unwritable, UserError
from ssl_zoo.runtime.files import commit_file, file_lock, write_errors
from ssl_zoo.text import error_reason, printable

PIPES = "SSL_ZOO_PIPES"
"""The environment variable that allows ``pipe:``, as that runs commands, and settings may be others'."""
MAX_OPEN = 64
"""The number of shards that are open at a time."""
SCHEMES = ("http", "https", "ftp", "gs", "hdfs", "hf", "ais", "pipe", "file")
"""The kinds of URLs that are fetched."""
ATTEMPTS = 3
"""How often fetching a shard is tried."""
_COPIED_AT_ONCE = 2**20
_PLAIN_URL = re.compile(r"[\w.~:/?#\[\]@!$&()*+,;=%-]+")


class Unreachable(LostData):
    """A shard that cannot be fetched any more."""


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
        return is_remote(self.url) or self._compressed

    @property
    def _compressed(self) -> bool:
        return self.url.endswith((".gz", ".tgz"))

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
        with suppress(FileNotFoundError):  # removed by another process meanwhile
            os.utime(copy)  # the copies used longest ago are removed first
        return copy

    def forget(self) -> None:
        """Remove a copy that turned out to be no archive."""
        if self.remote:
            self.local().unlink(missing_ok=True)

    def _fetch(self, copy: Path) -> None:
        """Copy the shard, and remove others if there are too many.

        Raises:
            UserError: it cannot be fetched.
            Unwritable: the copy cannot be written.
        """
        self._check()
        part = copy.with_suffix(".part")
        try:
            self._copy_patiently(part)
            with write_errors(copy):
                commit_file(part, copy)
        finally:
            part.unlink(missing_ok=True)
        if self.keep is not None:
            _remove_oldest(copy, self.keep)

    def _copy_patiently(self, part: Path) -> None:
        """Copy the shard; one from another machine is tried several times.

        Raises:
            UserError: it cannot be read.
            Unwritable: the copy cannot be written.
        """
        for attempt in range(ATTEMPTS if is_remote(self.url) else 1):
            if attempt:
                time.sleep(2**attempt)
            try:
                return self._copy(part)
            except (OSError, EOFError, ValueError, zlib.error) as error:
                failure = error
        raise UserError(
            f"data.source: cannot fetch the shard {printable(self.url)}: {error_reason(failure)}; check "
            "it, or leave it out"
        ) from failure

    def _check(self) -> None:
        """Raise unless the shard may be fetched.

        Raises:
            UserError: it would run a command, or its URL is of an unknown kind.
        """
        if not is_remote(self.url):
            return
        shown, scheme = printable(self.url), urlsplit(self.url).scheme.lower()
        if scheme == "pipe" and not self.url.startswith("pipe:"):
            raise UserError(f"data.source: {shown}: write pipe: in small letters")
        if scheme == "pipe" and os.environ.get(PIPES) != "1":
            raise UserError(
                f"data.source: {shown} would run a command; if it is yours, allow it with the "
                f"environment variable {PIPES}=1"
            )
        if scheme not in SCHEMES or (scheme != "pipe" and _PLAIN_URL.fullmatch(self.url) is None):
            raise UserError(
                f"data.source: {shown} is no URL that shards can be fetched from; correct it"
            )

    def _copy(self, part: Path) -> None:
        """Copy the shard, not compressed any more.

        Raises:
            Unwritable: the copy cannot be written. Reading raises OSError, EOFError and others.
        """
        with ExitStack() as opened:
            if is_remote(self.url):
                source = opened.enter_context(closing(webdataset("gopen").gopen(self.url, "rb")))
                if self._compressed:
                    source = gzip.GzipFile(fileobj=getattr(source, "stream", source))
            else:
                source = opened.enter_context(gzip.open(self.url))
            with write_errors(part):
                target = opened.enter_context(part.open("wb"))
            while content := source.read(_COPIED_AT_ONCE):
                with write_errors(part):
                    target.write(content)


def is_remote(url: str) -> bool:
    """Return whether a text is a URL or a pipe."""
    return url.startswith("pipe:") or len(urlsplit(url).scheme) > 1


def expand(text: str) -> list[str]:
    """Return the shards that a text with braces names, such as ``train-{000..099}.tar``.

    Raises:
        UserError: webdataset is not installed.
    """
    webdataset("gopen")
    if "{" not in text or (not is_remote(text) and Path(text).expanduser().exists()):
        return [text]
    return list(importlib.import_module("braceexpand").braceexpand(text, escape=False))


def webdataset(module: str) -> Any:
    """Return a module of the library.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(f"webdataset.{module}")
    except ImportError as error:
        raise UserError("data.source: shards need webdataset: pip install 'ssl-zoo[shards]'") from error


def _remove_oldest(new: Path, keep: int) -> None:
    """Remove the copies used longest ago beside a new one, until all take at most `keep` bytes."""
    used: list[tuple[float, int, Path]] = []
    for copy in new.parent.glob("*.tar"):
        with suppress(FileNotFoundError):  # other processes remove some too
            found = copy.stat()
            used.append((found.st_mtime, found.st_size, copy))
    total = 0
    for _, size, copy in sorted(used, reverse=True):
        total += size
        if total > keep and copy != new:
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
            file = self._open_file(self._files[shard])
            with self._lock:
                self._open[shard] = file
                if len(self._open) > MAX_OPEN:  # closed once no thread reads it
                    self._open.popitem(last=False)
            return file

    @staticmethod
    def _open_file(shard: ShardFile) -> PositionedFile:
        """Return a shard as an open file.

        Raises:
            Unreachable: it cannot be fetched any more.
        """
        for _ in range(ATTEMPTS):
            try:
                return PositionedFile(shard.local())
            except FileNotFoundError:  # another process has removed the copy
                continue
            except (UserError, Unwritable) as error:
                raise Unreachable(f"{error}; then resume the run with --resume") from error
        raise Unreachable(
            f"data.source: {printable(shard.url)} is removed as soon as it is fetched; raise "
            "data.options.keep_gb, then resume the run with --resume"
        )
