"""Paths as a user writes them."""

from __future__ import annotations

import contextlib
from pathlib import Path

from ssl_zoo.config.errors import SettingError
from ssl_zoo.text import error_reason, printable


def user_path(setting: str, text: str, origin: str = "") -> Path:
    """Return a path that a user wrote, which need not exist, with ``~`` expanded.

    Args:
        setting: the dotted path of the setting, for the message.
        text: the path.
        origin: where the path comes from, for the message.

    Raises:
        SettingError: the path is invalid, or the system forbids access to it.
    """
    try:
        path = Path(text).expanduser()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.stat()
    except (OSError, RuntimeError, ValueError) as error:
        shown = printable(text if len(text) <= 100 else f"{text[:97]}...")
        reason = error_reason(error).rstrip(".")
        raise SettingError(setting, f"{shown}: {reason}; name another path", origin) from error
    return path
