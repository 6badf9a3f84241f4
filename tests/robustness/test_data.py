"""Folders with unreadable files of every kind, and files that change during a run."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import resource
import socket
import struct
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_zoo.config.schema import DataConfig
from ssl_zoo.data import load, residence
from ssl_zoo.data.decode import open_pixels
from ssl_zoo.data.folder import read_folder
from ssl_zoo.data.listing import list_files
from ssl_zoo.errors import SslZooError, UserError
from ssl_zoo.plugins.hookspecs import hookimpl
from ssl_zoo.plugins.registry import registry
from ssl_zoo.preprocess import opened
from ssl_zoo.runs.run import Run
from ssl_zoo.text import printable
from tests.conftest import KNN, Call, flags, small_config, train
from tests.core.pictures import CPU, folder, photo, to_size, write

# Files of a folder


def png(width: int, height: int, rows: bytes = b"", *chunks: tuple[bytes, bytes]) -> bytes:
    """Return an RGB PNG whose header states a size, regardless of its rows of pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        size, checksum = struct.pack(">I", len(content)), struct.pack(">I", zlib.crc32(kind + content))
        return size + kind + content + checksum

    header = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    parts = (header, *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def gif(width: int, height: int) -> bytes:
    """Return a GIF of one colour whose header states a size, with hardly any pixels."""
    colours = b"\x80\0\0" + bytes(6)
    frame = struct.pack("<4H", 0, 0, width, height) + b"\0"
    return b"GIF89a" + struct.pack("<2H", width, height) + colours + b"," + frame + b"\x02\x02D\x01\0;"


def picture(path: Path) -> None:
    write(path, photo())


def content(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


def changed(change: Callable[[bytes], bytes], suffix: str = ".jpg") -> Callable[[Path], None]:
    """Return a function that writes an image with changed bytes."""

    def make(path: Path) -> None:
        whole = write(path.with_suffix(suffix), photo((90, 60))).read_bytes()
        path.unlink(missing_ok=True)
        path.write_bytes(change(whole))

    return make


def bind(path: Path) -> None:
    previous = Path.cwd()
    os.chdir(path.parent)  # the path of a socket must be short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(previous)


def animated(path: Path) -> None:
    frames = [photo(seed=i) for i in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:])


PIXELS = b"".join(b"\0" + bytes(range(48)) for _ in range(16))
BOMB = zlib.compress(bytes(50_000_000), 9)
EXIF = {n: Image.Exif() for n in range(9)}
for number, exif in EXIF.items():
    exif[0x0112] = number
BROKEN_EXIF = b"Exif\0\0MM\0\xff\0\0\0\x08 no tags"

GOOD: dict[str, Callable[[Path], object]] = {
    "cmyk.jpg": lambda path: write(path, photo().convert("CMYK")),
    "16 bits.png": lambda path: write(path, Image.fromarray(np.full((9, 9), 50_000, np.uint16))),
    "16 bits.tif": lambda path: write(path, Image.fromarray(np.full((9, 9), 50_000, np.uint16))),
    "animated.gif": animated,
    "animated.webp": animated,
    "colours with a transparent one.png": lambda path: write(path, photo().quantize(), transparency=0),
    "1 x 1.png": lambda path: write(path, photo((1, 1))),
    "1 x 3000.png": lambda path: write(path, photo((1, 3000))),
    "a JPEG.png": lambda path: photo().save(path, "JPEG"),
    "zip bomb after the pixels.png": content(png(16, 16, PIXELS + bytes(50_000_000))),
    "broken EXIF.png": lambda path: write(path, photo(), exif=BROKEN_EXIF),
    "broken EXIF.webp": lambda path: write(path, photo(), exif=BROKEN_EXIF),
    "bytes after the end.jpg": changed(lambda whole: whole + b"\xff\xd8 and more"),
    "line\nbreak.png": picture,
    "\x1b[31mred\x1b[0m\x07.png": picture,
    os.fsdecode(b"not utf-8 \xff\xfe.png"): picture,
    "x" * 251 + ".png": picture,
    "-rf.png": picture,
    "--data.png": picture,
    "$(touch here) `touch here` %s {0}.png": picture,
    "\u202egnp.png": picture,
    **{f"EXIF {n}.jpg": lambda path, n=n: write(path, photo(), exif=EXIF[n]) for n in range(9)},  # type: ignore[misc]
}
"""Files that can be read, however unusual they are."""

BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    **{
        f"truncated after {share} of 8.jpg": (
            changed(lambda whole, share=share: whole[: len(whole) * share // 8]),  # type: ignore[misc]
            "(?i)truncated|not an image",
        )
        for share in range(1, 8)
    },
    "truncated.png": (changed(lambda whole: whole[:-40], ".png"), "truncated"),
    "truncated.webp": (changed(lambda whole: whole[:-40], ".webp"), "."),
    "empty.png": (content(b""), "not an image"),
    "text.png": (content(b"this is no image"), "not an image"),
    "text that begins as a picture does.png": (content(b"P3\n\x1b[31m is red\n"), "invalid literal"),
    "drawing.jpg": (content(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "not an image"),
    "program.jpg": (content(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "not an image"),
    "100,000 x 100,000.png": (content(png(100_000, 100_000)), "take 40,000 MB, more than 2,000"),
    "25,000 x 25,000.png": (content(png(25_000, 25_000)), "take 2,500 MB, more than 2,000"),
    "65,535 x 65,535.gif": (content(gif(65_535, 65_535)), "take 17,179 MB, more than 2,000"),
    "9,000 x 9,000.gif": (content(gif(9_000, 9_000)), "truncated"),
    "zip bomb of a text.png": (content(png(16, 16, PIXELS, (b"zTXt", b"k\0\0" + BOMB))), "too large"),
    "zip bomb of a profile.png": (content(png(16, 16, PIXELS, (b"iCCP", b"k\0\0" + BOMB))), "too large"),
    "leads nowhere.png": (lambda path: path.symlink_to("nowhere.png"), "No such file"),
    "leads to itself.png": (lambda path: path.symlink_to(path.name), "symbolic links"),
    "pipe.png": (os.mkfifo, "a pipe or device, not a file"),
    "socket.png": (bind, "a pipe or device, not a file"),
    "device.png": (lambda path: path.symlink_to("/dev/zero"), "a pipe or device, not a file"),
    "broken line\nbreak.png": (content(b""), "not an image"),
    "\x1b[31mbroken\x1b[0m.png": (content(b""), "not an image"),
    os.fsdecode(b"broken \xff\xfe.png"): (content(b""), "not an image"),
}  # fmt: skip
"""Files that cannot be read, with a pattern for the reason."""


@pytest.fixture(scope="module")
def odd_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of two classes of 150 readable images each, with one file of each odd kind."""
    root = tmp_path_factory.mktemp("odd") / os.fsdecode(b"photos\n\xff\x1b[31m")
    outside = write(tmp_path_factory.mktemp("outside") / "linked.png")
    for label in ("a", "b\x1b[31m\n"):
        for i in range(150):
            write(root / label / f"{i:03}.png", photo((20, 20), i))
        (root / label / "circle").symlink_to(root)
    for name, make in GOOD.items():
        make(root / "a" / name)
    for name, (make, _) in BAD.items():
        make(root / "a" / name)
    (root / "a" / "folder.png").mkdir()
    (root / "a" / "outside").symlink_to(outside.parent)
    if os.geteuid() != 0:
        (root / "a" / "locked.png").write_bytes(b"")
        (root / "a" / "locked.png").chmod(0)
    return root


def peak() -> int:
    """Return the peak memory of this process, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize("storage", ["resident", "decoded by threads", "cached"])
def test_a_run_skips_unreadable_files_and_names_them(
    storage: str,
    odd_folder: Path,
    tmp_path: Path,
    call: Call,
    caplog: pytest.LogCaptureFixture,
    tried: Counter[str],
) -> None:
    tried["files in folders with unreadable files"] += len(GOOD) + len(BAD)
    settings = {
        "resident": {"data__resident": "always"},
        "decoded by threads": {"data__resident": "never"},
        "cached": {"data__cache": "cache"},
    }[storage]
    before, run = peak(), tmp_path / "run"
    arguments = flags("simclr", train__batch_size=16, **settings)
    code, _, err = call("train", *KNN, "--data", odd_folder, *arguments, "--out", run)
    assert code == 0, err
    skipped = Run.open(run).results()["skipped"]
    expected = {printable(odd_folder / "a" / name): reason for name, (_, reason) in BAD.items()}
    if os.geteuid() != 0:
        expected[printable(odd_folder / "a" / "locked.png")] = "Permission denied"
    assert skipped.keys() == expected.keys()
    for name, reason in expected.items():
        assert re.search(reason, skipped[name]), (name, skipped[name])
    assert "NaN" not in (run / "results.json").read_text()
    assert peak() - before < 600 * 2**20

    assert sum(message.startswith("cannot read") for message in caplog.messages) == 1
    assert all(map(str.isprintable, [*caplog.messages, *err.splitlines()]))

    embedded = call("embed", run, "-o", "features.npz", "--json")
    assert embedded[0] == 0, embedded
    written = json.loads(embedded[1])
    assert written["skipped"].keys() == expected.keys()
    assert sum(written["samples"].values()) == 2 * 150 + len(GOOD) + 1  # the linked file
    if storage == "resident":
        code, _, err = call("report", run)
        assert code == 0, err


def test_too_many_unreadable_files_stop_the_run_with_one_line_and_leave_nothing(
    odd_folder: Path, tmp_path: Path, call: Call, tried: Counter[str]
) -> None:
    tried["files in folders with unreadable files"] += len(BAD)
    alone = tmp_path / "alone"
    alone.mkdir()
    for name, (make, _) in BAD.items():
        make(alone / name)
    for settings in ({}, {"data__resident": "never"}, {"data__cache": "cache"}):
        code, _, err = call("train", *KNN, "--data", alone, *flags("simclr", **settings), "--out", "run")
        assert code == 2
        last = err.splitlines()[-1]
        assert "images cannot be read, the last being" in last
        assert last.isprintable()
        assert not Path("run").exists()
        assert {path.suffix for path in Path().glob("cache/.*")} <= {".lock"}
        assert not list(Path().glob("cache/[!.]*"))


@pytest.mark.parametrize("suffix", [".bmp", ".tif", ".pgm"])
def test_a_file_truncated_while_it_is_decoded_does_not_end_the_process(
    suffix: str, tmp_path: Path, tried: Counter[str]
) -> None:
    tried["files changed during a run"] += 1
    file = write(tmp_path / f"plain pixels{suffix}", photo((500, 500)).convert("L"))

    def decode() -> None:
        with opened(open_pixels(file, 16)) as image:
            image.load()
            os.truncate(file, 1000)
            to_size(image, 16, 3)

    process = multiprocessing.get_context("fork").Process(target=decode)
    process.start()
    process.join(60)
    assert process.exitcode == 0


def test_broken_exif_changes_no_pixel(tmp_path: Path, tried: Counter[str]) -> None:
    whole = EXIF[1].tobytes()
    for suffix in (".jpg", ".png", ".webp"):
        plain = to_size(open_pixels(write(tmp_path / f"plain{suffix}", photo()), 16), 16, 3)
        for place in range(6, len(whole)):
            for byte in (0, 255):
                exif = whole[:place] + bytes([byte]) + whole[place + 1 :]
                path = write(tmp_path / f"broken{suffix}", photo(), exif=exif)
                square = to_size(open_pixels(path, 16), 16, 3)
                assert square.equal(plain) or Image.open(path).getexif().get(0x0112, 1) != 1
                tried["images with broken bytes"] += 1


@pytest.mark.slow
def test_images_of_the_most_pixels_are_decoded_in_bounded_memory(
    tmp_path: Path, tried: Counter[str]
) -> None:
    side = 9_400
    images = {
        "gray.png": ("L", {"compress_level": 1}, 6),
        "colours.png": ("RGB", {"compress_level": 1}, 5),
        "transparent.png": ("RGBA", {"compress_level": 1}, 9),
        "palette.gif": ("P", {}, 6),
        "16 bits.tif": ("I;16", {}, 12),
        "floats.tif": ("F", {}, 14),
    }
    fork = multiprocessing.get_context("fork")
    for name, (mode, options, bytes_a_pixel) in images.items():
        tried["huge images"] += 1
        file = write(tmp_path / name, Image.new(mode, (side, side)), **options)
        measured = fork.Queue()

        def decode(file: Path = file, measured: Any = measured) -> None:
            before = peak()
            to_size(open_pixels(file, 16), 16, 3)
            measured.put(peak() - before)

        process = fork.Process(target=decode)
        process.start()
        assert measured.get(timeout=120) < bytes_a_pixel * side * side, name
        process.join()
        file.unlink()


# Files that change during the run


class ActAtStep:
    """An observer that does something to the data once a step has been logged."""

    def __init__(self, number: int, act: Callable[[], object]) -> None:
        self.number, self.act = number, act

    @hookimpl
    def ssl_zoo_step_logged(self, step: int) -> None:
        if step == self.number:
            self.act()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder of two classes of a hundred images each."""
    for label in ("a", "b"):
        for i in range(100):
            write(tmp_path / "photos" / label / f"{i:02}.png", photo((20, 20), i))
    return tmp_path / "photos"


LAZY: dict[str, Any] = {
    "data__resident": "never",
    "train__batch_size": 16,
    "train__epochs": 2,
    "train__checkpoint_seconds": 0,
}
BRIEF: dict[str, Any] = {"protocol": ["health"], "with_baselines": False}


def test_files_that_vanish_are_truncated_or_replaced_during_the_run_are_skipped_and_counted(
    photos: Path, tmp_path: Path, tried: Counter[str]
) -> None:
    gone, cut, other = ([photos / label / f"{i}.png" for i in numbers for label in "ab"]
                        for numbers in ((10, 11, 12), (40, 41), range(60, 99)))  # fmt: skip

    def act() -> None:
        for path in gone:
            path.unlink()
        for path in cut:
            os.truncate(path, 50)
        for path in other:
            write(path.with_suffix(".new.png"), photo((9, 30)).convert("L")).replace(path)

    tried["files changed during a run"] += len(gone) + len(cut) + len(other)
    config = small_config("simclr", data__source=str(photos), **LAZY)
    with registry.observing(ActAtStep(4, act)):
        run = train(config, out=tmp_path / "run")
    skipped = run.results()["skipped"]
    assert skipped.keys() == set(map(str, gone + cut))
    assert {skipped[str(path)] for path in gone} == {"No such file or directory"}
    assert run.results()["steps"] == 2 * (180 // 16)


@pytest.mark.parametrize("left", ["nothing", "an empty folder"])
def test_a_disk_that_goes_away_stops_the_run_which_goes_on_when_it_is_back(
    left: str, photos: Path, tmp_path: Path, call: Call, tried: Counter[str]
) -> None:
    away = tmp_path / "away"

    def act() -> None:
        photos.rename(away)
        if left == "an empty folder":  # where the disk was mounted
            photos.mkdir()

    tried["disks that go away"] += 1
    config = small_config("simclr", data__source=str(photos), **LAZY)
    with (
        pytest.raises(SslZooError, match=r"data\.source: .*photos is gone; reconnect .*resume") as error,
        registry.observing(ActAtStep(14, act)),
    ):
        train(config, out=tmp_path / "run", **BRIEF)
    assert error.value.exit_code == 1
    assert "\n" not in str(error.value)
    assert Run.open(tmp_path / "run").checkpoints.load()["step"] >= 13
    code, _, err = call("train", *KNN, "--resume", tmp_path / "run")
    assert (code, err.count("\n")) == (2, 1)
    if left == "an empty folder":
        photos.rmdir()
    away.rename(photos)
    assert call("train", *KNN, "--resume", tmp_path / "run")[0] == 0


def test_more_than_a_tenth_that_vanish_stop_the_run(
    photos: Path, tmp_path: Path, tried: Counter[str]
) -> None:
    tried["files changed during a run"] += 40

    def act() -> None:
        for path in sorted(photos.glob("*/*.png"))[::5]:
            path.unlink()

    config = small_config("simclr", data__source=str(photos), **LAZY)
    with (
        pytest.raises(UserError, match=r"21 of 200 images cannot be read, .*: No such file") as error,
        registry.observing(ActAtStep(4, act)),
    ):
        train(config, out=tmp_path / "run")
    assert "\n" not in str(error.value)
    assert Run.open(tmp_path / "run").checkpoints.load()["step"] >= 3


def test_a_test_folder_of_which_nothing_can_be_read_does_not_stop_a_run_at_its_end(
    photos: Path, tmp_path: Path, tried: Counter[str]
) -> None:
    tried["files in folders with unreadable files"] += 1
    both = tmp_path / "both"
    both.mkdir()
    photos.rename(both / "train")
    for label in "ab":
        (both / "test" / label).mkdir(parents=True)
        (both / "test" / label / "x.png").write_bytes(b"")
    for resident in ("always", "never"):
        data = folder(both, resident=resident)
        assert (data.test, len(data.train.skipped)) == (None, 2)


def truncate(file: Path) -> None:
    os.truncate(file, 1000)


def replace(file: Path) -> None:
    other = file.with_suffix(".other")
    other.write_bytes(b"another program's")
    other.replace(file)


@pytest.mark.parametrize("harm", [truncate, replace, Path.unlink])
def test_a_cache_that_is_damaged_in_use_is_one_line_or_harmless_and_made_again(
    harm: Callable[[Path], object], photos: Path, tmp_path: Path, tried: Counter[str]
) -> None:
    tried["files changed during a run"] += 1
    cache = tmp_path / "cache"
    settings = {**LAZY, "data__source": str(photos), "data__cache": str(cache)}

    def act() -> None:
        for file in cache.glob("*.npy"):
            harm(file)

    config = small_config("simclr", **settings)
    if harm is truncate:
        with (
            pytest.raises(SslZooError, match=r"cannot read .*\.npy: the file was truncated") as error,
            registry.observing(ActAtStep(14, act)),
        ):
            train(config, out=tmp_path / "run", **BRIEF)
        assert error.value.exit_code == 1
    else:  # the run has the file open and can still read it
        with registry.observing(ActAtStep(14, act)):
            train(config, out=tmp_path / "run", **BRIEF)
    assert train(resume=tmp_path / "run", **BRIEF).results()["steps"] == 2 * (180 // 16)


# Many files


@pytest.mark.parametrize("count", [5_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_a_folder_of_many_files_is_listed_in_time_proportional_to_their_number(
    count: int, tmp_path: Path, tried: Counter[str]
) -> None:
    tried["files in one folder"] += count
    source = [write(tmp_path / "source" / f"{i}.png", photo((8, 8), i)) for i in range(4)]

    def seconds(number: int) -> float:
        root = tmp_path / str(number)
        for label in ("a", "b"):
            (root / label).mkdir(parents=True)
        for i in range(number):
            os.link(source[i % 4], root / "ab"[i % 2] / f"{i:06}.png")
        start = time.perf_counter()
        assert len(read_folder(root).train.paths) == number == len(list_files(root).images)
        data = load(DataConfig(source=str(root), image_size=14, resident="never"), CPU)
        assert data.train.labels is not None
        assert len(data.train.batch(torch.arange(16))) == 16
        return time.perf_counter() - start

    few, many = seconds(count // 5), seconds(count)
    print(f"{count:,} files: {many:.2f} s")
    assert many < 10 * few + 1


# Paths of settings


@pytest.mark.parametrize("setting", ["source", "root", "cache"])
@pytest.mark.parametrize("text", ["~nobody-of-this-name/photos", "a" * 5000, "\0", "loop/photos"])
def test_an_invalid_path_is_one_line(
    setting: str, text: str, photos: Path, monkeypatch: pytest.MonkeyPatch, tried: Counter[str]
) -> None:
    tried["odd paths"] += 1
    monkeypatch.chdir(photos)
    Path("loop").symlink_to("loop")
    source = {"source": text, "root": "mnist", "cache": str(photos)}[setting]
    with pytest.raises(UserError, match=rf"^data\.{setting}: ") as error:
        load(DataConfig(**{"image_size": 14, setting: text, "source": source}), CPU)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 500


def test_no_name_at_all_is_not_the_working_directory(
    photos: Path, monkeypatch: pytest.MonkeyPatch, tried: Counter[str]
) -> None:
    tried["odd paths"] += 1
    monkeypatch.chdir(photos)
    with pytest.raises(UserError, match="'' is neither a folder nor a known data set"):
        load(DataConfig(source=""), CPU)


def test_images_that_can_never_fit_into_memory_are_refused_before_they_are_decoded(
    photos: Path, monkeypatch: pytest.MonkeyPatch, tried: Counter[str]
) -> None:
    tried["files in one folder"] += 200
    monkeypatch.setattr(residence, "free_memory", lambda device: 200 * 3 * 16 * 16 - 1)
    with pytest.raises(UserError, match=r"data\.resident: .* need 0 MB, .*or use data\.cache"):
        folder(photos, resident="always")
