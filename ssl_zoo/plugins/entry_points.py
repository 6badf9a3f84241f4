"""What is announced under the entry-point group ``ssl_zoo``, found without importing any of it."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache, reduce
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

from ssl_zoo.text import docstring_summary

GROUP = "ssl_zoo"

_VALUE = re.compile(r"[\w.]+\s*(:\s*[\w.]+\s*(\[.*\]\s*)?)?")


@dataclass(frozen=True)
class EntryPoint:
    """One line of the group: ``name = "module:Class"`` is a task, ``name = "module"`` has hooks.

    Attributes:
        name: what stands left of the equals sign.
        value: what stands right of it.
        distribution: the name of the distribution, or where else it comes from.
        version: that distribution's version, empty if it has none.
        error: why it cannot be understood, None if it can.
    """

    name: str
    value: str
    distribution: str
    version: str
    error: str | None = None

    @property
    def module(self) -> str:
        """The module that it names."""
        return self.value.partition(":")[0].strip()

    @property
    def attr(self) -> str:
        """The class that it names, empty for a module of hooks."""
        return self.value.partition(":")[2].partition("[")[0].strip()

    @property
    def origin(self) -> str:
        """Where it comes from, as messages name it."""
        return f"{self.distribution} {self.version}".strip() + f" ({self.value})"

    @property
    def label(self) -> str:
        """The name in messages, and of a hook module in the plugin manager."""
        return f"{self.name!r}, from {self.origin}"

    def load(self) -> Any:
        """Import what it names; raises whatever that raises."""
        names = self.attr.split(".") if self.attr else []
        return reduce(getattr, names, import_module(self.module))


@cache
def canonical_name(name: str) -> str:
    """A name as distributions are compared by (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed() -> list[EntryPoint]:
    """The entries of every installed distribution, by name; a broken one costs no other.

    They are read again only after a distribution has come or gone, as the folders of `sys.path` tell.
    """
    return list(_read_all(tuple(map(_state, sys.path))))


def _state(place: str) -> tuple[str, int, int]:
    """What is not the same once a distribution has been put into a folder or taken out of it."""
    try:
        stat = Path(place).stat()  # of "", the current folder
    except OSError:
        return place, 0, 0
    return place, stat.st_ino, stat.st_mtime_ns


@lru_cache(maxsize=1)
def _read_all(state: tuple[tuple[str, int, int], ...]) -> tuple[EntryPoint, ...]:
    found: dict[str, list[EntryPoint]] = {}
    for distribution in distributions():
        # Most have none; the rest of their metadata is then not read.
        if _announces(distribution):
            # Of two copies on sys.path the first is the one that is imported.
            entries = list(_read(distribution))
            found.setdefault(canonical_name(_metadata(distribution, "Name")), entries)
    everything = (entry for entries in found.values() for entry in entries)
    return tuple(sorted(everything, key=lambda entry: (entry.name, entry.distribution)))


def _announces(distribution: Distribution) -> bool:
    try:
        return GROUP in (distribution.read_text("entry_points.txt") or "")
    except ValueError:  # is no UTF-8
        return False


def _read(distribution: Distribution) -> Iterator[EntryPoint]:
    name = _metadata(distribution, "Name") or "a distribution without a name"
    version = _metadata(distribution, "Version")
    try:
        points = list(distribution.entry_points)
    except Exception:  # importlib.metadata stumbles over a line without an equals sign
        yield EntryPoint("?", "entry_points.txt", name, version, "entry_points.txt cannot be understood")
        return
    for point in points:
        if point.group == GROUP:
            understood = _VALUE.fullmatch(point.value) is not None
            error = None if understood else f"{point.value!r} is neither module nor module:Class"
            yield EntryPoint(point.name, point.value, name, version, error)


def _metadata(distribution: Distribution, key: str) -> str:
    try:
        return str(distribution.metadata[key] or "")
    except Exception:  # what is missing is None or an error, depending on Python's version
        return ""


def describe(entry: EntryPoint) -> tuple[str, str]:
    """The first line of a class's docstring and its `paper`, read from the source.

    No code of the plugin runs, not even its package's. What cannot be found is empty.
    """
    try:
        spec = _find(entry.module)
        source = spec.loader.get_source(entry.module)  # type: ignore[union-attr]
        body = ast.parse(source).body
    except Exception:  # whatever is the matter with it, importing it will tell
        return "", ""
    for node in body:
        if isinstance(node, ast.ClassDef) and node.name == entry.attr:
            return docstring_summary(ast.get_docstring(node)), _text(node, "paper")
    return "", ""


def _find(module: str) -> ModuleSpec | None:
    """Find a module as `importlib.util.find_spec` does, but without importing its parents."""
    name, *rest = module.split(".")
    spec = importlib.util.find_spec(name)
    for part in rest:
        name = f"{name}.{part}"
        places = spec.submodule_search_locations if spec is not None else None
        spec = PathFinder.find_spec(name, places) if places is not None else None
    return spec


def _text(node: ast.ClassDef, attribute: str) -> str:
    """The value of a class attribute that is a string literal, empty if it is none."""
    for statement in node.body:
        if isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            named = any(isinstance(target, ast.Name) and target.id == attribute for target in targets)
            value = statement.value
            if named and isinstance(value, ast.Constant) and isinstance(value.value, str):
                return value.value
    return ""
