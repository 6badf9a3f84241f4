"""New packages of plugins: names, folders, templates."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import unicodedata
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ssl_zoo.errors import UserError
from ssl_zoo.plugins.entry_points import EntryPoint, canonical_name, installed
from ssl_zoo.plugins.info import TaskInfo
from ssl_zoo.plugins.registry import registry
from ssl_zoo.text import did_you_mean

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_PREFIX = "ssl-zoo-"

PACKAGE = {
    "pyproject.toml": "package/pyproject.toml.jinja",
    ".gitignore": "package/gitignore.jinja",
    ".github/workflows/test.yml": "package/workflow.yml.jinja",
}
"""The template of each file that all packages have."""


def new_package(
    noun: str,
    name: str,
    folder: str | Path | None,
    files: Mapping[str, str],
    words: Mapping[str, Any],
) -> Path:
    """Write a package with one plugin, ready to be installed.

    Args:
        noun: what the plugin is, such as "task".
        name: the plugin's name; the distribution is called ``ssl-zoo-NAME``.
        folder: an empty or new folder; None for ``ssl-zoo-NAME`` in the current one.
        files: the template of each file, beside `PACKAGE`, by its path in the package.
        words: what the templates fill in, beside the names that follow from `name`.

    Returns:
        The folder, with the whole package; an error leaves nothing behind.

    Raises:
        UserError: the name is not valid or is taken, or the folder cannot be written.
    """
    _check_name(noun, name)
    folder = Path(f"{_PREFIX}{name}" if folder is None else folder)
    content = _render({**PACKAGE, **files}, {"name": name, **_names(name), **words})
    try:
        _check_folder(folder)
        _write(folder, content)
    except OSError as error:
        raise UserError(
            f"folder {folder}: cannot be written: {error.strerror or error}; choose another one"
        ) from error
    return folder


def check_kind(kind: str, kinds: Collection[str]) -> None:
    """Raise unless there is such a kind of package.

    Raises:
        UserError: there is not.
    """
    if kind not in kinds:
        meant = did_you_mean(kind, kinds)
        raise UserError(f"--kind {kind}: there is no such kind.{meant} There are: {', '.join(kinds)}")


def module_name(name: str) -> str:
    """Return the name of the module of a plugin."""
    return f"{_PREFIX}{name}".replace("-", "_")


def _names(name: str) -> dict[str, str]:
    """Return the names that follow from that of a plugin."""
    return {
        "distribution": f"{_PREFIX}{name}",
        "module": module_name(name),
        "test": f"test_{name.replace('-', '_')}",
    }


def _check_name(noun: str, name: str) -> None:
    suggestion = _nearest_valid(noun, name)
    if not _NAME.fullmatch(name):
        raise UserError(
            f"{noun} name {name!r} {_invalid_reason(name)}: use lower-case letters and digits, with "
            f"single dashes between them, such as {suggestion or 'colour-guess'!r}"
        )
    if name != suggestion:
        raise UserError(
            f"{noun} name {name!r}: the prefix {_PREFIX!r} is added automatically; use {suggestion!r}"
        )
    known: list[TaskInfo | EntryPoint] = [*registry.tasks().values(), *installed()]
    for entry in known:
        if canonical_name(entry.name) == name:
            owner = f"{entry.distribution} {entry.version}".strip()
            raise UserError(
                f"{noun} name {name!r} is taken, by {owner} ({entry.value}); choose another one"
            )
    module = module_name(name)
    if importlib.util.find_spec(module) is not None:
        raise UserError(f"{noun} name {name!r}: its module {module} exists already; choose another one")


def _invalid_reason(name: str) -> str:
    """Return why a name is not valid, as the end of a sentence about it."""
    if not name:
        return "is empty"
    if invalid := sorted(set(re.sub(r"[a-z0-9-]", "", name))):
        return f"has {' and '.join(map(repr, invalid))} in it"
    if not name[0].isalpha():
        return "does not start with a letter"
    return "ends in a dash" if name.endswith("-") else "has two dashes in a row"


def _nearest_valid(noun: str, name: str) -> str:
    """Return the nearest valid name, "" if there is none."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", plain).lower()  # ColourGuess
    dashed = re.sub(r"[^a-z0-9]+", "-", apart).strip("-").removeprefix(_PREFIX)
    return f"{noun}-{dashed}" if dashed[:1].isdigit() else dashed


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


def _render(files: Mapping[str, str], words: Mapping[str, Any]) -> dict[str, str]:
    """Return the text of each file, by its path in the package."""
    environment = Environment(  # templates of programs, so nothing is escaped
        loader=PackageLoader("ssl_zoo.tools", "templates"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
    )
    return {
        place.format_map(words): environment.get_template(template.format_map(words)).render(words)
        for place, template in files.items()
    }


def _write(folder: Path, content: dict[str, str]) -> None:
    """Write the files into a temporary folder, then move them into `folder`."""
    with TemporaryDirectory(prefix=".new-package-", dir=_writable_parent(folder)) as aside:
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
