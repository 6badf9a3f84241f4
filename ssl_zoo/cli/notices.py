"""Notices and warnings as lines on standard error, and as JSON."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ssl_zoo.notices import PACKAGE, collect_notices, collected
from ssl_zoo.text import escape_control_chars

PRINTED = "SSL_ZOO_PRINTED"
"""The variable with the lines that a process has printed before it started this one."""


class _Formatter(logging.Formatter):
    """A formatter of what other libraries warn of; such text may quote files."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, with control characters escaped."""
        return f"{record.levelname.lower()}: {escape_control_chars(super().format(record))}"


class _Printer(logging.Handler):
    """A handler that prints each notice and warning on standard error, once, above any progress bar.

    Args:
        notices: whether to print notices; warnings are printed always.
    """

    def __init__(self, notices: bool) -> None:
        super().__init__(logging.INFO if notices else logging.WARNING)
        self.printed = set(json.loads(os.environ.get(PRINTED, "[]")))

    def emit(self, record: logging.LogRecord) -> None:
        from ssl_zoo.cli.console import err

        prefix = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        text = f"{prefix}{record.getMessage()}"
        if text not in self.printed:
            self.printed.add(text)
            err.print(text, markup=False, soft_wrap=True)


@contextmanager
def print_notices(wanted: bool) -> Iterator[None]:
    """Temporarily collect notices and warnings, and print them, notices only where they are wanted.

    Of several processes only the first prints notices.
    """
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_Formatter())
    printer = _Printer(wanted and os.environ.get("RANK", "0") == "0")
    PACKAGE.addHandler(printer)
    try:
        with collect_notices():
            yield
    finally:
        PACKAGE.removeHandler(printer)


def printed_lines() -> str:
    """Return the lines printed so far, as the variable `PRINTED` holds them."""
    printers = (handler for handler in PACKAGE.handlers if isinstance(handler, _Printer))
    return json.dumps(sorted({line for printer in printers for line in printer.printed}))


def with_notices(results: dict[str, Any]) -> dict[str, Any]:
    """Add the notices and warnings of this command to its results, with the facts of notices."""
    given = collected()
    return {**given.facts, **results, "notices": given}
