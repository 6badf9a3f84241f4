"""Stop signals while a command starts, or while it does work that cannot be resumed.

Importing this module takes a few milliseconds, as a signal that comes meanwhile ends in a traceback.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ssl_zoo.runtime.error_file import ErrorRecord, write_error
from ssl_zoo.runtime.signals import handle_stop_signals


class _Stop(BaseException):
    """A stop signal; not a KeyboardInterrupt, which typer would turn into an empty line."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def end_on_stop_signal() -> Iterator[None]:
    """Temporarily let a stop signal end the process with one line and exit code 128 + signal."""
    try:
        with handle_stop_signals(_end):
            yield
    except _Stop as stop:
        from ssl_zoo.cli.errors import fail

        fail(_message(), 128 + stop.number)


def _end(number: int) -> None:
    if not _importing():
        raise _Stop(number)
    # A module that is being imported may handle the exception, and there is nothing to clean up yet.
    record = ErrorRecord(_message(), 128 + number)
    if not write_error(record) and os.environ.get("RANK", "0") == "0":
        os.write(2, f"error: {_message()}\n".encode())
    os._exit(128 + number)


def _importing() -> bool:
    """Return whether a module is being imported by this thread."""
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
    return False


def _message() -> str:
    """Return what an interrupted command has left behind, without importing anything."""
    files = sys.modules.get("ssl_zoo.runtime.files")
    written = files is not None and files.has_written()
    return f"interrupted; {'what it had written is kept' if written else 'nothing was written'}"
