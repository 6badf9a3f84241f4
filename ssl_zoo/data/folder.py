"""Folders of images: which of their files are samples, their splits and their classes."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ssl_zoo.data.decode import formats
from ssl_zoo.errors import UserError
from ssl_zoo.text import printable

log = logging.getLogger("ssl_zoo.data")

TRAIN_NAMES = ("train", "training", "trn")
TEST_NAMES = ("test", "testing", "tst", "val", "valid", "validation", "dev", "eval", "evaluation")
UNLABELLED_NAMES = ("unlabeled", "unlabelled")
"""The names of folders for splits, also as one of the words of a name and in capitals: seg_train."""
HEIC_SUFFIXES = (".heic", ".heif")


@dataclass
class Listing:
    """The files below a folder.

    Attributes:
        images: the image files in the order of their names, without hidden ones.
        others: the number of other files by suffix, "hidden" for image files whose name or folder
            begins with a dot.
    """

    images: list[Path] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class LabelledFiles:
    """Image files, with their classes where their folders name them.

    Attributes:
        paths: the files, in the order of their names.
        labels: the class of each file, int64 [N], -1 for a file without one; None if none has one.
        classes: the names of the classes, or None.
        no_labels: why there are no labels, where that may surprise.
    """

    paths: list[Path]
    labels: Tensor | None = None
    classes: tuple[str, ...] | None = None
    no_labels: str = ""


@dataclass(frozen=True)
class FolderContent:
    """The content of a folder of images.

    Attributes:
        train: the files to train on, those to hold out among them.
        test: the files to evaluate on; None if the folder has no sub-folder for them.
        others: the number of files that are not images, by suffix.
        unused: the sub-folders that nothing is taken from.
        folders: the sub-folders that a split is taken from, by ``train`` and ``test``.
    """

    train: LabelledFiles
    test: LabelledFiles | None
    others: Counter[str]
    unused: tuple[str, ...]
    folders: Mapping[str, Sequence[str]] = field(default_factory=dict)


def image_suffixes() -> set[str]:
    """Return the suffixes of image files, in lower case."""
    readable = formats()
    return {suffix for suffix, kind in Image.registered_extensions().items() if kind in readable}


def list_files(root: Path) -> Listing:
    """Return all files below `root`.

    Links to folders are followed, and each real folder is read once.

    Raises:
        UserError: there are no images, or a folder cannot be read.
    """
    suffixes = image_suffixes()
    listing = Listing()
    seen: set[str] = set()
    for folder, subfolders, names in os.walk(root, onerror=_raise_unreadable, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # links may form a cycle
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(names):
            suffix = Path(name).suffix.lower()
            if not name.startswith(".") and suffix in suffixes:
                listing.images.append(Path(folder, name))
            elif not name.startswith(".") or suffix in suffixes:
                listing.others["hidden" if name.startswith(".") else suffix or "without suffix"] += 1
    heic = sum(listing.others[suffix] for suffix in HEIC_SUFFIXES)
    hint = "pip install pillow-heif to read HEIC files" if heic else "name another folder"
    if not listing.images:
        kinds = ", ".join(f"{n} {suffix}" for suffix, n in listing.others.most_common(3))
        content = f"only other files ({printable(kinds)})" if kinds else "the folder is empty"
        raise UserError(f"data.source: there are no images in {printable(root)}, {content}; {hint}")
    if heic:
        log.warning("%d HEIC files in %s are left out; %s", heic, printable(root), hint)
    return listing


def _raise_unreadable(error: OSError) -> None:
    raise UserError(f"data.source: cannot read {printable(error.filename)}: {error.strerror}") from error


def read_folder(root: Path) -> FolderContent:
    """Find the images below `root`, their splits and their classes.

    - Sub-folders such as ``train`` and ``test`` (see `TRAIN_NAMES`, `TEST_NAMES`) are the splits. Of
      several to evaluate on, the first one with labels is used. A single folder around them, as archives
      have it, is passed over.
    - Images in a sub-folder ``unlabeled`` are trained on without a label.
    - Below that, sub-folders are classes if every image lies in one.

    Raises:
        UserError: there are no images, a folder cannot be read, or several folders could be the train
            split.
    """
    root = _inside_wrappers(root)
    folders = _folders(root)
    tests = sorted(_with_role(folders, TEST_NAMES), key=lambda name: _role_rank(name, TEST_NAMES))
    unlabelled = _with_role(folders, UNLABELLED_NAMES)
    train = _train_folder(root, folders, bool(tests or unlabelled))
    if train is None:
        listing = list_files(root)
        empty = _empty(root, folders, listing.images)
        files = _label(listing.images, root, unlabelled)
        return FolderContent(files, None, listing.others, empty)
    listings = {name: list_files(root / name) for name in (train, *unlabelled)}
    inner = _inside_wrappers(root / train, named=train)
    files = _label(listings[train].images, inner)
    files = _with_unlabelled(files, [path for name in unlabelled for path in listings[name].images])
    candidates = {}
    for name in tests:
        listings[name] = list_files(root / name)
        inner = _inside_wrappers(root / name, named=name)
        candidates[name] = _label(listings[name].images, inner, classes=files.classes)
    labelled = (name for name, found in candidates.items() if found.labels is not None)
    test = next(labelled, next(iter(candidates), None))
    used = {train, test, *unlabelled}
    others = sum((listings[name].others for name in used if name is not None), Counter[str]())
    unused = tuple(name for name in folders if name not in used)
    folders_used = {"train": [train, *unlabelled], "test": [] if test is None else [test]}
    test_files = None if test is None else candidates[test]
    return FolderContent(files, test_files, others, unused, folders_used)


def _folders(root: Path) -> list[str]:
    """Return the names of the visible folders in `root`, sorted.

    Raises:
        UserError: it cannot be read.
    """
    return _content(root)[0]


def _content(root: Path) -> tuple[list[str], list[str]]:
    """Return the names of the visible folders and of the visible files in `root`, sorted.

    Raises:
        UserError: it cannot be read.
    """
    _, folders, files = next(os.walk(root, onerror=_raise_unreadable))
    visible = [sorted(n for n in names if not n.startswith(".")) for names in (folders, files)]
    return visible[0], visible[1]


def _inside_wrappers(root: Path, named: str | None = None) -> Path:
    """Return the folder that counts as `root`: one inside it, where it has nothing else.

    Args:
        root: a folder.
        named: pass over folders of this name only, as in ``seg_train/seg_train``; None for folders that
            hold splits.
    """
    folders, files = _content(root)
    if len(folders) != 1 or files:
        return root
    inside = root / folders[0]
    if named is not None:
        return _inside_wrappers(inside, named) if folders[0].lower() == named.lower() else root
    names = _folders(inside)
    splits = _with_role(names, TRAIN_NAMES) and _with_role(names, (*TEST_NAMES, *UNLABELLED_NAMES))
    return inside if splits and not _has_role(folders[0], TRAIN_NAMES) else root


def _words(name: str) -> list[str]:
    return re.findall(r"[a-z]+", name.lower())


def _has_role(name: str, names: Sequence[str]) -> bool:
    return not set(_words(name)).isdisjoint(names)


def _with_role(folders: Iterable[str], names: Sequence[str]) -> list[str]:
    """Return the folders with one of the names among the words of theirs."""
    return [folder for folder in folders if _has_role(folder, names)]


def _role_rank(folder: str, names: Sequence[str]) -> int:
    return min(names.index(word) for word in _words(folder) if word in names)


def _train_folder(root: Path, folders: Sequence[str], has_other_splits: bool) -> str | None:
    """Return the name of the sub-folder to train on; None for the folder as a whole.

    Without a folder for another split, ``train`` is a class among others, unless it is the only one.

    Raises:
        UserError: several could be meant.
    """
    found = _with_role(folders, TRAIN_NAMES)
    exact = [name for name in found if name.lower() in TRAIN_NAMES]
    if len(exact) == 1:
        found = exact
    if len(found) > 1 and has_other_splits:
        raise UserError(
            f"data.source: several folders in {printable(root)} could be the train split "
            f"({', '.join(map(printable, found))}); name one of them with --data, or rename the others"
        )
    if not found or has_other_splits:
        return found[0] if found else None
    depth = len(root.parts)
    holds_all = all(path.parts[depth] == found[0] for path in list_files(root).images)
    return found[0] if exact and holds_all else None


def _empty(root: Path, folders: Iterable[str], images: Iterable[Path]) -> tuple[str, ...]:
    """Return the folders without an image below them."""
    depth = len(root.parts)
    filled = {path.parts[depth] for path in images if len(path.parts) > depth + 1}
    return tuple(name for name in folders if name not in filled)


def _label(
    paths: list[Path],
    root: Path,
    unlabelled: Sequence[str] = (),
    classes: tuple[str, ...] | None = None,
) -> LabelledFiles:
    """Label images by the sub-folders of `root` that they are in.

    Args:
        paths: the images.
        root: the folder.
        unlabelled: the sub-folders whose images have no label.
        classes: the classes of another split, which must include this one's.
    """
    depth = len(root.parts)
    folders = [path.parts[depth] if len(path.parts) > depth + 1 else None for path in paths]
    named = [None if name in unlabelled else name for name in folders]
    names = classes or tuple(sorted({name for name in named if name is not None}))
    loose = folders.count(None)
    if loose or not names:
        some = f"{loose:,} of {len(paths):,} images are in no sub-folder" if names else ""
        return LabelledFiles(paths, no_labels=some)
    if unknown := sorted({name for name in named if name is not None} - set(names)):
        log.warning(
            "%s has classes that the train split lacks (%s), so no accuracy is computed",
            printable(root), ", ".join(map(printable, unknown)),
        )  # fmt: skip
        return LabelledFiles(paths)
    number = {name: i for i, name in enumerate(names)}
    labels = torch.tensor([-1 if name is None else number[name] for name in named])
    return LabelledFiles(paths, labels, names)


def _with_unlabelled(files: LabelledFiles, paths: list[Path]) -> LabelledFiles:
    """Add images without a label."""
    if files.labels is None or not paths:
        return LabelledFiles([*files.paths, *paths], files.labels, files.classes, files.no_labels)
    labels = torch.cat([files.labels, torch.full((len(paths),), -1)])
    return LabelledFiles([*files.paths, *paths], labels, files.classes)
