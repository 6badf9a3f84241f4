"""Standard streams whose reader has gone, or that are closed: the output is dropped, the work goes on.

``ssl-zoo tasks | head -1`` ends with exit code 0, and a run whose output goes to a closed pipe is
trained to its end. SIGPIPE stays ignored, as Python's documentation recommends, since it would end the
process without saving.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_STDOUT = 1
_READER_GONE = (errno.EPIPE, errno.EIO, errno.ESHUTDOWN)
"""Errors of writing to a closed pipe, and to a terminal that has been closed."""


class _UnbrokenFile(io.FileIO):
    """A standard stream's file that drops what is written after its reader has gone.

    Any other error is raised once for standard output, which holds results, and never for standard
    error, as a message that cannot be shown is no reason to stop the work.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number, "w", closefd=False)

    def write(self, content: Any, /) -> int:
        """Write bytes, and return their number."""
        try:
            return super().write(content)
        except OSError as error:
            redirect = os.open(os.devnull, os.O_WRONLY)
            os.dup2(redirect, self.fileno())
            os.close(redirect)
            if self.fileno() == _STDOUT and error.errno not in _READER_GONE:
                error.filename = "standard output"
                raise
            return memoryview(content).nbytes


@contextlib.contextmanager
def unbroken_streams() -> Iterator[None]:
    """Temporarily let standard output and standard error drop what nobody can read.

    Text that the encoding lacks, such as names of files, is escaped.
    """
    _reopen_closed()
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _unbroken(sys.stdout, 1), _unbroken(sys.stderr, 2)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        sys.stdout, sys.stderr = before


def _reopen_closed() -> None:
    """Open the null device in place of closed standard streams.

    A file opened later would get their number, and messages of a library would be written into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
            os.set_inheritable(number, True)


def _unbroken(stream: Any, number: int) -> Any:
    """Return a stream with the settings of `stream`, writing to an `_UnbrokenFile`."""
    if stream is None:  # Python found it closed
        return Path(os.devnull).open("w")
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)  # with PYTHONUNBUFFERED there is no buffer between
    if isinstance(raw, io.FileIO) and raw.fileno() == number:  # a console of Windows is no FileIO
        stream.flush()
        file = _UnbrokenFile(number)
        return io.TextIOWrapper(
            file if raw is buffer else io.BufferedWriter(file),
            encoding=stream.encoding,
            errors="backslashreplace",
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    return stream
