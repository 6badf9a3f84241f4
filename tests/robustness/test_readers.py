"""Fuzzing of the readers of data: IDX files, folders, images and caches with random bytes."""

from __future__ import annotations

import gzip
import io
import json
import os
import resource
import shutil
import struct
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ssl_zoo.config.schema import DataConfig
from ssl_zoo.data import DataSet, download
from ssl_zoo.data.assemble import SplitBuilder
from ssl_zoo.data.decode import image_error_reason, open_pixels
from ssl_zoo.data.pixels import TYPES
from ssl_zoo.errors import SslZooError, UserError
from ssl_zoo.preprocess import opened
from tests.core.pictures import CPU, everything, folder, go_offline, idx, named, photo, to_size, write
from tests.core.test_data import fashion

Harm = Callable[[bytes], bytes]
"""A function that damages the bytes of a file."""

NUMBERS = [0, 1, 2, 10, 100, 10_000, 2**16 - 1, 2**24, 2**31 - 1, 2**31, 2**32 - 1]


@st.composite
def harms(draw: st.DrawFn) -> Harm:
    """Draw changes of a file's bytes, more often near its beginning, where headers are."""
    kinds = st.sampled_from(["set", "insert", "remove", "cut", "append", "number", "repeat"])
    places = st.one_of(st.integers(0, 40), st.integers(0, 2**16))
    steps = draw(
        st.lists(st.tuples(kinds, places, st.binary(min_size=1, max_size=8)), min_size=1, max_size=6)
    )
    numbers = draw(st.lists(st.sampled_from(NUMBERS), min_size=6, max_size=6))
    little = draw(st.booleans())

    def harm(content: bytes) -> bytes:
        data = bytearray(content)
        for (kind, place, new), number in zip(steps, numbers, strict=False):
            place %= len(data) + 1
            if kind == "set":
                data[place : place + len(new)] = new
            elif kind == "insert":
                data[place:place] = new
            elif kind == "remove":
                del data[place : place + len(new)]
            elif kind == "cut":
                del data[place:]
            elif kind == "append":
                data += new
            elif kind == "number":
                place -= place % 4
                data[place : place + 4] = struct.pack("<I" if little else ">I", number)
            else:
                data[place:place] = data[place:] * 2
        return bytes(data)

    return harm


@pytest.fixture
def scratch() -> Iterator[Path]:
    """Return a folder for the files of each example."""
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


@pytest.fixture
def no_more_memory() -> Iterator[None]:
    """Temporarily limit the memory of this process to 1 GiB more than it uses."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def usable(data: DataSet) -> None:
    """Check that splits can be read and that each sample has a label, or none has."""
    for split in (data.train, data.test):
        if split is not None:
            assert len(split) > 0
            assert len(split.batch(torch.arange(len(split)))) == len(split)
            if split.labels is not None:
                assert len(split.labels) == len(split)
                assert int(split.labels.min()) >= 0
                assert data.classes is None or int(split.labels.max()) < len(data.classes)


def attempt(read: Callable[[], DataSet]) -> None:
    """Check that the data can be used, or that reading fails with one line."""
    try:
        data = read()
    except SslZooError as error:
        text = str(error)
    else:
        usable(data)
        return
    assert "\n" not in text
    assert text.isprintable()
    assert text.startswith("data.")


# IDX

PARTS = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")


@given(part=st.sampled_from(PARTS), harm=harms(), packed=st.booleans())
def test_idx_files_with_wrong_bytes_are_one_line(
    part: str, harm: Harm, packed: bool, scratch: Path, no_more_memory: None, tried: Counter[str]
) -> None:
    tried["IDX files"] += 1
    with tempfile.TemporaryDirectory(dir=scratch) as place, pytest.MonkeyPatch.context() as patch:
        root, debian = Path(place) / "root", Path(place) / "debian"
        go_offline(patch)
        patch.setattr(download, "DEBIAN_FASHION_MNIST", debian)
        raw = fashion(debian if packed else root / "FashionMNIST" / "raw", 9, packed)
        file = raw / f"{part}-ubyte{'.gz' if packed else ''}"
        file.write_bytes(harm(file.read_bytes()))
        attempt(lambda: named("fashion-mnist", str(root)))


@given(
    part=st.sampled_from(PARTS),
    shape=st.lists(st.sampled_from([*NUMBERS, 28, 784]), max_size=4),
    kind=st.sampled_from([0, 8, 9, 11, 12, 13, 14, 255]),
    content=st.binary(max_size=2000),
)
def test_idx_headers_that_lie_are_one_line(
    part: str,
    shape: list[int],
    kind: int,
    content: bytes,
    scratch: Path,
    no_more_memory: None,
    tried: Counter[str],
) -> None:
    tried["IDX files"] += 1
    with tempfile.TemporaryDirectory(dir=scratch) as place, pytest.MonkeyPatch.context() as patch:
        go_offline(patch)
        patch.setattr(download, "DEBIAN_FASHION_MNIST", Path(place) / "none")
        raw = fashion(Path(place) / "FashionMNIST" / "raw", 9, packed=False)
        header = struct.pack(f">HBB{len(shape)}I", 0, kind, len(shape), *shape)
        (raw / f"{part}-ubyte").write_bytes(header + content)
        attempt(lambda: named("fashion-mnist", place))


@pytest.mark.parametrize(
    ("part", "array", "message"),
    [
        ("train-labels-idx1", np.zeros(3, np.uint8), "has 2 images, but 3 labels"),
        ("train-images-idx3", np.zeros((3, 28, 28), np.uint8), "has 3 images, but 2 labels"),
        ("t10k-images-idx3", np.zeros((2, 9, 9), np.uint8), r"\(1, 9, 9\) and \(1, 28, 28\)"),
        ("t10k-labels-idx1", np.array([0, 10], np.uint8), "has a label 10, but 10 classes"),
    ],
)
def test_idx_files_that_do_not_go_together_are_named(
    part: str, array: np.ndarray[Any, Any], message: str, tmp_path: Path, tried: Counter[str]
) -> None:
    tried["IDX files"] += 1
    raw = fashion(tmp_path / "FashionMNIST" / "raw", 9, packed=False)
    (raw / f"{part}-ubyte").write_bytes(idx(array))
    with pytest.raises(
        UserError, match=rf"data\.source: fashion-mnist.*{message}; its files are damaged"
    ):
        named("fashion-mnist", tmp_path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros((0, 28, 28), np.uint8), "holds 0 images of 28×28 pixels"),
        (np.zeros((2, 28, 0), np.uint8), "holds 2 images of 0×28 pixels"),
        (np.zeros((2, 28, 28, 5), np.uint8), r"does not hold images, but torch\.uint8 of shape .*5\)"),
        (np.zeros((2, 28, 28), np.float32), r"does not hold images, but torch\.float32 of .*"),
    ],
)  # fmt: skip
def test_arrays_that_are_no_images_are_named(
    data: np.ndarray[Any, Any], message: str, tried: Counter[str]
) -> None:
    tried["arrays"] += 1
    config, dataset = DataConfig(source="odd"), SimpleNamespace(data=data)
    with pytest.raises(UserError, match=rf"data\.source: odd train {message}; its files are damaged"):
        SplitBuilder(config=config, device=CPU).from_dataset(dataset, "train")


# Images


def sequence(kind: str) -> bytes:
    file = io.BytesIO()
    photo((24, 18)).save(file, kind, save_all=True, append_images=[photo((24, 18), 1)])
    return file.getvalue()


def still(kind: str, image: Image.Image | None = None, **options: Any) -> bytes:
    file = io.BytesIO()
    (image or photo((24, 18))).save(file, kind, **options)
    return file.getvalue()


TURNED = Image.Exif()
TURNED[0x0112] = 6
IMAGES = {
    "JPEG": still("JPEG", exif=TURNED),
    "progressive JPEG": still("JPEG", progressive=True),
    "CMYK JPEG": still("JPEG", photo((24, 18)).convert("CMYK")),
    "PNG": still("PNG", exif=TURNED),
    "PNG with a palette": still("PNG", photo((24, 18)).quantize(), transparency=0),
    "PNG of 16 bits": still("PNG", Image.fromarray(np.full((9, 9), 9_000, np.uint16))),
    "animated PNG": sequence("PNG"),
    "animated GIF": sequence("GIF"),
    "WebP": still("WEBP", exif=TURNED),
    "animated WebP": sequence("WEBP"),
    "TIFF": still("TIFF"),
    "TIFF in LZW": still("TIFF", compression="tiff_lzw"),
    "TIFF of floats": still("TIFF", Image.fromarray(np.full((9, 9), 0.5, np.float32))),
    "BMP": still("BMP"),
    "PPM": still("PPM"),
    "TGA": still("TGA", compression="tga_rle"),
    "ICO": still("ICO"),
    "JPEG 2000": still("JPEG2000"),
}


@given(kind=st.sampled_from(sorted(IMAGES)), harm=harms(), channels=st.sampled_from([1, 3]))
def test_images_with_wrong_bytes_are_squares_or_have_a_reason(
    kind: str, harm: Harm, channels: int, tried: Counter[str]
) -> None:
    tried["images with broken bytes"] += 1
    reason = ""
    try:
        with opened(open_pixels(io.BytesIO(harm(IMAGES[kind])), 16)) as image:
            square = to_size(image, 16, channels)
    except Exception as error:  # as `ImageFiles.decode` catches it
        reason = image_error_reason(error)
    else:
        assert square.shape == (channels, 16, 16)
        assert square.dtype in TYPES.values()
    assert reason.isprintable()


# Folders

ODD_NAMES = st.one_of(
    st.sampled_from(
        ["a", "b", "train", "test", "val", ".hidden", "-x", "x.png", "\n.png", "con.jpg", "~"]
    ),
    st.binary(min_size=1, max_size=12).map(os.fsdecode),
    st.text(min_size=1, max_size=12),
).filter(lambda name: "/" not in name and "\0" not in name and name not in (".", ".."))
KINDS = ("folder", "image", "broken", "text", "link", "pipe")


def encodable(name: str) -> bool:
    try:
        return len(os.fsencode(name)) <= 200
    except UnicodeEncodeError:  # a lone surrogate
        return False


@given(
    entries=st.lists(
        st.tuples(
            st.lists(ODD_NAMES.filter(encodable), min_size=1, max_size=4),
            st.sampled_from(KINDS),
            st.sampled_from([".png", ".PNG", ".jpg", "", ".txt"]),
            st.integers(0, 40),
        ),
        min_size=1,
        max_size=12,
    ),
    resident=st.sampled_from(["always", "never"]),
    cached=st.booleans(),
)
def test_any_tree_of_files_is_read_or_refused_in_one_line(
    entries: list[tuple[list[str], str, str, int]],
    resident: str,
    cached: bool,
    scratch: Path,
    tried: Counter[str],
) -> None:
    tried["trees of folders"] += 1
    with tempfile.TemporaryDirectory(dir=scratch) as place:
        root = Path(place) / "root"
        root.mkdir()
        made: list[Path] = [root]
        for parts, kind, suffix, number in entries:
            path = root.joinpath(*parts[:-1], parts[-1] + suffix)
            if os.path.lexists(path):  # writing to a pipe would block
                continue
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                if kind == "folder":
                    path.mkdir()
                elif kind == "image":
                    with path.open("xb") as file:
                        file.write(IMAGES["PNG"] if number % 2 else IMAGES["JPEG"])
                elif kind == "broken":
                    path.write_bytes(IMAGES["PNG"][:number])
                elif kind == "text":
                    path.write_text("this is no image")
                elif kind == "link":
                    path.symlink_to(made[number % len(made)])
                else:
                    os.mkfifo(path)
            except OSError:  # such as a file in place of a folder
                continue
            made.append(path)
        cache = str(Path(place) / "cache") if cached else None
        attempt(lambda: folder(root, resident=resident, cache=cache))


# Caches


@pytest.fixture(scope="module")
def cached_photos(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, torch.Tensor]:
    """Images of which one is unreadable, a cache of them, and the decoded images."""
    base = tmp_path_factory.mktemp("kept")
    for i in range(12):
        write(base / "photos" / f"{i}.png", photo((9, 9), i))
    (base / "photos" / "broken.png").write_bytes(b"")
    data = folder(base / "photos", cache=str(base / "cache"))
    return base / "photos", base / "cache", everything(data)


@given(suffix=st.sampled_from([".npy", ".json"]), harm=harms())
def test_a_cache_with_wrong_bytes_is_used_or_made_anew(
    suffix: str,
    harm: Harm,
    cached_photos: tuple[Path, Path, torch.Tensor],
    scratch: Path,
    no_more_memory: None,
    tried: Counter[str],
) -> None:
    tried["caches"] += 1
    photos, whole, squares = cached_photos
    with tempfile.TemporaryDirectory(dir=scratch) as place:
        cache = Path(place) / "cache"
        shutil.copytree(whole, cache)
        (file,) = cache.glob(f"*{suffix}")
        before, after = file.read_bytes(), harm(file.read_bytes())
        file.write_bytes(after)
        data = folder(photos, cache=str(cache))
        usable(data)
        if suffix == ".npy" and (len(after) != len(before) or after[:128] != before[:128]):
            assert everything(data).equal(squares) or len(after) > len(before)
        folder(photos, cache=str(cache))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
NOTES = VALUES | st.fixed_dictionaries(
    {
        "unreadable": VALUES
        | st.lists(st.fixed_dictionaries({"number": VALUES | st.integers(-20, 20), "reason": VALUES}))
    }
)


@given(notes=NOTES)
def test_a_cache_s_notes_may_say_anything(
    notes: Any, cached_photos: tuple[Path, Path, torch.Tensor], scratch: Path, tried: Counter[str]
) -> None:
    tried["caches"] += 1
    photos, whole, _ = cached_photos
    with tempfile.TemporaryDirectory(dir=scratch) as place:
        cache = Path(place) / "cache"
        shutil.copytree(whole, cache)
        (file,) = cache.glob("*.json")
        file.write_text(json.dumps(notes))
        attempt(lambda: folder(photos, cache=str(cache)))


@pytest.mark.parametrize(
    "notes", ["[" * 100_000, '{"unreadable": 1e999}', "NaN", "\ufeff{}", "9" * 5000]
)
def test_notes_that_a_parser_rejects_are_not_read(
    notes: str, cached_photos: tuple[Path, Path, torch.Tensor], tmp_path: Path, tried: Counter[str]
) -> None:
    tried["caches"] += 1
    photos, whole, squares = cached_photos
    shutil.copytree(whole, tmp_path / "cache")
    (file,) = (tmp_path / "cache").glob("*.json")
    file.write_text(notes)
    assert everything(folder(photos, cache=str(tmp_path / "cache"))).equal(squares)


def test_a_packed_file_that_is_damaged_leaves_nothing_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tried: Counter[str]
) -> None:
    go_offline(monkeypatch)
    debian = fashion(tmp_path / "debian", 9, packed=True)
    monkeypatch.setattr(download, "DEBIAN_FASHION_MNIST", debian)
    file = debian / "train-images-idx3-ubyte.gz"
    whole = file.read_bytes()
    for content in (b"", whole[:-4], whole[:-8] + bytes(8), gzip.compress(b""), b"no gzip"):
        tried["IDX files"] += 1
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"data\.source: fashion-mnist cannot be read"):
            named("fashion-mnist", tmp_path / "root")
