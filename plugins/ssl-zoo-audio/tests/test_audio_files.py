"""Audio files: formats, rates, channels, long files, lists, and files that cannot be read."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from ssl_zoo_audio.data.decoding import read_clip, read_header
from ssl_zoo_audio.spec import SoundSpec

from ssl_zoo import UserError
from ssl_zoo.config.load import load_config
from ssl_zoo.config.schema import DataConfig
from ssl_zoo.data import DataSet
from ssl_zoo.data.sample_files import SkippedSamples
from ssl_zoo.runs.build import load_data
from ssl_zoo.training import train

CPU = torch.device("cpu")


def tone(seconds: float, rate: int, frequency: float = 440.0) -> Any:
    time = np.arange(round(seconds * rate)) / rate
    return (0.5 * np.sin(2 * math.pi * frequency * time)).astype(np.float32)


def write(file: Path, wave: Any, rate: int = 16000, **options: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(file, wave, rate, **options)
    return file


def opened(source: Path, **settings: Any) -> DataSet:
    options = {name: settings.pop(name) for name in ("rate", "seconds", "silence") if name in settings}
    config = DataConfig(source=str(source), options=options, **settings)
    return load_data(config, torch.device("cpu"), "audio")


def names(data: DataSet) -> list[str]:
    return sorted([*(data.train.names or ()), *((data.test.names if data.test else None) or ())])


RATES = {
    "wav": (44100, 96000), "flac": (8000, 192000), "ogg": (8000, 22050, 48000),
    "mp3": (8000, 22050, 48000), "opus": (8000, 16000, 48000),
}  # fmt: skip
CHANNELS = {"wav": 8, "flac": 8, "ogg": 8, "opus": 4, "mp3": 2}
"""Channels of each format; of six or more of Opus one is for low frequencies alone."""


@pytest.mark.parametrize("several", [False, True], ids=["mono", "several channels"])
@pytest.mark.parametrize(("suffix", "rate"), [(name, rate) for name in RATES for rate in RATES[name]])
def test_formats_rates_and_channels_give_the_same_sound(
    tmp_path: Path, suffix: str, rate: int, several: bool
) -> None:
    options = {"format": "OGG", "subtype": "OPUS"} if suffix == "opus" else {}
    wave = np.stack([tone(0.5, rate)] * (CHANNELS[suffix] if several else 1), 1)
    file = write(tmp_path / f"a.{suffix}", wave, rate, **options)
    clip = read_clip(file, 16000)
    assert abs(len(clip) - 8000) < 1000  # mp3 pads
    spectrum = clip[1000:5000].mul(torch.hann_window(4000)).view(1, -1).numpy()
    assert np.abs(np.fft.rfft(spectrum)).argmax() * 4 == pytest.approx(440, abs=4)
    assert clip[1000:5000].abs().max() == pytest.approx(0.5, abs=0.05)


def test_channels_are_averaged_and_parts_are_read_by_place(tmp_path: Path) -> None:
    wave = np.stack([tone(1, 16000), tone(1, 16000, 600)] * 4, 1)
    file = write(tmp_path / "a.wav", wave, subtype="FLOAT")
    assert torch.allclose(read_clip(file, 16000), torch.from_numpy(wave.mean(1)))
    part = read_clip(file, 16000, start=0.25, seconds=0.5)
    assert torch.allclose(part, torch.from_numpy(wave.mean(1)[4000:12000]))


def test_sub_folders_are_classes_and_long_files_are_read_by_parts(tmp_path: Path) -> None:
    for label in ("low", "high"):
        for i in range(12):
            frequency = 300 + 300 * (label == "high") + i
            write(tmp_path / label / f"{i}.wav", tone(1.0 + i / 10, 16000, frequency))
    write(tmp_path / "low" / "long.flac", tone(5.1, 16000, 333))
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "film.mp4").write_bytes(b"\0" * 99)
    data = opened(tmp_path, seconds=2.0)
    assert data.classes == ("high", "low")
    assert data.facts.other_files == {".txt": 1, ".mp4": 1}
    found = [name for name in names(data) if "long" in name]
    times = ("0.000 to 1.700", "1.700 to 3.400", "3.400 to 5.100")
    assert found == [f"low/long.flac from {time} s" for time in times]
    assert data.test is not None
    together = [[n for n in split.names or () if "long" in n] for split in (data.train, data.test)]
    assert [] in together  # the parts of a file are on one side
    for split in (data.train, data.test):
        assert split.groups == [name.partition(" from ")[0] for name in split.names or ()]
    batch = data.train.batch(torch.arange(len(data.train)))
    lengths = {round(n / 16000, 2) for n in batch.length.tolist()}
    assert batch.wave.shape[1] == 32000
    assert lengths <= {*(round(1 + i / 10, 2) for i in range(11)), 1.05, 1.7}
    for row, n in zip(batch.wave, batch.length.tolist(), strict=True):
        assert not row[n:].any()


def test_a_list_gives_parts_and_labels(tmp_path: Path) -> None:
    file = write(tmp_path / "sounds" / "a.wav", tone(3, 16000), subtype="FLOAT")
    lines = "".join(f"sounds/a.wav\t{x}\t{i / 10}\t{i / 10 + 0.5}\n" for i, x in enumerate("ababab"))
    (tmp_path / "list.tsv").write_text("\ufeffpath\tlabel\tstart\tend\n" + lines)
    data = opened(tmp_path / "list.tsv")
    assert data.classes == ("a", "b")
    assert len(names(data)) == 6
    first = list(data.train.names or ()).index("sounds/a.wav from 0.200 to 0.700 s")
    batch = data.train.batch(torch.tensor([first]))
    assert torch.equal(batch.wave[0], read_clip(file, 16000, 0.2, 0.5))
    (tmp_path / "bad.csv").write_text("file\na.wav\n")
    with pytest.raises(UserError, match="has no column 'path'"):
        opened(tmp_path / "bad.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,start\na.wav,soon\n", r"line 2: start: is no number of seconds, 0 or more \('soon'\)"),
        ("path,start\na.wav,0\na.wav,nan\n", r"line 3: start: is no number .*'nan'"),
        ("path,start\na.wav,-1\n", r"line 2: start: is no number .*'-1'"),
        ("path,start,end\na.wav,1,0.5\n", r"line 2: end: is not after start, 1 \(0\.5\)"),
        ("label,path\nb,a.wav\nb\n", "line 3: has no path"),
        ("path,label\na.wav,b,c\n", "line 2: has more columns than the first line"),
        (b"path\na.wav\n\xff.wav\n", "line 3: is not valid UTF-8; save it as UTF-8"),
    ],
)
def test_a_wrong_row_of_a_list_is_refused_in_a_line(
    tmp_path: Path, text: str | bytes, message: str
) -> None:
    write(tmp_path / "a.wav", tone(3, 16000))
    (tmp_path / "list.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=rf"list\.csv, {message}") as error:
        opened(tmp_path / "list.csv")
    assert "\n" not in str(error.value)


def test_the_splits_of_a_list_are_those_of_the_data(tmp_path: Path) -> None:
    lines = []
    for i, split in enumerate(("train", "train", "train", "train", "test", "test")):
        write(tmp_path / f"{i}.wav", tone(0.2, 16000, 300 + i))
        lines.append(f"{i}.wav,{'ab'[i % 2]},{split}\n")
    (tmp_path / "list.csv").write_text("path,label,split\n" + "".join(lines))
    data = opened(tmp_path / "list.csv")
    assert data.test is not None
    assert data.test.labels is not None
    assert (len(data.train), list(data.test.names or [])) == (4, ["4.wav", "5.wav"])
    assert (data.test.labels.tolist(), data.facts.held_out) == ([0, 1], "")
    (tmp_path / "gone.txt").write_text("0.wav\n9.wav\n")
    with pytest.raises(UserError, match=r"gone\.txt, line 2: .*9\.wav does not exist \(1 of 2"):
        opened(tmp_path / "gone.txt")


def test_clips_are_decoded_at_once_or_at_each_use(tmp_path: Path) -> None:
    for i in range(20):
        write(tmp_path / f"{i:02}.wav", tone(0.2, 16000, 300 + i))
    once, each = opened(tmp_path, holdout=0.2), opened(tmp_path, resident="never", holdout=0.2)
    assert once.train.resident
    assert not each.train.resident
    for split in ("train", "test"):
        a, b = (getattr(data, split) for data in (once, each))
        assert torch.equal(a.batch(torch.arange(2)).wave, b.batch(torch.arange(2)).wave)
    with pytest.raises(UserError, match=r"^data\.cache: decoded sounds are not kept on disk"):
        opened(tmp_path, cache=str(tmp_path / "cache"))


def test_a_file_beside_the_classes_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a/1", "a/2", "b/1", "b/2", "stray"):
        write(tmp_path / f"{name}.wav", tone(0.2, 16000, 300 + len(name)))
    assert opened(tmp_path).classes is None
    assert "there are no classes, as 1 of 5 clips have none, such as stray.wav" in caplog.text


@pytest.mark.parametrize("broken", [10, 11])
def test_broken_headers_count_among_files_that_cannot_be_read(tmp_path: Path, broken: int) -> None:
    for i in range(20):
        write(tmp_path / f"{i:02}.wav", tone(0.2, 16000, 300 + i))
    for i in range(broken):
        (tmp_path / f"broken{i:02}.wav").write_bytes(b"RIFF")
    if broken == 10:
        assert len(opened(tmp_path).train.skipped) == 10
    else:
        with pytest.raises(UserError, match="11 of 31 clips cannot be read"):
            opened(tmp_path)


def bad_folder(folder: Path) -> Path:
    for i in range(40):
        write(folder / f"{i:02}.wav", tone(0.5, 16000, 300 + i))
    write(folder / "empty.wav", np.zeros(0, np.float32))
    write(folder / "silent.wav", np.zeros(8000, np.float32))
    nan = tone(0.5, 16000)
    nan[100] = np.nan
    write(folder / "nan.wav", nan, subtype="FLOAT")
    write(folder / "eight.wav", np.stack([tone(0.5, 16000)] * 8, 1))
    write(folder / "short.wav", tone(0.01, 16000))
    (folder / "film.wav").write_bytes(b"\0\0\0\x20ftypisom" + b"\0" * 500)
    (folder / "cut.flac").write_bytes(write(folder / "x.flac", tone(0.5, 16000)).read_bytes()[:60])
    (folder / "x.flac").unlink()
    return folder


def test_files_that_cannot_be_read_are_listed_with_the_reason(tmp_path: Path) -> None:
    data = opened(bad_folder(tmp_path), holdout=0.1)
    for split in (data.train, data.test):
        assert split is not None
        split.batch(torch.arange(len(split)))
    skipped = data.train.skipped
    assert isinstance(skipped, SkippedSamples)
    assert skipped.excluded == {"silent.wav": "it is silent (data.options.silence)"}
    reasons = skipped.unreadable
    assert reasons.keys() == {"empty.wav", "nan.wav", "short.wav", "film.wav", "cut.flac"}
    assert reasons["empty.wav"] == "it has no samples"
    assert "not finite" in reasons["nan.wav"]
    assert all("\n" not in reason for reason in reasons.values())
    assert "eight.wav" in names(data)


def test_any_number_of_clips_may_be_silent(tmp_path: Path) -> None:
    for i in range(40):
        loud = i % 4 == 0
        write(tmp_path / f"{i:02}.wav", (0.5 if loud else 5e-4) * tone(0.2, 16000, 300 + i) / 0.5)

    def decoded(**settings: Any) -> tuple[int, Mapping[str, str]]:
        data = opened(tmp_path, holdout=0.1, **settings)
        assert data.test is not None
        return sum(len(split.to(CPU)) for split in (data.train, data.test)), data.train.skipped

    number, skipped = decoded()
    assert isinstance(skipped, SkippedSamples)
    assert (number, len(skipped.excluded), len(skipped.unreadable)) == (10, 30, 0)
    assert decoded(silence=-80) == (40, {})
    with pytest.raises(UserError, match=r"none of the 40 clips is left, the last being .*it is silent"):
        decoded(silence=0)


def test_training_goes_on_without_files_that_cannot_be_read(tmp_path: Path) -> None:
    folder = bad_folder(tmp_path / "sounds")
    settings = {
        "task.name": "hubert", "data.source": str(folder), "train.epochs": 1, "train.batch_size": 8,
        "backbone.name": "mel-mini", "backbone.options.width": 16, "backbone.options.layers": 1,
        "task.layer": 1, "train.device": "cpu",
    }  # fmt: skip
    run = train(load_config(None, settings), out=tmp_path / "run")
    results = run.results()
    assert results["skipped"]["empty.wav"] == "it has no samples"
    assert "nan.wav" in results["skipped"]
    assert results["excluded"].keys() == {"silent.wav"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "film.mp4",
            r"film\.mp4 cannot be read: \.mp4 files are not decoded; extract the sound of .*\.wav",
        ),
        ("talk.M4A", r"talk\.M4A cannot be read: \.m4a files are not decoded; .* convert other sound"),
        ("broken.wav", r"broken\.wav cannot be read: .+; audio files end in \.aif, .*\.wav"),
        ("list.csv", r"list\.csv has no audio that can be read, such as film\.mp4: \.mp4 files are not"),
        ("nowhere", "nowhere' does not exist; correct the path"),
    ],
)
def test_what_is_no_audio_is_refused_in_a_line(tmp_path: Path, name: str, message: str) -> None:
    for file in ("film.mp4", "talk.M4A", "broken.wav"):
        (tmp_path / file).write_bytes(b"\0\0\0\x20ftypisom")
    (tmp_path / "list.csv").write_text("path\nfilm.mp4\n")
    with pytest.raises(UserError, match=message) as error:
        opened(tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_folder_without_audio_is_refused_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no audio \(it is empty\); audio files end in \.aif"):
        opened(tmp_path)
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(UserError, match=r"has no audio \(it has 1 \.txt\); audio files .* \.wav$"):
        opened(tmp_path)
    for i in range(5):
        (tmp_path / f"{i}.mp4").write_bytes(b"")
    with pytest.raises(UserError, match=r"\(it has 5 \.mp4, 1 \.txt\); .*; extract the sound of videos"):
        opened(tmp_path)
    (tmp_path / "b.wav").write_bytes(b"RIFF")
    with pytest.raises(UserError, match=r"has no audio that can be read, such as b\.wav: .+"):
        opened(tmp_path)


def folder_of_splits(root: Path) -> Path:
    for folder in ("train/dog", "train/cat", "train/unsup", "test/dog", "test/cat", ".hid", "extra"):
        for i in range(4):
            number = sum(map(ord, folder)) + i
            write(root / folder / f"{i}.wav", tone(0.2, 16000, number))
    write(root / "train" / "dog" / ".4.wav", tone(0.2, 16000))
    write(root / "train" / "beside.wav", tone(0.2, 16000))
    (root / "film.mp4").write_bytes(b"")
    return root


@pytest.mark.parametrize("resident", ["always", "never"])
def test_train_and_test_folders_are_splits_with_classes_below_them(
    tmp_path: Path, resident: str
) -> None:
    data = opened(folder_of_splits(tmp_path), resident=resident)
    found = {
        name: sorted((split.names or ())[i] for i in range(len(split)))
        for name, split in (("train", data.train), ("bank", data.bank), ("test", data.test))
        if split is not None
    }
    expected = {
        split: [f"{split}/{label}/{i}.wav" for label in ("cat", "dog") for i in range(4)]
        for split in ("train", "test")
    }
    assert found["test"] == expected["test"]
    assert found["bank"] == expected["train"]
    assert found["train"] == expected["train"] + [f"train/unsup/{i}.wav" for i in range(4)]
    assert data.classes == ("cat", "dog")
    assert data.spec.classes == 2
    assert data.train.labels is None
    for split in (data.bank, data.test):
        assert split is not None
        assert split.labels is not None
        classes = [data.classes[i] for i in split.labels.tolist()]
        assert classes == [name.split("/")[1] for name in split.names or ()]
    assert data.no_accuracy == ""
    assert data.facts.folders == {"train": ["train"], "test": ["test"]}
    assert data.facts.unused == {"extra": 4, "": 1}
    assert data.facts.other_files == {".mp4": 1}
    assert data.facts.held_out == ""
    assert len(names(opened(tmp_path, labels="none"))) == 20


def test_clips_without_labels_are_trained_on_and_never_held_out(tmp_path: Path) -> None:
    for name in ("a", "b", "unlabeled"):
        for i in range(10):
            write(tmp_path / name / f"{i}.wav", tone(0.2, 16000, 300 + 10 * ord(name[0]) + i))
    splits = {"a": "train", "b": "train", "unlabeled": "unlabelled"}
    lines = [f"{name}/{i}.wav,{name},{split}" for name, split in splits.items() for i in range(10)]
    (tmp_path / "list.csv").write_text("path,label,split\n" + "\n".join(lines) + "\n")
    for source in (tmp_path, tmp_path / "list.csv"):
        data = opened(source, holdout=0.2)
        assert data.classes == ("a", "b")
        assert data.test is not None
        assert (len(data.train), len(data.bank), len(data.test)) == (26, 16, 4)
        assert data.test.labels is not None
        assert sorted(data.test.labels.tolist()) == [0, 0, 1, 1]
        assert data.facts.held_out == "20 %, stratified, by file"
        without = opened(source, holdout=0.2, labels="none")
        assert without.test is not None
        assert without.bank is without.train
        assert not any("unlabeled" in name for name in without.test.names or ())


def test_classes_that_the_train_split_lacks_leave_no_accuracy(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("train/a", "train/b", "test/a", "test/c"):
        write(tmp_path / name / "x.wav", tone(0.2, 16000, 10 * sum(map(ord, name))))
    data = opened(tmp_path)
    assert "have classes that the train split lacks (c), so no accuracy is computed" in caplog.text
    assert data.classes == ("a", "b")
    assert data.no_accuracy == "has no labels in its test split"


CUT = {
    "wav": {}, "wav float": {"subtype": "FLOAT"}, "wav adpcm": {"subtype": "IMA_ADPCM"},
    "wav big-endian": {"endian": "BIG"}, "wav rf64": {"format": "RF64"}, "wav w64": {"format": "W64"},
    "aiff": {}, "au": {}, "caf": {}, "flac": {}, "ogg": {}, "opus": {"format": "OGG", "subtype": "OPUS"},
    "mp3": {},
}  # fmt: skip


@pytest.mark.parametrize("kind", CUT)
def test_a_file_that_is_cut_off_is_left_out_and_a_whole_one_is_not(tmp_path: Path, kind: str) -> None:
    suffix = kind.split()[0]
    content = write(tmp_path / f"whole.{suffix}", tone(2, 16000), **CUT[kind]).read_bytes()
    (tmp_path / f"cut.{suffix}").write_bytes(content[: len(content) // 2])
    data = opened(tmp_path)
    assert data.train.names == [f"whole.{suffix}"]
    (reason,) = data.train.skipped.values()
    if suffix in ("wav", "aiff", "au", "mp3"):  # libsndfile opens these
        assert re.fullmatch(r"it is cut off: (0\.[89]|1\.0) of 2\.0 s can be read", reason)


@pytest.mark.parametrize("suffix", ["mp3", "flac"])
def test_of_a_long_file_that_is_cut_off_no_part_behind_the_cut_is_read(
    tmp_path: Path, suffix: str
) -> None:
    whole = write(tmp_path / "whole" / f"x.{suffix}", tone(10, 16000))
    content = whole.read_bytes()
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / f"x.{suffix}").write_bytes(content[: len(content) // 2])
    expected = read_clip(whole, 16000).view(10, 16000)
    for start in range(10):  # also where the decoder needs what is before a part
        assert torch.allclose(read_clip(whole, 16000, start, 1.0), expected[start], atol=1e-4)
    data = opened(tmp_path / "cut", seconds=1)
    batch = data.train.batch(torch.arange(len(data.train)))
    name = f"x.{suffix} from {{}}.000 to {{}}.000 s".format
    assert data.train.names == [name(i, i + 1) for i in range(4)]  # the cut is shortly before 5 s
    assert torch.allclose(batch.wave, expected[:4], atol=1e-4)
    assert data.train.skipped.keys() == {name(i, i + 1) for i in range(4, 10)}


@pytest.mark.parametrize(
    ("kind", "field", "sizes"),
    [
        ("wav", slice(4, 8), (b"\0" * 4, b"\xff" * 4, b"\x24\xf0\xff\x7f")),
        ("au", slice(8, 12), (b"\xff" * 4,)),
    ],
)
def test_a_header_written_before_the_length_was_known_is_no_fault(
    tmp_path: Path, kind: str, field: slice, sizes: tuple[bytes, ...]
) -> None:
    for i, size in enumerate(sizes):
        file = write(tmp_path / f"{i}.{kind}", tone(1, 16000))
        content = bytearray(file.read_bytes())
        content[field] = size
        if kind == "wav":
            content[40:44] = size if i else b"\xff" * 4  # the size of the samples
        file.write_bytes(content)
        assert read_header(file).seconds == 1
        assert len(read_clip(file, 16000)) == 16000


def test_a_truncated_file_gives_no_features(tmp_path: Path) -> None:
    file = write(tmp_path / "x.wav", tone(2, 16000))
    spec = SoundSpec(seconds=2)
    assert spec.preprocess(file).wave.shape == (1, 32000)
    file.write_bytes(file.read_bytes()[:32000])
    with pytest.raises(
        UserError, match=r"x\.wav: cannot be read as audio \(it is cut off: 1\.0 of 2\.0 s"
    ):
        spec.preprocess(file)
