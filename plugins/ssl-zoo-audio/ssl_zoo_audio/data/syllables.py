"""The bundled data: 1,158 syllables of Mandarin Chinese by one speaker."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

import soundfile
import soxr
import torch

from ssl_zoo import Field
from ssl_zoo.config.schema import DataConfig
from ssl_zoo.data import ArraySplit, DataSet
from ssl_zoo.data.holdout import stratified_split
from ssl_zoo_audio.data.options import SoundOptions
from ssl_zoo_audio.sound import pad_clips
from ssl_zoo_audio.spec import SoundSpec

FILE = Path(__file__).with_name("syllables.ogg")
"""The syllables, one after another, 16 kHz mono.

Source: the files 5.ogg of gcin-voice. Copyright ChionMeilin with the vocal source from Chu Lo. Licence:
Creative Commons Attribution 3.0 (CC BY 3.0). Resampled, joined, and encoded again.
"""
INDEX = Path(__file__).with_name("syllables.txt")
"""A line for each syllable: its name in Zhuyin with the number of its tone, first sample, samples."""

INITIALS = "ㄅㄆㄇㄈㄉㄊㄋㄌㄍㄎㄏㄐㄑㄒㄓㄔㄕㄖㄗㄘㄙ"
"""The 21 consonants with which a syllable can begin."""
HELD_OUT = 0.25
"""The share of base syllables to evaluate on."""


class Syllable(NamedTuple):
    """A syllable of Mandarin Chinese.

    Attributes:
        base: its name in Zhuyin without the tone.
        initial: its first consonant, one of `INITIALS`, or "none".
        tone: the number of its tone, "1" to "4".
    """

    base: str
    initial: str
    tone: str


def read_name(name: str) -> Syllable | None:
    """Return the syllable with a name in Zhuyin, or None for the neutral tone.

    Behind the name is the number of the tone: none for the first, and 1 for the neutral one.
    """
    if name.endswith("1"):
        return None
    base = name.rstrip("234")
    return Syllable(base, name[0] if name[0] in INITIALS else "none", name[len(base) :] or "1")


class SyllableOptions(SoundOptions):
    """The options of the bundled syllables."""

    label: Literal["tone", "initial"] = Field(
        "initial", description="initial: the 21 first consonants, or none; tone: the four tones"
    )


def syllables(config: DataConfig, device: torch.device, options: SyllableOptions) -> DataSet:
    """Return the bundled syllables; a quarter of the base syllables, in all tones, is held out.

    The eleven syllables in the neutral tone are left out.
    """
    wave, rate = soundfile.read(FILE, dtype="float32")
    names, found, clips = [], [], []
    for line in INDEX.read_text(encoding="utf-8").splitlines():
        name, first, number = line.split("\t")
        if (syllable := read_name(name)) is not None:
            names.append(name)
            found.append(syllable)
            clips.append(wave[int(first) : int(first) + int(number)])
    if options.rate != rate:
        clips = [soxr.resample(clip, rate, options.rate) for clip in clips]
    longest = max(map(len, clips))
    bases = sorted({syllable.base for syllable in found})
    groups = torch.tensor([bases.index(syllable.base) for syllable in found])
    classes = tuple("1234") if options.label == "tone" else (*INITIALS, "none")
    labels = torch.tensor([classes.index(getattr(syllable, options.label)) for syllable in found])
    whole = ArraySplit(pad_clips([torch.from_numpy(c) for c in clips], longest), labels, names=names)
    # Groups, not labels, decide, so that the splits are the same for every label.
    rows = stratified_split(torch.zeros_like(labels), groups, HELD_OUT)
    train, test = (whole.subset(part).to(device) for part in rows)
    spec = SoundSpec(rate=options.rate, seconds=longest / options.rate, classes=len(classes))
    return DataSet("syllables", spec, train, test, train, classes)
