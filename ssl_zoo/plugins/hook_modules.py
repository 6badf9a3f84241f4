"""The hook modules of plugins: loaded, verified, and called one plugin at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pluggy

from ssl_zoo.plugins import hookspecs
from ssl_zoo.plugins.entry_points import EntryPoint
from ssl_zoo.plugins.validation import (
    OBSERVING,
    PLUGIN_ERRORS,
    implementations,
    invalid_module_reason,
)
from ssl_zoo.text import locate_error, shorten_repr


@dataclass(frozen=True)
class Registered:
    """The answers of all plugins to one registering hook.

    Attributes:
        values: the value from each plugin, by registered name.
        errors: the error of each plugin that failed.
    """

    values: Mapping[str, Mapping[str, Any]]
    errors: Mapping[str, str]


class HookModules:
    """The valid hook modules in a pluggy manager, and the errors of the others.

    The hooks are called one plugin at a time rather than through pluggy, so that an error stays with
    its plugin.

    Args:
        entry_points: the entry points of all plugins; tasks are skipped.
        local: the modules of entry points that were added to this process.

    Attributes:
        entry_points: the entry points that the modules were loaded from.
        manager: pluggy's manager, with every valid module.
        hooks: the names of the hooks that each entry point implements.
        errors: the error of each other module.
    """

    def __init__(self, entry_points: Sequence[EntryPoint], local: Mapping[EntryPoint, Any]) -> None:
        self.entry_points = entry_points
        self.hooks: dict[EntryPoint, list[str]] = {}
        self.errors: dict[EntryPoint, str] = {}
        self.manager = pluggy.PluginManager(hookspecs.PROJECT)
        self.manager.add_hookspecs(hookspecs)
        for entry in entry_points:
            if entry.attr or entry.error is not None:
                continue
            try:
                module = local[entry] if entry in local else entry.load()
                reason = invalid_module_reason(module)
                if reason is None:
                    self.manager.register(module, entry.label)
                    self.hooks[entry] = [hook for hook, _ in implementations(module)]
                else:
                    self.errors[entry] = reason
            except PLUGIN_ERRORS as error:
                self.errors[entry] = f"cannot be loaded: {locate_error(error)}"

    @classmethod
    def of_objects(cls, observers: Iterable[object]) -> HookModules:
        """Return the hooks of objects in place of modules."""
        modules = cls((), {})
        for number, observer in enumerate(observers, 1):
            # Named for messages; two observers may be of one class.
            modules.manager.register(observer, f"{type(observer).__name__} (observer {number})")
        return modules

    def implementations_of(self, hook: str) -> Iterator[pluggy.HookImpl]:
        """Yield the implementations of a hook in pluggy's order of calling."""
        caller: pluggy.HookCaller = getattr(self.manager.hook, hook)
        return reversed(caller.get_hookimpls())

    def call_registering(self, hook: str) -> Registered:
        """Call a registering hook of every plugin."""
        values: dict[str, dict[str, Any]] = {}
        errors: dict[str, str] = {}
        for implementation in self.implementations_of(hook):
            plugin = implementation.plugin_name
            try:
                answer: Any = implementation.function()
            except PLUGIN_ERRORS as error:
                errors[plugin] = f"{hook} raised {locate_error(error)}"
                continue
            if isinstance(answer, Mapping) and all(map(callable, answer.values())):
                for name, value in answer.items():
                    values.setdefault(str(name), {})[plugin] = value
            else:
                errors[plugin] = (
                    f"{hook} must return a mapping from names to callables, not {shorten_repr(answer)}"
                )
        return Registered(values, errors)

    def contributed(self, entry: EntryPoint, registered: Mapping[str, Registered]) -> str:
        """Return the contributions of a module, with registered names for the hooks in `registered`."""
        hooks = self.hooks.get(entry, [])
        parts = []
        for hook in (hook for hook in hooks if hook not in OBSERVING):
            kind = hook.removeprefix("ssl_zoo_").removeprefix("register_").replace("_", " ")
            values = registered[hook].values if hook in registered else {}
            names = [name for name, by_plugin in values.items() if entry.label in by_plugin]
            parts.append(f"{kind}: {', '.join(names)}" if names else kind)
        if OBSERVING.intersection(hooks):
            on_request = getattr(self.manager.get_plugin(entry.label), "on_request", False)
            parts.append("observer, on request" if on_request else "observer")
        return "; ".join(parts)
