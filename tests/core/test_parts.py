"""Tiles of large images: all pixels are covered, a file is decoded once, and its tiles stay together."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_zoo.config.schema import DataConfig
from ssl_zoo.data import DataSet, LazySplit, load
from ssl_zoo.data.fingerprint import hash_contents
from ssl_zoo.data.image_files import ImageFiles
from ssl_zoo.data.parts import find_parts, starts
from ssl_zoo.errors import UserError
from tests.core.pictures import CPU, broken, everything, folder, one_line, photo, write


def opened(path: Path, **settings: Any) -> tuple[DataSet, ImageFiles]:
    """Return a folder read in tiles, on disk, and its images."""
    data = folder(path, resident="never", **settings)
    assert isinstance(data.train, LazySplit)
    assert isinstance(data.train.files, ImageFiles)
    return data, data.train.files


@pytest.mark.parametrize("tile", [1, 3, 7, 10, 11])
@pytest.mark.parametrize("length", [1, 2, 9, 10, 21])
def test_tiles_cover_a_side_within_it_and_no_more_than_needed(length: int, tile: int) -> None:
    first = starts(length, tile)
    covered = {pixel for start in first for pixel in range(start, start + min(tile, length))}
    assert covered == set(range(length))
    assert len(first) == len(set(first)) == -(-length // tile)
    assert all(start == i * tile for i, start in enumerate(first[:-1]))


@pytest.mark.parametrize("suffix", ["png", "tif", "npy"])
def test_tiles_are_the_pixels_of_the_file(suffix: str, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (45, 70, 3), dtype=np.uint8)
    (tmp_path / "d").mkdir()
    if suffix == "npy":
        np.save(tmp_path / "d" / "a.npy", pixels)
    else:
        write(tmp_path / "d" / f"a.{suffix}", Image.fromarray(pixels))
    data, files = opened(tmp_path / "d", tile=20)
    names = [Path(name).name for name in data.train.names or ()]
    assert names == [f"a.{suffix}#{row},{column}" for row in range(3) for column in range(4)]
    covered = np.zeros((45, 70), int)
    for number, (top, left) in enumerate((y, x) for y in (0, 20, 25) for x in (0, 20, 40, 50)):
        image = files.open(number, 16)
        tile = image.transpose(1, 2, 0) if isinstance(image, np.ndarray) else np.asarray(image)
        assert (tile == pixels[top : top + 20, left : left + 20]).all()
        covered[top : top + 20, left : left + 20] += 1
    assert covered.min() == 1


def test_a_jpeg_is_cut_upright_and_at_its_own_scale(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    write(tmp_path / "a.jpg", photo((400, 160)), exif=exif)
    _, files = opened(tmp_path, tile=200)
    assert files.sizes == [(200, 160), (200, 160)]
    assert [files.open(i, 16).size for i in range(2)] == [(160, 200)] * 2  # type: ignore[union-attr]


def test_a_small_image_is_one_tile_and_a_broken_one_is_listed(tmp_path: Path) -> None:
    for i in range(4):
        write(tmp_path / f"{i}.png", photo((30, 20), i))
    broken(tmp_path / "x.png")
    data, whole = folder(tmp_path, tile=32), folder(tmp_path)
    assert everything(data).equal(everything(whole))
    assert [Path(name).name for name in data.train.names or ()] == [f"{i}.png#0,0" for i in range(4)]
    assert [Path(name).name for name in data.train.skipped] == ["x.png#0,0"]


@pytest.mark.parametrize(("size", "workers"), [((100, 80), 1), ((100, 80), 4), ((30, 20), 7)])
def test_a_file_is_decoded_once_where_all_its_tiles_are_read(
    size: tuple[int, int], workers: int, tmp_path: Path
) -> None:
    paths = [write(tmp_path / f"{i}.png", photo(size, i)) for i in range(12)]
    tiles = find_parts(paths, DataConfig(tile=20), 14, workers, "d")
    decoded: list[Path] = []

    def decode(path: Path, page: int, side: int) -> Image.Image:
        decoded.append(path)
        return Image.open(path)

    opener = tiles.opener(decode, workers)
    with ThreadPoolExecutor(workers) as pool:
        cut = list(pool.map(lambda number: opener(number, 16), range(len(tiles))))
    assert sorted(decoded) == sorted(paths)
    assert len(cut) == 12 * (20 if size == (100, 80) else 2)


def test_tiles_are_the_same_in_memory_on_disk_and_in_a_cache(tmp_path: Path) -> None:
    for i in range(3):
        write(tmp_path / "d" / f"{i}.png", photo((70, 50), i))
    settings: list[dict[str, Any]] = [
        {"resident": "always"}, {"resident": "never"}, {"cache": str(tmp_path / "cache")},
    ]  # fmt: skip
    batches = []
    for where in settings:
        data = folder(tmp_path / "d", tile=30, canvas=24, **where)
        assert data.train.canvas is not None
        data.train.canvas.prepare()
        batches.append((everything(data), data.train.at_pass(1).batch(torch.arange(18))))
    for squares, windows in batches[1:]:
        assert squares.equal(batches[0][0])
        assert windows.equal(batches[0][1])
    assert batches[0][1].shape == (18, 3, 24, 24)


def test_the_tiles_of_a_file_are_held_out_together(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        for i in range(10):
            write(tmp_path / label / f"{i}.png", photo((40 + 10 * i, 40), i + 10 * (label == "dog")))
    data = folder(tmp_path, tile=20, holdout=0.3)
    assert data.test is not None
    train, test = (
        {(Path(name).parent.name, Path(name).name.partition("#")[0]) for name in split.names or ()}
        for split in (data.train, data.test)
    )
    assert not train & test
    assert len(train | test) == 20
    assert len(test) == 6
    for split in (data.train, data.test):
        assert split.labels is not None
        classes = [Path(name).parent.name for name in split.names or ()]
        assert classes == [("cat", "dog")[label] for label in split.labels.tolist()]


def test_a_changed_file_of_tiles_is_noticed(tmp_path: Path) -> None:
    for i in range(3):
        write(tmp_path / f"{i}.png", photo((70, 50), i))
    before = hash_contents(folder(tmp_path, tile=30).train)
    assert before is not None
    assert hash_contents(folder(tmp_path, tile=30).train) == before
    write(tmp_path / "1.png", photo((70, 50), 9))
    assert hash_contents(folder(tmp_path, tile=30).train) != before


def test_sizes_are_read_without_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.png", photo((70, 50)))
    monkeypatch.setattr(type(Image.open(path)), "load", None)
    assert len(find_parts([path], DataConfig(tile=30), 14, 1, "d")) == 6


@pytest.mark.parametrize("source", ["digits", "fashion-mnist", "hf:some/images"])
def test_only_image_files_are_cut(source: str) -> None:
    with pytest.raises(UserError, match="has no image files to divide; leave it out") as error:
        load(DataConfig(source=source, tile=100), CPU)
    assert one_line(error).startswith("data.tile: ")
