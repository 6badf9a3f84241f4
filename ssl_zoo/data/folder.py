"""A folder of images, with or without classes."""

from __future__ import annotations

import logging
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ssl_zoo.data.decode import formats, is_gray, open_image
from ssl_zoo.errors import UserError
from ssl_zoo.text import printable

log = logging.getLogger("ssl_zoo.data")

TEST_FOLDERS = ("test", "val", "valid", "validation")
HEIC = (".heic", ".heif")


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


def image_suffixes() -> set[str]:
    """The suffixes of image files, in lower case."""
    known = formats()
    return {suffix for suffix, kind in Image.registered_extensions().items() if kind in known}


def find_images(root: Path) -> list[Path]:
    """All image files below `root`, by name, without hidden ones; each real folder is read once.

    Raises:
        UserError: there is none, or a folder cannot be read.
    """
    known = image_suffixes()
    found: list[Path] = []
    others: Counter[str] = Counter()
    seen: set[str] = set()
    for folder, below, names in os.walk(root, onerror=_refuse, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # links that lead in a circle
            below.clear()
            continue
        seen.add(real)
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in sorted(name for name in names if not name.startswith(".")):
            suffix = Path(name).suffix.lower()
            if suffix in known:
                found.append(Path(folder, name))
            else:
                others[suffix] += 1
    heic = sum(others[suffix] for suffix in HEIC)
    advice = "pip install pillow-heif to read HEIC files" if heic else "name another folder"
    if not found:
        kinds = ", ".join(f"{n} {suffix or 'without suffix'}" for suffix, n in others.most_common(3))
        what = f"only other files ({printable(kinds)})" if others else "the folder is empty"
        raise UserError(f"data.source: there is no image in {printable(root)}, {what}; {advice}")
    if heic:
        log.warning("%d HEIC files in %s are left out; %s", heic, printable(root), advice)
    return found


def _refuse(error: OSError) -> None:
    raise UserError(f"data.source: cannot read {printable(error.filename)}: {error.strerror}") from error


def read_folder(root: Path, classes: tuple[str, ...] | None = None) -> Files:
    """The images below `root`; its sub-folders are classes where each image lies in one of two or more.

    Args:
        root: the folder.
        classes: the classes of another split, which this one's must be among.

    Raises:
        UserError: there is no image, or a folder cannot be read.
    """
    paths = find_images(root)
    depth = len(root.parts)
    tops = {path.parts[depth] for path in paths}
    in_folders = all(len(path.parts) > depth + 1 for path in paths)
    names = classes or tuple(sorted(tops))
    if not in_folders or len(names) < 2:
        return Files(paths, None, None)
    if not tops <= set(names):
        unknown = ", ".join(map(printable, sorted(tops - set(names))))
        log.warning("%s has classes that train lacks (%s): no accuracy", printable(root), unknown)
        return Files(paths, None, None)
    number = {name: i for i, name in enumerate(names)}
    return Files(paths, torch.tensor([number[path.parts[depth]] for path in paths]), names)


def split_folder(root: Path) -> tuple[Files, Files | None]:
    """The train and test files of a folder; no test files where it has no sub-folder for them.

    Of several folders for a test the first with labels is taken.
    """
    if not (root / "train").is_dir():
        return read_folder(root), None
    tests = [root / name for name in TEST_FOLDERS if (root / name).is_dir()]
    if not tests:
        whole = read_folder(root)
        only_train = {path.parts[len(root.parts)] for path in whole.paths} == {"train"}
        return (read_folder(root / "train") if only_train else whole), None
    train = read_folder(root / "train")
    found = [read_folder(test, train.classes) for test in tests]
    return train, next((files for files in found if files.labels is not None), found[0])


def channels_of(paths: list[Path], probed: int = 256) -> int:
    """1 where all of some images, spread over the whole list, are gray; else 3."""
    some = paths[:: max(1, len(paths) // probed)]
    return 1 if all(map(_gray_file, some)) else 3


def _gray_file(path: Path) -> bool:
    try:
        with open_image(path, 8) as image:
            return is_gray(image)
    except Exception:  # unreadable: it will be skipped, and does not decide
        return True
