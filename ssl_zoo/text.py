"""Helpers that shorten, clean or escape a line of text for messages."""

from __future__ import annotations

import difflib
import importlib
import re
import textwrap
import traceback
from collections.abc import Collection, Iterable
from pathlib import Path

_PACKAGE = Path(__file__).parent
_MACHINERY = {
    importlib.__file__,
    *(str(file) for package in ("plugins", "config") for file in (_PACKAGE / package).glob("*.py")),
}
"""Files whose frames in a traceback say nothing about the cause of a plugin's failure."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'a' or 'b'?`` for the known names nearest to `name`, or "".

    The text starts with a space, so that it can be appended to a sentence.
    """
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""


def one_line(value: object, limit: int | None = None) -> str:
    """Return `str(value)` on one line, cut at a word to at most `limit` characters."""
    text = " ".join(str(value).split())
    return text if limit is None else textwrap.shorten(text, limit, placeholder=" …")


def quantity(number: int, plural: str) -> str:
    """Return a number with its noun, such as "1 image" or "2,000 images".

    Args:
        number: the number.
        plural: the plural of the noun, as `singular` takes it.
    """
    return f"{number:,} {singular(plural) if number == 1 else plural}"


def singular(plural: str) -> str:
    """Return the singular of a noun whose plural ends in -s, -es after a hissing sound, or -ies."""
    endings = {r"ies$": "y", r"(ss|x|ch|sh)es$": r"\1", r"s$": ""}
    matching = (re.sub(end, new, plural) for end, new in endings.items() if re.search(end, plural))
    return next(matching, plural)


def docstring_summary(text: str | None) -> str:
    """Return the first line of a docstring, "" if there is none."""
    return text.strip().partition("\n")[0].strip() if text else ""


def error_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type where it has none."""
    return (str(error) or type(error).__name__).splitlines()[0]


def error_reason(error: BaseException) -> str:
    """Return the reason for an error in one line, without the file name that an OSError repeats."""
    return printable(one_line(getattr(error, "strerror", None) or str(error) or type(error).__name__))


def locate_error(error: BaseException, within: Collection[Path] = ()) -> str:
    """Return an exception in one line, with the file and line that raised it.

    Args:
        error: the exception.
        within: files and folders whose own line is preferred to that of a library they called.
    """
    kind = type(error).__name__
    if isinstance(error, SyntaxError):
        return f"{kind}: {error.msg} at {error.filename}:{error.lineno}"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename not in _MACHINERY and not frame.filename.startswith("<frozen importlib")
    ]
    own = [frame for frame in frames if any(map(Path(frame.filename).is_relative_to, within))]
    frames = own or frames
    location = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    text = " ".join(str(error).split()[:60])
    return f"{kind}{': ' if text else ''}{text}{location}"


def shorten_repr(value: object) -> str:
    """Return `repr(value)`, cut to 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def printable(name: object) -> str:
    """Return a file name on one line, escaped where it has a line break or invalid bytes."""
    text = str(name)
    return text if text.isprintable() else ascii(text)


def escape_control_chars(text: str) -> str:
    """Escape everything in `text` that a terminal would execute rather than show."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)
