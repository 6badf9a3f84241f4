"""``ssl-zoo new-task``: a package with one task that installs, trains and passes its tests."""

from __future__ import annotations

import builtins
from pathlib import Path

from ssl_zoo.tools.scaffold import check_kind, module_name, new_package

KINDS = ("joint-embedding", "predictive", "masked", "text")
"""The starting points of a task: views that attract, a change to predict, pixels to fill in, and letters
to fill in, which is a modality of its own."""

FILES = {
    "README.md": "new_task/README.md.jinja",
    "{module}.py": "new_task/{kind}/task.py.jinja",
    "tests/{test}.py": "new_task/{kind}/test.py.jinja",
}
"""The template of each file of the package."""

_USED = (
    "ADJECTIVES ANSWERS Any ArraySplit BackboneConfig Case Check ClassVar ColorJitter Compose "
    "DataConfig DataSet Encoder F Field ImageSpec LENGTH Losses MASK NamedTuple Normalise NOUNS "
    "Options RandomResizedCrop Reader Rng SentenceOptions Source SourceOptions SPAN Spec Task "
    "TaskOptions Tensor Text TextSpec VERBS"
)
RESERVED = {*dir(builtins), *_USED.split()}  # including True and None
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
    check_kind(kind, KINDS)
    cls, module = class_name(name), module_name(name)
    entries = {name: f"{module}:{cls}"}
    if kind == "text":  # its source, backbone and spec are registered by hooks
        entries[f"{name}-parts"] = module
    words = {
        "kind": kind,
        "cls": cls,
        "entries": entries,
        "summary": f"{name}, a self-supervised pretext task for ssl-zoo",
        "command": f"ssl-zoo check {name}",
    }
    return new_package("task", name, folder, FILES, words)


def class_name(name: str) -> str:
    """Return the name of the class of a task."""
    camel = "".join(part.capitalize() for part in name.split("-"))
    return f"{camel}Task" if camel in RESERVED else camel
