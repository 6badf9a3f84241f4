"""Indexes: the image files of a data set, with their classes and splits, in files that are mapped.

An index is a folder. For each split it has a file of the paths, one after the other, and arrays of where
each of them ends and of the classes; ``ssl-zoo-index.json`` has the rest. What is needed of them is read
when it is needed, and the system keeps it once for all processes of a machine, so that the memory of a
process does not grow with the number of images.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ssl_zoo.config.errors import SettingError
from ssl_zoo.config.paths import user_path
from ssl_zoo.config.schema import DataConfig
from ssl_zoo.config.source_names import INDEX_FILE
from ssl_zoo.data.assemble import SplitBuilder, assemble
from ssl_zoo.data.computed import ComputedSequence
from ssl_zoo.data.dataset import DataSet
from ssl_zoo.data.dicom_window import with_window
from ssl_zoo.data.lazy import LazySplit
from ssl_zoo.data.mapped import ArrayFile
from ssl_zoo.data.summary import SourceFacts
from ssl_zoo.data.text_file import TextWriter, open_texts
from ssl_zoo.errors import UserError
from ssl_zoo.runtime.files import make_output_folder, write_atomic
from ssl_zoo.text import error_reason, printable

NAME = "file-index"
"""The name of the source."""
FORMAT = 1


@dataclass(frozen=True)
class IndexedFiles:
    """The files of one split.

    Attributes:
        paths: the path of each, relative to the root of the index, or absolute.
        labels: the class of each, int64 [N], -1 for none; None if none has one.
    """

    paths: Sequence[str]
    labels: Tensor | None = None


@dataclass(frozen=True)
class Index:
    """The files of a data set.

    Attributes:
        root: the folder to which paths are relative.
        splits: the files trained on, ``train``, and if there are any, those evaluated on, ``test``.
        classes: the names of the classes, or None.
        held_out: how ``test`` was held out of the files; "" if it was not.
    """

    root: Path
    splits: dict[str, IndexedFiles]
    classes: tuple[str, ...] | None = None
    held_out: str = ""


def write_index(index: Index, out: Path) -> None:
    """Write an index into a new or empty folder; ``ssl-zoo-index.json`` last, which makes it one.

    Raises:
        UserError: the folder has files already, or cannot be written into.
        Unwritable: a file cannot be written.
    """
    make_output_folder("--out", out, new=True)
    try:
        for name, files in index.splits.items():
            paths = TextWriter(out / f"{name}.paths")
            paths.write(files.paths)
            paths.close()
            if files.labels is not None:
                np.save(out / f"{name}.labels.npy", files.labels.numpy())
    except OSError as error:
        shutil.rmtree(out, ignore_errors=True)
        raise UserError(f"--out {out}: cannot be written: {error_reason(error)}") from error
    described = {
        "format": FORMAT,
        "root": str(index.root.resolve()),
        "splits": {name: len(files.paths) for name, files in index.splits.items()},
        "classes": index.classes,
        "held_out": index.held_out,
    }
    write_atomic(out / INDEX_FILE, json.dumps(described, indent=1).encode())


def read_index(folder: Path) -> Index:
    """Open an index, of which nothing but ``ssl-zoo-index.json`` is read.

    Raises:
        UserError: it is broken, or of another version.
    """
    try:
        described = json.loads((folder / INDEX_FILE).read_text())
        if described["format"] != FORMAT:
            raise UserError(
                f"data.source: {printable(folder)} is an index of format {described['format']}, and "
                f"this version reads {FORMAT}; make it again with ssl-zoo index"
            )
        splits = {name: _open(folder, name, count) for name, count in described["splits"].items()}
        if "train" not in splits:
            raise ValueError("there is no train split")
        classes = described["classes"]
        return Index(
            Path(described["root"]),
            splits,
            None if classes is None else tuple(map(str, classes)),
            str(described["held_out"]),
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"data.source: {printable(folder)} is a broken index ({error_reason(error)}); make it again "
            "with ssl-zoo index"
        ) from error


def _open(folder: Path, name: str, count: int) -> IndexedFiles:
    """Map the files of one split.

    Raises:
        ValueError: they do not fit together.
        OSError: one cannot be read.
    """
    paths = open_texts(folder / f"{name}.paths")
    if len(paths) != count:
        raise ValueError(f"the {name} split does not have {count:,} paths")
    labels = None
    if (file := folder / f"{name}.labels.npy").exists():
        labels = ArrayFile(file).whole
        if labels.shape != (count,) or labels.dtype != torch.long:
            raise ValueError(f"the {name} split does not have {count:,} classes")
    return IndexedFiles(paths, labels)


def open_index(config: DataConfig, device: torch.device) -> DataSet:
    """Open the data set of which ``data.source`` names an index.

    Raises:
        UserError: the index is broken, or no image can be read.
    """
    for name in ("holdout", "groups"):
        if getattr(config, name) is not None:
            raise SettingError(
                f"data.{name}", "was decided when the index was made; give it to ssl-zoo index instead"
            )
    folder = user_path("data.source", config.sources[0].removeprefix(f"{NAME}:"))
    index = read_index(folder)
    files = index.splits["train"]
    config = with_window(config, _paths(index, files))
    builder = SplitBuilder(config=config, device=device)

    def split(files: IndexedFiles) -> LazySplit:
        return LazySplit(builder.from_whole_files(_paths(index, files), index.root), files.labels)

    train = bank = split(files)
    if files.labels is not None and len(files.labels) and int(files.labels.min()) < 0:
        known = (files.labels >= 0).nonzero().flatten()
        bank = LazySplit(train.files, files.labels[known], known)
        train = LazySplit(train.files, None)
    return assemble(
        folder.resolve().name.removesuffix(".index"),
        config,
        device,
        size=None,
        train=train,
        test=split(index.splits["test"]) if "test" in index.splits else None,
        bank=bank,
        classes=index.classes,
        widen=builder.form.widen,
        facts=SourceFacts(held_out=index.held_out),
    )


def _paths(index: Index, files: IndexedFiles) -> Sequence[Path]:
    return ComputedSequence(len(files.paths), lambda i: index.root / files.paths[i])
