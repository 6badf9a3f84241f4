"""Finding plugins through the entry-point group ``ssl_zoo``, and keeping their faults apart.

An entry point ``name = "package.module:Class"`` is a task of that name; ``name = "package.module"``
is a module of hook implementations. So what is a task is known without importing it, and one task
is imported without the others.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import os
import sys
import traceback
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pluggy

from ssl_zoo import hooks
from ssl_zoo.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from ssl_zoo.task import Task

GROUP = "ssl_zoo"


@dataclass(frozen=True)
class TaskEntry:
    """A task as its distribution announces it.

    Attributes:
        name: the task's name.
        value: ``module:Class``.
        distribution: the name of the distribution that brings it.
        version: that distribution's version.
        summary: the first line of the class's docstring, empty if its source cannot be found.
        paper: the class's `paper`, likewise.
    """

    name: str
    value: str
    distribution: str
    version: str
    summary: str
    paper: str


@dataclass(frozen=True)
class PluginEntry:
    """A plugin, sound or not.

    Attributes:
        name: the entry point's name.
        distribution: the name of the distribution that brings it.
        version: that distribution's version.
        contributes: "task", or the names of its hooks.
        fault: what is wrong with it, None if nothing was found.
    """

    name: str
    distribution: str
    version: str
    contributes: str
    fault: str | None


class _Registry:
    """What was registered or switched off in this process, beside what is installed."""

    def __init__(self) -> None:
        self.tasks: dict[str, type[Task]] = {}
        self.files: list[tuple[str, ModuleType]] = []
        self.disabled = {
            name.strip()
            for name in os.environ.get("SSL_ZOO_DISABLE_PLUGINS", "").split(",")
            if name.strip()
        }


_registry = _Registry()


def disable(names: Iterable[str]) -> None:
    """Leave out the plugins of these names, or of these distributions."""
    _registry.disabled.update(names)
    hook_manager.cache_clear()


def register_task(cls: type[Task]) -> type[Task]:
    """Register a task in this process alone, without a distribution; usable as a decorator.

    Raises:
        UserError: it is no task.
    """
    _registry.tasks[_checked(cls, cls.__name__, getattr(cls, "name", None)).name] = cls
    return cls


def load_file(path: Path) -> None:
    """Use the plugin in a Python file: every task that it defines, and its hooks.

    Raises:
        UserError: the file cannot be imported, or has neither.
    """
    from ssl_zoo.task import Task

    name = f"ssl_zoo_plugin_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise UserError(f"--plugin {path}: is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"--plugin {path}: {_where(error)}") from error
    defined = [
        cls
        for cls in vars(module).values()
        if inspect.isclass(cls) and issubclass(cls, Task) and cls.__module__ == name
    ]
    for cls in defined:
        register_task(cls)
    if _hook_names(module):
        _registry.files.append((str(path), module))
        hook_manager.cache_clear()
    elif not defined:
        raise UserError(f"--plugin {path}: defines no task and implements no hook")


def tasks() -> dict[str, TaskEntry]:
    """The installed tasks by name, none of them imported; of a contested name the first."""
    found: dict[str, TaskEntry] = {}
    for entry in _entries():
        if entry.attr and entry.name not in found:
            summary, paper = _read_class(entry)
            found[entry.name] = TaskEntry(
                entry.name, entry.value, *_origin(entry), summary=summary, paper=paper
            )
    for name, cls in _registry.tasks.items():
        summary = _first_line(cls.__doc__)
        value = f"{cls.__module__}:{cls.__qualname__}"
        found[name] = TaskEntry(name, value, "this process", "", summary, cls.paper)
    return dict(sorted(found.items()))


def load_task(name: str) -> type[Task]:
    """Import one task, and no other.

    Raises:
        UserError: there is no such task, two distributions claim the name, it cannot be imported, or
            it is no task.
    """
    if name in _registry.tasks:
        return _registry.tasks[name]
    claims = [entry for entry in _entries() if entry.attr and entry.name == name]
    if not claims:
        return _hooked_task(name)
    if len(claims) > 1:
        raise UserError(f"task {name!r}: {_contest(claims)}")
    (entry,) = claims
    try:
        cls = entry.load()
    except Exception as error:
        raise UserError(
            f"task {name!r}, from {_named(entry)}, cannot be imported: {_where(error)}"
        ) from error
    return _checked(cls, f"task {name!r}, from {_named(entry)}", name)


def _hooked_task(name: str) -> type[Task]:
    registered = collect("ssl_zoo_register_tasks")
    if name in registered:
        return _checked(registered[name], f"task {name!r}", name)
    known = [*tasks(), *registered]
    if not known:
        raise UserError(f"there is no task {name!r}: no installed distribution brings any task")
    raise UserError(
        f"there is no task {name!r}.{did_you_mean(name, known)} There are: {', '.join(known)}"
    )


def _checked(cls: Any, what: str, name: object) -> type[Task]:
    from ssl_zoo.task import Task

    if not (inspect.isclass(cls) and issubclass(cls, Task)):
        raise UserError(f"{what}, is no subclass of ssl_zoo.Task: {cls!r}")
    if inspect.isabstract(cls):
        missing = ", ".join(sorted(cls.__abstractmethods__))
        raise UserError(f"{what}, lacks the methods: {missing}")
    if not isinstance(name, str) or getattr(cls, "name", None) != name:
        said = getattr(cls, "name", None)
        raise UserError(f"{what}, calls itself {said!r}: its `name` must be its entry point's")
    return cls


@cache
def hook_manager() -> pluggy.PluginManager:
    """The plugin manager with every sound hook module; the faults of others are in `plugins`."""
    manager = pluggy.PluginManager(hooks.PROJECT)
    manager.add_hookspecs(hooks)
    for entry in _entries():
        if not entry.attr:
            fault = _register(manager, entry)
            if fault is not None:
                warnings.warn(f"plugin {entry.name!r}, from {_named(entry)}: {fault}", stacklevel=2)
    for path, module in _registry.files:
        manager.register(module, path)
    return manager


def _register(manager: pluggy.PluginManager, entry: EntryPoint) -> str | None:
    """Register a hook module, unless it has a fault, which is returned."""
    try:
        module = entry.load()
    except Exception as error:
        return f"cannot be imported: {_where(error)}"
    specs = [name for name in vars(hooks) if name.startswith("ssl_zoo_")]
    for name in _hook_names(module):
        if name not in specs:
            return f"there is no hook {name!r}.{did_you_mean(name, specs)}"
        allowed = inspect.signature(getattr(hooks, name)).parameters
        given = inspect.signature(getattr(module, name)).parameters
        if not set(given) <= set(allowed):
            return f"{name}({', '.join(given)}) does not fit the hook's {name}({', '.join(allowed)})"
    manager.register(module, entry.name)
    return None


def _hook_names(module: ModuleType) -> list[str]:
    """The functions of a module that are marked as hooks, or named as if they were meant to be."""
    return [
        name
        for name, value in vars(module).items()
        if inspect.isfunction(value) and (hasattr(value, "ssl_zoo_impl") or name.startswith("ssl_zoo_"))
    ]


def collect(hook: str) -> dict[str, Any]:
    """Call a registering hook of every plugin, and join what they give.

    Raises:
        UserError: two plugins give one name, or one raises.
    """
    manager = hook_manager()
    joined: dict[str, Any] = {}
    givers: dict[str, str] = {}
    for implementation in getattr(manager.hook, hook).get_hookimpls():
        plugin = implementation.plugin_name
        try:
            given: Mapping[str, Any] = implementation.function()
        except Exception as error:
            raise UserError(f"plugin {plugin!r}, hook {hook}: {_where(error)}") from error
        for name, value in given.items():
            if name in joined:
                raise UserError(f"plugins {givers[name]!r} and {plugin!r} both register {name!r}")
            joined[name], givers[name] = value, plugin
    return joined


_warned: set[tuple[str, str]] = set()


def notify(hook: str, **arguments: Any) -> None:
    """Tell every observer; one that raises is reported once, and stops nothing."""
    for implementation in getattr(hook_manager().hook, hook).get_hookimpls():
        wanted = {name: arguments[name] for name in implementation.argnames}
        try:
            implementation.function(**wanted)
        except Exception as error:
            key = (implementation.plugin_name, hook)
            if key not in _warned:
                _warned.add(key)
                warnings.warn(
                    f"plugin {key[0]!r}, hook {hook}: {_where(error)}; it goes on unheard",
                    stacklevel=2,
                )


def plugins(check: bool = False) -> list[PluginEntry]:
    """Every installed plugin with its fault, if any.

    Args:
        check: import the tasks too, to find theirs.
    """
    entries = _entries()
    listed = []
    scratch = pluggy.PluginManager(hooks.PROJECT)
    scratch.add_hookspecs(hooks)
    for entry in entries:
        fault = None
        if entry.attr:
            claims = [e for e in entries if e.attr and e.name == entry.name]
            contributes = "task"
            if len(claims) > 1:
                fault = _contest(claims)
            elif check:
                fault = _task_fault(entry.name)
        else:
            fault = _register(scratch, entry)
            module = sys.modules.get(entry.module)
            contributes = ", ".join(_hook_names(module)) if module and fault is None else "hooks"
        listed.append(PluginEntry(entry.name, *_origin(entry), contributes, fault))
    return listed


def _task_fault(name: str) -> str | None:
    try:
        load_task(name)
    except UserError as error:
        return str(error)
    return None


def _entries() -> list[EntryPoint]:
    """The entry points of the group that are not switched off, by name."""
    found = {(e.name, e.value, _origin(e)): e for e in entry_points(group=GROUP)}
    return sorted(
        (entry for entry in found.values() if not _registry.disabled & {entry.name, _origin(entry)[0]}),
        key=lambda entry: (entry.name, _origin(entry)),
    )


def _origin(entry: EntryPoint) -> tuple[str, str]:
    """The distribution that an entry point comes from, and its version."""
    distribution = entry.dist
    if distribution is None:
        return "an unknown distribution", ""
    return distribution.name, distribution.version


def _named(entry: EntryPoint) -> str:
    return f"{' '.join(_origin(entry))} ({entry.value})"


def _contest(claims: list[EntryPoint]) -> str:
    return (
        f"claimed by {' and by '.join(map(_named, claims))}; "
        "uninstall one, or switch it off with --no-plugin"
    )


def _where(error: BaseException) -> str:
    """An exception in one line, with the place that it was raised at."""
    text = (str(error) or type(error).__name__).splitlines()[0]
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__)
        if "importlib" not in frame.filename
    ]  # fmt: skip
    if isinstance(error, SyntaxError):
        place = f" at {error.filename}:{error.lineno}"
    else:
        place = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}: {text}{place}"


def _read_class(entry: EntryPoint) -> tuple[str, str]:
    """The summary and the paper of a task's class, read from its source without importing it."""
    try:
        spec = importlib.util.find_spec(entry.module)
        if spec is None or spec.origin is None:
            return "", ""
        tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    except Exception:  # a broken package; `plugins(check=True)` tells
        return "", ""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == entry.attr:
            return _first_line(ast.get_docstring(node)), _literal(node, "paper")
    return "", ""


def _literal(node: ast.ClassDef, attribute: str) -> str:
    for statement in node.body:
        if isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            named = any(isinstance(t, ast.Name) and t.id == attribute for t in targets)
            if named and isinstance(statement.value, ast.Constant):
                return str(statement.value.value)
    return ""


def _first_line(text: str | None) -> str:
    return text.strip().splitlines()[0] if text and text.strip() else ""
