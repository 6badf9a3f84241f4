"""List the syllables of Debian's package gcin-voice: one speaker to train on, another to evaluate on.

Usage: python -m benchmarks.speakers speakers.csv [--label tone] [--folder FOLDER]

The files 3.ogg and 5.ogg are by two speakers. The syllables that both have are listed, without those in
the neutral tone, each with its first consonant or its tone as label. 3.ogg is under the GPL or the LGPL,
version 3, 5.ogg under CC BY 3.0.
"""

from __future__ import annotations

import argparse
import csv
import unicodedata
from pathlib import Path

from ssl_zoo_audio.data.syllables import read_name

FOLDER = Path("/usr/share/gcin-voice/ogg")
SPLITS = {"3.ogg": "train", "5.ogg": "test"}


def main() -> None:
    """Write the list, with a line for each recording."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--label", choices=("initial", "tone"), default="initial")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    rows = []
    for folder in sorted(arguments.folder.resolve().iterdir()):
        syllable = read_name(unicodedata.normalize("NFC", folder.name))
        if syllable is not None and all((folder / name).is_file() for name in SPLITS):
            label = getattr(syllable, arguments.label)
            rows += [(folder / name, label, split) for name, split in SPLITS.items()]
    with arguments.out.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("path", "label", "split"), *rows])
    print(f"{len(rows) // 2:,} syllables of two speakers, {len({row[1] for row in rows})} classes")


if __name__ == "__main__":
    main()
