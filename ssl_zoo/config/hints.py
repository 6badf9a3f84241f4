"""The right form of a value that was written in another notation, for error messages."""

from __future__ import annotations

import re
import shlex
from typing import Any

_MAX_LENGTH = 80
"""The maximum length of a value that is written out in its right form."""
_DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+")
_THOUSANDS = re.compile(r"[-+]?[1-9]\d{0,2}([,' ]\d{3})+(\.\d+)?")
_PERCENT = re.compile(r"(\d+(\.\d*)?) ?%")
_SETTING = re.compile(r"(\w+(?:\.\w+)+)\s*[:=\s]\s*(.*)", re.DOTALL)


def value_hint(kind: str, value: Any, path: str, origin: str) -> str:
    """Return how to write a value that pydantic refused, "" if unknown; it starts with ``; ``.

    Args:
        kind: the type of pydantic's error.
        value: the value.
        path: the dotted path of the setting.
        origin: where the value comes from; after ``--set`` the hint is written for a shell.
    """
    if len(str(value)) > _MAX_LENGTH:
        return ""
    if kind in ("tuple_type", "list_type") and isinstance(value, str | int | float):
        items = [item.strip() for item in str(value).strip("()[] ").split(",")]
        text = f"[{', '.join(items)}]" if len(items) > 1 else f"[{items[0]}, …]"
    elif kind == "dict_type":
        text = mapping_hint(str(value)) or "{name: value}"
    elif kind == "string_type" and isinstance(value, int | float):
        text = f'"{value}"'
    elif not isinstance(value, str):
        return ""
    elif "=" in value and "," in value and origin.startswith("--set"):
        return f"; give each setting its own --set: {' '.join(_separate_sets(path, value))}"
    elif is_none(value):
        text = "null"
    elif kind.startswith(("int_", "float_")):
        text = number_hint(value, whole=kind.startswith("int_"))
    elif kind.startswith("bool_"):
        text = "true or false"
    else:
        text = ""
    if not text:
        return ""
    in_shell = origin.startswith("--set") and " or " not in text
    return f"; write {set_option(path, text) if in_shell else text}"


def set_option(path: str, value: str) -> str:
    """Return ``--set PATH=VALUE``, quoted for a shell."""
    return f"--set {shlex.quote(f'{path}={value}')}"


def number_hint(text: str, *, whole: bool = False) -> str:
    """Return a number with a decimal point and without separators or %, "" if `text` is none.

    Args:
        text: the text, such as "0,1", "1,000" or "10 %".
        whole: whether a whole number is expected.
    """
    text = text.strip()
    if match := _PERCENT.fullmatch(text):
        return f"{float(match[1]) / 100:g}"
    thousands = re.sub(r"[,' ]", "", text) if _THOUSANDS.fullmatch(text) else ""
    point = text.replace(",", ".") if _DECIMAL_COMMA.fullmatch(text) and not whole else ""
    return " or ".join(filter(None, (thousands, point)))


def form_hint(text: str) -> str:
    """Return the right form of a setting that was written as ``name: value``; starts with ``; ``."""
    match = _SETTING.fullmatch(text.strip())
    return f"; write {set_option(match[1], match[2])}" if match and match[2] else ""


def comment_in(text: str) -> bool:
    """Return whether YAML would drop the end of this line as a comment."""
    quotes_removed = re.sub(r"\"[^\"]*\"|'[^']*'", "", text)
    return re.search(r"(^|\s)#", quotes_removed) is not None


def mapping_hint(text: str) -> str:
    """Return settings that were written as ``a=1,b=2`` or ``a:1`` as a mapping, "" if they are none."""
    pairs = [re.fullmatch(r"\s*(\w+)\s*[:=]\s*(.+)", part) for part in text.split(",")]
    return f"{{{', '.join(f'{p[1]}: {p[2]}' for p in pairs if p)}}}" if all(pairs) else ""


def is_none(value: object) -> bool:
    """Return whether a value is the text with which Python, not YAML, writes a missing value."""
    return isinstance(value, str) and value.lower() == "none"


def _separate_sets(path: str, value: str) -> list[str]:
    first, *others = re.split(r",\s*(?=[\w.]+=)", value)
    return [set_option(path, first), *(set_option(*text.split("=", 1)) for text in others)]
