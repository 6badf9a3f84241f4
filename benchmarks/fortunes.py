"""Write the quotes of Debian's package fortunes as a labelled data set of texts, one class a category.

Usage: python -m benchmarks.fortunes fortunes.jsonl [--folder FOLDER]

An entry ends with a line of a single %. Entries shorter than 60 characters are left out, and so are
categories with fewer than 150 of the rest, and those whose quotes are about groups of people or drugs.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

FOLDER = Path("/usr/share/games/fortunes")
MIN_CHARACTERS = 60
MIN_ENTRIES = 150
LEFT_OUT = frozenset({"drugs", "ethnic", "men-women"})


def read_category(file: Path) -> list[str]:
    """Return the entries of a category that are long enough."""
    entries = (entry.strip("%\n ") for entry in file.read_text("utf-8", "replace").split("\n%\n"))
    return [entry for entry in entries if len(entry) >= MIN_CHARACTERS]


def main() -> None:
    """Write one JSON object a line, with the text and its category as label."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    files = sorted(file for file in arguments.folder.iterdir() if file.is_file() and not file.suffix)
    categories = {file.name: read_category(file) for file in files if file.name not in LEFT_OUT}
    categories = {name: found for name, found in categories.items() if len(found) >= MIN_ENTRIES}
    rows = [{"text": text, "label": name} for name, found in categories.items() for text in found]
    arguments.out.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    print(f"{len(rows):,} texts of {len(categories)} categories")


if __name__ == "__main__":
    main()
