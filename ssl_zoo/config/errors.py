"""Errors in settings, with the setting's path, the reason and the origin; pydantic's errors as text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from ssl_zoo.config.hints import value_hint
from ssl_zoo.config.schema import SECTION_MODELS
from ssl_zoo.errors import UserError
from ssl_zoo.text import did_you_mean, one_line, shorten_repr


class SettingError(UserError):
    """An error in a setting; its text is one line, ``ORIGIN: PATH: REASON`` without empty parts.

    Attributes:
        path: the dotted path of the setting, such as ``train.lr``; "" if no single setting is wrong.
        reason: what is wrong, and what to do.
        origin: where the value comes from, such as ``--config FILE`` or ``--lr``; "" if unknown.
    """

    def __init__(self, path: str, reason: str, origin: str = "") -> None:
        self.path, self.reason, self.origin = one_line(path), one_line(reason), one_line(origin)
        super().__init__(": ".join(filter(None, (self.origin, self.path, self.reason))))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.reason, self.origin)


def setting_error(
    error: ValidationError,
    model: type[BaseModel],
    values: dict[str, Any],
    section: str,
    origins: Mapping[tuple[str, str], str],
) -> SettingError:
    """Return pydantic's first error in a section as a `SettingError`.

    Args:
        error: the error.
        model: the model of the section.
        values: the values that were validated.
        section: the section's name.
        origins: where values come from, by section and field.
    """
    path, reason = first_error(error, values, field_names(section, model))
    first = error.errors(include_url=False)[0]
    # An error about several fields has no path, but its message names them.
    name = path.partition(".")[0] or next(filter(re.findall(r"\w+", reason).__contains__, values), "")
    path, origin = f"{section}.{path}".rstrip("."), origins.get((section, name), "")
    reason += value_hint(first["type"], first["input"], path, origin)
    return SettingError(path, reason, origin)


def first_error(error: ValidationError, values: Any, known: Sequence[str] = ()) -> tuple[str, str]:
    """Return the dotted path, "" if there is none, and the reason of pydantic's first error.

    Args:
        error: the error.
        values: the values that were validated.
        known: the names of the model's fields, suggested in place of an unknown one.
    """
    first = error.errors(include_url=False)[0]
    path = _path(first["loc"], values)
    if first["type"] == "extra_forbidden":
        hint = ""
        if known and len(path) == 1:
            hint = did_you_mean(path[0], known) or f" There are: {', '.join(known)}"
        reason = f"there is no such setting.{hint}"
    elif first["type"] == "transform":  # says it all, see ssl_zoo.views.named
        reason = first["msg"]
    elif first["type"] == "missing":
        reason = "must be given" if isinstance(first["loc"][-1], str) else "has too few values"
    else:
        message = first["msg"].removeprefix("Value error, ")
        message = re.sub(r"^Input should be", "must be", message)
        value = f", not {shorten_repr(first['input'])}" if path else ""
        reason = f"{message[:1].lower()}{message[1:]}{value}"
    return ".".join(path), reason


def _path(location: Sequence[int | str], values: Any) -> list[str]:
    """Return the location of an error in the values, without pydantic's names of union members."""
    path: list[str] = []
    for part in location:
        exists = isinstance(values, dict | list)
        try:
            values = values[part] if exists else None
        except (LookupError, TypeError):
            values = None
            exists = not path
        if not exists:
            break
        path.append(str(part))
    return path


def field_names(section: str, model: type[BaseModel] | None = None) -> list[str]:
    """Return the names of a section's settings."""
    model = model or SECTION_MODELS.get(section)
    names = list(model.model_fields) if model is not None else []
    return ["name", *names] if section == "task" and "name" not in names else names
