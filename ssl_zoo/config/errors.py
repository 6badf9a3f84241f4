"""Errors in settings: one line with the path, the reason, and where the value comes from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from ssl_zoo.config.schema import SECTION_MODELS
from ssl_zoo.errors import UserError
from ssl_zoo.text import did_you_mean, shorten_repr


class SettingError(UserError):
    """A setting is wrong; the message is one line, whatever the setting holds."""

    def __init__(self, message: str) -> None:
        super().__init__(_line(message))


def describe_validation_error(
    error: ValidationError,
    model: type[BaseModel],
    values: dict[str, Any],
    section: str,
    origins: Mapping[tuple[str, str], str],
) -> str:
    """The first of pydantic's complaints, in one line."""
    first = error.errors(include_url=False)[0]
    path = _path(first["loc"], values)
    # A complaint about several fields has no path, but says which they are.
    name = path[0] if path else next(filter(re.findall(r"\w+", first["msg"]).__contains__, values), "")
    said = f"{origin_prefix(origins.get((section, name), ''))}{'.'.join([section, *path])}"
    if first["type"] == "extra_forbidden":
        known = field_names(section, model)
        hint = did_you_mean(name, known) or f" There are: {', '.join(known)}"
        return f"{said}: there is no such setting.{hint if len(path) == 1 else ''}"
    if first["type"] == "missing":
        what = "must be given" if isinstance(first["loc"][-1], str) else "has too few values"
        return f"{said}: {what}"
    message = first["msg"].removeprefix("Value error, ")
    message = re.sub(r"^Input should be", "must be", message)
    shown = f", not {shorten_repr(first['input'])}" if path else ""
    return f"{said}: {message[:1].lower()}{message[1:]}{shown}"


def _path(location: Sequence[int | str], values: Any) -> list[str]:
    """Where in the values a complaint is, without pydantic's names for the members of a union."""
    path: list[str] = []
    for part in location:
        inside = isinstance(values, dict | list)
        try:
            values = values[part] if inside else None
        except (LookupError, TypeError):
            values = None
            inside = not path
        if not inside:
            break
        path.append(str(part))
    return path


def field_names(section: str, model: type[BaseModel] | None = None) -> list[str]:
    """Return the names of a section's settings."""
    model = model or SECTION_MODELS.get(section)
    names = list(model.model_fields) if model is not None else []
    return ["name", *names] if section == "task" and "name" not in names else names


def origin_prefix(origin: str) -> str:
    """Return `origin` as the beginning of a message, "" where it is empty."""
    return f"{origin}: " if origin else ""


def _line(message: object) -> str:
    return " ".join(str(message).split())
