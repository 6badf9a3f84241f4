"""The decoding of audio files, and the signs by which one is known to be cut off."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor

SUFFIXES = frozenset([".aif", ".aiff", ".au", ".caf", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".wav"])
"""The suffixes of files that libsndfile decodes."""
OTHER_SOUND = frozenset(
    [".3gp", ".aac", ".amr", ".avi", ".m4a", ".m4v", ".mkv", ".mov", ".mp4", ".mpg", ".webm", ".wma"]
)
"""The suffixes of files that have sound which libsndfile does not decode, such as videos."""
TO_EXTRACT = "extract the sound of videos, and convert other sound, first: ffmpeg -i a.mp4 a.wav"
KINDS = f"audio files end in {', '.join(sorted(SUFFIXES))}"
TOLERANCE = 0.1
"""The seconds that may be missing, as encoders add a delay that headers may count."""
TOLERATED_SHARE = 0.02
"""The share that may be missing, as the lengths of MP3 files are estimates in part."""
LEAD = 1.0
"""The seconds of an MP3 file to decode before a part: its first frames need bits of earlier ones."""
MAX_STREAMED = 0x7FFF0000
"""Sizes of 32 bits from here on are written by programs that do not know the length, as into a pipe."""


@dataclass(frozen=True)
class Header:
    """The header of an audio file.

    Attributes:
        seconds: the length.
        rate: samples per second.
        channels: the number of channels.
    """

    seconds: float
    rate: int
    channels: int


def read_header(file: Path) -> Header:
    """Read the header of an audio file, and check that the file is whole.

    Raises:
        OSError: it cannot be opened.
        ValueError: it has no samples, is cut off, or is of a kind that has sound but is not decoded.
        soundfile.LibsndfileError: it cannot be decoded.
    """
    if file.suffix.lower() in OTHER_SOUND:
        raise ValueError(f"{file.suffix.lower()} files are not decoded; {TO_EXTRACT}")
    found = soundfile.info(file)
    if found.frames <= 0:
        raise ValueError("it has no samples")
    declared = declared_size(file)
    if declared is not None:  # libsndfile corrects the length of such a file without a word
        check_whole(found.duration, found.duration * declared / file.stat().st_size)
    return Header(found.duration, found.samplerate, found.channels)


def declared_size(file: Path) -> int | None:
    """Return the size in bytes that the header of a WAV, AIFF or AU file declares; None if it has none.

    Raises:
        OSError: it cannot be read.
    """
    with file.open("rb") as opened:
        head = opened.read(28)
    kind, first = head[:4], head[4:8]
    if kind == b"RF64":  # that of 64 bits is in the chunk ds64, which comes first
        return 8 + int.from_bytes(head[20:28], "little") if head[12:16] == b"ds64" else None
    if kind == b"riff":  # W64
        return int.from_bytes(head[16:24], "little")
    if kind in (b"RIFF", b"RIFX", b"FORM"):
        size, begin = int.from_bytes(first, "little" if kind == b"RIFF" else "big"), 8
    elif kind == b".snd":
        size, begin = int.from_bytes(head[8:12], "big"), int.from_bytes(first, "big")
    else:
        return None
    return begin + size if 0 < size < MAX_STREAMED else None


def check_whole(seconds: float, expected: float) -> None:
    """Raise if clearly less of a file can be read than there should be.

    Raises:
        ValueError: it is cut off.
    """
    if expected - seconds > max(TOLERANCE, TOLERATED_SHARE * expected):
        raise ValueError(f"it is cut off: {seconds:.1f} of {expected:.1f} s can be read")


def read_clip(file: Path, rate: int, start: float = 0.0, seconds: float | None = None) -> Tensor:
    """Return a file, or a part of it, as samples float32 [T] at a rate; channels are averaged.

    Raises:
        OSError: it cannot be opened.
        ValueError: it has no samples or some that are not finite, or is cut off before the end of the
            part; of formats whose header libsndfile corrects, `read_header` tells.
        soundfile.LibsndfileError: it cannot be decoded.
    """
    with soundfile.SoundFile(file) as opened:
        own = opened.samplerate
        begin = min(round(start * own), opened.frames)
        early = min(begin, round(LEAD * own)) if opened.subtype.startswith("MPEG") else 0
        if begin:
            opened.seek(begin - early)
        asked = math.inf if seconds is None else round(seconds * own)
        expected = min(opened.frames - begin, asked)
        wave = opened.read(early + int(expected), dtype="float32", always_2d=True)[early:]
    check_whole(len(wave) / own, expected / own)  # a cut MP3 file has the length of the whole
    if not len(wave):
        raise ValueError("it has no samples")
    if not np.isfinite(wave).all():
        raise ValueError("it has samples that are not finite")
    mono = wave.mean(1)
    return torch.from_numpy(mono if own == rate else soxr.resample(mono, own, rate))
