"""Notices: one line about each thing that is skipped, dropped, clipped, guessed or taken as a default.

A kind of notice is declared once, as a constant of the module that gives it:

    CENTRE = Notice(
        "centre-square",
        "Images that are not square are cut to their central square.",
        "cut them yourself before training",
    )

and is given by calling it: ``CENTRE("92 of 102 images are not square; their edges are cut off")``.

Notices are log records of the level INFO of the logger ``ssl_zoo.notices``. The command line prints each
text once, unless ``--quiet`` is set, and a run keeps them under ``notices`` in its ``results.json``.
Something that is probably a mistake is a warning of an ordinary logger instead, which nothing silences.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

LOGGER = logging.getLogger("ssl_zoo.notices")
LOGGER.setLevel(logging.INFO)

KINDS: dict[str, Notice] = {}
"""All kinds of notices that have been declared, by name; docs/notices.md is the table of them."""


@dataclass(frozen=True)
class Notice:
    """A kind of notice.

    Attributes:
        name: a short name in lower case, unique, with hyphens.
        what: what is done, and when, in a sentence.
        change: how a user changes it: an option, a setting, or something to do.

    Raises:
        ValueError: another kind has this name.
    """

    name: str
    what: str
    change: str

    def __post_init__(self) -> None:
        if KINDS.setdefault(self.name, self) != self:
            raise ValueError(f"there is another notice named {self.name!r}")

    def __call__(self, text: str) -> None:
        """Give a notice of this kind.

        Args:
            text: one line, with the numbers and names of this case, and how to change it.
        """
        LOGGER.info("%s", text, extra={"notice": self.name})


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.notices: list[dict[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        notice = {"notice": getattr(record, "notice", ""), "text": record.getMessage()}
        if notice not in self.notices:
            self.notices.append(notice)


@contextmanager
def collect_notices() -> Iterator[list[dict[str, str]]]:
    """Collect the notices given meanwhile, each text once, as ``{"notice": NAME, "text": TEXT}``."""
    collector = _Collector()
    LOGGER.addHandler(collector)
    try:
        yield collector.notices
    finally:
        LOGGER.removeHandler(collector)
