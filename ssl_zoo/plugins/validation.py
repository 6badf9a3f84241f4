"""What can be wrong with a plugin, each fault in one line."""

from __future__ import annotations

import importlib
import inspect
import traceback
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from ssl_zoo.errors import did_you_mean
from ssl_zoo.plugins import hookspecs as hooks

FAILURES = (Exception, SystemExit)
"""What running a plugin's code may raise without it being the zoo's fault, or the process's end."""

HOOKS = tuple(name for name in vars(hooks) if name.startswith("ssl_zoo_"))
"""The names of all hooks."""

OBSERVING = frozenset(name for name in HOOKS if inspect.signature(getattr(hooks, name)).parameters)
"""Those that observe a run; the others give something by name, and are told nothing."""

_MACHINERY = {
    importlib.__file__,
    *(str(Path(__file__).with_name(f"{name}.py")) for name in ("entries", "plugins", "settings")),
}
"""Files that stand in the traceback of a plugin's failure without telling anything about it."""

Implementation = tuple[str, Callable[..., Any]]
"""The name of a hook, and a function that is meant to implement it."""


def task_fault(cls: Any, name: str | None = None) -> str | None:
    """What keeps a class from being a task, as the end of a sentence about it.

    Args:
        cls: what should be a task.
        name: what it is registered as; None if by its own `name`.
    """
    from ssl_zoo.task import Task, TaskOptions

    if not (inspect.isclass(cls) and issubclass(cls, Task)):
        return f"is no subclass of ssl_zoo.Task, but {short(cls)}"
    if inspect.isabstract(cls):
        return f"lacks the methods: {', '.join(sorted(cls.__abstractmethods__))}"
    given: object = getattr(cls, "name", None)
    if not isinstance(given, str) or not given:
        return "has no `name`"
    if name is not None and given != name:
        return f"calls itself {given!r}: its `name` must be what it is registered as"
    options: object = cls.Options
    if not (inspect.isclass(options) and issubclass(options, TaskOptions)):
        return "has `Options` that do not derive from ssl_zoo.TaskOptions"
    if "name" in options.model_fields:
        return "has an option `name`, which a config keeps for the task's own name"
    recipe: object = cls.recipe
    if not isinstance(recipe, Mapping):
        return f"has a `recipe` that is no mapping, but {short(recipe)}"
    return None


def implementations(module: ModuleType) -> list[Implementation]:
    """The functions of a module that are marked as hooks, or named as if they were meant to be."""
    found: list[Implementation] = []
    for name, value in vars(module).items():
        if inspect.isfunction(value):
            marked = getattr(value, f"{hooks.PROJECT}_impl", None)
            meant = name.startswith("ssl_zoo_") and value.__module__ == module.__name__
            if marked is not None or meant:
                found.append(((marked or {}).get("specname") or name, value))
    return found


def hook_fault(found: list[Implementation]) -> str | None:
    """What is wrong with a module's hooks, the first thing found."""
    if not found:
        return "implements no hook (the entry point of a task ends in :Class)"
    for name, function in found:
        if name not in HOOKS:
            return f"there is no hook {name!r}.{did_you_mean(name, HOOKS)}"
        if not hasattr(function, f"{hooks.PROJECT}_impl"):
            return f"{name} is not marked with @ssl_zoo.hookimpl"
        if inspect.isgeneratorfunction(function) or inspect.iscoroutinefunction(function):
            return f"{name} must be a plain function, neither generator nor coroutine"
        given = inspect.signature(function)
        allowed = list(inspect.signature(getattr(hooks, name)).parameters)
        if not _fits(given, allowed):
            return f"{name}{given} does not fit the hook, which is {name}({', '.join(allowed)})"
    return None


def _fits(given: inspect.Signature, allowed: list[str]) -> bool:
    """Whether pluggy can call it: by position, with those of the hook's arguments that it names."""
    names = [
        p.name
        for p in given.parameters.values()
        if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    try:
        given.bind(*names)
    except TypeError:
        return False
    return set(names) <= set(allowed)


def where(error: BaseException, within: Collection[Path] = ()) -> str:
    """An exception in one line, with the place that it was raised at.

    Args:
        error: the exception.
        within: files and folders whose own line is told, rather than that of a library they called.
    """
    kind = type(error).__name__
    if isinstance(error, SyntaxError):
        return f"{kind}: {error.msg} at {error.filename}:{error.lineno}"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename not in _MACHINERY and not frame.filename.startswith("<frozen importlib")
    ]
    own = [frame for frame in frames if any(map(Path(frame.filename).is_relative_to, within))]
    frames = own or frames
    place = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    text = " ".join(str(error).split()[:60])
    return f"{kind}{': ' if text else ''}{text}{place}"


def short(value: object) -> str:
    """A value in a message."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
