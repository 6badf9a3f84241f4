"""``ssl-zoo index``: the list of a data set's image files, for processes to share."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ssl_zoo.config.load import load_encoder_config
from ssl_zoo.data.computed import ComputedSequence
from ssl_zoo.data.division import divide
from ssl_zoo.data.gather import FileOptions, gather, takes_files
from ssl_zoo.data.index import Index, IndexedFiles, write_index
from ssl_zoo.errors import UserError
from ssl_zoo.text import printable


@dataclass(frozen=True)
class Prepared:
    """Image files in a form for large data.

    Attributes:
        folder: the folder that was written.
        samples: the number of samples of each split.
        classes: the number of classes; 0 without labels.
    """

    folder: str
    samples: dict[str, int]
    classes: int

    @staticmethod
    def facts(files: Index, folder: Path) -> dict[str, Any]:
        """Return the attributes, for image files and the folder that they were written into."""
        counts = {name: len(split.paths) for name, split in files.splits.items()}
        return {"folder": str(folder), "samples": counts, "classes": len(files.classes or ())}


def index(
    data: str | Sequence[str],
    out: str | Path,
    sets: Sequence[str] = (),
    *,
    flags: Mapping[str, str] | None = None,
) -> Prepared:
    """Write an index of the image files of a source, which `ssl_zoo.data.index` describes.

    The files are listed, and held out of, as training on the source itself would do it.

    Args:
        data: folders, globs or lists, as ``data.source``.
        out: the folder to write, new or empty.
        sets: texts of the form ``path=value``, such as ``data.holdout=0.1``.
        flags: the names of settings in error messages.

    Raises:
        UserError: the data are no image files, or the folder has files already.
        Unwritable: a file cannot be written.
    """
    files = list_files(data, sets, flags)
    write_index(files, Path(out))
    return Prepared(**Prepared.facts(files, Path(out)))


def list_files(
    data: str | Sequence[str], sets: Sequence[str] = (), flags: Mapping[str, str] | None = None
) -> Index:
    """Return the image files of a source, with their classes and splits.

    Args:
        data: as for `index`, as are `sets` and `flags`.
        sets: likewise.
        flags: likewise.

    Raises:
        UserError: the data are no image files.
    """
    config = load_encoder_config({"data.source": data}, sets, flags=flags).data
    if others := [source for source in config.sources if not takes_files(source)]:
        raise UserError(
            f"data.source: {printable(others[0])} is no folder, glob or list of images; name one"
        )
    found = gather(config, FileOptions.model_validate(config.options))
    divided = divide(found, config)
    content, root = found.content, found.root.resolve()
    paths, labels = content.train.paths, divided.labels

    def chosen(files: Tensor) -> IndexedFiles:
        names = ComputedSequence(len(files), lambda i: _relative(paths[int(files[i])], root))
        return IndexedFiles(names, None if labels is None else labels[files])

    splits = {"train": chosen(divided.train)}
    if content.test is not None:
        test = content.test
        names = ComputedSequence(len(test.paths), lambda i: _relative(test.paths[i], root))
        splits["test"] = IndexedFiles(names, test.labels)
    elif len(divided.held_out):
        splits["test"] = chosen(divided.held_out)
    return Index(root, splits, None if labels is None else content.train.classes, divided.facts.held_out)


def _relative(path: Path, root: Path) -> str:
    """Return the path of a file below the root, or its absolute path."""
    absolute = os.path.abspath(path)  # noqa: PTH100 - `Path.resolve` asks the disk about each folder
    prefix = f"{root}{os.sep}"
    return absolute.removeprefix(prefix)
