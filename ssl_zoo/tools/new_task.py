"""``ssl-zoo new-task``: a package with one task that installs, trains and passes its tests."""

from __future__ import annotations

import builtins
import importlib.util
import os
import re
import shutil
import unicodedata
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from jinja2 import Environment, PackageLoader, StrictUndefined

from ssl_zoo.errors import UserError
from ssl_zoo.plugins.entry_points import EntryPoint, canonical_name, installed
from ssl_zoo.plugins.info import TaskInfo
from ssl_zoo.plugins.registry import registry
from ssl_zoo.text import did_you_mean

KINDS = ("joint-embedding", "predictive", "masked")
"""The starting points of a task: views that attract, a change to predict, pixels to fill in."""

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_PREFIX = "ssl-zoo-"

_FILES = {
    "pyproject.toml": "pyproject.toml.jinja",
    "README.md": "README.md.jinja",
    ".gitignore": "gitignore.jinja",
    ".github/workflows/test.yml": "workflow.yml.jinja",
    "{module}.py": "{kind}/task.py.jinja",
    "tests/{test}.py": "{kind}/test.py.jinja",
}
"""The template of each file of the package."""

_RESERVED = {
    *dir(builtins),  # including True and None
    *("ANSWERS", "Case", "Check", "ClassVar", "ColorJitter", "Compose", "Encoder", "F", "Field"),
    *("ImageSpec", "Losses", "Normalise", "Options", "RandomResizedCrop", "Rng", "Task"),
    *("TaskOptions", "Tensor"),
}
"""Names that the class cannot have, as the files use them for something else."""


def new_task(name: str, kind: str = "joint-embedding", folder: str | Path | None = None) -> Path:
    """Write a package with one task, ready to be installed, trained and changed.

    Args:
        name: the task's name; the distribution is called ``ssl-zoo-NAME``.
        kind: the starting point, one of `KINDS`.
        folder: an empty or new folder; None for ``ssl-zoo-NAME`` in the current one.

    Returns:
        The folder, with the whole package; an error leaves nothing behind.

    Raises:
        UserError: the name is not valid or is taken, there is no such kind, or the folder cannot be
            written.
    """
    _check_kind(kind)
    _check_name(name)
    folder = Path(f"{_PREFIX}{name}" if folder is None else folder)
    content = _render(name, kind)
    try:
        _check_folder(folder)
        _write(folder, content)
    except OSError as error:
        raise UserError(
            f"folder {folder}: cannot be written: {error.strerror or error}; choose another one"
        ) from error
    return folder


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        meant = did_you_mean(kind, KINDS)
        raise UserError(f"--kind {kind}: there is no such kind.{meant} There are: {', '.join(KINDS)}")


def _check_name(name: str) -> None:
    suggestion = _nearest_valid(name)
    if not _NAME.fullmatch(name):
        raise UserError(
            f"task name {name!r} {_invalid_reason(name)}: use lower-case letters and digits, with "
            f"single dashes between them, such as {suggestion or 'colour-guess'!r}"
        )
    if name != suggestion:
        raise UserError(
            f"task name {name!r}: the prefix {_PREFIX!r} is added automatically; use {suggestion!r}"
        )
    known: list[TaskInfo | EntryPoint] = [*registry.tasks().values(), *installed()]
    for entry in known:
        if canonical_name(entry.name) == name:
            owner = f"{entry.distribution} {entry.version}".strip()
            raise UserError(
                f"task name {name!r} is taken, by {owner} ({entry.value}); choose another one"
            )
    module = _module(name)
    if importlib.util.find_spec(module) is not None:
        raise UserError(f"task name {name!r}: its module {module} exists already; choose another one")


def _invalid_reason(name: str) -> str:
    """Return why a name is not valid, as the end of a sentence about it."""
    if not name:
        return "is empty"
    if invalid := sorted(set(re.sub(r"[a-z0-9-]", "", name))):
        return f"has {' and '.join(map(repr, invalid))} in it"
    if not name[0].isalpha():
        return "does not start with a letter"
    return "ends in a dash" if name.endswith("-") else "has two dashes in a row"


def _nearest_valid(name: str) -> str:
    """Return the nearest valid name, "" if there is none."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", plain).lower()  # ColourGuess
    dashed = re.sub(r"[^a-z0-9]+", "-", apart).strip("-").removeprefix(_PREFIX)
    return f"task-{dashed}" if dashed[:1].isdigit() else dashed


def _check_folder(folder: Path) -> None:
    if folder.is_dir():
        if any(folder.iterdir()):
            raise UserError(f"folder {folder}: is not empty; choose another one")
    elif folder.exists():
        raise UserError(f"folder {folder}: is a file; choose another one")
    elif not folder.parent.is_dir():
        raise UserError(f"folder {folder}: there is no folder {folder.parent}; make it first")
    parent = _writable_parent(folder)
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f"folder {folder}: {parent} is not writable; choose another one")


def _writable_parent(folder: Path) -> Path:
    """Return the existing folder that gets a new entry."""
    return folder if folder.is_dir() else folder.parent


def _module(name: str) -> str:
    return f"{_PREFIX}{name}".replace("-", "_")


def _class(name: str) -> str:
    camel = "".join(part.capitalize() for part in name.split("-"))
    return f"{camel}Task" if camel in _RESERVED else camel


def _render(name: str, kind: str) -> dict[str, str]:
    """Return the text of each file, by its path in the package."""
    environment = Environment(  # templates of programs, so nothing is escaped
        loader=PackageLoader("ssl_zoo.tools", "templates/new_task"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    words = {
        "name": name,
        "kind": kind,
        "distribution": f"{_PREFIX}{name}",
        "module": _module(name),
        "test": f"test_{name.replace('-', '_')}",
        "cls": _class(name),
    }
    return {
        place.format_map(words): environment.get_template(template.format_map(words)).render(words)
        for place, template in _FILES.items()
    }


def _write(folder: Path, content: dict[str, str]) -> None:
    """Write the files into a temporary folder, then move them into `folder`."""
    with TemporaryDirectory(prefix=".new-task-", dir=_writable_parent(folder)) as aside:
        whole = Path(aside, "whole")
        for place, text in content.items():
            file = whole / place
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        if not folder.is_dir():
            whole.rename(folder)
            return
        # Not replaced, as a shell may be in it.
        with ExitStack() as undo:
            for part in list(whole.iterdir()):
                undo.callback(_remove, part.rename(folder / part.name))
            undo.pop_all()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
