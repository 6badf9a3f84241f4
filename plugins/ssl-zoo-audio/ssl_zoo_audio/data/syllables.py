"""The bundled data: 1,158 syllables of Mandarin Chinese by one speaker."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

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
    names, tones, clips = [], [], []
    for line in INDEX.read_text(encoding="utf-8").splitlines():
        name, first, number = line.split("\t")
        if not name.endswith("1"):  # that of the neutral tone; the first has no number
            names.append(name)
            tones.append(int(name[-1]) if name[-1].isdigit() else 1)
            clips.append(wave[int(first) : int(first) + int(number)])
    if options.rate != rate:
        clips = [soxr.resample(clip, rate, options.rate) for clip in clips]
    longest = max(map(len, clips))
    bases = sorted({name.rstrip("234") for name in names})
    groups = torch.tensor([bases.index(name.rstrip("234")) for name in names])
    if options.label == "tone":
        classes = tuple("1234")
        labels = torch.tensor(tones) - 1
    else:
        classes = (*INITIALS, "none")
        labels = torch.tensor([INITIALS.find(name[0]) % len(classes) for name in names])
    whole = ArraySplit(pad_clips([torch.from_numpy(c) for c in clips], longest), labels, names=names)
    # Groups, not labels, decide, so that the splits are the same for every label.
    rows = stratified_split(torch.zeros_like(labels), groups, HELD_OUT)
    train, test = (whole.subset(part).to(device) for part in rows)
    spec = SoundSpec(rate=options.rate, seconds=longest / options.rate, classes=len(classes))
    return DataSet("syllables", spec, train, test, train, classes)
