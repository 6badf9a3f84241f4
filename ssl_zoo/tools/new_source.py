"""``ssl-zoo new-source``: a package with one data source that installs and passes its tests."""

from __future__ import annotations

from pathlib import Path

from ssl_zoo.data.catalogue import CATALOGUE
from ssl_zoo.data.sources import known_sources
from ssl_zoo.errors import UserError
from ssl_zoo.plugins.registry import registry
from ssl_zoo.tools.scaffold import check_kind, module_name, new_package

KINDS = {"images": "FILE.npz", "stream": "FOLDER", "table": "FILE.csv"}
"""The starting points of a source, and what it opens: an array of images, a folder of archives that are
read one after another, and a table of numbers, which is a modality of its own."""

FILES = {
    "README.md": "new_source/README.md.jinja",
    "{module}.py": "new_source/{kind}/source.py.jinja",
    "tests/{test}.py": "new_source/{kind}/test.py.jinja",
}
"""The template of each file of the package."""


def new_source(name: str, kind: str = "images", folder: str | Path | None = None) -> Path:
    """Write a package with one data source, ready to be installed and changed.

    Args:
        name: the source's name; the distribution is called ``ssl-zoo-NAME``.
        kind: the starting point, one of `KINDS`.
        folder: an empty or new folder; None for ``ssl-zoo-NAME`` in the current one.

    Returns:
        The folder, with the whole package; an error leaves nothing behind.

    Raises:
        UserError: the name is not valid or is taken, there is no such kind, or the folder cannot be
            written.
    """
    check_kind(kind, KINDS)
    if name in {*known_sources(registry.collect("ssl_zoo_register_sources")), *CATALOGUE}:
        raise UserError(f"source name {name!r} is taken, by a data set; choose another one")
    words = {
        "kind": kind,
        "opens": KINDS[kind],
        "entries": {name: module_name(name)},
        "summary": f"{name}, a data source for ssl-zoo",
        "command": "",
    }
    return new_package("source", name, folder, FILES, words)
