"""Image files below folders and among the matches of globs: the one rule of which files count."""

from __future__ import annotations

import glob
import io
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path

from PIL import Image

from ssl_zoo.data.decode import formats
from ssl_zoo.errors import UserError
from ssl_zoo.text import printable

log = logging.getLogger("ssl_zoo.data")

IGNORED_FOLDERS = {"__MACOSX"}
ARRAY_SUFFIXES = {".npy", ".dcm"}
"""The suffixes of files that are images where there are no others, as they may hold anything."""
DICOM_SUFFIXES = {"", ".dicom", ".ima"}
"""The suffixes that exports give to DICOM files; others are the last number of a UID."""
HEIC_SUFFIXES = (".heic", ".heif")


@dataclass
class Listing:
    """Files, sorted into images and others.

    Attributes:
        images: the image files in the order of their names, without hidden ones.
        others: the number of other files by suffix, "hidden" for image files whose name or folder
            begins with a dot.
    """

    images: list[Path] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)


def image_suffixes() -> set[str]:
    """Return the suffixes of image files, in lower case."""
    readable = formats()
    return {suffix for suffix, kind in Image.registered_extensions().items() if kind in readable}


def is_dicom(file: Path) -> bool:
    """Return whether a file with no suffix of another kind is DICOM, by its head (PS3.10, 7.1)."""
    suffix = file.suffix.lower()
    if not (suffix in DICOM_SUFFIXES or suffix[1:].isdigit()) or file.name == "DICOMDIR":
        return False
    try:
        with file.open("rb") if file.is_file() else io.BytesIO() as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def choose_images(files: Iterable[Path]) -> Listing:
    """Return files, sorted into images and others.

    Images are the files with the suffix of an image format; where there are none, those with one of
    `ARRAY_SUFFIXES`; where there are none of these either, those that `is_dicom` recognises.

    Args:
        files: the files, each of them once.
    """
    found, readable = list(files), image_suffixes()
    kinds: tuple[Callable[[Path], bool], ...] = (
        lambda file: file.suffix.lower() in readable,
        lambda file: file.suffix.lower() in ARRAY_SUFFIXES,
        is_dicom,
    )
    for counts in kinds:
        taken = [not _is_hidden(file) and counts(file) for file in found]
        if any(taken):
            break
    else:
        counts = kinds[0]
    others = Counter(
        "hidden" if _is_hidden(file) else suffix_of(file)
        for file, is_image in zip(found, taken, strict=True)
        if not is_image and (not _is_hidden(file) or counts(file))
    )
    return Listing(list(compress(found, taken)), others)


def is_image(file: Path) -> bool:
    """Return whether a file counts as an image where it is named alone, as in a list."""
    return bool(choose_images([file]).images)


def list_files(root: Path) -> Listing:
    """Return all files below `root`, sorted by `choose_images`.

    Links to folders are followed, and each real folder is read once.

    Raises:
        UserError: there are no images, or a folder cannot be read.
    """
    listing, place = choose_images(walk(root, set())), printable(root)
    problem = f"there are no images in {place}"
    _check(listing, place, problem, f"{problem}, the folder is empty", "name another folder")
    return listing


def list_matches(pattern: str) -> Listing:
    """Return the files that a glob matches, and those in folders that it matches, like `list_files`.

    Raises:
        UserError: there are no images among them, or a folder cannot be read.
    """
    matches = sorted(glob.glob(str(Path(pattern).expanduser()), recursive=True))  # noqa: PTH207 - may be absolute
    seen = set[str]()
    files = (
        file for path in map(Path, matches) for file in (walk(path, seen) if path.is_dir() else [path])
    )
    listing = choose_images(dict.fromkeys(files))  # a folder and its files may both match
    place, nothing = printable(pattern), "only empty folders" if matches else "nothing"
    hint = "correct the pattern: * stands for a part of a name, ** for folders at any depth"
    _check(listing, place, f"{place} matches no images", f"{place} matches {nothing}", hint)
    return listing


def is_visible(name: str) -> bool:
    """Return whether a file or folder of this name is neither hidden nor one that archivers add."""
    return not name.startswith(".") and name not in IGNORED_FOLDERS


def suffix_of(file: Path) -> str:
    """Return the suffix of a file in lower case, or that it has none, in words."""
    return file.suffix.lower() or "without suffix"


def list_kinds(others: Counter[str]) -> str:
    """Return the most frequent kinds of other files, such as "5 .mp4, 1 .txt"; "" if there are none."""
    return ", ".join(f"{number:,} {suffix}" for suffix, number in others.most_common(3))


def raise_unreadable(error: OSError) -> None:
    """Raise what a folder that cannot be read is refused with."""
    raise UserError(f"data.source: cannot read {printable(error.filename)}: {error.strerror}") from error


def _is_hidden(file: Path) -> bool:
    return file.name.startswith(".")


def walk(root: Path, seen: set[str]) -> Iterator[Path]:
    """Yield all files below `root`, those of a folder by name, then those of its sub-folders.

    Args:
        root: the folder.
        seen: the real paths of the folders read already, which are passed over.

    Raises:
        UserError: a folder cannot be read.
    """
    for folder, subfolders, names in os.walk(root, onerror=raise_unreadable, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # links may form a cycle
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(filter(is_visible, subfolders))
        yield from (Path(folder, name) for name in sorted(names))


def _check(listing: Listing, place: str, problem: str, nothing: str, hint: str) -> None:
    """Raise if a listing has no images, and warn of those that cannot be read.

    Args:
        listing: the listing.
        place: its name.
        problem: what is wrong where it has none, before what it has instead.
        nothing: what is wrong where it has no files at all.
        hint: what to do.

    Raises:
        UserError: it has none.
    """
    heic = sum(listing.others[suffix] for suffix in HEIC_SUFFIXES)
    if heic:
        hint = "pip install pillow-heif to read HEIC files"
    elif set(listing.others) == {"without suffix"}:
        hint = f"give image files their suffix, such as .jpg, or {hint}"
    if not listing.images:
        kinds = list_kinds(listing.others)
        problem = f"{problem}, only other files ({printable(kinds)})" if kinds else nothing
        raise UserError(f"data.source: {problem}; {hint}")
    if heic:
        log.warning("%d HEIC files in %s are left out; %s", heic, place, hint)
