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
from torch import Tensor

from ssl_zoo.data.listing import Listing, is_visible, list_files, raise_unreadable
from ssl_zoo.errors import UserError
from ssl_zoo.text import printable

log = logging.getLogger("ssl_zoo.data")

TRAIN_WORDS = ("train", "training", "trn", "trainval")
TEST_WORDS = (
    *("test", "testing", "tst", "val", "valid", "validation"),
    *("dev", "eval", "evaluation", "holdout", "heldout"),
)
UNLABELLED_WORDS = ("unlabeled", "unlabelled", "unsup", "unsupervised")
"""The words that make a folder a split: ``train``, ``TrainSet``, ``val2017``, ``seg_train``."""
NEUTRAL_WORDS = {"set", "split", "data", "images", "imgs", "img"}


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
        unused: the number of images of each sub-folder that nothing is taken from, "" for images in
            no sub-folder.
        folders: the sub-folders that a split is taken from, by ``train`` and ``test``.
        groups: the name of what a file is a part of, such as a clip, for the files of which a list says.
    """

    train: LabelledFiles
    test: LabelledFiles | None
    others: Counter[str]
    unused: Mapping[str, int]
    folders: Mapping[str, Sequence[str]] = field(default_factory=dict)
    groups: Mapping[Path, str] = field(default_factory=dict)


def read_folder(root: Path, listing: Listing | None = None) -> FolderContent:
    """Find the images below `root`, their splits and their classes.

    - Folders named by a word for a split (`TRAIN_WORDS`, `TEST_WORDS`) are the splits, if one of them is
      for training and their other words are equal (``seg_train``, ``seg_test``). Of several to evaluate
      on, the first one with labels is used.
    - Images in a folder ``unlabeled`` (`UNLABELLED_WORDS`) are trained on without a label.
    - Below that, sub-folders are classes if every image lies in one.
    - A folder that has nothing but one folder with sub-folders counts as the inner one.

    Args:
        root: the folder.
        listing: the images to take, all of them below `root`; None for all that there are.

    Raises:
        UserError: there are no images, a folder cannot be read, or several folders could be the train
            split.
    """
    whole = list_files(root) if listing is None else listing
    root = innermost(root, whole.images)
    folders = _by_folder(whole.images, root)
    empty = [name for name in _folders(root) if name not in folders] if listing is None else []
    train, tests, unlabelled = find_splits(root, list(folders), empty)
    if train is None:
        files = label_by_folder(whole.images, root)
        warn_of_split_names(files.classes or (), whole.images, root)
        return FolderContent(files, None, whole.others, dict.fromkeys(empty, 0))
    for name in (train, *tests, *unlabelled):
        if name in empty:
            raise UserError(
                f"data.source: there are no images in {printable(root / name)}; remove it, or name "
                "another folder"
            )
    files = label_by_folder(folders[train], innermost(root / train, folders[train], named=train))
    files = _with_unlabelled(files, [path for name in unlabelled for path in folders[name]])
    candidates = {
        name: label_by_folder(
            folders[name], innermost(root / name, folders[name], named=name), classes=files.classes
        )
        for name in tests
    }
    labelled = (name for name, found in candidates.items() if found.labels is not None)
    test = next(labelled, next(iter(candidates), None))
    used = {train, test, *unlabelled}
    unused = {name: len(paths) for name, paths in folders.items() if name not in used}
    folders_used = {"train": [train, *unlabelled], "test": [] if test is None else [test]}
    test_files = None if test is None else candidates[test]
    return FolderContent(files, test_files, whole.others, unused | dict.fromkeys(empty, 0), folders_used)


def _folders(root: Path) -> list[str]:
    """Return the names of the visible folders in `root`, sorted.

    Raises:
        UserError: it cannot be read.
    """
    return sorted(filter(is_visible, next(os.walk(root, onerror=raise_unreadable))[1]))


def _by_folder(images: Iterable[Path], root: Path) -> dict[str, list[Path]]:
    """Return the images of each folder in `root`, "" for those in none."""
    depth = len(root.parts)
    folders: dict[str, list[Path]] = {}
    for path in images:
        folders.setdefault(path.parts[depth] if len(path.parts) > depth + 1 else "", []).append(path)
    return folders


def innermost(root: Path, images: Sequence[Path], named: str | None = None) -> Path:
    """Return the folder inside `root` that all files lie in the sub-folders of; often `root` itself.

    Args:
        root: a folder.
        images: the files below it, at least one.
        named: pass over folders of this name only, as in ``seg_train/seg_train``; None for any name but
            that of a split.
    """
    while True:
        folders = _by_folder(images, root)
        (name, *others) = folders
        inner = root / name
        if others or not name or "" in _by_folder(images, inner):
            return root
        if name.lower() != named.lower() if named is not None else split_role(name) is not None:
            return root
        root = inner


def _words(name: str) -> list[str]:
    """Return the words of a name in lower case, without neutral ones; ``train`` for ``trainset``."""
    words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)]
    return [word.removesuffix("set") or word for word in words if word not in NEUTRAL_WORDS]


def split_role(name: str) -> tuple[str, frozenset[str]] | None:
    """Return the split that a folder's name is that of, and the other words in it; None for no split."""
    words = _words(name)
    kinds = {"train": TRAIN_WORDS, "test": TEST_WORDS, "unlabelled": UNLABELLED_WORDS}
    found = [(kind, word) for word in words for kind, names in kinds.items() if word in names]
    if len(found) != 1:
        return None
    kind, word = found[0]
    return kind, frozenset(words) - {word}


def find_splits(
    root: Path, filled: Sequence[str], empty: Sequence[str]
) -> tuple[str | None, list[str], list[str]]:
    """Return the folder to train on, those to evaluate on in order of preference, and unlabelled ones.

    Without a folder for another split, ``train`` is a class among others, unless it is the only one, and
    there is no folder to train on.

    Args:
        root: the folder, for messages.
        filled: the sub-folders with images, "" for images in none.
        empty: the other sub-folders.

    Raises:
        UserError: several folders could be the train split.
    """
    roles = {name: role for name in (*filled, *empty) if (role := split_role(name))}

    def named(kind: str, rest: frozenset[str]) -> list[str]:
        return [name for name, role in roles.items() if role == (kind, rest)]

    complete = {
        name: rest
        for name, (kind, rest) in roles.items()
        if kind == "train" and (named("test", rest) or named("unlabelled", rest) or filled == [name])
    }
    if len(complete) > 1:
        raise UserError(
            f"data.source: several folders in {printable(root)} could be the train split "
            f"({', '.join(map(printable, complete))}); name one with --data, or rename the others"
        )
    if not complete:
        return None, [], []
    ((train, rest),) = complete.items()
    tests = sorted(named("test", rest), key=_preference)
    return train, tests, named("unlabelled", rest)


def _preference(name: str) -> int:
    return min(TEST_WORDS.index(word) for word in _words(name) if word in TEST_WORDS)


def warn_of_split_names(classes: Sequence[str], images: Sequence[Path], root: Path) -> None:
    """Warn of classes, and of folders inside classes, that are named like a split to evaluate on."""
    depth = len(root.parts)
    inside = sorted({path.parts[depth + 1] for path in images if len(path.parts) > depth + 2})
    for names, place in ((classes, "taken as a class"), (inside, "inside classes, so not a split")):
        found = [name for name in names if (split_role(name) or ("",))[0] == "test"]
        if found:
            log.warning(
                "%s: %s is %s, and its files are trained on; if it is for evaluation, put it beside a "
                "folder train", printable(root), ", ".join(map(printable, found[:3])), place,
            )  # fmt: skip


def label_by_folder(
    paths: list[Path],
    root: Path,
    classes: tuple[str, ...] | None = None,
) -> LabelledFiles:
    """Label images by the sub-folders of `root` that they are in, but for one named ``unlabeled``.

    Args:
        paths: the images.
        root: the folder.
        classes: the classes of another split, which must include this one's.
    """
    depth = len(root.parts)
    folders = [path.parts[depth] if len(path.parts) > depth + 1 else None for path in paths]
    unlabelled = {name for name in folders if name and split_role(name) == ("unlabelled", frozenset())}
    named = [None if name in unlabelled and classes is None else name for name in folders]
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
