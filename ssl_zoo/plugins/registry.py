"""Loading plugins one by one, and keeping their faults apart.

An entry point ``name = "package.module:Class"`` is a task of that name; ``name = "package.module"``
is a module of hook implementations. So what is a task is known without importing it, and one task
is imported without the others.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import logging
import os
import sys
import traceback
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pluggy

from ssl_zoo.errors import UserError, did_you_mean
from ssl_zoo.plugins import hookspecs as specs
from ssl_zoo.plugins.entry_points import Entry, canonical, describe, first_line, installed
from ssl_zoo.plugins.validation import (
    FAILURES,
    HOOKS,
    OBSERVING,
    hook_fault,
    implementations,
    short,
    task_fault,
    where,
)

if TYPE_CHECKING:
    from ssl_zoo.task import Task

log = logging.getLogger("ssl_zoo.plugins.registry")


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
        contributes: "task", or what its hooks give.
        fault: what is wrong with it, None if nothing was found.
    """

    name: str
    distribution: str
    version: str
    contributes: str
    fault: str | None


_files: list[str] = []
"""The files that were given to `load_file`, absolute."""

_local: dict[Entry, Any] = {}
"""What was registered in this process, beside what is installed: task classes, hook modules."""

_disabled: set[str] = set()
_warned: set[str] = set()


def disable(names: Iterable[str]) -> None:
    """Leave out the plugins of these names, or of these distributions, in this process.

    The environment variable ``SSL_ZOO_DISABLE_PLUGINS`` does the same, separated by commas.

    Raises:
        UserError: no plugin and no distribution of plugins has such a name.
    """
    names = list(names)
    known = {name for entry in installed() for name in (entry.name, entry.distribution)} if names else ()
    for name in names:
        if canonical(name) not in map(canonical, known):
            raise UserError(f"--no-plugin {name}: there is no such plugin.{did_you_mean(name, known)}")
    _disabled.update(names)
    _hook_plugins.cache_clear()


def register_task(cls: type[Task]) -> type[Task]:
    """Register a task in this process alone, without a distribution; usable as a decorator.

    A class takes the place of an earlier one of the same module and name.

    Raises:
        UserError: it is no sound task.
    """
    fault = task_fault(cls)
    if fault is not None:
        raise UserError(f"{getattr(cls, '__qualname__', 'what was registered')} {fault}")
    _register(_local_entry(cls, "this process"), cls)
    return cls


def load_file(path: str | Path) -> None:
    """Use the plugin in a Python file: every task that it defines, and its hooks.

    Raises:
        UserError: the file cannot be imported, has neither, or one of them is not sound.
    """
    flag = f"--plugin {path}"
    module = _import_file(Path(path), flag)
    classes = [cls for cls in vars(module).values() if _defines_task(module, cls)]
    hooked = implementations(module)
    if not classes and not hooked:
        raise UserError(f"{flag}: defines no task and implements no hook")
    faults = [f"{cls.__qualname__} {fault}" for cls in classes if (fault := task_fault(cls))]
    if hooked and (fault := hook_fault(hooked)):
        faults.append(fault)
    if faults:
        raise UserError(f"{flag}: {faults[0]}")
    _files.append(str(Path(path).resolve()))
    for cls in classes:
        _register(_local_entry(cls, str(path)), cls)
    if hooked:
        _register(Entry(Path(path).name, module.__name__, str(path), ""), module)


def files() -> list[str]:
    """The files that were given to `load_file`."""
    return list(dict.fromkeys(_files))


def arguments() -> list[str]:
    """The options of ``ssl-zoo`` that give another process the plugins which this one has by options."""
    given = [*(("--plugin", f) for f in files()), *(("--no-plugin", n) for n in sorted(_disabled))]
    return [part for pair in given for part in pair]


def tasks() -> dict[str, TaskEntry]:
    """The tasks by name, none of them imported; of a contested name the first."""
    found: dict[str, TaskEntry] = {}
    for entry in _entries():
        if entry.attr and entry.name not in found:
            summary, paper = describe(entry)
            if entry in _local:
                summary, paper = first_line(_local[entry].__doc__), _local[entry].paper
            found[entry.name] = TaskEntry(
                entry.name, entry.value, entry.distribution, entry.version, summary, paper
            )
    return dict(sorted(found.items()))


def load_task(name: str) -> type[Task]:
    """Import one task, and no other.

    Raises:
        UserError: there is no such task, two distributions claim the name, it cannot be imported, or
            it is no sound task.
    """
    claims = _claims(name)
    if not claims:
        return _hooked_task(name)
    if len(claims) > 1:
        raise UserError(f"task {name!r} is {_contest(claims)}")
    (entry,) = claims
    try:
        cls = _local[entry] if entry in _local else entry.load()
    except FAILURES as error:
        raise UserError(
            f"task {name!r}, from {entry.origin}, cannot be imported: {where(error)}"
        ) from error
    return _sound(cls, name, entry.origin)


def hooks() -> pluggy.PluginManager:
    """The plugin manager with every sound hook module; of each other one a warning, once."""
    loaded = _hook_plugins()
    for entry, fault in loaded.faults.items():
        _warn_once(f"plugin {_label(entry)}: {fault}")
    return loaded.manager


def collect(hook: str) -> dict[str, Any]:
    """Call a registering hook of every plugin, and join what they give; one that fails is left out.

    Raises:
        UserError: two plugins give one name.
    """
    hooks()
    given, faults = _gather(hook)
    for plugin, fault in faults.items():
        _warn_once(f"plugin {plugin}: {fault}")
    for name, by_plugin in given.items():
        if len(by_plugin) > 1:
            raise UserError(
                f"{hook}: {name!r} is given by plugin {' and by plugin '.join(by_plugin)}; "
                "uninstall one, or switch it off with --no-plugin"
            )
    return {name: value for name, by_plugin in given.items() for value in by_plugin.values()}


def check_observers(names: Iterable[str]) -> None:
    """Make sure that there are observers of these names.

    Raises:
        UserError: there is none of one of them.
    """
    loaded = _hook_plugins()
    observing = {e.name for e, found in loaded.names.items() if OBSERVING.intersection(found)}
    for name in names:
        if name not in observing:
            broken = {e.name: fault for e, fault in loaded.faults.items()}.get(name)
            known = f" There are: {', '.join(sorted(observing))}" if observing else ""
            said = f": {broken}" if broken else f".{did_you_mean(name, observing) or known}"
            raise UserError(f"train.observers: there is no observer {name!r}{said}")


def notify(hook: str, asked: Collection[str] = (), **arguments: Any) -> None:
    """Tell the observers; one that raises is reported once, and stops nothing.

    Args:
        hook: the name of the hook.
        asked: the observers on request that are to be told, by their entry points' names.
        arguments: what the hook is called with.

    Raises:
        UserError: an observer refuses the run as it starts.
    """
    hooks()
    names = {_label(entry): entry.name for entry in _hook_plugins().names}
    for implementation in _calls(hook):
        on_request = getattr(implementation.plugin, "on_request", False)
        if on_request and names[implementation.plugin_name] not in asked:
            continue
        wanted = [arguments[name] for name in implementation.argnames]
        try:
            implementation.function(*wanted)
        except FAILURES as error:
            if isinstance(error, UserError) and hook == "ssl_zoo_run_started":
                raise
            plugin = implementation.plugin_name
            _warn_once(f"plugin {plugin}: {hook} raised {where(error)}", key=f"notify {plugin}")


def blame(error: BaseException) -> str | None:
    """An exception in one line, with the plugin in whose code it arose and the line there.

    Returns:
        None if no plugin's code had a part in it.
    """
    files = {Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)}
    for entry in _entries():
        place = _place(entry)
        if place is not None and any(file.is_relative_to(place) for file in files):
            origin = f"{entry.distribution} {entry.version}".strip()
            return f"{where(error, [place])}, in {origin}"
    return None


def _place(entry: Entry) -> Path | None:
    """The folder of the package that an entry's module is in, or its file; None if not imported."""
    module = sys.modules.get(entry.module.partition(".")[0])
    file = getattr(module, "__file__", None)
    if file is None or module is sys.modules[__package__]:
        return None
    return Path(file).parent if hasattr(module, "__path__") else Path(file)


def plugins(check: bool = False) -> list[PluginEntry]:
    """Every plugin with its fault, if any.

    Args:
        check: import the tasks too, and call the registering hooks, to find theirs.
    """
    loaded = _hook_plugins()
    gathered = {hook: _gather(hook) for hook in HOOKS if check and hook not in OBSERVING}
    faults = _registration_faults(gathered)
    listed = []
    for entry in _entries():
        contributes = "task" if entry.attr else _contributed(loaded, entry, gathered)
        fault = entry.fault or loaded.faults.get(entry) or faults.get(_label(entry))
        claims = _claims(entry.name) if entry.attr else []
        if len(claims) > 1:
            fault = _contest(claims)
        elif claims and check:
            fault = _load_fault(entry.name)
        listed.append(PluginEntry(entry.name, entry.distribution, entry.version, contributes, fault))
    return listed


# ---- what there is


def _entries() -> list[Entry]:
    """What is registered here and what is installed, but for what is switched off."""
    variable = os.environ.get("SSL_ZOO_DISABLE_PLUGINS", "").split(",")
    off = {canonical(name.strip()) for name in (*_disabled, *variable)}
    kept = [e for e in installed() if off.isdisjoint((canonical(e.name), canonical(e.distribution)))]
    # Whoever registers a class that is installed anyway means the same task.
    values = {entry.value for entry in kept}
    return [*(entry for entry in _local if entry.value not in values), *kept]


def _claims(name: str) -> list[Entry]:
    return [entry for entry in _entries() if entry.name == name and entry.attr]


def _contest(claims: Iterable[Entry]) -> str:
    return (
        f"claimed by {' and by '.join(entry.origin for entry in claims)}; "
        "uninstall one, or switch it off with --no-plugin"
    )


def _label(entry: Entry) -> str:
    """A hook plugin's name in the plugin manager, which is what messages call it."""
    return f"{entry.name!r}, from {entry.origin}"


def _local_entry(cls: type[Task], origin: str) -> Entry:
    return Entry(cls.name, f"{cls.__module__}:{cls.__qualname__}", origin, "")


def _register(entry: Entry, value: Any) -> None:
    for old in [old for old in _local if old.value == entry.value]:
        del _local[old]
    _local[entry] = value
    _hook_plugins.cache_clear()


def _import_file(path: Path, flag: str) -> ModuleType:
    # Two files may have one name, and the same file may be loaded again.
    digest = hashlib.sha256(str(path.resolve()).encode(errors="surrogateescape")).hexdigest()
    name = f"ssl_zoo_plugin_{digest[:8]}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise UserError(f"{flag}: there is no such Python file")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except FAILURES as error:
        del sys.modules[name]
        raise UserError(f"{flag}: cannot be imported: {where(error)}") from error
    return module


# ---- tasks


def _defines_task(module: ModuleType, value: object) -> bool:
    """Whether a task is meant: abstract classes without a name are bases of others."""
    from ssl_zoo.task import Task

    if not (inspect.isclass(value) and issubclass(value, Task) and value.__module__ == module.__name__):
        return False
    return hasattr(value, "name") or not inspect.isabstract(value)


def _sound(cls: Any, name: str, origin: str) -> type[Task]:
    fault = task_fault(cls, name)
    if fault is not None:
        raise UserError(f"task {name!r}, from {origin}, {fault}")
    task: type[Task] = cls
    return task


def _load_fault(name: str) -> str | None:
    try:
        load_task(name)
    except UserError as error:
        return str(error)
    return None


def _hooked_task(name: str) -> type[Task]:
    """A task that a hook gives; only looked for where there is no entry point."""
    given = _gather("ssl_zoo_register_tasks")[0]
    if name in given:
        return _sound(collect("ssl_zoo_register_tasks")[name], name, f"plugin {next(iter(given[name]))}")
    for entry in _entries():
        if entry.name == name:
            reason = entry.fault or "its entry point names a module of hooks, not module:Class"
            raise UserError(f"{name!r}, from {entry.origin}, is no task: {reason}")
    known = sorted({*tasks(), *given})
    if any(entry.attr and entry.name == name for entry in installed()):
        raise UserError(f"task {name!r} is switched off, by --no-plugin or SSL_ZOO_DISABLE_PLUGINS")
    if not known:
        raise UserError(
            f"there is no task {name!r}, nor any other: install a distribution that brings some, "
            "such as `pip install ssl-zoo`, or give your own with --plugin FILE.py"
        )
    raise UserError(
        f"there is no task {name!r}.{did_you_mean(name, known)} There are: {', '.join(known)}"
    )


# ---- hooks


@dataclass(frozen=True)
class _HookPlugins:
    manager: pluggy.PluginManager
    names: Mapping[Entry, list[str]]
    faults: Mapping[Entry, str]


@cache
def _hook_plugins() -> _HookPlugins:
    manager = pluggy.PluginManager(specs.PROJECT)
    manager.add_hookspecs(specs)
    names: dict[Entry, list[str]] = {}
    faults: dict[Entry, str] = {}
    for entry in _entries():
        if entry.attr or entry.fault is not None:
            continue
        try:
            module = _local[entry] if entry in _local else entry.load()
            found = implementations(module)
            fault = hook_fault(found)
            if fault is None:
                manager.register(module, _label(entry))
                names[entry] = [hook for hook, _ in found]
            else:
                faults[entry] = fault
        except FAILURES as error:
            faults[entry] = f"cannot be loaded: {where(error)}"
    return _HookPlugins(manager, names, faults)


def _calls(hook: str) -> Iterator[pluggy.HookImpl]:
    """The implementations of a hook in pluggy's order of calling."""
    caller: pluggy.HookCaller = getattr(_hook_plugins().manager.hook, hook)
    return reversed(caller.get_hookimpls())


_Gathered = tuple[dict[str, dict[str, Any]], dict[str, str]]
"""What plugins give under each name, by plugin; and the faults of those that fail, likewise."""


def _gather(hook: str) -> _Gathered:
    """Call a registering hook of every plugin."""
    given: dict[str, dict[str, Any]] = {}
    faults: dict[str, str] = {}
    for implementation in _calls(hook):
        plugin = implementation.plugin_name
        try:
            values: Any = implementation.function()
        except FAILURES as error:
            faults[plugin] = f"{hook} raised {where(error)}"
            continue
        if isinstance(values, Mapping) and all(map(callable, values.values())):
            for name, value in values.items():
                given.setdefault(str(name), {})[plugin] = value
        else:
            faults[plugin] = f"{hook} must give a mapping from names to callables, not {short(values)}"
    return given, faults


def _registration_faults(gathered: Mapping[str, _Gathered]) -> dict[str, str]:
    """What only calling the registering hooks can tell, by plugin."""
    faults: dict[str, str] = {}
    for hook, (given, failed) in gathered.items():
        faults |= failed
        for name, by_plugin in given.items():
            for plugin, value in by_plugin.items():
                others = [f"plugin {other}" for other in by_plugin if other != plugin]
                if hook == "ssl_zoo_register_tasks":
                    others += [entry.origin for entry in _claims(name)]
                    if fault := task_fault(value, name):
                        faults[plugin] = f"{hook}: task {name!r} {fault}"
                if others:
                    faults[plugin] = f"{hook}: {name!r} is also given by {' and by '.join(others)}"
    return faults


def _contributed(loaded: _HookPlugins, entry: Entry, gathered: Mapping[str, _Gathered]) -> str:
    """What a module of hooks gives: the names that its hooks register, as far as they were called."""
    found = loaded.names.get(entry, [])
    said = []
    for hook in (hook for hook in found if hook not in OBSERVING):
        kind = hook.removeprefix("ssl_zoo_").removeprefix("register_").replace("_", " ")
        given = gathered[hook][0] if hook in gathered else {}
        names = [name for name, by_plugin in given.items() if _label(entry) in by_plugin]
        said.append(f"{kind}: {', '.join(names)}" if names else kind)
    if OBSERVING.intersection(found):
        asked = getattr(loaded.manager.get_plugin(_label(entry)), "on_request", False)
        said.append("observer, on request" if asked else "observer")
    return "; ".join(said)


def _warn_once(message: str, key: str | None = None) -> None:
    if (key or message) not in _warned:
        _warned.add(key or message)
        log.warning("%s", message)
