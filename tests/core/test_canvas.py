"""Windows of whole images: training sees all of an image, alike wherever it lies, and exactly again."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ssl_zoo.config.schema import DataConfig, EncoderConfig
from ssl_zoo.config.settings import changed_settings, result_affecting_settings
from ssl_zoo.data import DataSet, load, residence
from ssl_zoo.data.canvas import Canvas, window
from ssl_zoo.data.splits import Pass
from ssl_zoo.errors import UserError
from ssl_zoo.runs.run import Run
from ssl_zoo.training.resume import Resumption
from tests.conftest import small_config, train
from tests.core.pictures import CPU, broken, folder, one_line, photo, write


def canvas_of(data: DataSet) -> Canvas:
    assert data.train.canvas is not None
    return data.train.canvas


def prepared(path: Path, **settings: Any) -> DataSet:
    data = folder(path, **settings)
    canvas_of(data).prepare()
    return data


def seen(data: DataSet, part: Pass) -> list[Tensor]:
    return [raw for raw, _ in data.train.batches(part)]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(x.equal(y) for x, y in zip(a, b, strict=True))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder of images of many shapes, of which one cannot be read."""
    for i, size in enumerate([(90, 40), (40, 90), (200, 40), (64, 64), (41, 77), (300, 210)] * 2):
        write(tmp_path / "photos" / f"{i:02}.{'jpg' if i % 2 else 'png'}", photo(size, i))
    broken(tmp_path / "photos" / "03 broken.png")
    return tmp_path / "photos"


# All of an image


def test_a_panorama_is_seen_to_its_ends(tmp_path: Path) -> None:
    columns = np.linspace(0, 255, 4000).round().astype(np.uint8)
    write(tmp_path / "panorama.png", Image.fromarray(np.tile(columns, (200, 1))))
    data = prepared(tmp_path, image_size=56)  # of which crops of 8 % are not enlarged from 198 pixels
    assert canvas_of(data).side == 198
    passes = torch.stack(
        [data.train.at_pass(seed).batch(torch.tensor([0]))[0, 0, 0] for seed in range(400)]
    )
    assert passes.shape == (400, 198)
    assert (passes.min(), passes.max()) == (0, 255)
    assert passes.unique().tolist() == list(range(256))
    middle = data.train.batch(torch.tensor([0]))
    assert 255 // 2 - 10 < middle.min() <= middle.max() < 255 // 2 + 10  # evaluation, as it was


@pytest.mark.parametrize("upright", [False, True])
def test_a_window_lies_around_any_pixel_as_far_as_the_ends_allow(upright: bool) -> None:
    image = torch.arange(7).expand(1, 3, 7)
    image = image.transpose(1, 2) if upright else image
    first = torch.stack([window(image, (3, 3), seed, 5)[0, 0, 0] for seed in range(2100)])
    expected = torch.tensor([600, 300, 300, 300, 600])  # the ends stand for two centres each
    assert (first.bincount() - expected).abs().max() < 5 * 21  # five standard deviations
    cut = window(image, (3, 3), 3, 5)
    assert cut.shape == (1, 3, 3)
    assert cut.equal(window(image, (3, 3), 3, 5))
    assert not all(window(image, (3, 3), 3, n).equal(cut) for n in range(20))


# The same wherever the images lie


@pytest.mark.parametrize("canvas", ["auto", 17, 60])
def test_windows_are_the_same_in_memory_on_disk_and_in_a_cache(
    canvas: int | str, photos: Path, tmp_path: Path
) -> None:
    part = Pass(seed=7, batch_size=4, first=0, end=3)
    held = prepared(photos, canvas=canvas, resident="always")
    assert held.train.at_pass(0).resident
    expected = seen(held, part)
    side = canvas_of(held).side
    assert [x.shape for x in expected] == [(4, 3, side, side)] * 3
    assert not same(expected, seen(held, Pass(seed=8, batch_size=4, first=0, end=3)))
    for _ in range(2):  # the second one decodes nothing
        cached = prepared(photos, canvas=side, cache=str(tmp_path / "cache"))
        assert not cached.train.at_pass(0).resident
        assert same(seen(cached, part), expected)
    lazy = folder(photos, canvas=side, resident="never", workers=3)
    numbers = [i for i, name in enumerate(lazy.train.names or ()) if "broken" not in name]
    theirs = lazy.train.at_pass(7).batch(torch.tensor(numbers))
    assert theirs.equal(held.train.at_pass(7).batch(torch.arange(12)))
    assert lazy.train.names is not None
    assert held.train.names == [lazy.train.names[i] for i in numbers]


def test_a_resumed_pass_and_two_processes_see_the_canvas_of_one(photos: Path) -> None:
    for resident in ("always", "never"):
        data = prepared(photos, canvas=20, resident=resident)
        whole = seen(data, Pass(3, 4, 0, 3))
        assert same(seen(data, Pass(3, 4, 1, 3)), whole[1:])
        parts = [seen(data, Pass(3, 2, 0, 3, rank, 2)) for rank in range(2)]
        assert same([torch.cat(pair) for pair in zip(*parts, strict=True)], whole)


def test_more_than_eight_bits_are_canvas_of_scaled_values(tmp_path: Path) -> None:
    ramp = np.linspace(0, 60000, 40 * 80).reshape(40, 80).astype(np.uint16)
    for i in range(4):
        write(tmp_path / f"{i}.png", Image.fromarray(ramp + i))
    held, lazy = (prepared(tmp_path, canvas=30, resident=r) for r in ("always", "never"))
    part = Pass(0, 4, 0, 1)
    a, b, c = (seen(data, part) for data in (held, lazy, folder(tmp_path).with_canvas(30)))
    assert same(a, b)
    assert same(a, c)
    assert (a[0].dtype, a[0].shape) == (torch.float32, (4, 1, 30, 30))
    assert 0 <= a[0].min() < a[0].max() <= 1


# What stays as it was


def test_the_central_square_alone_is_said_to_lose_the_rest(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for i in range(4):
        write(tmp_path / f"{i}.png", photo((160, 80) if i else (80, 80), i))
    folder(tmp_path, canvas="square")
    seen = "62% of an image can be seen, at 20% of its resolution; crops of 8% have 5 pixels"
    assert f"training sees the central square: {seen}, enlarged 2.8 times" in caplog.text


def test_evaluation_sees_the_central_squares_as_before(photos: Path) -> None:
    new, old = folder(photos, canvas=40), folder(photos, canvas="square")
    assert old.train.canvas is None
    assert new.spec == old.spec
    everything = torch.arange(len(old.train))
    assert new.train.batch(everything).equal(old.train.batch(everything))
    assert old.train.at_pass(3) is old.train


def test_small_squares_and_arrays_have_no_windows(tmp_path: Path) -> None:
    for i in range(5):
        write(tmp_path / f"{i}.png", photo((16, 16), i))
    assert folder(tmp_path).train.canvas is None
    assert folder(tmp_path, canvas=16).train.canvas is None
    assert load(DataConfig(source="digits"), CPU).train.canvas is None


# The choice of the canvas


@pytest.mark.parametrize(
    ("settings", "free", "canvas", "resident"),
    [
        ({}, 10**9, 49, True),  # 14 / √0.08
        ({}, 4 * 8 * 3 * 49 * 98, 49, True),
        ({}, 4 * 8 * 3 * 49 * 98 - 1, 37, True),
        ({}, 4 * 8 * 3 * 37 * 74 - 1, 25, True),
        ({}, 2 * 8 * 3 * 16 * 32, 16, True),
        ({}, 2 * 8 * 3 * 16 * 32 - 1, 32, False),
        ({"resident": "never"}, 10**9, 32, False),
        ({"canvas": 70}, 10**9, 70, True),
        ({"canvas": 70}, 10**5, 70, False),
        ({"image_size": 40}, 10**9, 80, True),  # what the images have
        ({"image_size": 90}, 10**9, 103, True),  # 8/7 of the input
    ],
)  # fmt: skip
def test_the_canvas_follows_from_the_images_and_the_memory(
    settings: dict[str, Any], free: int, canvas: int, resident: bool, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    for i in range(8):
        write(tmp_path / f"{i}.jpg", photo((160, 80), i))
    data = folder(tmp_path, **settings)
    monkeypatch.setattr(residence, "free_memory", lambda device: free)
    caplog.clear()
    canvas_of(data).prepare()
    assert canvas_of(data).side == canvas
    assert data.train.at_pass(0).resident == resident
    (line,) = caplog.messages
    assert f"windows of whole images, {canvas} pixels on the shorter side" in line
    assert "100% of an image can be seen, at" in line
    assert ("decoded at each use" in line) == (not resident)


@pytest.mark.parametrize(
    ("source", "canvas", "reason"),
    [
        ("photos", 0, "canvas"),
        ("photos", "all", "canvas"),
        ("photos", 13, "is 13, and the network's input has 14 pixels"),
        ("digits", 64, "digits has no image files; leave it out"),
    ],
)  # fmt: skip
def test_a_wrong_canvas_is_one_line(source: str, canvas: Any, reason: str, photos: Path) -> None:
    config = {"source": str(photos) if source == "photos" else source, "image_size": 14}
    with pytest.raises((UserError, ValueError), match=reason) as error:
        load(DataConfig.model_validate({**config, "canvas": canvas}), CPU)
    if isinstance(error.value, UserError):
        assert one_line(error).startswith("data.canvas: ")


def test_a_cache_that_is_there_keeps_its_canvas_on_a_disk_that_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(8):
        write(tmp_path / "d" / f"{i}.png", photo((160, 80), i))
    cache = str(tmp_path / "some" / "cache")
    free = 2 * 8 * 3 * 37 * 74
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    data = prepared(tmp_path / "d", cache=cache)
    assert canvas_of(data).side == 37
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    again = prepared(tmp_path / "d", cache=cache)
    assert same(seen(again, Pass(0, 8, 0, 1)), seen(data, Pass(0, 8, 0, 1)))
    (tmp_path / "some" / "cache").rename(tmp_path / "gone")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=8 * 3 * 16 * 16))
    assert canvas_of(prepared(tmp_path / "d", cache=cache)).side == 32  # read from the files


# Runs


def test_a_run_keeps_its_canvas_and_one_of_an_older_version_its_squares(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"data__source": str(photos), "data__image_size": 14, "train__batch_size": 4}
    run: Run = train(small_config("simclr", **settings), out=tmp_path / "run", protocol=())
    chosen = run.config().data.canvas
    assert chosen == 40  # the images' own
    monkeypatch.setattr(residence, "free_memory", lambda device: 20_000)
    resumption = Resumption(run)
    assert resumption.config.data.canvas == chosen
    again = load(resumption.config.data, CPU)
    assert canvas_of(again).side == chosen
    state = run.checkpoints.load()
    del state["settings"]["data.canvas"]
    run.checkpoints.save(state)
    assert Resumption(run).config.data.canvas == "square"


def test_data_that_are_shared_take_the_canvas_of_a_run_that_goes_on(photos: Path) -> None:
    data = folder(photos)
    assert data.with_canvas("auto").train is data.train
    assert data.with_canvas(canvas_of(data).side).train is data.train
    other = data.with_canvas(20)
    assert other.bank is other.train
    assert other.train.at_pass(1).batch(torch.arange(4)).shape[-1] == 20
    expected = folder(photos, canvas=20).train.at_pass(1).batch(torch.arange(4))
    assert other.train.at_pass(1).batch(torch.arange(4)).equal(expected)
    assert data.with_canvas("square").train.canvas is None


def test_what_a_run_chose_agrees_with_auto_and_with_no_other_canvas() -> None:
    auto, one, two = (
        EncoderConfig(data=DataConfig(canvas=canvas)) for canvas in ("auto", 256, 300)
    )  # fmt: skip
    assert changed_settings(result_affecting_settings(one), auto) == {}
    assert changed_settings(result_affecting_settings(one), two) == {"data.canvas": (256, 300)}
