"""Folders of small real pictures to try commands on: ``python -m benchmarks.icons photos labelled``.

They are the icons of a Debian package (``apt install oxygen-icon-theme``): some with their category as a
label, and, without labels, all others of all sizes. No icon is in both folders.
"""

from __future__ import annotations

import argparse
import random
import shutil
from pathlib import Path

THEME = Path("/usr/share/icons/oxygen/base")
SIZES = ("48x48", "64x64", "128x128")
CLASSES = ("actions", "apps", "mimetypes", "places")
LABELLED_SIZE = "64x64"


def make(theme: Path, photos: Path, labelled: Path, per_class: int, unlabelled: int) -> tuple[int, int]:
    """Write both folders; return the numbers of their pictures.

    Args:
        theme: the folder of the theme, with a folder for each size.
        photos: the folder for pictures without labels.
        labelled: the folder for those with labels, in a sub-folder for each class.
        per_class: the maximum number of labelled pictures of a class.
        unlabelled: the maximum number of the others.
    """
    order = random.Random(0)
    names: set[str] = set()
    count = 0
    for label in CLASSES:
        files = _files(theme / LABELLED_SIZE / label)
        for file in order.sample(files, min(per_class, len(files))):
            _copy(file, labelled / label / file.name)
            names.add(file.stem)
            count += 1
    others = [file for size in SIZES for file in _files(theme / size) if file.stem not in names]
    chosen = order.sample(others, min(unlabelled, len(others)))
    for file in chosen:
        _copy(file, photos / "-".join(file.relative_to(theme).parts))
    return len(chosen), count


def _files(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.rglob("*.png")) if not file.is_symlink()]


def _copy(file: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, to)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("photos", type=Path, help="folder for pictures without labels")
    parser.add_argument("labelled", type=Path, help="folder for pictures with labels")
    parser.add_argument("--theme", type=Path, default=THEME)
    parser.add_argument("--per-class", type=int, default=50, help="labelled pictures of a class")
    parser.add_argument("--unlabelled", type=int, default=5000, help="pictures without labels")
    options = parser.parse_args()
    if not options.theme.is_dir():
        parser.error(f"there is no {options.theme}: apt install oxygen-icon-theme")
    photos, labelled = make(
        options.theme, options.photos, options.labelled, options.per_class, options.unlabelled
    )
    print(f"{options.photos}: {photos:,} pictures")
    print(f"{options.labelled}: {labelled:,} pictures in {len(CLASSES)} classes")


if __name__ == "__main__":
    main()
