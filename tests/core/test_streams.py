"""Splits of any modality: batches of several tensors, streams, arrays of any type, source options."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from pydantic import Field
from torch import Tensor

from ssl_zoo import UserError, tree
from ssl_zoo.config.schema import DataConfig
from ssl_zoo.data import (
    ArraySplit,
    DataSet,
    Excluded,
    SampleFiles,
    Source,
    SourceOptions,
    Stream,
    load,
    rest_of,
)  # fmt: skip
from ssl_zoo.data.lazy import LazySplit
from ssl_zoo.data.mapped import ArrayFile, MappedSplit
from ssl_zoo.data.pixels import ScaledSplit
from ssl_zoo.data.sample_files import SkippedSamples
from ssl_zoo.data.splits import Pass, Split
from ssl_zoo.spec import Spec

CPU = torch.device("cpu")


class Sound(NamedTuple):
    wave: Tensor
    length: Tensor


def sounds(n: int) -> Sound:
    return Sound(torch.arange(3 * n).view(n, 3).short(), torch.arange(n))


class Tape(Stream):
    """A stream whose passes are shuffled, and whose reads are counted."""

    def __init__(self, n: int, told: int | None = None) -> None:
        self.n, self.told, self.reads = n, told or n, 0

    def __len__(self) -> int:
        return self.told

    def read(self, seed: int | None) -> Iterator[tuple[int, Sound]]:
        order = torch.arange(self.n)
        if seed is not None:
            order = torch.randperm(self.n, generator=torch.Generator().manual_seed(seed))
        everything = sounds(self.n)
        for i in order.tolist():
            self.reads += 1
            yield i, Sound(everything.wave[i], everything.length[i])


class Reel(Stream):
    """Images that are read one after another, and counted."""

    def __init__(self, n: int) -> None:
        self.n, self.reads = n, 0

    def __len__(self) -> int:
        return self.n

    def read(self, seed: int | None) -> Iterator[tuple[int, Tensor]]:
        for i in range(self.n):
            self.reads += 1
            yield i, torch.full((1, 2, 2), i, dtype=torch.uint8)


class Chunked(Split):
    """A split that is read by groups of four, so that a pass takes the groups in random order."""

    resident = False

    def __init__(self, n: int) -> None:
        self.n, self.chunks = n, 0
        self.held = -1

    def __len__(self) -> int:
        return self.n

    def batch(self, indices: Tensor) -> Sound:
        for group in (indices // 4).tolist():
            self.chunks += group != self.held
            self.held = group
        return tree.rows(sounds(self.n), indices)

    def order(self, generator: torch.Generator) -> Tensor:
        groups = torch.randperm(self.n // 4, generator=generator)
        return (4 * groups[:, None] + torch.arange(4)).flatten()


def same(a: Any, b: Any) -> bool:
    return all(torch.equal(x, y) for x, y in zip(tree.leaves(a), tree.leaves(b), strict=True))


SPLITS = {"memory": lambda: ArraySplit(sounds(40), None), "stream": lambda: Tape(40)}


@pytest.mark.parametrize("kind", SPLITS)
def test_a_pass_that_is_resumed_goes_on_exactly_and_processes_share_each_joint_batch(kind: str) -> None:
    alone = list(SPLITS[kind]().batches(Pass(3, 8, 0, 5)))
    assert len({int(i) for _, numbers in alone for i in numbers}) == 40
    for raw, numbers in alone:
        assert same(raw, tree.rows(sounds(40), numbers))
    rest = list(SPLITS[kind]().batches(Pass(3, 8, 3, 5)))
    assert all(same(a, b) for a, b in zip(alone[3:], rest, strict=True))
    shares = [list(SPLITS[kind]().batches(Pass(3, 4, 3, 5, rank, 2))) for rank in (0, 1)]
    for joint, *parts in zip(rest, *shares, strict=True):
        assert same(joint, (tree.join([p[0] for p in parts]), torch.cat([p[1] for p in parts])))
    other = list(SPLITS[kind]().batches(Pass(4, 8, 0, 5)))
    assert not all(same(a, b) for a, b in zip(alone, other, strict=True))


def test_a_stream_is_read_once_for_samples_in_order_and_can_be_asked_for_any() -> None:
    tape = Tape(40)
    batches = list(tape.stream(torch.tensor([1, 5, 20, 21, 30]), 2))
    assert torch.cat([b.length for b in batches]).tolist() == [1, 5, 20, 21, 30]
    assert tape.reads <= 32
    assert tape.batch(torch.tensor([30, 2, 30])).length.tolist() == [30, 2, 30]
    scaled = ScaledSplit(Reel(40), (0, 255))
    assert sum(len(batch) for batch in scaled.stream(torch.arange(40), 8)) == 40
    assert scaled.split.reads == 40  # one pass, though the images are scaled
    assert tape.subset(torch.tensor([7, 3])).batch(torch.tensor([1])).length.tolist() == [3]


def test_a_stream_that_ends_early_says_so() -> None:
    with pytest.raises(UserError, match="the stream ended after 30 samples, and it says that it has 40"):
        list(Tape(30, told=40).batches(Pass(0, 8, 0, 5)))
    with pytest.raises(UserError, match="ended after 30 samples"):
        Tape(30, told=40).batch(torch.tensor([35]))


def test_a_split_may_order_its_passes_so_that_neighbours_are_read_together() -> None:
    split = Chunked(40)
    seen = torch.cat([numbers for _, numbers in split.batches(Pass(0, 8, 0, 5))])
    assert sorted(seen.tolist()) == list(range(40)) != seen.tolist()
    assert split.chunks == 10


class Recordings(SampleFiles):
    """Recordings of two tensors each, of which the third cannot be read."""

    def read(self, number: int) -> Sound:
        if number == 3:
            raise ValueError("no sound in it")
        return tree.rows(sounds(40), torch.tensor([number])[0])

    def empty(self, count: int, pin: bool = False) -> Sound:
        return Sound(torch.empty(count, 3, dtype=torch.int16), torch.empty(count, dtype=torch.int64))


def test_samples_of_any_modality_are_decoded_in_threads_and_unreadable_ones_replaced() -> None:
    split = LazySplit(Recordings(name="{}.wav".format, count=40, workers=3), torch.arange(40) % 2)
    batch = split.batch(torch.tensor([0, 3, 4]))
    assert batch.length.tolist() == [0, 5, 4]
    assert split.skipped == {"3.wav": "no sound in it"}
    assert split.nbytes == 40 * (3 * 2 + 8)
    loaded = split.to(CPU)
    assert isinstance(loaded.batch(torch.arange(2)), Sound)
    assert len(loaded) == 39


class SomeSilent(Recordings):
    """Recordings of which those from the 20th on are silent."""

    limit = 20

    def read(self, number: int) -> Sound:
        if number >= self.limit:
            raise Excluded("it is silent")
        return super().read(number)


def test_samples_that_a_setting_excludes_are_listed_apart_and_may_be_many() -> None:
    files = SomeSilent(name="{}.wav".format, count=40)
    split = LazySplit(files, torch.arange(40) % 2)
    loaded = split.to(CPU)
    assert len(loaded) == 19
    assert isinstance(loaded.skipped, SkippedSamples)
    assert loaded.skipped.unreadable == {"3.wav": "no sound in it"}
    assert loaded.skipped.excluded == {f"{i}.wav": "it is silent" for i in range(20, 40)}
    assert split.batch(torch.tensor([20])).length < 20  # another one takes its place
    joint = SkippedSamples.join({"a": "gone"}, split.skipped)
    assert joint.unreadable == {"a": "gone", "3.wav": "no sound in it"}


def test_a_data_set_of_which_everything_is_excluded_is_refused_in_a_line() -> None:
    files = SomeSilent(name="{}.wav".format, count=40)
    files.limit = 0
    with pytest.raises(UserError, match=r"none of the 40 samples is left, .*: it is silent; change"):
        LazySplit(files, None).to(CPU)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.uint16])
def test_arrays_of_any_type_are_read_from_a_file(dtype: type, tmp_path: Path) -> None:
    values = np.arange(60).reshape(20, 3).astype(dtype)
    np.save(tmp_path / "a.npy", values)
    split = MappedSplit(ArrayFile(tmp_path / "a.npy"), torch.arange(20), None, {}, None)
    assert split.nbytes == values.nbytes
    parts = list(split.stream(torch.tensor([4, 2, 9]), 2))
    assert np.array_equal(torch.cat(parts).numpy(), values[[4, 2, 9]])
    np.save(tmp_path / "lengths.npy", values[:, 0])
    lengths = MappedSplit(ArrayFile(tmp_path / "lengths.npy"), torch.arange(20))
    assert lengths.batch(torch.tensor([3, 0])).tolist() == [9, 0]


# --- sources ---


class Options(SourceOptions):
    n: int = Field(20, ge=10)


def tapes(config: DataConfig, device: torch.device, options: Options) -> DataSet:
    split = ArraySplit(sounds(options.n), None)
    return DataSet(f"tapes {rest_of(config)}", Spec("sound"), split, None, split)


SOURCES = {
    "tapes": Source(tapes, "sound", Options, takes=lambda name: name.endswith(".tape")),
    "tones": Source(tapes, "tone", Options, takes=lambda name: name.endswith(".tape")),
}


def opened(source: str, modality: str = "sound", **options: Any) -> DataSet:
    return load(DataConfig(source=source, options=options), CPU, SOURCES, modality)


def test_a_source_has_options_and_a_rest() -> None:
    assert len(opened("tapes", n=12).train) == 12
    assert opened("tapes:a/b.tape", "image").name == "tapes a/b.tape"
    with pytest.raises(UserError, match=r"data\.options\.m: there is no such setting\. There are: n"):
        opened("tapes", m=1)
    with pytest.raises(UserError, match=r"data\.options\.n: .*greater than or equal to 10, not 5"):
        opened("tapes", n=5)
    with pytest.raises(UserError, match=r"data\.options: digits has no options; leave them out"):
        opened("digits", n=5)


def test_a_file_means_what_the_task_needs() -> None:
    assert opened("x.tape").name == "tapes "
    assert opened("x.tape", "tone").spec.modality == "sound"
    with pytest.raises(UserError, match=r"'x\.tape' does not exist; correct the path"):
        opened("x.tape", "image")
    with pytest.raises(UserError, match=r"Known are: none for text data; install a plugin"):
        opened("x.tape", "text")


def test_settings_of_images_are_refused_elsewhere() -> None:
    with pytest.raises(UserError, match=r"data\.image_size: tapes is sound data; leave it out"):
        load(DataConfig(source="tapes", image_size=32), CPU, SOURCES, "sound")
