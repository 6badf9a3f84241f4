"""Names of sources as a user writes them: paths, patterns of paths, and several of these."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path


def is_glob(text: str) -> bool:
    """Return whether a text is a pattern of paths, such as ``photos/*.jpg``, and no path that exists."""
    return glob.has_magic(text) and not Path(text).expanduser().exists()


SHARD_SUFFIXES = (".tar", ".tar.gz", ".tgz")
"""The suffixes of archives that are shards."""
SPLIT_PREFIXES = ("train", "test", "unlabelled")
"""The prefixes of a source, such as ``test:held/``, that make its files one split."""
INDEX_FILE = "ssl-zoo-index.json"
"""The file that makes a folder an index of image files."""


def split_prefix(source: str) -> tuple[str | None, str]:
    """Return the split that the prefix of a source names, None for none, and the rest."""
    prefix, colon, rest = source.partition(":")
    return (prefix, rest) if colon and prefix in SPLIT_PREFIXES else (None, source)


def is_index(source: str) -> bool:
    """Return whether a text names the folder of an index."""
    return bool(source) and _exists(f"{source}/{INDEX_FILE}")


def names_shards(source: str) -> bool:
    """Return whether a text names tar archives, or a folder of them."""
    _, text = split_prefix(source)
    if text.startswith("pipe:"):
        return ".tar" in text
    return text.endswith(SHARD_SUFFIXES) or bool(shards_in(text))


def shards_in(source: str) -> list[str]:
    """Return the shards in a folder that has only these, ``.txt`` and ``.json``; [] for any other."""
    if not source or not _exists(f"{source}/"):
        return []
    names = []
    with suppress(OSError):  # which listing its images reports
        for path in Path(source).expanduser().iterdir():
            if path.name.endswith(SHARD_SUFFIXES):
                names.append(str(path))
            elif not path.name.startswith(".") and path.suffix not in (".txt", ".json"):
                return []
    return sorted(names)


def _exists(text: str) -> bool:
    """Return whether a file exists, or with a slash at the end a folder; false for what is no path."""
    try:
        path = Path(text).expanduser()
        return path.is_dir() if text.endswith("/") else path.exists()
    except (OSError, RuntimeError, ValueError):  # forbidden, of an unknown user, or no path
        return False


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
