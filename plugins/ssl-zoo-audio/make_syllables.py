"""Make the bundled data from Debian's package gcin-voice: `python make_syllables.py FOLDER`.

FOLDER is usr/share/gcin-voice/ogg of the unpacked package. The recordings 5.ogg, one for each syllable,
are resampled to 16 kHz, joined with 30 ms of silence between them, and encoded as one Ogg Vorbis file.
The index beside it has a line for each: the syllable in Zhuyin, its first sample, its number of samples.
"""

from __future__ import annotations

import sys
import unicodedata
from pathlib import Path

import numpy as np
import soundfile
import soxr

RATE, GAP, QUALITY = 16000, 480, 0.5
HERE = Path(__file__).parent / "ssl_zoo_audio" / "data"


def main(folder: Path) -> None:
    """Write syllables.ogg and syllables.txt."""
    index, parts, place = [], [], 0
    for file in sorted(folder.glob("*/5.ogg")):
        wave, rate = soundfile.read(file, dtype="float32")
        wave = soxr.resample(wave, rate, RATE)
        name = unicodedata.normalize("NFC", file.parent.name)
        index.append(f"{name}\t{place}\t{len(wave)}\n")
        parts += [wave, np.zeros(GAP, np.float32)]
        place += len(wave) + GAP
    joint = np.concatenate(parts)
    with soundfile.SoundFile(
        HERE / "syllables.ogg",
        "w",
        RATE,
        1,
        format="OGG",
        subtype="VORBIS",
        compression_level=1 - QUALITY,
    ) as out:
        for first in range(0, len(joint), RATE):  # libsndfile's encoder needs short blocks
            out.write(joint[first : first + RATE])
    (HERE / "syllables.txt").write_text("".join(index), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
