"""The configurations that ship with ssl-zoo, by name: the files of ``configs/`` without their suffix."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from ssl_zoo.errors import UserError
from ssl_zoo.text import did_you_mean

_PACKAGE = Path(__file__).parents[1]
_FOLDERS = (_PACKAGE / "configs", _PACKAGE.parent / "configs")
"""Where a wheel has them, and where the repository has them, from which an editable install works."""
_SUFFIX = ".yaml"
_END = re.compile(r"[:;]\s|\.\s(?=[A-Z])")


@cache  # as every configuration of a task asks for the recipe of its data
def shipped_configs() -> Mapping[str, Path]:
    """Return the files by name, such as ``fashion-mnist/simclr``, in order."""
    folder = next(filter(Path.is_dir, _FOLDERS), None)
    if folder is None:
        return {}
    files = sorted(folder.rglob(f"*{_SUFFIX}"))
    return {file.relative_to(folder).with_suffix("").as_posix(): file for file in files}


def find_config(name: str | Path) -> Path:
    """Return the file with this path or, where there is none, the shipped configuration of this name.

    Args:
        name: a path, or a name; ``configs/`` before and ``.yaml`` after a name change nothing.

    Raises:
        UserError: there is neither; the message lists near names, or all.
    """
    if os.path.lexists(name):
        return Path(name)
    files = shipped_configs()
    short = Path(name).as_posix().removeprefix("configs/").removesuffix(_SUFFIX)
    if short not in files:
        near = did_you_mean(short, files) or f" There are: {', '.join(files) or 'none'}"
        reason = "No such file or directory, and no configuration of this name ships with ssl-zoo"
        raise UserError(f"cannot be read: {reason}.{near}")
    return files[short]


def config_summary(text: str) -> str:
    """Return the beginning of the comment at the top of a configuration."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())
    return _END.split(" ".join(line.lstrip("# ") for line in lines), maxsplit=1)[0].rstrip(".")
