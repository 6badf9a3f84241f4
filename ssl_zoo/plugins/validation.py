"""Validation of plugins: why a class is not a task, or a module has no usable hooks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import pluggy

from ssl_zoo.plugins import hookspecs
from ssl_zoo.text import did_you_mean, one_line, shorten_repr

PLUGIN_ERRORS = (Exception, SystemExit)
"""Exceptions of a plugin's code that are reported and survived."""

HOOKS = tuple(name for name in vars(hookspecs) if name.startswith("ssl_zoo_"))
"""The names of all hooks."""

OBSERVING = frozenset(name for name in HOOKS if inspect.signature(getattr(hookspecs, name)).parameters)
"""The hooks that observe a run."""

REGISTERING = tuple(name for name in HOOKS if name not in OBSERVING)
"""The hooks that register something by name; they take no arguments."""

Implementation = tuple[str, Callable[..., Any]]
"""The name of a hook and a function that implements it."""


def invalid_task_reason(cls: Any, name: str | None = None) -> str | None:
    """Return why `cls` is not a valid task, or None.

    Args:
        cls: the class.
        name: the name that it is registered under; None for its own `name`.

    Returns:
        The end of a sentence that begins with the class, such as "has no `name`".
    """
    from ssl_zoo.task import NEEDS, Task, TaskOptions

    if not (inspect.isclass(cls) and issubclass(cls, Task)):
        return f"is not a subclass of ssl_zoo.Task: {shorten_repr(cls)}"
    if inspect.isabstract(cls):
        return f"lacks the methods: {', '.join(sorted(cls.__abstractmethods__))}"
    own_name: object = getattr(cls, "name", None)
    if not isinstance(own_name, str) or not own_name:
        return "has no `name`"
    if name is not None and own_name != name:
        return f"has the `name` {own_name!r}, which must be the name it is registered under"
    options: object = cls.Options
    if not (inspect.isclass(options) and issubclass(options, TaskOptions)):
        return "has `Options` that do not derive from ssl_zoo.TaskOptions"
    if "name" in options.model_fields:
        return "has an option `name`, which is reserved for the name of the task"
    if hasattr(cls, "needs_labels"):
        return 'has `needs_labels`, which is now `needs = ("labels",)`'
    if not isinstance(cls.needs, tuple) or not {*cls.needs} <= {*NEEDS}:
        return f"has `needs` {cls.needs!r}, which must be a tuple of {' and '.join(NEEDS)}"
    recipe: object = cls.recipe
    if not isinstance(recipe, Mapping):
        return f"has a `recipe` that is not a mapping: {shorten_repr(recipe)}"
    return None


def implementations(module: ModuleType) -> list[Implementation]:
    """Return the functions of a module that are marked as hooks, or named like one."""
    functions: list[Implementation] = []
    for name, value in vars(module).items():
        if inspect.isfunction(value):
            marker = getattr(value, f"{hookspecs.PROJECT}_impl", None)
            named = name.startswith("ssl_zoo_") and value.__module__ == module.__name__
            if marker is not None or named:
                functions.append(((marker or {}).get("specname") or name, value))
    return functions


def invalid_module_reason(module: ModuleType) -> str | None:
    """Return why a module cannot be used as a hook module, or None.

    pluggy verifies the names and the arguments of marked hooks; this function also refuses hooks that
    are not marked, and generators.
    """
    functions = implementations(module)
    if not functions:
        return "implements no hook (the entry point of a task ends in :Class)"
    for name, function in functions:
        if name not in HOOKS:
            return f"there is no hook {name!r}.{did_you_mean(name, HOOKS)}"
        if not hasattr(function, f"{hookspecs.PROJECT}_impl"):
            return f"{name} is not marked with @ssl_zoo.hookimpl"
        if inspect.isgeneratorfunction(function) or inspect.iscoroutinefunction(function):
            return f"{name} must be a plain function, neither a generator nor a coroutine"
        required = [p for p in inspect.signature(function).parameters.values() if p.default is p.empty]
        if any(p.kind is p.KEYWORD_ONLY for p in required):
            return f"{name} must take its arguments by position"
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    try:
        manager.register(module, "")
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        return _describe_mismatch(error, functions)
    return None


def _describe_mismatch(error: pluggy.PluginValidationError, functions: list[Implementation]) -> str:
    """Return pluggy's error about the arguments of a hook, with the expected arguments."""
    for name, function in functions:
        if f"hook {name!r}" in str(error):
            actual = inspect.signature(function)
            expected = ", ".join(inspect.signature(getattr(hookspecs, name)).parameters)
            return f"{name}{actual} does not match the hook, which is {name}({expected})"
    return one_line(error)
