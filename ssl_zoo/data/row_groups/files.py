"""Reading parts of a Parquet file that may be on another machine."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any, TypeVar

from ssl_zoo.data.sample_files import LostData
from ssl_zoo.errors import SslZooError
from ssl_zoo.text import error_reason, printable

T = TypeVar("T")

ATTEMPTS = 3
"""How often a part of a file is tried to be read."""


class Unreachable(LostData):
    """A file that cannot be read, as where the network or a server is gone."""


class Damaged(SslZooError):
    """A file, or a row group of it, that is no valid Parquet.

    Args:
        url: the file.
        reason: what is wrong.
        group: the number of the row group; None for the file as a whole.
    """

    def __init__(self, url: str, reason: str, group: int | None = None) -> None:
        place = printable(url) if group is None else f"row group {group} of {printable(url)}"
        super().__init__(f"{place} is damaged ({reason})")


class _Ranges(io.RawIOBase):
    """A file of which no other bytes are fetched than those that are asked for.

    Args:
        opened: the file, as a file system opens it.
        url: its name for messages.
    """

    def __init__(self, opened: IO[bytes], url: str) -> None:
        self._opened, self._url = opened, url

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._opened.seek(offset, whence)

    def tell(self) -> int:
        return self._opened.tell()

    def read(self, size: int = -1) -> bytes:
        """Return at most `size` bytes.

        Raises:
            Unreachable: they cannot be read.
        """
        with _reaching(self._url):
            return self._opened.read(size)


@contextmanager
def _reaching(url: str) -> Iterator[None]:
    """Turn errors of reading into Unreachable."""
    try:
        yield
    except Exception as error:  # file systems raise errors of many libraries
        raise Unreachable(f"data.source: cannot read {printable(url)}: {error_reason(error)}") from error


class ParquetReader:
    """Reads parts of Parquet files, from several threads."""

    def __init__(self) -> None:
        self._systems: dict[str, Any] = {}  # by protocol; they know the listings of folders

    def read(self, url: str, function: Callable[[Any], T], group: int | None = None) -> T:
        """Return what a function returns for an open file.

        Args:
            url: the path or URL of the file.
            function: reads the file; pyarrow's errors of it mean that the file is damaged.
            group: the number of the row group that it reads, for messages.

        Raises:
            Unreachable: the file cannot be read, though it was tried several times.
            Damaged: it is no valid Parquet.
        """
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(2**attempt)
            try:
                return self._read(url, function, group)
            except Unreachable as error:
                failure = error
        raise failure

    def _read(self, url: str, function: Callable[[Any], T], group: int | None) -> T:
        with _reaching(url):
            system, path = self._system(url)
            opened = system.open(path, "rb", cache_type="none")
        with opened:
            try:
                return function(_Ranges(opened, url))
            except Unreachable:
                raise
            except (OSError, ValueError, KeyError, NotImplementedError) as error:  # pyarrow's are these
                raise Damaged(url, error_reason(error), group) from error

    def _system(self, url: str) -> tuple[Any, str]:
        """Return the file system of a URL, and its path there."""
        from fsspec.core import url_to_fs  # type: ignore[import-untyped]

        protocol = url.partition("://")[0] if "://" in url else ""
        if protocol not in self._systems:
            self._systems[protocol], _ = url_to_fs(url)
        return self._systems[protocol], self._systems[protocol]._strip_protocol(url)
