"""Folders of images, with or without classes, and paths as a user writes them."""

from __future__ import annotations

import contextlib
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
from ssl_zoo.text import error_reason, printable

log = logging.getLogger("ssl_zoo.data")

TEST_FOLDERS = ("test", "val", "valid", "validation")
HEIC_SUFFIXES = (".heic", ".heif")


@dataclass(frozen=True)
class LabelledFiles:
    """Image files, with their classes where their folders name them.

    Attributes:
        paths: the files, in the order of their names.
        labels: the class of each file, int64 [N], or None.
        classes: the names of the classes, or None.
    """

    paths: list[Path]
    labels: Tensor | None
    classes: tuple[str, ...] | None


def user_path(setting: str, text: str) -> Path:
    """Return a path that a user wrote, which need not exist, with ``~`` expanded.

    Args:
        setting: the dotted path of the setting, for the message.
        text: the path.

    Raises:
        UserError: the path is invalid, or the system forbids access to it.
    """
    try:
        path = Path(text).expanduser()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.stat()
    except (OSError, RuntimeError, ValueError) as error:
        shown = printable(text if len(text) <= 100 else f"{text[:97]}...")
        reason = error_reason(error).rstrip(".")
        raise UserError(f"{setting}: {shown}: {reason}; name another folder") from error
    return path


def image_suffixes() -> set[str]:
    """Return the suffixes of image files, in lower case."""
    readable = formats()
    return {suffix for suffix, kind in Image.registered_extensions().items() if kind in readable}


def find_images(root: Path) -> list[Path]:
    """Return all image files below `root` in the order of their names, without hidden ones.

    Links to folders are followed, and each real folder is read once.

    Raises:
        UserError: there are no images, or a folder cannot be read.
    """
    suffixes = image_suffixes()
    images: list[Path] = []
    others: Counter[str] = Counter()
    seen: set[str] = set()
    for folder, subfolders, names in os.walk(root, onerror=_raise_unreadable, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # links may form a cycle
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(name for name in names if not name.startswith(".")):
            suffix = Path(name).suffix.lower()
            if suffix in suffixes:
                images.append(Path(folder, name))
            else:
                others[suffix] += 1
    heic = sum(others[suffix] for suffix in HEIC_SUFFIXES)
    hint = "pip install pillow-heif to read HEIC files" if heic else "name another folder"
    if not images:
        kinds = ", ".join(f"{n} {suffix or 'without suffix'}" for suffix, n in others.most_common(3))
        content = f"only other files ({printable(kinds)})" if others else "the folder is empty"
        raise UserError(f"data.source: there are no images in {printable(root)}, {content}; {hint}")
    if heic:
        log.warning("%d HEIC files in %s are left out; %s", heic, printable(root), hint)
    return images


def _raise_unreadable(error: OSError) -> None:
    raise UserError(f"data.source: cannot read {printable(error.filename)}: {error.strerror}") from error


def read_folder(root: Path, classes: tuple[str, ...] | None = None) -> LabelledFiles:
    """Return the images below `root`, with labels if each lies in one of two or more sub-folders.

    Args:
        root: the folder.
        classes: the classes of another split, which must include this one's.

    Raises:
        UserError: there are no images, or a folder cannot be read.
    """
    paths = find_images(root)
    depth = len(root.parts)
    top_names = {path.parts[depth] for path in paths}
    in_folders = all(len(path.parts) > depth + 1 for path in paths)
    names = classes or tuple(sorted(top_names))
    if not in_folders or len(names) < 2:
        return LabelledFiles(paths, None, None)
    if not top_names <= set(names):
        unknown = ", ".join(map(printable, sorted(top_names - set(names))))
        log.warning(
            "%s has classes that the train split lacks (%s), so no accuracy is computed",
            printable(root), unknown,
        )  # fmt: skip
        return LabelledFiles(paths, None, None)
    number = {name: i for i, name in enumerate(names)}
    return LabelledFiles(paths, torch.tensor([number[path.parts[depth]] for path in paths]), names)


def split_folder(root: Path) -> tuple[LabelledFiles, LabelledFiles | None]:
    """Return the train and test files of a folder; no test files if it has no sub-folder for them.

    Of several test folders the first one with labels is used.
    """
    if not (root / "train").is_dir():
        return read_folder(root), None
    tests = [root / name for name in TEST_FOLDERS if (root / name).is_dir()]
    if not tests:
        whole = read_folder(root)
        only_train = {path.parts[len(root.parts)] for path in whole.paths} == {"train"}
        return (read_folder(root / "train") if only_train else whole), None
    train = read_folder(root / "train")
    candidates = [read_folder(test, train.classes) for test in tests]
    return train, next((files for files in candidates if files.labels is not None), candidates[0])


def channels_of(paths: list[Path], limit: int = 256) -> int:
    """Return 1 if all of about `limit` images, spread over the list, are gray; otherwise 3."""
    sample = paths[:: max(1, len(paths) // limit)]
    return 1 if all(map(_gray_file, sample)) else 3


def _gray_file(path: Path) -> bool:
    try:
        with open_image(path, 8) as image:
            return is_gray(image)
    except Exception:  # an unreadable image is skipped later and does not decide here
        return True
