"""Names of sources as a user writes them: paths, patterns of paths, and several of these."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path


def is_glob(text: str) -> bool:
    """Return whether a text is a pattern of paths, such as ``photos/*.jpg``, and no path that exists."""
    return glob.has_magic(text) and not Path(text).expanduser().exists()


def folder_of(source: str) -> Path:
    """Return the folder of a source: itself, that of a list, or the one before a glob's wildcards."""
    path = Path(source).expanduser()
    if is_glob(source):
        plain = [not glob.has_magic(part) for part in path.parts]
        return Path(*path.parts[: plain.index(False)])
    return path.parent if path.is_file() else path


def source_name(source: str | Sequence[str]) -> str:
    """Return a short name of ``data.source``: the last part of each path, without wildcards."""
    sources = [source] if isinstance(source, str) else source
    names = [(folder_of(s) if is_glob(s) else Path(s)).name for s in sources]
    return "+".join(names[:3]) + (f"+{len(names) - 3} more" if len(names) > 3 else "")


def plain_source(source: str | Sequence[str]) -> str | list[str]:
    """Return ``data.source`` as a configuration holds it: a list of one source is that source."""
    sources = [source] if isinstance(source, str) else list(source)
    return sources[0] if len(sources) == 1 else sources
