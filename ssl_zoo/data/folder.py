"""A folder of images, with or without classes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ssl_zoo.errors import UserError

TEST_FOLDERS = ("test", "val", "valid", "validation")


@dataclass(frozen=True)
class Files:
    """Image files, with their classes where the folders tell them.

    Attributes:
        paths: in the order of their names.
        labels: int64 [N] or None.
        classes: the names of the classes or None.
    """

    paths: list[Path]
    labels: Tensor | None
    classes: tuple[str, ...] | None


def find_images(root: Path) -> list[Path]:
    """All image files below `root`, by name, without hidden ones and without following loops."""
    known = set(Image.registered_extensions())
    found: list[Path] = []
    for folder, below, names in os.walk(root, onerror=_refuse):
        below[:] = sorted(name for name in below if not name.startswith("."))
        found += [
            Path(folder, name)
            for name in sorted(names)
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in known  # noqa: PTH122
        ]
    return found


def _refuse(error: OSError) -> None:
    raise UserError(f"data.source: cannot read {error.filename}: {error.strerror}") from error


def read_folder(root: Path, classes: tuple[str, ...] | None = None) -> Files:
    """The images below `root`; its sub-folders are classes where each image lies in one of two or more.

    Args:
        root: the folder.
        classes: the classes of another split, which this one's must be among.

    Raises:
        UserError: there is no image, or a folder cannot be read.
    """
    paths = find_images(root)
    if not paths:
        hint = "" if any(root.rglob("*")) else " (the folder is empty)"
        raise UserError(f"data.source: there is no image in {root}{hint}")
    tops = [path.relative_to(root).parts[0] for path in paths]
    in_folders = all(len(path.relative_to(root).parts) > 1 for path in paths)
    names = classes or tuple(sorted(set(tops)))
    if not in_folders or len(names) < 2 or not set(tops) <= set(names):
        return Files(paths, None, None)
    number = {name: i for i, name in enumerate(names)}
    return Files(paths, torch.tensor([number[top] for top in tops]), names)


def split_folder(root: Path) -> tuple[Files, Files | None]:
    """The train and test files of a folder; no test files where it has no sub-folder for them."""
    test = next((root / name for name in TEST_FOLDERS if (root / name).is_dir()), None)
    if test is None or not (root / "train").is_dir():
        return read_folder(root), None
    train = read_folder(root / "train")
    return train, read_folder(test, train.classes)
