"""Entry points of the group ``ssl_zoo``, read without importing any plugin."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache, reduce
from importlib import import_module
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

GROUP = "ssl_zoo"

_VALUE = re.compile(r"[\w.]+\s*(:\s*[\w.]+\s*(\[.*\]\s*)?)?")


@dataclass(frozen=True)
class EntryPoint:
    """An entry point: ``name = "module:Class"`` is a task, ``name = "module"`` has hooks.

    Attributes:
        name: the text left of the equals sign.
        value: the text right of it.
        distribution: the name of the distribution, or another origin.
        version: the distribution's version, "" if it has none.
        error: why it cannot be parsed, or None.
    """

    name: str
    value: str
    distribution: str
    version: str
    error: str | None = None

    @property
    def module(self) -> str:
        """The name of the module."""
        return self.value.partition(":")[0].strip()

    @property
    def attr(self) -> str:
        """The name of the class, "" for a module of hooks."""
        return self.value.partition(":")[2].partition("[")[0].strip()

    @property
    def origin(self) -> str:
        """The origin in messages."""
        return f"{self.distribution} {self.version}".strip() + f" ({self.value})"

    @property
    def label(self) -> str:
        """The name in messages, and of a hook module in the plugin manager."""
        return f"{self.name!r}, from {self.origin}"

    def load(self) -> Any:
        """Import the class or module; pass on any exception."""
        names = self.attr.split(".") if self.attr else []
        return reduce(getattr, names, import_module(self.module))


@cache
def canonical_name(name: str) -> str:
    """Return the normalised name of a distribution, for comparisons (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed() -> list[EntryPoint]:
    """Return the entry points of all installed distributions, sorted by name, broken ones included.

    They are read again only after a folder of `sys.path` has changed.
    """
    return list(_read_all(tuple(map(_folder_state, sys.path))))


def _folder_state(folder: str) -> tuple[str, int, int]:
    """Return a cache key: changes when a distribution is installed in a folder or removed from it."""
    try:
        stat = Path(folder).stat()  # "" is the current folder
    except OSError:
        return folder, 0, 0
    return folder, stat.st_ino, stat.st_mtime_ns


@lru_cache(maxsize=1)
def _read_all(state: tuple[tuple[str, int, int], ...]) -> tuple[EntryPoint, ...]:
    by_distribution: dict[str, list[EntryPoint]] = {}
    for distribution in distributions():
        # Most distributions have none; the rest of their metadata need not be read.
        if _has_group(distribution):
            # Of two copies on sys.path, Python imports the first.
            entries = list(_read(distribution))
            by_distribution.setdefault(canonical_name(_metadata(distribution, "Name")), entries)
    all_entries = (entry for entries in by_distribution.values() for entry in entries)
    return tuple(sorted(all_entries, key=lambda entry: (entry.name, entry.distribution)))


def _has_group(distribution: Distribution) -> bool:
    try:
        return GROUP in (distribution.read_text("entry_points.txt") or "")
    except ValueError:  # is not valid UTF-8
        return False


def _read(distribution: Distribution) -> Iterator[EntryPoint]:
    name = _metadata(distribution, "Name") or "a distribution without a name"
    version = _metadata(distribution, "Version")
    try:
        points = list(distribution.entry_points)
    except Exception:  # importlib.metadata fails at a line without an equals sign
        yield EntryPoint("?", "entry_points.txt", name, version, "entry_points.txt cannot be parsed")
        return
    for point in points:
        if point.group == GROUP:
            valid = _VALUE.fullmatch(point.value) is not None
            error = None if valid else f"{point.value!r} is neither module nor module:Class"
            yield EntryPoint(point.name, point.value, name, version, error)


def _metadata(distribution: Distribution, key: str) -> str:
    try:
        return str(distribution.metadata[key] or "")
    except Exception:  # a missing key is None or an error, depending on Python's version
        return ""


def imported_location(entry: EntryPoint) -> Path | None:
    """Return the folder of an entry point's package, or its file; None if it is not imported."""
    top = entry.module.partition(".")[0]
    file = getattr(sys.modules.get(top), "__file__", None)
    if file is None or top == "ssl_zoo":
        return None
    return Path(file).parent if hasattr(sys.modules[top], "__path__") else Path(file)


def conflict(claims: Iterable[EntryPoint]) -> str:
    """Return the error of entry points that claim one name."""
    return (
        f"claimed by {' and by '.join(entry.origin for entry in claims)}; "
        "uninstall one, or disable it with --no-plugin"
    )
