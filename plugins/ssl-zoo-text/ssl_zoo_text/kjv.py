"""The bundled text: the King James Bible, a verse a line, labelled by the part that its book is in.

Source: the Debian packages bible-kjv and bible-kjv-text; a verse a line as ``Ge1:1<TAB>text``, in ASCII.
The text, of 1611 and revised in 1769, is in the public domain outside the United Kingdom, where the
Crown's letters patent cover printing it.
"""

from __future__ import annotations

import lzma
import re
from functools import lru_cache
from pathlib import Path

import torch

from ssl_zoo.config.schema import DataConfig
from ssl_zoo.data import DataSet
from ssl_zoo_text.corpus import Document, TextOptions, build

FILE = Path(__file__).with_name("kjv.tsv.xz")

PARTS = {
    "law": "Ge Exo Lev Num Deu",
    "history": "Josh Jdgs Ruth 1Sm 2Sm 1Ki 2Ki 1Chr 2Chr Ezra Neh Est",
    "poetry": "Job Psa Prv Eccl SSol",
    "prophets": "Isa Jer Lam Eze Dan Hos Joel Amos Obad Jonah Mic Nahum Hab Zep Hag Zec Mal",
    "gospels and acts": "Mat Mark Luke John Acts",
    "letters": (
        "Rom 1Cor 2Cor Gal Eph Phi Col 1Th 2Th 1Tim 2Tim Titus Phmn Heb Jas 1Pet 2Pet 1Jn 2Jn 3Jn Jude"
    ),
    "revelation": "Rev",
}
"""The seven parts, which are the classes, and their books."""


@lru_cache(maxsize=1)
def chapters() -> tuple[Document, ...]:
    """Return the 1,189 chapters, each a document of all its verses, with its part as label."""
    part_of = {book: part for part, books in PARTS.items() for book in books.split()}
    verses: dict[tuple[str, str], list[str]] = {}
    for line in lzma.decompress(FILE.read_bytes()).decode("ascii").splitlines():
        reference, text = line.split("\t")
        book, chapter = re.fullmatch(r"(.*?)(\d+):\d+", reference).groups()  # type: ignore[union-attr]
        verses.setdefault((book, chapter), []).append(text)
    return tuple(
        Document(" ".join(texts), f"{book} {chapter}", part_of[book])
        for (book, chapter), texts in verses.items()
    )


def kjv(config: DataConfig, device: torch.device, options: TextOptions) -> DataSet:
    """Return the King James Bible; a share of its chapters is held out."""
    return build("kjv", chapters(), config, device, options)
