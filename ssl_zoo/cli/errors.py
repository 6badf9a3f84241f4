"""Errors as one line on standard error, and the exit code of each."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from ssl_zoo.errors import SslZooError, notes
from ssl_zoo.notices import LOGGER
from ssl_zoo.text import escape_control_chars, one_line


class EscapingFormatter(logging.Formatter):
    """A formatter that escapes control characters, as warnings may quote text from files."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, with control characters escaped."""
        return escape_control_chars(super().format(record))


class _NoticeHandler(logging.Handler):
    """A handler that prints each notice on standard error, once, above any progress bar."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._printed: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        from ssl_zoo.cli.console import err

        text = record.getMessage()
        if text not in self._printed:
            self._printed.add(text)
            err.print(text, markup=False, soft_wrap=True)


@contextmanager
def print_notices(wanted: bool) -> Iterator[None]:
    """Temporarily print notices, where they are wanted; of several processes only the first does."""
    handler = _NoticeHandler()
    if wanted and os.environ.get("RANK", "0") == "0":
        LOGGER.addHandler(handler)
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)


def describe(error: Exception) -> tuple[str, int]:
    """Return the message, with notes, and the exit code of an error."""
    message, code = _describe(error)
    return "; ".join([message, *notes(error)]), code


def _describe(error: Exception) -> tuple[str, int]:
    if isinstance(error, SslZooError):
        return str(error), error.exit_code
    if hasattr(error, "format_message"):  # an error of typer, from click or from its copy of click
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "ssl-zoo"
        return f"{error.format_message()} (see {command} --help)", 2
    from ssl_zoo.plugins.registry import registry

    message = registry.describe_error(error)
    if message is None and isinstance(error, OSError) and error.strerror is not None:
        return ": ".join(str(part) for part in (error.filename, error.strerror) if part is not None), 1
    return f"{message or f'{type(error).__name__}: {error}'} (--debug shows the traceback)", 1


def fail(message: str, code: int) -> NoReturn:
    """Print an error and exit; each of several processes prints only its own errors."""
    rank = os.environ.get("RANK", "0")
    if rank == "0" or code == 1:  # wrong input and signals reach every process
        sys.stderr.write(f"error: {escape_control_chars(one_line(message))}\n")
    sys.exit(code)
