"""The registry of plugins: it finds, validates, loads and calls them, and isolates their errors.

An entry point ``name = "package.module:Class"`` is a task of that name; ``name = "package.module"``
is a module of hook implementations. A task is therefore known before it is imported, and importing
one task imports no other.
"""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_zoo.errors import UserError
from ssl_zoo.plugins.descriptions import Description, SourceReader
from ssl_zoo.plugins.entry_points import (
    EntryPoint,
    canonical_name,
    conflict,
    imported_location,
    installed,
)
from ssl_zoo.plugins.hook_modules import HookModules, Registered
from ssl_zoo.plugins.info import PluginInfo, TaskInfo
from ssl_zoo.plugins.plugin_files import defined_tasks, import_file
from ssl_zoo.plugins.validation import (
    OBSERVING,
    PLUGIN_ERRORS,
    REGISTERING,
    implementations,
    invalid_module_reason,
    invalid_task_reason,
)
from ssl_zoo.text import did_you_mean, locate_error

if TYPE_CHECKING:
    from ssl_zoo.task import Task

log = logging.getLogger("ssl_zoo.plugins")

DISABLE_VARIABLE = "SSL_ZOO_DISABLE_PLUGINS"


class PluginRegistry:
    """The plugins that are installed, and those added to this process.

    Args:
        find: lists the installed entry points; the default reads all distributions on `sys.path`.
    """

    def __init__(self, find: Callable[[], list[EntryPoint]] = installed) -> None:
        self.find = find
        self._local: dict[EntryPoint, Any] = {}  # added to this process: task classes, hook modules
        self._files: list[str] = []
        self._disabled: set[str] = set()
        self._warned: set[str] = set()
        self._observers: list[object] = []
        self._hook_modules: HookModules | None = None

    @contextmanager
    def isolated(self) -> Iterator[None]:
        """Temporarily forget added and disabled plugins and past warnings; restore them on exit."""
        before = dict(vars(self))
        vars(self).update(vars(PluginRegistry(self.find)))
        try:
            yield
        finally:
            vars(self).update(before)

    # ---- adding and leaving out

    def disable(self, names: Iterable[str]) -> None:
        """Leave out the plugins, or all plugins of the distributions, with these names.

        The environment variable ``SSL_ZOO_DISABLE_PLUGINS`` does the same, separated by commas.

        Raises:
            UserError: no plugin and no distribution has such a name.
        """
        names = list(names)
        known = {n for entry in self.find() for n in (entry.name, entry.distribution)} if names else ()
        for name in names:
            if canonical_name(name) not in map(canonical_name, known):
                raise UserError(
                    f"--no-plugin {name}: there is no such plugin.{did_you_mean(name, known)}"
                )
        self._disabled.update(names)

    def register_task(self, cls: type[Task]) -> type[Task]:
        """Add a task to this process, e.g. in a notebook; usable as a class decorator.

        It replaces an earlier class of the same module and name.

        Raises:
            UserError: the class is not a valid task.
        """
        reason = invalid_task_reason(cls)
        if reason is not None:
            raise UserError(f"{getattr(cls, '__qualname__', 'the registered object')} {reason}")
        self._add(_local_entry(cls, "this process"), cls)
        return cls

    def load_file(self, path: str | Path) -> None:
        """Add the plugin in a Python file: every task that it defines, and its hooks.

        Raises:
            UserError: the file cannot be imported, defines neither, or one of them is not valid.
        """
        flag = f"--plugin {path}"
        module = import_file(Path(path), flag)
        classes = defined_tasks(module)
        hooked = implementations(module)
        if not classes and not hooked:
            raise UserError(f"{flag}: defines no task and implements no hook")
        reasons = [
            f"{cls.__qualname__} {reason}" for cls in classes if (reason := invalid_task_reason(cls))
        ]
        if hooked and (reason := invalid_module_reason(module)):
            reasons.append(reason)
        if reasons:
            raise UserError(f"{flag}: {reasons[0]}")
        self._files.append(str(Path(path).resolve()))
        for cls in classes:
            self._add(_local_entry(cls, str(path)), cls)
        if hooked:
            self._add(EntryPoint(Path(path).name, module.__name__, str(path), ""), module)

    def files(self) -> list[str]:
        """Return the absolute paths given to `load_file`."""
        return list(dict.fromkeys(self._files))

    def arguments(self) -> list[str]:
        """Return the options of ``ssl-zoo`` that give another process the same plugins."""
        options = [
            *(("--plugin", file) for file in self.files()),
            *(("--no-plugin", name) for name in sorted(self._disabled)),
        ]
        return [part for option in options for part in option]

    def _add(self, entry: EntryPoint, value: Any) -> None:
        for old in [old for old in self._local if old.value == entry.value]:
            del self._local[old]
        self._local[entry] = value
        self._hook_modules = None

    # ---- tasks

    def tasks(self) -> dict[str, TaskInfo]:
        """Return the tasks by name, importing none; for a name claimed twice, the first."""
        tasks: dict[str, TaskInfo] = {}
        reader = SourceReader()
        for entry in self.entry_points():
            if entry.attr and entry.name not in tasks:
                cls = self._local.get(entry)
                read = Description.of(cls) if cls else reader.describe(entry.module, entry.attr)
                tasks[entry.name] = TaskInfo(
                    entry.name, entry.value, entry.distribution, entry.version, *read
                )
        return dict(sorted(tasks.items()))

    def load_task(self, name: str) -> type[Task]:
        """Import one task, and no other.

        Raises:
            UserError: there is no such task, two distributions claim its name, it cannot be imported,
                or it is not valid.
        """
        claims = self._claims(name)
        if not claims:
            return self._load_hooked_task(name)
        if len(claims) > 1:
            raise UserError(f"task {name!r} is {conflict(claims)}")
        (entry,) = claims
        try:
            cls = self._local[entry] if entry in self._local else entry.load()
        except PLUGIN_ERRORS as error:
            raise UserError(
                f"task {name!r}, from {entry.origin}, cannot be imported: {locate_error(error)}"
            ) from error
        return _validated(cls, name, entry.origin)

    def _load_hooked_task(self, name: str) -> type[Task]:
        """Load a task that a hook registers, for a name without an entry point."""
        values = self.hook_modules().call_registering("ssl_zoo_register_tasks").values
        if name in values:
            cls = self.collect("ssl_zoo_register_tasks")[name]
            return _validated(cls, name, f"plugin {next(iter(values[name]))}")
        for entry in self.entry_points():
            if entry.name == name:
                reason = entry.error or "its entry point names a module of hooks, not module:Class"
                raise UserError(f"{name!r}, from {entry.origin}, is not a task: {reason}")
        known = sorted({*self.tasks(), *values})
        if any(entry.attr and entry.name == name for entry in self.find()):
            raise UserError(f"task {name!r} is disabled, by --no-plugin or {DISABLE_VARIABLE}")
        if not known:
            raise UserError(
                f"there is no task {name!r}, and no task at all: install a distribution that has some, "
                "such as `pip install ssl-zoo`, or give your own with --plugin FILE.py"
            )
        raise UserError(
            f"there is no task {name!r}.{did_you_mean(name, known)} There are: {', '.join(known)}"
        )

    # ---- hooks

    def collect(self, hook: str) -> dict[str, Any]:
        """Call a registering hook of every plugin and join the results; leave out those that fail.

        Raises:
            UserError: two plugins register one name.
        """
        self._warn_of_broken_modules()
        registered = self.hook_modules().call_registering(hook)
        for plugin, error in registered.errors.items():
            self._warn_once(f"plugin {plugin}: {error}")
        for name, by_plugin in registered.values.items():
            if len(by_plugin) > 1:
                raise UserError(
                    f"{hook}: {name!r} is registered by plugin {' and by plugin '.join(by_plugin)}; "
                    "uninstall one, or disable it with --no-plugin"
                )
        return {
            name: value for name, by_plugin in registered.values.items() for value in by_plugin.values()
        }

    def notify(self, hook: str, requested: Collection[str] = (), **arguments: Any) -> None:
        """Call an observing hook of every plugin; report an exception once, and continue.

        Args:
            hook: the name of the hook.
            requested: the entry-point names of on-request observers to call.
            arguments: the arguments of the hook.

        Raises:
            UserError: an observer refuses the run in ``ssl_zoo_run_started``.
        """
        self._warn_of_broken_modules()
        modules, observers = self.hook_modules(), HookModules.of_objects(self._observers)
        names = {entry.label: entry.name for entry in modules.hooks}
        for implementation in [
            *modules.implementations_of(hook),
            *observers.implementations_of(hook),
        ]:
            on_request = getattr(implementation.plugin, "on_request", False)
            if on_request and names.get(implementation.plugin_name) not in requested:
                continue
            try:
                implementation.function(*(arguments[name] for name in implementation.argnames))
            except PLUGIN_ERRORS as error:
                if isinstance(error, UserError) and hook == "ssl_zoo_run_started":
                    raise
                plugin = implementation.plugin_name
                message = f"plugin {plugin}: {hook} raised {locate_error(error)}"
                self._warn_once(message, key=f"notify {plugin}")

    @contextmanager
    def observing(self, observer: object) -> Iterator[None]:
        """Temporarily call the observing hooks of an object, such as a progress bar.

        Args:
            observer: an object whose methods are marked with `ssl_zoo.hookimpl`; it is called after
                the observers of plugins, and its exceptions are reported in the same way.
        """
        self._observers.append(observer)
        try:
            yield
        finally:
            self._observers.remove(observer)

    def check_observers(self, names: Iterable[str]) -> None:
        """Raise unless there is an observer with each of these names.

        Raises:
            UserError: there is none with one of them.
        """
        modules = self.hook_modules()
        observers = {e.name for e, hooks in modules.hooks.items() if OBSERVING.intersection(hooks)}
        for name in names:
            if name not in observers:
                error = {e.name: error for e, error in modules.errors.items()}.get(name)
                known = f" There are: {', '.join(sorted(observers))}" if observers else ""
                reason = f": {error}" if error else f".{did_you_mean(name, observers) or known}"
                raise UserError(f"train.observers: there is no observer {name!r}{reason}")

    # ---- diagnosis

    def plugins(self, check: bool = False) -> list[PluginInfo]:
        """Return every plugin, with the reason if it cannot be used.

        Args:
            check: also import the tasks and call the registering hooks, to find their errors.
        """
        modules = self.hook_modules()
        registered = {hook: self.hook_modules().call_registering(hook) for hook in REGISTERING if check}
        hook_errors = self._registration_errors(registered)
        listed = []
        for entry in self.entry_points():
            contributes = "task" if entry.attr else modules.contributed(entry, registered)
            error = entry.error or modules.errors.get(entry) or hook_errors.get(entry.label)
            claims = self._claims(entry.name) if entry.attr else []
            if len(claims) > 1:
                error = conflict(claims)
            elif claims and check:
                error = self._load_error(entry.name)
            listed.append(PluginInfo(entry.name, entry.distribution, entry.version, contributes, error))
        return listed

    def describe_error(self, error: BaseException) -> str | None:
        """Return an exception in one line with the plugin whose code raised it, and the line there.

        Returns:
            None if no plugin's code is in the traceback.
        """
        files = {Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)}
        for entry in self.entry_points():
            location = imported_location(entry)
            if location is not None and any(file.is_relative_to(location) for file in files):
                origin = f"{entry.distribution} {entry.version}".strip()
                return f"{locate_error(error, [location])}, in {origin}"
        return None

    def entry_points(self) -> list[EntryPoint]:
        """Return the entry points added to this process and those installed, without disabled ones."""
        variable = os.environ.get(DISABLE_VARIABLE, "").split(",")
        off = {canonical_name(name.strip()) for name in (*self._disabled, *variable)}
        enabled = [
            entry
            for entry in self.find()
            if off.isdisjoint((canonical_name(entry.name), canonical_name(entry.distribution)))
        ]
        # A registered class that is also installed is the same task.
        values = {entry.value for entry in enabled}
        return [*(entry for entry in self._local if entry.value not in values), *enabled]

    def _claims(self, name: str) -> list[EntryPoint]:
        return [entry for entry in self.entry_points() if entry.name == name and entry.attr]

    def _load_error(self, name: str) -> str | None:
        try:
            self.load_task(name)
        except UserError as error:
            return str(error)
        return None

    # ---- hook modules

    def hook_modules(self) -> HookModules:
        """Return the hook modules, loaded again where the entry points have changed."""
        entry_points = self.entry_points()
        if self._hook_modules is None or self._hook_modules.entry_points != entry_points:
            self._hook_modules = HookModules(entry_points, self._local)
        return self._hook_modules

    def _registration_errors(self, registered: Mapping[str, Registered]) -> dict[str, str]:
        """Return, by plugin, the errors that only calling the registering hooks can find."""
        errors: dict[str, str] = {}
        for hook, answers in registered.items():
            errors |= answers.errors
            for name, by_plugin in answers.values.items():
                for plugin, value in by_plugin.items():
                    others = [f"plugin {other}" for other in by_plugin if other != plugin]
                    if hook == "ssl_zoo_register_tasks":
                        others += [entry.origin for entry in self._claims(name)]
                        if reason := invalid_task_reason(value, name):
                            errors[plugin] = f"{hook}: task {name!r} {reason}"
                    if others:
                        errors[plugin] = (
                            f"{hook}: {name!r} is also registered by {' and by '.join(others)}"
                        )
        return errors

    def _warn_of_broken_modules(self) -> None:
        for entry, error in self.hook_modules().errors.items():
            self._warn_once(f"plugin {entry.label}: {error}")

    def _warn_once(self, message: str, key: str | None = None) -> None:
        if (key or message) not in self._warned:
            self._warned.add(key or message)
            log.warning("%s", message)


registry = PluginRegistry()
"""The registry that the zoo itself uses."""


def _local_entry(cls: type[Task], origin: str) -> EntryPoint:
    return EntryPoint(cls.name, f"{cls.__module__}:{cls.__qualname__}", origin, "")


def _validated(cls: Any, name: str, origin: str) -> type[Task]:
    reason = invalid_task_reason(cls, name)
    if reason is not None:
        raise UserError(f"task {name!r}, from {origin}, {reason}")
    task: type[Task] = cls
    return task
