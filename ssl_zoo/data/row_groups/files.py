"""Reading parts of a Parquet file that may be on another machine."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from functools import partial
from typing import IO, Any, TypeVar

from ssl_zoo.data.sample_files import LostData
from ssl_zoo.errors import SslZooError
from ssl_zoo.text import error_reason, printable

T = TypeVar("T")

GIVE_UP_SECONDS = 60.0
"""The time after which reading is not tried again, in seconds."""
MAX_PAUSE_SECONDS = 8.0
"""The maximum time between two attempts, in seconds; the first pause is one second."""
POLL_SECONDS = 0.1
"""The time after which waiting ends if nobody wants the result any more, in seconds."""


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
        super().__init__(f"{_place(url, group)} is damaged ({reason})")


def _place(url: str, group: int | None) -> str:
    """Return the name of a file, or of a row group of it, for messages."""
    return printable(url) if group is None else f"row group {group} of {printable(url)}"


class _Ranges(io.RawIOBase):
    """A file without a buffer: each read fetches exactly the bytes that are asked for.

    Args:
        opened: the file, as a file system opens it.
        url: its name for messages.
        wanted: tells whether what is read is still wanted.
    """

    def __init__(self, opened: IO[bytes], url: str, wanted: Callable[[], bool]) -> None:
        self._opened, self._url, self._wanted = opened, url, wanted
        self._size = opened.seek(0, io.SEEK_END)
        opened.seek(0)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._opened.seek(offset, whence)

    def tell(self) -> int:
        return self._opened.tell()

    def read(self, size: int = -1) -> bytes:
        """Return `size` bytes, or those up to the end of the file if these are fewer or `size` is -1.

        Raises:
            Unreachable: they cannot be read, or fewer came.
        """
        left = max(self._size - self.tell(), 0)
        content = _wait_for(partial(self._opened.read, size), self._url, self._wanted)
        expected = left if size < 0 else min(size, left)
        if len(content) < expected:
            raise _unreachable(self._url, f"{len(content)} bytes came instead of {expected}")
        return content


def _unreachable(url: str, reason: str) -> Unreachable:
    return Unreachable(f"data.source: cannot read {printable(url)}: {reason}")


def _wait_for(function: Callable[[], T], url: str, wanted: Callable[[], bool]) -> T:
    """Return what a function returns, which may wait for a network as long as it likes.

    It runs in a thread that nobody waits for when the result is not wanted, or when Python ends.

    Raises:
        Unreachable: it raised any error, or its result is not wanted.
    """
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(function())
        except BaseException as error:
            outcome.set_exception(error)

    try:
        threading.Thread(target=run, name="ssl-zoo-read", daemon=True).start()
        while not wait([outcome], POLL_SECONDS).done:
            if not wanted():
                raise _unreachable(url, "nobody wants it any more")
        return outcome.result()
    except Unreachable:
        raise
    except Exception as error:  # file systems raise errors of many libraries
        raise _unreachable(url, error_reason(error)) from error


class ParquetReader:
    """Reads parts of Parquet files, from several threads."""

    def __init__(self) -> None:
        self._systems: dict[str, Any] = {}  # by protocol; they know the listings of folders

    def read(
        self,
        url: str,
        function: Callable[[Any], T],
        group: int | None = None,
        wanted: Callable[[], bool] = lambda: True,
    ) -> T:
        """Return what a function returns for an open file.

        Args:
            url: the path or URL of the file.
            function: reads the file; pyarrow's errors of it mean that the file is damaged.
            group: the number of the row group that it reads, for messages.
            wanted: tells whether the result is still wanted; if not, this ends soon with Unreachable.

        Raises:
            Unreachable: the file cannot be read, though it was tried for `GIVE_UP_SECONDS`.
            Damaged: it is no valid Parquet.
            LostData: pyarrow cannot read it, though it may be valid.
        """
        give_up, pause = time.monotonic() + GIVE_UP_SECONDS, 1.0
        while True:
            try:
                return self._read(url, function, group, wanted)
            except Unreachable:
                if time.monotonic() + pause > give_up or not wanted():
                    raise
            resume = time.monotonic() + pause
            while wanted() and time.monotonic() < resume:
                time.sleep(POLL_SECONDS)
            pause = min(2 * pause, MAX_PAUSE_SECONDS)

    def _read(
        self, url: str, function: Callable[[Any], T], group: int | None, wanted: Callable[[], bool]
    ) -> T:
        with _wait_for(partial(self._open, url), url, wanted) as opened:
            try:
                return function(_Ranges(opened, url, wanted))
            except Unreachable:
                raise
            except NotImplementedError as error:
                raise LostData(
                    f"data.source: pyarrow cannot read {_place(url, group)} ({error_reason(error)}); if "
                    "that is larger than 2 GiB, write the file again with smaller row groups"
                ) from error
            except (OSError, ValueError, KeyError) as error:  # pyarrow's others are these
                raise Damaged(url, error_reason(error), group) from error

    def _open(self, url: str) -> Any:
        """Open a file, of which no bytes are read yet."""
        from fsspec.core import url_to_fs  # type: ignore[import-untyped]

        protocol = url.partition("://")[0] if "://" in url else ""
        if protocol not in self._systems:
            self._systems[protocol], _ = url_to_fs(url)
        system = self._systems[protocol]
        return system.open(system._strip_protocol(url), "rb", cache_type="none")
