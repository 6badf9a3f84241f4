"""Plugins in a Python file that is not installed (``--plugin FILE``)."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ssl_zoo.errors import UserError
from ssl_zoo.plugins.validation import PLUGIN_ERRORS
from ssl_zoo.text import locate_error

if TYPE_CHECKING:
    from ssl_zoo.task import Task


def import_file(path: Path, flag: str) -> ModuleType:
    """Import a Python file as a separate module.

    Args:
        path: the file.
        flag: the option that names it, for messages.

    Raises:
        UserError: there is no such file, or importing it fails.
    """
    # Two files may have one name, and the same file may be loaded again.
    digest = hashlib.sha256(str(path.resolve()).encode(errors="surrogateescape")).hexdigest()
    name = f"ssl_zoo_plugin_{digest[:8]}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise UserError(f"{flag}: there is no such Python file")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except PLUGIN_ERRORS as error:
        del sys.modules[name]
        raise UserError(f"{flag}: cannot be imported: {locate_error(error)}") from error
    return module


def defined_tasks(module: ModuleType) -> list[type[Task]]:
    """Return the tasks that a module defines itself, without abstract bases that have no name."""
    return [value for value in vars(module).values() if _is_task_of(module, value)]


def _is_task_of(module: ModuleType, value: Any) -> bool:
    from ssl_zoo.task import Task

    if not (inspect.isclass(value) and issubclass(value, Task) and value.__module__ == module.__name__):
        return False
    return hasattr(value, "name") or not inspect.isabstract(value)
