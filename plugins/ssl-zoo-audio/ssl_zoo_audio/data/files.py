"""Audio files: clips of folders and lists of them, and their splits."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ssl_zoo import Field, UserError
from ssl_zoo.config.errors import SettingError
from ssl_zoo.config.paths import user_path
from ssl_zoo.config.schema import DataConfig
from ssl_zoo.data import DataSet, Excluded, LazySplit, SampleFiles, Split
from ssl_zoo.data.folder_files import describe_others, read_folder_files
from ssl_zoo.data.holdout import exact_copies, group_by_name, merge_groups, stratified_split
from ssl_zoo.data.read_ahead import decoding_threads
from ssl_zoo.data.residence import place_splits
from ssl_zoo.data.sample_files import Origin, UnreadableFiles
from ssl_zoo.data.summary import NO_FACTS, SourceFacts
from ssl_zoo.data.table import Row, is_list, read_list
from ssl_zoo.notices import Notice
from ssl_zoo.text import one_line, printable, quantity
from ssl_zoo_audio.data.decoding import KINDS, OTHER_SOUND, SUFFIXES, TO_EXTRACT, read_clip, read_header
from ssl_zoo_audio.data.options import SoundOptions
from ssl_zoo_audio.sound import Sound
from ssl_zoo_audio.spec import SoundSpec

log = logging.getLogger("ssl_zoo.data")

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
        split: ``"test"`` to evaluate on, ``"unlabelled"`` to train on alone; any other to train on, with
            a share held out where no part is of the split ``"test"``.
    """

    file: Path
    start: float = 0.0
    seconds: float | None = None
    label: str | None = None
    whole: bool = False
    split: str | None = None


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
    """Return whether a user's text names a folder, a file with sound or a list of these.

    Sound that is not decoded, as that of videos, is taken too, so that `open_files` says what to do.
    """
    path = user_path("data.source", name) if name else Path()
    sound = path.suffix.lower() in SUFFIXES | OTHER_SOUND and path.is_file()
    return bool(name) and (path.is_dir() or sound or is_list(path))


def open_files(config: DataConfig, device: torch.device, options: FileOptions) -> DataSet:
    """Return the clips of a folder, a file or a list of files.

    Splits and classes are those of `read_folder_files`, or a list's columns ``split`` and ``label``.
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
    whole, facts = (_listed(path), NO_FACTS) if is_list(path) else _found(path)
    unreadable = UnreadableFiles("clips")
    parts = _cut(whole, options, unreadable, root)
    if not parts:
        name, reason = next(iter(unreadable.reasons.items()))
        problem = (
            "cannot be read"
            if path == whole[0].file
            else f"has no audio that can be read, such as {name}"
        )
        raise UserError(f"data.source: {printable(path)} {problem}: {reason}; {KINDS}")
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
    classes = None if config.labels == "none" else _classes(parts, root)
    labels = None if classes is None else torch.tensor([_number(part.label, classes) for part in parts])
    rows, facts = _divide(config, parts, root, labels, facts)
    splits: dict[str, Split] = {
        name: LazySplit(clips, None if labels is None else labels[part], part)
        for name, part in rows.items()
        if len(part)
    }
    for name in ("train", "test"):  # -1 stands for no label in no split
        labels_of = splits[name].labels if name in splits else None
        if labels_of is not None and bool((labels_of < 0).any()):
            splits[name].labels = None
    name = printable(path.resolve().name)
    splits = place_splits(splits, name, config, device, "clips", cacheable=False)
    train, test = splits["train"], splits.get("test")
    if test is not None and not test.readable():
        test = None
    if not len(train):
        raise UserError(f"data.source: none of the clips of {printable(path)} to train on can be read")
    spec = SoundSpec(
        rate=options.rate,
        seconds=longest / options.rate,
        classes=None if classes is None else len(classes),
    )
    return DataSet(name, spec, train, test, splits.get("bank", train), classes, facts)


def _classes(parts: list[Part], root: Path) -> tuple[str, ...] | None:
    """Return the classes of the clips to train on, None if there are not two or some clips lack one."""
    labelled = [part for part in parts if part.split not in ("test", "unlabelled")]
    names = sorted({part.label for part in labelled if part.label is not None})
    without = [part for part in labelled if part.label is None]
    if len(names) < 2:
        return None
    if without:
        log.warning(
            "there are no classes, as %d of %d clips have none, such as %s: move these into a "
            "sub-folder, or give their labels", len(without), len(labelled), _name(without[0], root),
        )  # fmt: skip
        return None
    of_test = {part.label for part in parts if part.split == "test" and part.label is not None}
    if unknown := sorted(of_test - set(names)):
        log.warning(
            "clips to evaluate on have classes that the train split lacks (%s), so no accuracy is "
            "computed", ", ".join(map(printable, unknown)),
        )  # fmt: skip
    return tuple(names)


def _number(label: str | None, classes: Sequence[str]) -> int:
    """Return the number of a class, -1 for none of these."""
    return classes.index(label) if label in classes else -1


def _divide(
    config: DataConfig, parts: list[Part], root: Path, labels: Tensor | None, facts: SourceFacts
) -> tuple[dict[str, Tensor], SourceFacts]:
    """Return the clips of each split, with some held out by whole files where none are to evaluate on.

    There is a split ``bank``, the labelled clips of ``train``, only where it differs.

    Raises:
        UserError: there is nothing to train on.
    """
    test = torch.tensor([part.split == "test" for part in parts])
    if test.all():
        raise UserError("data.source: all clips are of the split test; add some to train on")
    known = torch.ones_like(test) if labels is None else labels >= 0
    share = 0.0 if test.any() else config.share_to_hold_out(labels is not None)
    if share:
        free = torch.tensor([part.split != "unlabelled" for part in parts])
        numbers = (free if free.any() else ~free).nonzero().flatten()
        held, facts = _hold_out(
            config, [parts[i] for i in numbers.tolist()], root,
            None if labels is None else labels[numbers], share, facts,
        )  # fmt: skip
        test[numbers[held]] = True
    rows = {"train": ~test, "test": test, **({} if known[~test].all() else {"bank": ~test & known})}
    return {name: chosen.nonzero().flatten() for name, chosen in rows.items()}, facts


def _hold_out(
    config: DataConfig,
    parts: list[Part],
    root: Path,
    labels: Tensor | None,
    share: float,
    facts: SourceFacts,
) -> tuple[Tensor, SourceFacts]:
    """Return which clips are held out, by whole files, and the facts with how."""
    files = list(dict.fromkeys(part.file for part in parts))
    number = {file: i for i, file in enumerate(files)}
    sets = exact_copies(files, decoding_threads(config))
    copies = sum(len(members) - 1 for members in sets)
    if config.groups is not None:
        sets += group_by_name([_relative(file, root) for file in files], config.groups)
    of_file = merge_groups(len(files), sets)
    groups = of_file[torch.tensor([number[part.file] for part in parts])]
    classes = torch.zeros(len(parts), dtype=torch.long) if labels is None else labels
    _, test = stratified_split(classes, groups, share)
    part = f"{100 * len(test) / len(parts):.2g} %" if len(test) else ""
    held_out = ", ".join([part, *(["stratified"] if labels is not None else []), "by file"])
    return test, replace(facts, held_out=held_out if part else "", copies=copies)


def _found(path: Path) -> tuple[list[Part], SourceFacts]:
    """Return the audio files in a folder, with their splits and classes; or the file itself.

    Raises:
        UserError: there are none.
    """
    if path.is_file():
        return [Part(path)], NO_FACTS
    found = read_folder_files(path, lambda file: file.suffix.lower() in SUFFIXES)
    if not found.files:
        hint = f"; {TO_EXTRACT}" if OTHER_SOUND & found.others.keys() else ""
        content = printable(describe_others(found.others))
        raise UserError(f"data.source: {printable(path)} has no audio ({content}); {KINDS}{hint}")
    return [Part(file.path, label=file.label, split=file.split) for file in found.files], found.facts


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
            header = read_header(part.file)
            seconds = min(part.seconds or math.inf, header.seconds - part.start)
            if seconds < SHORTEST:
                raise ValueError(f"it is shorter than {SHORTEST} s")
        except Exception as error:  # broken headers raise errors of several kinds
            broken.append((_name(part, root), one_line(error)))
            continue
        mixed += header.channels > 1
        low += header.rate < options.rate
        entire = part.start == 0 and seconds == header.seconds
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
