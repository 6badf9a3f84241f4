"""Values as YAML has them, which a configuration keeps in place of what was given."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

from ssl_zoo.config.errors import SettingError
from ssl_zoo.text import shorten_repr

_MAX_DEPTH = 20
_MAX_INT = 2**63 - 1


def plain_value(value: Any, path: str, origin: str, depth: int = 0) -> Any:
    """Return a value as text, finite numbers, lists and dictionaries with text keys, as YAML has them.

    Raises:
        SettingError: the value holds anything else.
    """
    if depth > _MAX_DEPTH:
        raise SettingError(path, "is nested too deeply", origin)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, os.PathLike | str):
        return str(value)
    if isinstance(value, int | float):
        if isinstance(value, int) and abs(value) > _MAX_INT:
            raise SettingError(path, "is too large a number", origin)
        if not math.isfinite(value):
            raise SettingError(path, f"must be a finite number, not {shorten_repr(value)}", origin)
        return int(value) if isinstance(value, int) else float(value)
    if isinstance(value, list | tuple):
        return [plain_value(item, f"{path}.{i}", origin, depth + 1) for i, item in enumerate(value)]
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise SettingError(path, f"has a key that is not text: {shorten_repr(key)}", origin)
        return {
            str(key): plain_value(item, f"{path}.{key}", origin, depth + 1)
            for key, item in value.items()
        }
    reason = f"cannot be of type {type(value).__name__}: {shorten_repr(value)}"
    raise SettingError(path, reason, origin)
