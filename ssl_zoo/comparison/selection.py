"""The tasks that are compared: the kind of data they take, and what their recipes have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from ssl_zoo.config.schema import SECTION_MODELS
from ssl_zoo.errors import UserError
from ssl_zoo.plugins.registry import registry
from ssl_zoo.task import Task

K = TypeVar("K")
Classes = Mapping[str, type[Task]]
"""The classes of tasks, by name."""


def loadable(names: Iterable[str]) -> dict[str, type[Task]]:
    """Return the classes of tasks by name, without those that cannot be loaded."""
    classes = {}
    for name in names:
        try:
            classes[name] = registry.load_task(name)
        except UserError:  # its row will show it, or `ssl-zoo plugins`
            continue
    return classes


def learns_from_labels(cls: type[Task]) -> bool:
    """Return whether a task is a supervised baseline."""
    return "labels" in cls.needs


def grouped(classes: Classes, key: Callable[[type[Task]], K]) -> dict[K, str]:
    """Return the names of the tasks that have the same key, separated by commas, by this key."""
    groups: dict[K, list[str]] = {}
    for name, cls in classes.items():
        groups.setdefault(key(cls), []).append(name)
    return {value: ", ".join(names) for value, names in groups.items()}


def common_modality(classes: Classes, location: str) -> str:
    """Return the kind of data that tasks take.

    Args:
        classes: the tasks.
        location: where they are named, for messages.

    Raises:
        UserError: they take data of several kinds.
    """
    groups = grouped(classes, lambda cls: cls.modality)
    if len(groups) > 1:
        kinds = "; ".join(f"{names}: {modality}" for modality, names in groups.items())
        raise UserError(
            f"{location}: tasks that take different kinds of data cannot be compared ({kinds}); "
            "choose those of one kind"
        )
    return next(iter(groups), Task.modality)


def common_section(classes: Classes, section: str) -> dict[str, Any] | None:
    """Return the section that the recipes of tasks have in common; None if they differ."""
    recipes = [dict(cls.recipe.get(section, {})) for cls in classes.values()]
    return next(iter(recipes), {}) if all(recipe == recipes[0] for recipe in recipes) else None


def describe_difference(classes: Classes, section: str, name: str) -> str:
    """Return what the recipes of tasks name, such as the backbone, with the tasks of each."""
    default = SECTION_MODELS[section].model_fields[name].default
    groups = grouped(classes, lambda cls: cls.recipe.get(section, {}).get(name, default))
    return "; ".join(f"{names}: {value}" for value, names in groups.items())
