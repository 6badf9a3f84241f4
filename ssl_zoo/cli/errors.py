"""Errors as one line on standard error, and the exit code of each."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from ssl_zoo.errors import SslZooError, notes
from ssl_zoo.runtime.error_file import ErrorRecord, write_error
from ssl_zoo.text import escape_control_chars, one_line


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


def record(message: str, code: int, *, consequence: bool = False) -> bool:
    """Tell the launcher of this process, if it has one, about an error, and return whether it prints it.

    Args:
        message: the text.
        code: the exit code.
        consequence: whether the error of another process has caused it.
    """
    return write_error(ErrorRecord(escape_control_chars(one_line(message)), code, consequence))


def fail(message: str, code: int, *, consequence: bool = False) -> NoReturn:
    """Print an error and exit; of several processes the launcher prints the first, or each its own."""
    printed = record(message, code, consequence=consequence)
    rank = os.environ.get("RANK", "0")
    if not printed and (rank == "0" or code == 1):  # wrong input and signals reach every process
        sys.stderr.write(f"error: {escape_control_chars(one_line(message))}\n")
    sys.exit(code)
