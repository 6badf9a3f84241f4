"""Audio files: their decoding, and clips of folders and lists of them."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor

from ssl_zoo import Field, UserError
from ssl_zoo.config.errors import SettingError
from ssl_zoo.config.paths import user_path
from ssl_zoo.config.schema import DataConfig
from ssl_zoo.data import DataSet, Excluded, LazySplit, SampleFiles, Split
from ssl_zoo.data.holdout import exact_copies, group_by_name, merge_groups, stratified_split
from ssl_zoo.data.read_ahead import decoding_threads
from ssl_zoo.data.residence import place_splits
from ssl_zoo.data.sample_files import Origin, UnreadableFiles
from ssl_zoo.data.summary import NO_FACTS, SourceFacts
from ssl_zoo.data.table import Row, is_list, read_list
from ssl_zoo.notices import Notice
from ssl_zoo.text import one_line, printable, quantity
from ssl_zoo_audio.data.options import SoundOptions
from ssl_zoo_audio.sound import Sound
from ssl_zoo_audio.spec import SoundSpec

log = logging.getLogger("ssl_zoo.data")

SUFFIXES = frozenset([".aif", ".aiff", ".au", ".caf", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".wav"])
"""The suffixes of files that libsndfile decodes."""
SHORTEST = 0.05
"""The length of the shortest clip, in seconds: a few frames."""


CHANNELS = Notice(
    "audio-channels",
    "Sounds of several channels are averaged to one.",
    "choose a channel yourself before training",
)


class FileOptions(SoundOptions):
    """The options of audio files."""

    seconds: float = Field(
        15.0, ge=0.1, le=600, description="length of the longest clip; longer files are read by parts"
    )
    silence: float = Field(
        -60.0, le=0, description="peak, in dB of the full scale, below which a clip is skipped as silent"
    )


@dataclass(frozen=True)
class Part:
    """A part of a file.

    Attributes:
        file: the file.
        start: where it begins, in seconds.
        seconds: its length; None for all of the file.
        label: its class by name; None if unknown.
        whole: whether it is all of the file.
        split: ``"test"`` to evaluate on, any other to train on; None if the list has no splits.
    """

    file: Path
    start: float = 0.0
    seconds: float | None = None
    label: str | None = None
    whole: bool = False
    split: str | None = None


def read_clip(file: Path, rate: int, start: float = 0.0, seconds: float | None = None) -> Tensor:
    """Return a file, or a part of it, as samples float32 [T] at a rate; channels are averaged.

    Raises:
        OSError: it cannot be opened.
        ValueError: it has no samples, or some that are not finite.
        soundfile.LibsndfileError: it cannot be decoded.
    """
    with soundfile.SoundFile(file) as opened:
        own = opened.samplerate
        if start:
            opened.seek(min(round(start * own), opened.frames))
        frames = -1 if seconds is None else round(seconds * own)
        wave = opened.read(frames, dtype="float32", always_2d=True)
    if not len(wave):
        raise ValueError("it has no samples")
    if not np.isfinite(wave).all():
        raise ValueError("it has samples that are not finite")
    mono = wave.mean(1)
    return torch.from_numpy(mono if own == rate else soxr.resample(mono, own, rate))


@dataclass(eq=False, kw_only=True)
class Clips(SampleFiles):
    """Clips that are decoded from parts of files, padded to one length.

    Attributes:
        parts: the part of each clip.
        rate: samples per second.
        longest: the number of samples of a clip in memory.
        silence: the peak below which a clip is silent, in [0, 1].
    """

    parts: list[Part] = field(default_factory=list)
    rate: int = 16000
    longest: int = 16000
    silence: float = 0.001

    def read(self, number: int) -> Sound:
        """Decode a clip.

        Raises:
            Excluded: it is silent.
            Exception: of any other kind, where it cannot be read.
        """
        part = self.parts[number]
        clip = read_clip(part.file, self.rate, part.start, part.seconds)[: self.longest]
        if len(clip) < SHORTEST * self.rate:
            raise ValueError(f"it is shorter than {SHORTEST} s")
        if float(clip.abs().max()) < self.silence:
            raise Excluded("it is silent (data.options.silence)")
        wave = torch.zeros(self.longest)
        wave[: len(clip)] = clip
        return Sound(wave, torch.tensor(len(clip)))

    def empty(self, count: int, pin: bool = False) -> Sound:
        """Return uninitialised memory for clips."""
        wave = torch.empty(count, self.longest, pin_memory=pin)
        return Sound(wave, torch.empty(count, dtype=torch.long, pin_memory=pin))


def takes_audio(name: str) -> bool:
    """Return whether a user's text names a folder, an audio file or a list of these."""
    path = user_path("data.source", name) if name else Path()
    sound = path.suffix.lower() in SUFFIXES and path.is_file()
    return bool(name) and (path.is_dir() or sound or is_list(path))


def open_files(config: DataConfig, device: torch.device, options: FileOptions) -> DataSet:
    """Return the clips of a folder, a file or a list of files.

    Sub-folders are classes, as is the column ``label`` of a list; its column ``split`` gives the splits.
    Files of which nothing can be read are listed as unreadable. Parts of one file lie on one side, as do
    exact copies and ``data.groups``.

    Raises:
        UserError: there is no audio, or a cache is asked for.
    """
    if config.cache is not None:
        raise SettingError("data.cache", "decoded sounds are not kept on disk; leave it out")
    path = user_path("data.source", config.sources[0].removeprefix("audio:"))
    if not path.exists():
        raise UserError(f"data.source: {printable(path)} does not exist; give a folder, or a file")
    root = path if path.is_dir() else path.parent
    others: Counter[str] = Counter()
    whole = _listed(path) if is_list(path) else _found(path, others)
    unreadable = UnreadableFiles("clips")
    parts = _cut(whole, options, unreadable, root)
    if not parts:
        reason = next(iter(unreadable.reasons.items()), None)
        example = f", such as {reason[0]}: {reason[1]}" if reason else ""
        raise UserError(
            f"data.source: {printable(path)} has no audio that can be read{example}; "
            f"files must end in {', '.join(sorted(SUFFIXES))}"
        )
    seconds = max(part.seconds or 0.0 for part in parts)
    longest = max(1, int(np.ceil(seconds * options.rate)))
    clips = Clips(
        name=lambda number: _name(parts[number], root),
        group=lambda number: printable(_relative(parts[number].file, root)),
        count=len(parts),
        workers=decoding_threads(config),
        unreadable=unreadable,
        origin=Origin(root, [part.file for part in parts]),
        parts=parts,
        rate=options.rate,
        longest=longest,
        silence=10 ** (options.silence / 20),
    )
    names = sorted({part.label for part in parts if part.label is not None})
    unlabelled = [part for part in parts if part.label is None]
    if config.labels != "none" and len(names) > 1 and unlabelled:
        log.warning(
            "there are no classes, as %d of %d clips have none, such as %s: move these into a "
            "sub-folder, or give their labels", len(unlabelled), len(parts), _name(unlabelled[0], root),
        )  # fmt: skip
    known = config.labels != "none" and len(names) > 1 and not unlabelled
    labels = torch.tensor([names.index(p.label or "") for p in parts]) if known else None
    train_rows, test_rows, facts = _hold_out(config, parts, root, labels)
    rows = {"train": train_rows, "test": test_rows}
    splits: dict[str, Split] = {
        name: LazySplit(clips, None if labels is None else labels[part], part)
        for name, part in rows.items()
        if len(part)
    }
    name = printable(path.resolve().name)
    splits = place_splits(splits, name, config, device, "clips", cacheable=False)
    train, test = splits["train"], splits.get("test")
    if test is not None and not test.readable():
        test = None
    if not len(train):
        raise UserError(f"data.source: none of the clips of {printable(path)} to train on can be read")
    spec = SoundSpec(
        rate=options.rate, seconds=longest / options.rate, classes=len(names) if known else None
    )
    facts = replace(facts, other_files=dict(others.most_common()))
    classes = tuple(names) if known else None
    return DataSet(name, spec, train, test, train, classes, facts)


def _hold_out(
    config: DataConfig, parts: list[Part], root: Path, labels: Tensor | None
) -> tuple[Tensor, Tensor, SourceFacts]:
    """Return the clips to train on and those to evaluate on: a list's, or some held out by whole files.

    Raises:
        UserError: a list has nothing to train on.
    """
    held = torch.tensor([part.split == "test" for part in parts])
    if held.all():
        raise UserError("data.source: all clips are of the split test; add some to train on")
    if held.any():
        return (~held).nonzero().flatten(), held.nonzero().flatten(), NO_FACTS
    share = config.share_to_hold_out(labels is not None)
    if not share:
        return torch.arange(len(parts)), torch.arange(0), NO_FACTS
    files = list(dict.fromkeys(part.file for part in parts))
    number = {file: i for i, file in enumerate(files)}
    sets = exact_copies(files, decoding_threads(config))
    copies = sum(len(members) - 1 for members in sets)
    if config.groups is not None:
        sets += group_by_name([_relative(file, root) for file in files], config.groups)
    of_file = merge_groups(len(files), sets)
    groups = of_file[torch.tensor([number[part.file] for part in parts])]
    classes = torch.zeros(len(parts), dtype=torch.long) if labels is None else labels
    train, test = stratified_split(classes, groups, share)
    part = f"{100 * len(test) / len(parts):.2g} %" if len(test) else ""
    held_out = ", ".join([part, *(["stratified"] if labels is not None else []), "by file"])
    return train, test, SourceFacts(held_out=held_out if part else "", copies=copies)


def _found(path: Path, others: Counter[str]) -> list[Part]:
    """Return the audio files in a folder, with that of its sub-folders as label; or the file itself."""
    if path.is_file():
        return [Part(path)]
    parts = []
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        if file.name.startswith("."):
            continue
        if file.suffix.lower() not in SUFFIXES:
            others[file.suffix.lower() or "without suffix"] += 1
            continue
        folders = file.relative_to(path).parts[:-1]
        parts.append(Part(file, label=folders[0] if folders else None))
    return parts


def _listed(path: Path) -> list[Part]:
    """Return the parts that a list names: columns path, and label, split, start and end in seconds.

    Raises:
        UserError: the list is wrong, as `read_list` says, or a time is no number.
    """
    parts = []
    for listed in read_list(path, parts=("start", "end")):
        try:
            start = _seconds(listed.row, "start") or 0.0
            end = _seconds(listed.row, "end")
            if end is not None and end <= start:
                raise ValueError(f"end: is not after start, {start:g} ({end:g}); give a later one")
        except ValueError as error:
            raise UserError(f"data.source: {listed.place}: {printable(str(error))}") from error
        if listed.split != "unused":
            seconds = None if end is None else end - start
            parts.append(Part(listed.path, start, seconds, listed.label, split=listed.split))
    return parts


def _seconds(row: Row, column: str) -> float | None:
    """Return a time in seconds, None if the row has none.

    Raises:
        ValueError: it is no finite number, or negative.
    """
    value = row.get(column)
    if value is None or value == "":
        return None
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ValueError(f"{column}: is no number of seconds, 0 or more ({value!r})")
    return seconds


def _cut(
    whole: Iterable[Part], options: FileOptions, unreadable: UnreadableFiles, root: Path
) -> list[Part]:
    """Return parts of at most ``options.seconds``, by the headers of the files.

    The parts of a file are equally long. A file whose header cannot be read counts as one clip.

    Raises:
        UserError: too many files cannot be read.
    """
    parts: list[Part] = []
    broken: list[tuple[str, str]] = []
    mixed = low = 0
    for part in whole:
        try:
            header = soundfile.info(part.file)
            seconds = min(part.seconds or math.inf, header.duration - part.start)
            if header.frames <= 0:
                raise ValueError("it has no samples")
            if seconds < SHORTEST:
                raise ValueError(f"it is shorter than {SHORTEST} s")
        except Exception as error:  # broken headers raise errors of several kinds
            broken.append((_name(part, root), one_line(error)))
            continue
        mixed += header.channels > 1
        low += header.samplerate < options.rate
        entire = part.start == 0 and seconds == header.duration
        number = math.ceil(seconds / options.seconds)
        for i in range(number):
            start = part.start + i * seconds / number
            parts.append(
                replace(part, start=start, seconds=seconds / number, whole=entire and number == 1)
            )
    if parts:  # otherwise it is refused with the suffixes that are read
        unreadable.total = len(parts) + len(broken)
        for name, reason in broken:
            unreadable.record(name, reason)
        unreadable.total = len(broken)  # the clips of `parts` are counted once these are opened
    else:
        unreadable.reasons.update(broken)
    if mixed:
        CHANNELS(f"the channels of {quantity(mixed, 'files')} are averaged", files=mixed)
    if low:
        log.warning(
            "the rate of %s is below %d Hz, so that the upper part of their spectra is empty; "
            "--set data.options.rate=… for a lower one", quantity(low, "files"), options.rate,
        )  # fmt: skip
    return parts


def _relative(file: Path, root: Path) -> str:
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else file.as_posix()


def _name(part: Part, root: Path) -> str:
    """Return the name of a part: that of the file, and where it begins and ends.

    A whole file has no times.
    """
    name = printable(_relative(part.file, root))
    if part.whole or (part.start == 0 and part.seconds is None):
        return name
    if part.seconds is None:
        return f"{name} from {part.start:.3f} s"
    return f"{name} from {part.start:.3f} to {part.start + part.seconds:.3f} s"
