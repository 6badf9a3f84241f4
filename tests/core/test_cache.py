"""The cache of decoded images: equal to images in memory, made once, never used when out of date."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np
import PIL
import pytest
import torch
from PIL import Image

from ssl_zoo import preprocess
from ssl_zoo.config.schema import DataConfig
from ssl_zoo.data import DataSet, image_files, load, residence
from ssl_zoo.data.mapped import MappedSplit
from ssl_zoo.data.splits import ArraySplit
from ssl_zoo.errors import UserError
from tests.conftest import KNN, flags, ssl_zoo
from tests.core.pictures import broken, everything, folder, named, one_line, photo, write
from tests.processes import Child
from tests.robustness.killing import losses, start_and_signal


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder of two classes of ten readable images, JPEG and PNG."""
    for i in range(10):
        write(tmp_path / "photos" / "cat" / f"{i}.jpg", photo((60, 40), i))
        write(tmp_path / "photos" / "dog" / f"{i}.png", photo((17, 30), 50 + i))
    return tmp_path / "photos"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Return the folder of the cache, which does not exist yet."""
    return tmp_path / "some" / "cache"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list with one entry for each image that has been decoded."""
    counted: list[int] = []
    to_size = preprocess.to_size
    monkeypatch.setattr(preprocess, "to_size", lambda *args: (counted.append(1), to_size(*args))[1])
    return counted


def same(one: DataSet, other: DataSet) -> None:
    """Check that two data sets are equal, the samples to the bit."""
    assert one.spec == other.spec
    assert (one.name, one.classes) == (other.name, other.classes)
    for a, b in ((one.train, other.train), (one.test, other.test), (one.bank, other.bank)):
        assert (a is None) == (b is None)
        if a is None or b is None:
            continue
        assert a.batch(torch.arange(len(a))).equal(b.batch(torch.arange(len(b))))
        assert a.names == b.names
        assert dict(a.skipped) == dict(b.skipped)
        assert (a.labels is None) == (b.labels is None)
        assert a.labels is None or b.labels is None or a.labels.equal(b.labels)


def files(cache: Path, pattern: str = "*") -> list[str]:
    """Return the names of the files of a cache, without lock files."""
    return sorted(path.name for path in cache.glob(pattern) if path.suffix != ".lock")


# Content


@pytest.mark.parametrize("start", ["first", "second"])
def test_the_same_samples_as_in_memory_to_the_bit(start: str, photos: Path, cache: Path) -> None:
    if start == "second":
        folder(photos, cache=str(cache))
    data, resident = folder(photos, cache=str(cache)), folder(photos, resident="always")
    same(data, resident)
    assert isinstance(data.train, MappedSplit)
    assert data.train.batch(torch.arange(2)).dtype == torch.uint8
    assert data.train.nbytes == resident.train.nbytes
    order = torch.randperm(len(data.train))
    ours, theirs = (list(s.stream(order, 4)) for s in (data.train, resident.train))
    assert len(ours) == len(theirs) == 5
    assert all(a.equal(b) for a, b in zip(ours, theirs, strict=True))
    assert folder(photos, resident="never").spec == data.spec


@pytest.mark.parametrize("resident", ["auto", "always", "never"])
def test_a_second_start_decodes_nothing(
    resident: str, photos: Path, cache: Path, decoded: list[int]
) -> None:
    folder(photos, cache=str(cache))
    assert len(decoded) == 20  # each image once, including those measured for mean and deviation
    again = folder(photos, cache=str(cache), resident=resident, holdout=0.5, workers=7)
    everything(again)
    assert len(decoded) == 20
    assert isinstance(again.train, MappedSplit)
    assert len(again.train) == 10


def test_the_home_folder_may_be_written_as_a_tilde(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder(photos, cache="~/cache")
    assert len(files(tmp_path / "cache")) == 2


def test_the_file_is_one_that_numpy_reads(photos: Path, cache: Path) -> None:
    data = folder(photos, cache=str(cache))
    (file,) = cache.glob("*.npy")
    assert file.name.startswith("photos-train-")
    squares = np.load(file)
    assert (squares.shape, squares.dtype) == ((20, 3, 16, 16), np.uint8)
    assert isinstance(data.train, MappedSplit)
    assert torch.from_numpy(squares).equal(data.train.file.whole)


def test_splits_with_folders_of_their_own_are_kept_apart(tmp_path: Path, cache: Path) -> None:
    for split, count in (("train", 6), ("val", 3)):
        for i in range(count):
            write(tmp_path / "d" / split / f"{i}.png", photo(seed=10 * count + i))
    for _ in range(2):
        same(folder(tmp_path / "d", cache=str(cache)), folder(tmp_path / "d"))
    assert len(files(cache, "d-train-*")) == len(files(cache, "d-test-*")) == 2


def test_a_mapped_split_takes_parts_of_itself_and_moves_to_other_devices(
    photos: Path, cache: Path
) -> None:
    train = folder(photos, cache=str(cache)).train
    assert isinstance(train, MappedSplit)
    assert train.labels is not None
    assert train.names is not None
    some = torch.tensor([5, 0, 5, 11])
    part = train.subset(some)
    assert part.batch(torch.arange(4)).equal(train.batch(some))
    assert part.labels is not None
    assert part.labels.equal(train.labels[some])
    assert part.names == [train.names[i] for i in some]
    assert train.to(torch.device("cpu")) is train
    moved = train.to(torch.device("meta"))
    assert isinstance(moved, ArraySplit)
    assert (moved.samples.device.type, len(moved)) == ("meta", len(train))


def test_on_another_device_what_fits_is_copied_and_what_does_not_is_read_from_the_file(
    photos: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = []
    to = MappedSplit.to
    monkeypatch.setattr(MappedSplit, "to", lambda self, d: (moved.append(d.type), to(self, d))[1])
    monkeypatch.setattr(
        residence, "MAX_RESIDENT_IMAGES", 3
    )  # which concerns only images that must be decoded
    settings: dict[str, Any] = {"source": str(photos), "image_size": 14, "cache": str(cache)}
    size = 20 * 3 * 16 * 16
    for free, resident, expected in (
        (4 * size, "auto", ["meta"] * 2), (4 * size, "always", ["meta"] * 2), (4 * size, "never", []),
        (4 * size - 1, "auto", []), (4 * size - 1, "always", []),
    ):  # fmt: skip
        monkeypatch.setattr(residence, "free_memory", lambda device, free=free: free)
        load(DataConfig(**settings, resident=resident), torch.device("meta"))
        assert moved == expected
        moved.clear()


def test_a_mapped_split_is_read_ahead_and_closing_ends_that(photos: Path, cache: Path) -> None:
    train = folder(photos, cache=str(cache)).train
    asked: list[int] = []
    batch = train.batch
    train.batch = lambda numbers: (asked.append(len(numbers)), batch(numbers))[1]  # type: ignore[method-assign]
    stream = train.stream(torch.arange(18), 3, prefetch=2)
    next(stream)
    for _ in range(200):
        if len(asked) == 3:
            break
        threading.Event().wait(0.005)
    assert len(asked) == 3
    stream.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("ssl-zoo-decode")]


# Changed images


def change(photos: Path) -> None:
    write(photos / "cat" / "3.jpg", photo((61, 40), 99))


def touch(photos: Path) -> None:
    file = photos / "cat" / "3.jpg"
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))


def add(photos: Path) -> None:
    write(photos / "dog" / "new.png")


def remove(photos: Path) -> None:
    (photos / "dog" / "4.png").unlink()


def rename(photos: Path) -> None:
    (photos / "dog" / "4.png").rename(photos / "dog" / "zz.png")


@pytest.mark.parametrize("happens", [change, touch, add, remove, rename])
def test_it_is_made_again_when_the_files_change(
    happens: Callable[[Path], None], photos: Path, cache: Path, decoded: list[int]
) -> None:
    old = folder(photos, cache=str(cache))
    samples, names = everything(old), files(cache)
    happens(photos)
    decoded.clear()
    data = folder(photos, cache=str(cache))
    assert len(decoded) == len(list(photos.rglob("*.*")))
    same(data, folder(photos))
    assert len(files(cache)) == 2
    assert not set(files(cache)) & set(names)
    assert everything(old).equal(samples)  # the old file is open and can still be read


def test_it_is_made_again_for_another_version_of_pillow(
    photos: Path, cache: Path, decoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder(photos, cache=str(cache))
    monkeypatch.setattr(PIL, "__version__", "0.1")
    folder(photos, cache=str(cache))
    assert (len(decoded), len(files(cache))) == (40, 2)


def test_caches_of_several_sizes_coexist(photos: Path, cache: Path, decoded: list[int]) -> None:
    for _ in range(2):
        for size, side in ((28, 32), (14, 16)):
            data = folder(photos, cache=str(cache), image_size=size)
            assert data.train.batch(torch.tensor([0])).shape[-1] == side
    assert (len(decoded), len(files(cache))) == (40, 4)


def test_caches_of_folders_of_the_same_name_coexist(
    photos: Path, tmp_path: Path, cache: Path, decoded: list[int]
) -> None:
    other = tmp_path / "elsewhere" / "photos"
    shutil.copytree(photos, other)
    write(other / "cat" / "new.png")
    for _ in range(2):
        for path in (photos, other):
            folder(path, cache=str(cache))
    assert len(decoded) == 20 + 21
    assert len(files(cache)) == 4


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


DAMAGES: dict[str, Callable[[Path, Path], object]] = {
    "no notes": lambda squares, notes: notes.unlink(),
    "half the notes": lambda squares, notes: cut(notes) or cut(notes),
    "other notes": lambda squares, notes: notes.write_text("[]"),
    "no squares": lambda squares, notes: squares.unlink(),
    "some squares": lambda squares, notes: cut(squares),
    "an empty file": lambda squares, notes: squares.write_bytes(b""),
    "other squares": lambda squares, notes: squares.write_bytes(b"not an array"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_an_incomplete_cache_is_not_read(
    damage: Callable[[Path, Path], object], photos: Path, cache: Path, decoded: list[int]
) -> None:
    folder(photos, cache=str(cache))
    (squares,), (notes,) = cache.glob("*.npy"), cache.glob("*.json")
    damage(squares, notes)
    same(folder(photos, cache=str(cache)), folder(photos, resident="always"))
    assert len(decoded) >= 40
    decoded.clear()
    folder(photos, cache=str(cache))
    assert decoded == []


# Unreadable images


def test_unreadable_images_are_left_out_and_listed_at_each_start(
    photos: Path, cache: Path, decoded: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    broken(photos / "cat" / "03.png")
    (photos / "dog" / "a link.png").symlink_to(photos / "gone.png")
    resident = folder(photos, resident="always")
    for start in (1, 2):
        decoded.clear()
        caplog.clear()
        data = folder(photos, cache=str(cache))
        same(data, resident)
        assert len(decoded) == (20 if start == 1 else 0)
        assert data.train.skipped == {
            str(photos / "cat" / "03.png"): "not an image",
            str(photos / "dog" / "a link.png"): "No such file or directory",
        }
        assert sum("cannot read" in message for message in caplog.messages) == 1
        assert sum("to try again, remove" in message for message in caplog.messages) == start - 1
    (notes,) = cache.glob("*.json")
    listed = json.loads(notes.read_text())["unreadable"]
    assert [(Path(image["name"]).name, image["reason"]) for image in listed] == [
        ("03.png", "not an image"), ("a link.png", "No such file or directory"),
    ]  # fmt: skip


def test_too_many_unreadable_images_stop_as_without_a_cache(tmp_path: Path, cache: Path) -> None:
    for i in range(50):
        write(tmp_path / "d" / f"good{i:02}.png", Image.new("L", (4, 4)))
    for i in range(11):
        broken(tmp_path / "d" / f"bad{i:02}.png")
    for _ in range(2):
        with pytest.raises(
            UserError, match=r"11 of 61 images cannot be read, .*: not an image;"
        ) as error:
            folder(tmp_path / "d", cache=str(cache))
        one_line(error)
        assert files(cache, "*") == files(cache, ".*") == []


# Other sources


def test_torchvision_s_image_files(tmp_path: Path, cache: Path, decoded: list[int]) -> None:
    for split in ("train", "val"):
        for i in range(3):
            write(tmp_path / "imagenette2-320" / split / "n01440764" / f"{i}.JPEG", photo((50, 40), i))
    for start in (1, 2):
        data = named("imagenette", tmp_path, image_size=14, cache=str(cache))
        assert isinstance(data.test, MappedSplit)
        assert len(decoded) == 6 * (start == 1)
        same(data, named("imagenette", tmp_path, image_size=14))
        decoded.clear()
    assert len(files(cache, "imagenette-*.npy")) == 2


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "archive"])
def test_timm_s_folders_and_archives(
    packed: bool, tmp_path: Path, cache: Path, decoded: list[int]
) -> None:
    for label in ("x", "y"):
        for i in range(4):
            write(tmp_path / "d" / label / f"{i}.png")
    source, root = ("timm:folder", tmp_path / "d")

    def pack() -> None:
        with tarfile.open(tmp_path / "all.tar", "w") as tar:
            tar.add(tmp_path / "d", "d")

    if packed:
        source, root = ("timm:tar", tmp_path / "all.tar")
        pack()
    for _ in range(2):
        decoded.clear()
        data = named(source, root, image_size=14, cache=str(cache))
        assert isinstance(data.train, MappedSplit)
        count = len(decoded)
        same(data, named(source, root, image_size=14))
    assert count == 0
    write(tmp_path / "d" / "x" / "0.png", photo(seed=99))
    if packed:
        pack()
    same(named(source, root, image_size=14, cache=str(cache)), named(source, root, image_size=14))
    assert len(files(cache, "*.npy")) == 1


def test_images_that_are_not_files_are_refused(tmp_path: Path, cache: Path) -> None:
    pytest.importorskip("datasets", reason="Hugging Face's library is not installed")
    for i in range(6):
        write(tmp_path / "made" / f"{i}.png")
    with pytest.raises(UserError, match=r"data\.cache: the images of .* are not files") as error:
        named(f"hf:{tmp_path / 'made'}", tmp_path / "hf", image_size=14, cache=str(cache))
    one_line(error)


def test_what_lies_in_memory_anyway_needs_no_cache(cache: Path) -> None:
    named("digits", cache, cache=str(cache))
    assert not cache.exists()


# Several processes and interruptions

LOADS = """
import hashlib, pathlib, sys, time
import torch
from ssl_zoo import preprocess
from ssl_zoo.config.schema import DataConfig
from ssl_zoo.data import load

photos, cache, number, seconds, others = sys.argv[1:]
to_size, decoded = preprocess.to_size, []

def slowly(*args):
    decoded.append(1)
    time.sleep(float(seconds))
    return to_size(*args)

preprocess.to_size = slowly
ready = pathlib.Path(photos).parent
(ready / f"ready-{number}").touch()
while len(list(ready.glob("ready-*"))) < int(others):
    time.sleep(0.005)
data = load(DataConfig(source=photos, image_size=14, cache=cache), torch.device("cpu"))
samples = data.train.batch(torch.arange(len(data.train)))
print(len(decoded), hashlib.sha256(samples.numpy().tobytes()).hexdigest())
"""


def loading(photos: Path, cache: Path, number: int, seconds: float, others: int) -> Child:
    """Start a process that loads a folder and takes `seconds` to decode each image."""
    arguments = map(str, (photos, cache, number, seconds, others))
    return Child(["-c", LOADS, *arguments])


def test_of_two_processes_one_makes_it_and_the_other_waits(photos: Path, cache: Path) -> None:
    both = [loading(photos, cache, number, 0.1, 2) for number in (1, 2)]
    ended = [process.communicate(timeout=120) for process in both]
    assert all(process.returncode == 0 for process in both), ended
    (one, data), (two, same_data) = (out.split() for out, _ in ended)
    assert sorted((int(one), int(two))) == [0, 20]
    assert data == same_data
    output = "".join(err for _, err in ended)
    assert output.count("another process is decoding photos train into") == 1
    assert len(output.splitlines()) == 1
    assert len(files(cache)) == 2


def test_a_killed_one_leaves_nothing_that_is_read_and_the_next_succeeds(
    photos: Path, cache: Path, decoded: list[int]
) -> None:
    process = loading(photos, cache, 1, 0.3, 1)
    deadline = time.monotonic() + 120
    while not files(cache, ".*.part"):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    time.sleep(0.4)  # some images are done
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert files(cache) == files(cache, ".*.part") != []
    change(photos)  # the partial file is removed even though its final name would differ
    data = folder(photos, cache=str(cache))
    assert len(decoded) == 20
    same(data, folder(photos))
    assert len(files(cache)) == 2


@pytest.mark.parametrize("end", [KeyboardInterrupt, MemoryError])
def test_an_end_that_comes_early_leaves_nothing(
    end: type[BaseException], photos: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> NoReturn:
        raise end

    with monkeypatch.context() as patch:
        patch.setattr(image_files.ImageFiles, "decode", fail)
        with pytest.raises(end):
            folder(photos, cache=str(cache))
    assert files(cache, ".*") == []
    with monkeypatch.context() as patch:  # after the decoded images have been moved into place
        patch.setattr(json, "dumps", fail)
        with pytest.raises(end):
            folder(photos, cache=str(cache))
    assert files(cache, ".*") == files(cache) == []


# Disks


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="the system cannot set room aside")
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_line_and_nothing_is_left(
    code: int, photos: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[int]
) -> None:
    def full(*args: int) -> NoReturn:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "posix_fallocate", full)
    message = rf"data\.cache: cannot write into .*cache: {os.strerror(code)}; name another folder"
    with pytest.raises(UserError, match=message) as error:
        folder(photos, cache=str(cache))
    one_line(error)
    assert files(cache, ".*") == files(cache) == decoded == []


def test_a_file_system_that_cannot_set_room_aside_is_written_all_the_same(
    photos: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(*args: int) -> NoReturn:
        raise OSError(errno.EOPNOTSUPP, "no")

    monkeypatch.setattr(os, "posix_fallocate", cannot, raising=False)
    same(folder(photos, cache=str(cache)), folder(photos))


def test_room_is_looked_for_before_the_work(
    photos: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[int]
) -> None:
    need = 20 * 3 * 16 * 16
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=need - 1))
    with pytest.raises(
        UserError, match=r"data\.cache: the decoded images of photos .* left; name"
    ) as error:
        folder(photos, cache=str(cache))
    one_line(error)
    assert files(cache, ".*") == files(cache) == decoded == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=need))
    folder(photos, cache=str(cache))


def test_a_file_in_the_place_of_the_folder_is_one_line(photos: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "file.png")
    for path in (file, file / "below"):
        with pytest.raises(UserError, match=r"data\.cache: cannot write into .*; name another") as error:
            folder(photos, cache=str(path))
        one_line(error)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into every folder")
def test_a_folder_that_cannot_be_written_into_is_one_line_unless_the_cache_is_there(
    photos: Path, cache: Path, decoded: list[int]
) -> None:
    cache.mkdir(parents=True)
    cache.chmod(0o555)
    with pytest.raises(UserError, match=r"data\.cache: cannot write into .*Permission denied") as error:
        folder(photos, cache=str(cache))
    one_line(error)
    cache.chmod(0o755)
    folder(photos, cache=str(cache))
    decoded.clear()
    cache.chmod(0o555)
    folder(photos, cache=str(cache))
    assert decoded == []


# Runs


@pytest.mark.slow
def test_runs_with_it_are_those_without_to_the_bit_also_resumed(
    photos: Path, cache: Path, tmp_path: Path
) -> None:
    settings = {"data.source": photos, "data.image_size": 14, "train.batch_size": 4, "train.epochs": 4}
    plain = flags("simclr", **settings)
    cached = flags("simclr", **settings, **{"data.cache": cache, "train.checkpoint_seconds": 0})
    for out, arguments in (("plain", plain), ("first", cached)):
        done = ssl_zoo("train", *KNN, *arguments, "--out", tmp_path / out)
        assert done.returncode == 0, done.stderr
    code = start_and_signal(["train", *KNN, *cached], tmp_path / "killed", signal.SIGKILL, after=5)
    assert code == -signal.SIGKILL
    done = ssl_zoo("train", *KNN, "--resume", tmp_path / "killed")
    assert done.returncode == 0, done.stderr
    expected = losses(tmp_path / "plain")
    assert len(expected) >= 16
    assert all(losses(tmp_path / out) == expected for out in ("first", "killed"))
    assert len(files(cache)) == 2
