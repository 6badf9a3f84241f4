"""Errors as one line on standard error, and the exit code of each."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from ssl_zoo.errors import FailedElsewhere, LostProcess, SslZooError, notes
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


def record(error: Exception) -> bool:
    """Tell the launcher of this process, if there is one, of an error; return whether it prints it."""
    message, code = describe(error)
    return _record(message, code, consequence=isinstance(error, LostProcess))


def _record(message: str, code: int, *, consequence: bool = False) -> bool:
    return write_error(ErrorRecord(escape_control_chars(one_line(message)), code, consequence))


def fail_with(error: Exception) -> NoReturn:
    """Print an error and exit, unless the launcher or another process prints it."""
    message, code = describe(error)
    if record(error) or (isinstance(error, FailedElsewhere) and code == SslZooError.exit_code):
        sys.exit(code)
    _fail(message, code)


def fail(message: str, code: int) -> NoReturn:
    """Print an error and exit, unless the launcher prints it."""
    if _record(message, code):
        sys.exit(code)
    _fail(message, code)


def _fail(message: str, code: int) -> NoReturn:
    """Print an error and exit; each of several processes prints only its own errors."""
    rank = os.environ.get("RANK", "0")
    if rank == "0" or code == 1:  # wrong input and signals reach every process
        sys.stderr.write(f"error: {escape_control_chars(one_line(message))}\n")
    sys.exit(code)
