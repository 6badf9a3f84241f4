"""The description of a task, read from its source without importing it."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from functools import lru_cache
from importlib.machinery import ModuleSpec, PathFinder
from typing import TYPE_CHECKING, Any, NamedTuple

from ssl_zoo.text import docstring_summary

if TYPE_CHECKING:
    from ssl_zoo.task import Task


class Description(NamedTuple):
    """A task's description of itself; what is unknown is empty.

    Attributes:
        summary: the first line of the class's docstring.
        paper: the class's `paper`.
        family: the family of methods that it belongs to.
        modality: the kind of data that it takes.
        needs: what its loss gets beside the views.
        prerequisites: what it asks of backbone and batch.
        passes: samples that encoders process for each sample; 0 if unknown.
    """

    summary: str = ""
    paper: str = ""
    family: str = ""
    modality: str = ""
    needs: tuple[str, ...] = ()
    prerequisites: str = ""
    passes: float = 0

    @classmethod
    def of(cls, task: type[Task]) -> Description:
        """Return the description of a task that is imported."""
        values = {name: getattr(task, name) for name in cls._fields if name != "summary"}
        return cls(docstring_summary(task.__doc__), **values)


class SourceReader:
    """A reader of the source of classes; no code of a plugin runs, not even that of its package."""

    def __init__(self) -> None:
        self._modules: dict[str, tuple[list[ast.stmt], bool]] = {}

    def describe(self, module: str, name: str) -> Description:
        """Return the description of a task, as far as its source and that of its bases are found."""
        lineage = list(self._lineage(module, name, set()))
        if not lineage:
            return Description()
        texts = {
            key: str(_value(lineage, key) or "")
            for key in ("paper", "family", "modality", "prerequisites")
        }
        needs, passes = _value(lineage, "needs"), _value(lineage, "passes")
        return Description(
            docstring_summary(ast.get_docstring(lineage[0])),
            needs=tuple(map(str, needs)) if isinstance(needs, tuple | list) else (),
            passes=passes if isinstance(passes, int | float) else 0,
            **texts,
        )

    def _lineage(self, module: str, name: str, seen: set[tuple[str, str]]) -> Iterator[ast.ClassDef]:
        """Yield a class and its bases, depth first; an imported name is looked up in its module."""
        if (module, name) in seen:
            return
        seen.add((module, name))
        body, is_package = self._parse(module)
        for node in body:
            if isinstance(node, ast.ClassDef) and node.name == name:
                yield node
                for base in node.bases:
                    if isinstance(base, ast.Name):
                        yield from self._lineage(module, base.id, seen)
                return
        for statement in ast.walk(ast.Module(body, [])):
            if isinstance(statement, ast.ImportFrom):
                for alias in statement.names:
                    if (alias.asname or alias.name) == name:
                        origin = _absolute(statement, module, is_package)
                        yield from self._lineage(origin, alias.name, seen)
                        return

    def _parse(self, module: str) -> tuple[list[ast.stmt], bool]:
        """Return the statements of a module, none if it cannot be read, and whether it is a package."""
        if module not in self._modules:
            try:
                spec = _find(module)
                source = spec.loader.get_source(module)  # type: ignore[union-attr]
                self._modules[module] = (
                    _statements(source),
                    spec.submodule_search_locations is not None,  # type: ignore[union-attr]
                )
            except Exception:  # importing it will report the error
                self._modules[module] = [], False
        return self._modules[module]


@lru_cache(maxsize=256)
def _statements(source: str) -> list[ast.stmt]:
    """Return the statements of a source; a process asks for those of all tasks several times."""
    return ast.parse(source).body


def _absolute(node: ast.ImportFrom, module: str, is_package: bool) -> str:
    """Return the name of the module that a statement imports from."""
    parts = module.split(".")
    parent = parts[: len(parts) + is_package - node.level] if node.level else []
    return ".".join([*parent, *([node.module] if node.module else [])])


def _find(module: str) -> ModuleSpec | None:
    """Find a module as `importlib.util.find_spec` does, but without importing its parents."""
    name, *rest = module.split(".")
    spec = importlib.util.find_spec(name)
    for part in rest:
        name = f"{name}.{part}"
        folders = spec.submodule_search_locations if spec is not None else None
        spec = PathFinder.find_spec(name, folders) if folders is not None else None
    return spec


def _value(lineage: list[ast.ClassDef], attribute: str) -> Any:
    """Return the literal that the first of some classes gives an attribute, None if there is none."""
    for statement in (statement for node in lineage for statement in node.body):
        if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None:
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            if any(isinstance(target, ast.Name) and target.id == attribute for target in targets):
                try:
                    return ast.literal_eval(statement.value)
                except ValueError:  # is computed
                    return None
    return None
