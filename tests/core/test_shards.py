"""Shards: tar archives in the layout of WebDataset, written, read and trained on."""

from __future__ import annotations

import gzip
import io
import json
import logging
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch

from ssl_zoo.config.schema import DataConfig
from ssl_zoo.data import DataSet, load
from ssl_zoo.data.fingerprint import hash_contents
from ssl_zoo.data.lanes.split import LaneSplit
from ssl_zoo.data.shards import files
from ssl_zoo.errors import SslZooError, UserError
from ssl_zoo.tools.shard import shard
from tests.conftest import Call
from tests.core.pictures import CPU, encoded, everything, folder, one_line, write
from tests.core.test_pixels import SLICE, dicom

pytest.importorskip("webdataset")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_ZOO_DATA", str(tmp_path / "cache"))


def photos(path: Path, number: int = 10) -> Path:
    for label in "ab":
        for i in range(number):
            write(path / label / f"{label}{i}.png")
    return path


def sharded(tmp_path: Path, number: int = 10, **settings: Any) -> Path:
    """Return a folder of shards of some thirty images, and leave the images in `photos`."""
    source = photos(tmp_path / "photos", number)
    shard(str(source), tmp_path / "shards", ["data.holdout=0.2"], megabytes=0.03, **settings)
    return tmp_path / "shards"


def tar(path: Path, members: dict[str, bytes]) -> Path:
    """Write a tar archive of members by name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def opened(source: str | Path | list[str], **settings: Any) -> DataSet:
    """Open shards, whose images are decoded when they are read."""
    given = {"resident": "never", "image_size": 14, "canvas": "square", **settings}
    source = source if isinstance(source, list) else str(source)
    return load(DataConfig.model_validate({"source": source, **given}), CPU)


def test_shards_have_the_samples_classes_and_splits_of_their_folder(tmp_path: Path) -> None:
    shards = sharded(tmp_path)
    names = sorted(path.name for path in shards.iterdir())
    assert {"classes.txt", "test-000000.tar", "train-000000.tar", "train-000001.tar"} <= set(names)
    of_folder = folder(tmp_path / "photos", holdout=0.2)
    of_shards = opened(shards)
    assert of_shards.classes == of_folder.classes == ("a", "b")
    for ours, theirs in ((of_shards.train, of_folder.train), (of_shards.test, of_folder.test)):
        assert isinstance(ours, LaneSplit)
        assert theirs is not None
        assert len(ours) == len(theirs)

        def pairs(split: Any) -> set[tuple[int, bytes]]:
            images = split.batch(torch.arange(len(split)))
            return {(int(c), i.numpy().tobytes()) for c, i in zip(split.labels, images, strict=True)}

        assert pairs(ours) == pairs(theirs)
    assert of_shards.spec.classes == 2


def test_dicom_files_without_a_suffix_get_one_in_shards(tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    for name in ("0", "1.2.840.7"):
        dicom(tmp_path / "scans" / name, SLICE)
    shard(str(tmp_path / "scans"), tmp_path / "shards", ["data.image_size=16"])
    data = opened(tmp_path / "shards", options={"image": "dcm"})
    assert len(data.train) == 2


def test_samples_written_by_webdataset_itself_are_read_and_ours_by_it(tmp_path: Path) -> None:
    import webdataset

    (tmp_path / "wds").mkdir()
    with webdataset.ShardWriter(str(tmp_path / "wds" / "train-%03d.tar"), maxcount=4, verbose=0) as sink:
        for i in range(10):
            sink.write({"__key__": f"{i:04d}", "png": encoded(i), "cls": i % 3})
    data = opened(tmp_path / "wds/train-{000..002}.tar", holdout=0.3)
    assert (len(data.train), len(data.test or ())) == (7, 3)
    assert data.bank.labels is not None
    for name, label in zip(data.train.names or (), data.bank.labels.tolist(), strict=True):
        assert int(name.rpartition(":")[2]) % 3 == label
    sharded(tmp_path)
    ours = webdataset.WebDataset(str(tmp_path / "shards/train-000000.tar"), shardshuffle=False)
    for sample in ours.decode("pil"):
        assert sample["png"].size == (40, 40)
        assert sample["json"]["label"] == "ab"[sample["cls"]]
        assert sample["json"]["path"].startswith(f"{sample['json']['label']}/")  # below the folder


def test_training_sees_windows_of_whole_images_in_shards_as_of_files(tmp_path: Path) -> None:
    members = {f"{i}.png": encoded(i, (60, 20)) for i in range(8)}
    tar(tmp_path / "train.tar", members)
    for name, content in members.items():
        (tmp_path / "files").mkdir(exist_ok=True)
        (tmp_path / "files" / name).write_bytes(content)
    ours = opened(tmp_path / "train.tar", canvas="auto").train
    theirs = folder(tmp_path / "files", resident="never").train
    assert ours.canvas is not None
    assert theirs.canvas is not None
    every = torch.arange(8)
    assert torch.equal(ours.at_pass(7).batch(every), theirs.at_pass(7).batch(every))


@pytest.mark.parametrize("how", ["pipe", "gzip"])
def test_shards_behind_pipes_and_compressed_ones_are_fetched_once_and_read_by_position(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    shards = sharded(tmp_path)
    train = [path.name for path in sorted(shards.iterdir()) if path.name.startswith("train")]
    plain = everything(opened(f"{shards}/train-{{000000..{len(train) - 1:06d}}}.tar", labels="none"))
    log = tmp_path / "fetched"
    if how == "pipe":
        monkeypatch.setenv("SSL_ZOO_PIPES", "1")
        source = [f"pipe:echo >> {log}; cat {shards / name}" for name in train]
    else:
        source = []
        for name in train:
            with gzip.open(tmp_path / f"{name}.gz", "wb") as compressed:
                compressed.write((shards / name).read_bytes())
            source.append(str(tmp_path / f"{name}.gz"))
    for _ in range(2):
        assert torch.equal(everything(opened(source, labels="none")), plain)
    if how == "pipe":
        assert len(log.read_text().splitlines()) == len(train)
    keep = {"keep_gb": 0.00007}  # two shards or three
    assert torch.equal(everything(opened(source, labels="none", options=keep)), plain)


def test_a_pipe_runs_only_where_the_environment_allows_it(tmp_path: Path) -> None:
    source = f"pipe:touch {tmp_path / 'ran'}; cat some.tar"
    with pytest.raises(UserError, match="would run a command; if it is yours, allow it with") as error:
        opened(source)
    one_line(error)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("PIPE:touch ran; cat a.tar", "write pipe: in small letters"),
        ("http://h/';touch ran;exit 1;'.tar", "is no URL that shards can be fetched from"),
        ("http://h/$(touch ran) a.tar", "is no URL that shards can be fetched from"),
        ("gopher://h/a.tar", "is no URL that shards can be fetched from"),
    ],
)
def test_no_other_source_reaches_a_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, problem: str
) -> None:
    monkeypatch.setenv("SSL_ZOO_PIPES", "1")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=problem) as error:
        opened(source)
    one_line(error)
    assert not (tmp_path / "ran").exists()


def test_urls_are_fetched_also_compressed_and_again_where_they_were_no_archive(
    tmp_path: Path,
) -> None:
    members = {f"{i}.png": encoded(i) for i in range(4)}
    plain = tar(tmp_path / "plain.tar", members)
    packed = tmp_path / "train.tar.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert torch.equal(everything(opened(packed.as_uri())), everything(opened(plain)))
    later = tmp_path / "later.tar"
    later.write_bytes(b"<html>try again</html>" * 100)
    with pytest.raises(UserError, match=f"{later.as_uri()} is no tar archive that can be read"):
        opened(later.as_uri())
    later.write_bytes(plain.read_bytes())
    assert torch.equal(everything(opened(later.as_uri())), everything(opened(plain)))
    (tmp_path / "cut.tar.gz").write_bytes(packed.read_bytes()[:-30])
    with pytest.raises(UserError, match=r"cannot fetch the shard .*cut\.tar\.gz: ") as error:
        opened(tmp_path / "cut.tar.gz")
    one_line(error)
    assert not list((tmp_path / "cache" / "shards").glob("*.part"))


def test_a_shard_that_can_be_fetched_no_more_stops_the_run_and_skips_no_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(files, "MAX_OPEN", 0)
    source = tar(tmp_path / "train.tar", {f"{i}.png": encoded(i) for i in range(4)})
    data = opened(source.as_uri())
    source.unlink()
    for copy in (tmp_path / "cache" / "shards").glob("*.tar"):
        copy.unlink()
    with pytest.raises(SslZooError, match=r"cannot fetch the shard .* then resume the run"):
        list(data.train.stream(torch.arange(4), 2))
    assert not data.train.skipped


def test_a_member_of_no_size_at_all_ends_the_archive(tmp_path: Path) -> None:
    header = tarfile.TarInfo("0.png")
    header.size = -512
    (tmp_path / "train.tar").write_bytes(header.tobuf(tarfile.GNU_FORMAT) * 3)
    with pytest.raises(UserError, match="has no samples"):
        opened(tmp_path / "train.tar")


def test_samples_without_an_image_or_a_class_are_counted_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mixed = {f"{i}.png": encoded(i) for i in range(3)} | {f"{i}.xyz": b"?" for i in range(3, 8)}
    with caplog.at_level(logging.WARNING):
        assert len(opened(tar(tmp_path / "mixed.tar", mixed)).train) == 3
    assert "5 samples without an image are left out; they have xyz" in caplog.messages

    def labelled(name: str, labels: list[str]) -> str:
        members = {f"{i}.png": encoded(i) for i in range(len(labels))}
        classes = {f"{i}.cls": label.encode() for i, label in enumerate(labels) if label}
        return str(tar(tmp_path / name, dict(sorted((members | classes).items()))))

    train = labelled("train-0.tar", ["0", "1", "0", "-1"])
    source = [train, labelled("val-0.tar", ["1", "0"]), labelled("test-0.tar", ["", ""])]
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        data = opened(source)
    assert "2 samples to evaluate on have no class, and are left out" in caplog.messages
    assert data.test is not None
    assert data.test.labels is not None
    assert data.test.labels.tolist() == [1, 0]
    assert data.bank.labels is not None
    assert data.bank.labels.tolist() == [0, 1, 0]
    assert (len(data.train), data.train.labels) == (4, None)
    with pytest.raises(UserError, match=r"a sample has the class 99999999999; correct its \.cls"):
        opened([labelled("train-1.tar", ["99999999999"]), train])


def test_a_part_of_shards_without_classes_is_held_out_where_it_is_asked_for(tmp_path: Path) -> None:
    file = tar(tmp_path / "train.tar", {f"{i}.png": encoded(i) for i in range(10)})
    assert opened(file).test is None
    data = opened(file, holdout=0.2)
    assert (len(data.train), len(data.test or ())) == (8, 2)


def test_a_replaced_shard_is_noticed_by_its_contents(tmp_path: Path) -> None:
    file = tar(tmp_path / "train.tar", {f"{i}.png": encoded(i) for i in range(3)})
    before = hash_contents(opened(file).train)
    assert before == hash_contents(opened(file).train)
    tar(file, {f"{i}.png": encoded(i + 7) for i in range(3)})
    assert hash_contents(opened(file).train) != before


def test_a_pipe_that_fails_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.time, "sleep", lambda seconds: None)
    monkeypatch.setenv("SSL_ZOO_PIPES", "1")
    with pytest.raises(UserError, match="cannot fetch the shard pipe:") as error:
        opened(f"pipe:cat {tmp_path}/missing.tar")
    one_line(error)
    with pytest.raises(UserError, match="is no tar archive that can be read") as error:
        opened("pipe:echo nothing like a.tar")
    one_line(error)


def test_shards_that_cannot_be_used_are_one_line_each(tmp_path: Path) -> None:
    good = tar(tmp_path / "train-0.tar", {"0.png": encoded()})
    others = tar(tmp_path / "train-1.tar", {"0.txt": b"text", "0.json": b"{}"})
    (tmp_path / "train-2.tar").write_bytes(b"no archive at all" * 100)
    (tmp_path / "train-3.tar").write_bytes(b"")
    test_only = tar(tmp_path / "test-0.tar", {"0.png": encoded()})
    bad_json = tar(tmp_path / "train-4.tar", {"0.png": encoded(), "0.json": b"{"})
    assert len(opened(bad_json).train) == 1
    for source, problem in (
        (tmp_path / "train-{0..9}.tar", "cannot read the shard .*train-5.tar: No such file"),
        (tmp_path / "none-*.tar", "matches no shard; correct the path"),
        (others, "has samples with json, txt, but none with jpg, png or another image; data.options"),
        (tmp_path / "train-2.tar", "is no tar archive that can be read"),
        (tmp_path / "train-3.tar", "is no tar archive that can be read"),
        ([str(good), f"{tmp_path}/x/../train-0.tar"], "is named twice; leave one out"),
        (test_only, "has no samples to train on, only some to evaluate on"),
    ):
        with pytest.raises(UserError, match=problem) as error:
            opened(source)
        one_line(error)
    with pytest.raises(UserError, match="has samples with png, but none with jpg") as error:
        opened(good, options={"image": "jpg"})
    with pytest.raises(UserError, match=r"data.tile: .* has no image files to divide"):
        opened(good, tile=10)


def test_a_shard_that_is_cut_off_gives_its_whole_samples_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    members = {f"{i:03d}.png": encoded(i) for i in range(10)}
    whole = tar(tmp_path / "whole" / "train.tar", members)
    part = tmp_path / "part" / "train.tar"
    part.parent.mkdir()
    with tarfile.open(whole) as archive:
        ends = [member.offset_data + member.size for member in archive]
    for cut, expected in (
        (ends[6] - 1, 6),
        (ends[6], 7),
        (ends[6] + 600, 7),
        (whole.stat().st_size, 10),
    ):
        part.write_bytes(whole.read_bytes()[:cut])
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            data = opened(part)
        assert len(data.train) == expected
        warned = [record.message for record in caplog.records if "cut off" in record.message]
        text = f"{part} is cut off; its first {expected} samples are used, copy it again for the others"
        assert warned == ([] if expected == 10 else [text])


def test_samples_that_a_shard_loses_during_a_run_are_skipped_and_a_new_shard_is_looked_at(
    tmp_path: Path,
) -> None:
    file = tar(tmp_path / "train.tar", {f"{i}.png": encoded(i) for i in range(6)})
    data, content = opened(file), file.read_bytes()
    with file.open("r+b") as shortened:
        shortened.truncate(4000)
    assert len(data.train.batch(torch.arange(6))) == 6
    assert 0 < len(data.train.skipped) < 6
    assert all(f"the shard {file} has been cut off" in why for why in data.train.skipped.values())
    file.write_bytes(content)
    assert torch.equal(everything(opened(file)), everything(data))
    tar(file, {f"{i}.png": encoded(i) for i in range(9)})
    assert len(opened(file).train) == 9


def test_classes_and_splits_come_from_members_names_and_prefixes(tmp_path: Path) -> None:
    def described(i: int, **values: str) -> dict[str, bytes]:
        return {f"x/{i}.jpg": encoded(i), f"x/{i}.json": json.dumps(values).encode()}

    members: dict[str, bytes] = {}
    for i, (label, split) in enumerate(
        [("cat", "train"), ("dog", "train"), ("cat", "val"), ("dog", "")]
    ):
        members |= described(i, kind=label, part=split)
    file = tar(tmp_path / "all.tar", members)
    data = opened(file, options={"label": "kind", "split": "part"})
    assert data.classes == ("cat", "dog")
    assert [data.bank.labels.tolist(), data.test.labels.tolist()] == [[0, 1, 1], [0]]
    assert [name.rpartition(":")[2] for name in data.train.names] == ["x/0", "x/1", "x/3"]
    held = tar(
        tmp_path / "other.tar", {"7.png": encoded(7), "7.cls": b"1", "8.png": encoded(8), "8.cls": b"0"}
    )
    train = tar(
        tmp_path / "some.tar", {"1.png": encoded(1), "1.cls": b"0", "2.png": encoded(2), "2.cls": b"1"}
    )
    loose = tar(tmp_path / "loose.tar", {"3.png": encoded(3)})
    data = opened([str(train), f"test:{held}", f"unlabelled:{loose}"])
    assert [len(data.train), len(data.bank), len(data.test)] == [3, 2, 2]
    assert data.train.labels is None
    assert data.test.labels.tolist() == [1, 0]


def test_unreadable_samples_are_skipped_and_named(tmp_path: Path) -> None:
    members = {f"{i}.png": encoded(i) for i in range(20)} | {"7.png": b"no image"}
    data = opened(tar(tmp_path / "train.tar", members))
    batch = everything(data)
    assert list(data.train.skipped) == [f"{tmp_path}/train.tar:7"]
    assert torch.equal(batch[7], batch[8])
    assert len(opened(tmp_path / "train.tar", resident="always").train) == 19


def test_shards_are_written_and_trained_on_by_commands(call: Call) -> None:
    photos(Path("photos"))
    code, out, _ = call("shard", "--data", "photos", "-o", "shards", "--megabytes", "0.05")
    assert code == 0
    assert out.splitlines() == [
        "wrote shards: 18 train, 2 test samples of 2 classes",
        "  ssl-zoo train --task TASK --data shards",
    ]
    small = ("--image-size", "16", "--backbone", "test_resnet", "--batch-size", "8", "--samples", "8")
    code, _, err = call("train", "--task", "simclr", "--data", "shards", *small, "--protocol", "knn")
    assert code == 0, err
    assert "shards: 20 images: 18 to train, 2 to evaluate on; 2 classes: a 10, b 10" in err
    code, _, err = call("shard", "--data", "photos", "-o", "shards")
    assert code == 2
    assert "has files already; choose a new folder" in err
    code, _, err = call("check-source", "shards", "--image-size", "16")
    assert code == 0, err
    shutil.rmtree("shards")
