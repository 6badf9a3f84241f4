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
Something that is probably a mistake is a warning of an ordinary logger instead, which nothing silences;
it is kept in the same place, under the name ``warning``.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

PACKAGE = logging.getLogger("ssl_zoo")
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
        at_once: whether it is given at once also within `hold_back_notices`.

    Raises:
        ValueError: another kind has this name.
    """

    name: str
    what: str
    change: str
    at_once: bool = False

    def __post_init__(self) -> None:
        if KINDS.setdefault(self.name, self) != self:
            raise ValueError(f"there is another notice named {self.name!r}")

    def __call__(self, text: str, **facts: object) -> None:
        """Give a notice of this kind.

        Args:
            text: one line, with the numbers and names of this case, and how to change it.
            facts: the same for programs, as values for JSON by name.
        """
        extra = {"notice": self.name, "at_once": self.at_once, "facts": facts}
        LOGGER.info("%s", text, extra=extra)


class Collected(list[dict[str, str]]):
    """The notices given, and warnings, each text once, as ``{"notice": NAME, "text": TEXT}``.

    Attributes:
        facts: the facts that came with them, by name; of several of one name the first.
    """

    def __init__(self) -> None:
        super().__init__()
        self.facts: dict[str, Any] = {}


class _Collector(logging.Handler):
    """A handler that adds to all collections that are open.

    As a logger with a handler does not show its warnings by itself, it passes them on where it is alone.
    """

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.open: list[Collected] = []

    def emit(self, record: logging.LogRecord) -> None:
        notice = {"notice": getattr(record, "notice", "warning"), "text": record.getMessage()}
        for collection in self.open:
            if notice not in collection:
                collection.append(notice)
                collection.facts = {**getattr(record, "facts", {}), **collection.facts}
        alone = PACKAGE.handlers == [self] and not (PACKAGE.parent and PACKAGE.parent.hasHandlers())
        if alone and logging.lastResort is not None and record.levelno >= logging.lastResort.level:
            logging.lastResort.handle(record)


_COLLECTOR = _Collector()


@contextmanager
def collect_notices() -> Iterator[Collected]:
    """Collect the notices and warnings given meanwhile."""
    collection = Collected()
    if not _COLLECTOR.open:
        PACKAGE.addHandler(_COLLECTOR)
    _COLLECTOR.open.append(collection)
    try:
        yield collection
    finally:
        _COLLECTOR.open.pop()
        if not _COLLECTOR.open:
            PACKAGE.removeHandler(_COLLECTOR)


def collected() -> Collected:
    """Return what the outermost `collect_notices` has collected so far; nothing without one."""
    return _COLLECTOR.open[0] if _COLLECTOR.open else Collected()


@contextmanager
def hold_back_notices() -> Iterator[None]:
    """Temporarily hold notices back, and give them at the end, but those that are given at once."""
    held: list[logging.LogRecord] = []

    def passes(record: logging.LogRecord) -> bool:
        if not (at_once := bool(getattr(record, "at_once", False))):
            held.append(record)
        return at_once

    LOGGER.addFilter(passes)
    try:
        yield
    finally:
        LOGGER.removeFilter(passes)
        for record in held:
            LOGGER.handle(record)


@contextmanager
def silence() -> Iterator[None]:
    """Temporarily drop all log records and Python's warnings, as in a trial on other samples."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
