"""Where a user says that data lie."""

from __future__ import annotations

import contextlib
from pathlib import Path

from ssl_zoo.errors import UserError
from ssl_zoo.text import error_reason, printable


def user_path(setting: str, text: str) -> Path:
    """A path as a user writes it, which need not exist: ``~`` is the home folder.

    Args:
        setting: the dotted path of the setting that has it, for the message.
        text: the path.

    Raises:
        UserError: there can be nothing of that name, or the system does not let anybody look.
    """
    try:
        path = Path(text).expanduser()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.stat()
    except (OSError, RuntimeError, ValueError) as error:
        shown = printable(text if len(text) <= 100 else f"{text[:97]}...")
        why = error_reason(error).rstrip(".")
        raise UserError(f"{setting}: {shown}: {why}; name another folder") from error
    return path
