"""The range of values of a data set: what it is measured on, what is left out, and what is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ssl_zoo.config.schema import DataConfig
from ssl_zoo.data import DataSet
from ssl_zoo.data.splits import ArraySplit
from ssl_zoo.data.value_range import MAX_STATISTICS, find_limits, percentiles, summarise
from ssl_zoo.notices import collect_notices
from ssl_zoo.spec import ImageSpec
from tests.core.pictures import folder
from tests.core.test_pixels import npy, tiff, values


def measured(path: Path, **settings: Any) -> tuple[list[float], dict[str, str], DataSet]:
    """Return the range of a folder, the notices by name, and the data set."""
    with collect_notices() as notices:
        data = folder(path, **settings)
    found = {notice["notice"]: notice["text"] for notice in notices}
    return list(data.spec.data_settings()["range"]), found, data


def frames(root: Path, number: int = 10) -> None:
    """Write frames of 90×60 pixels of 16 bits, with few spots of 2×2 on a background of 450 to 550."""
    rng = np.random.default_rng(0)
    for i in range(number):
        pixels = rng.integers(450, 551, (60, 90)).astype(np.uint16)
        pixels[0, :2] = 450, 550
        pixels[2:4, 2:4] = 60_000  # outside of the central square
        Image.fromarray(pixels).save(root / f"{i}.png")


@pytest.mark.parametrize("settings", [{}, {"tile": 30}, {"resident": "never"}, {"cache": "cache"}])
def test_the_range_is_that_of_the_files_and_not_of_small_central_squares(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "frames").mkdir()
    frames(tmp_path / "frames")
    if "cache" in settings:
        settings = {"cache": str(tmp_path / "cache")}
    limits, notices, _ = measured(tmp_path / "frames", **settings)
    assert limits == [450, 60_000]
    number = 60 if "tile" in settings else 10
    assert notices["range"].endswith(
        ": the values 450 to 60000 become 0 to 1, the smallest and largest value in the files of "
        f"{number} images; data.range sets them"
    )


def test_percentiles_are_those_of_all_pixels_of_the_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = [rng.normal(1000, 100, (30 + 5 * i, 80)).astype(np.float32) for i in range(5)]
    for i, pixels in enumerate(images):
        npy(tmp_path / f"{i}.npy", pixels)
    limits, notices, _ = measured(tmp_path, range_percentiles=[1, 99])
    expected = np.percentile(np.concatenate([x.ravel() for x in images]), [1, 99])
    np.testing.assert_allclose(limits, expected, rtol=1e-6)
    assert "percentiles 1 and 99 of the values in the files of 5 images" in notices["range"]


def test_a_summary_of_a_large_image_has_its_extremes_and_its_percentiles() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.gamma(1, 100, (3, 1000, 2000)).astype(np.float32)  # more than are sorted
    pixels[1, 500, 700], pixels[2, 0, 0], pixels[0, 3, 3] = 1e6, -5, np.nan
    row = summarise(pixels)
    assert row.shape == (MAX_STATISTICS + 2,)
    assert row[:2].tolist() == [pixels.size - 1, 1]
    finite = pixels[np.isfinite(pixels)]
    found = percentiles(row[None], [0, 0.1, 50, 99.9, 100])
    assert (found[0], found[-1]) == (-5, 1e6)
    ranks = [(finite <= value).mean() * 100 for value in found[1:4]]
    np.testing.assert_allclose(ranks, [0.1, 50, 99.9], atol=0.03)


def elevations(root: Path, **holes: float) -> list[NDArray[np.float32]]:
    """Write float TIFFs of 1,080 to 1,120 with five rows of each of these values, and return them."""
    rng = np.random.default_rng(0)
    images = []
    for i in range(4):
        pixels = rng.uniform(1080, 1120, (1, 60, 60)).astype(np.float32)
        pixels[:, 0, :2] = 1080, 1120
        for k, value in enumerate(holes.values()):
            pixels[:, 10 + 10 * k : 15 + 10 * k] = value
        tiff(root / f"{i}.tif", pixels)
        images.append(pixels)
    return images


def test_values_that_are_not_finite_are_left_out_of_the_range_and_counted(tmp_path: Path) -> None:
    elevations(tmp_path, a=np.nan, b=np.inf, c=-np.inf)
    limits, notices, data = measured(tmp_path)
    assert limits == [1080, 1120]
    assert notices["not-finite"].endswith(
        ": 3,600 of 14,400 values of 4 images are NaN or infinite: NaN and -inf become the smallest "
        "value of their image and channel, inf the largest, and the range is measured without them"
    )
    assert all(bool(torch.isfinite(image).all()) for image in values(data).values())
    assert data.spec.mean[0] > 0.3


def test_values_that_are_not_finite_are_counted_with_a_range_too(tmp_path: Path) -> None:
    elevations(tmp_path, a=np.nan)
    limits, notices, _ = measured(tmp_path, range=[1000, 1200])
    assert limits == [1000, 1200]
    assert "1,200 of 14,400 values of 4 images are NaN or infinite" in notices["not-finite"]


@pytest.mark.parametrize("percentile", [[0, 100], [1, 99]])
def test_the_range_is_that_without_holes(percentile: list[float], tmp_path: Path) -> None:
    images = elevations(tmp_path, a=np.nan)
    finite = np.concatenate([x[np.isfinite(x)] for x in images])
    limits, _, _ = measured(tmp_path, range_percentiles=percentile)
    np.testing.assert_allclose(limits, np.percentile(finite, percentile), rtol=1e-6)


def test_holes_are_the_lowest_value_of_their_channel_in_data_and_in_exports(tmp_path: Path) -> None:
    pixels = np.stack([np.full((16, 16), 5.0), np.full((16, 16), 8.0), np.full((16, 16), np.nan)])
    pixels[:2, 8:] += 2
    pixels[0, 0, :3] = np.nan, np.inf, -np.inf
    for name in "ab":
        npy(tmp_path / f"{name}.npy", pixels.astype(np.float32))
    _, _, data = measured(tmp_path, range=[0, 10])
    image: Tensor = values(data)["a.npy"]
    torch.testing.assert_close(image[0, 0, :4], torch.tensor([0.5, 0.7, 0.5, 0.5]))
    assert image[1].min() == pytest.approx(0.8)
    assert bool((image[2] == 0).all())  # without a finite value, the low end of the range
    assert isinstance(data.spec, ImageSpec)
    found = data.spec.preprocess(tmp_path / "a.npy")
    torch.testing.assert_close(found, data.spec.prepare(image[None]), rtol=1e-5, atol=1e-5)


def test_few_pixels_that_set_the_scale_are_said(tmp_path: Path) -> None:
    hot = np.tile(np.arange(100, dtype=np.uint16) + 100, (100, 1))
    hot[0, 0] = 60_000
    npy(tmp_path / "a.npy", hot)
    _, notices, _ = measured(tmp_path)
    assert notices["outliers"].endswith(
        ": the 99.9th percentile of the values is 199, and the largest 60,000, so a thousandth of them "
        "takes 99.8 % of the range; data.range_percentiles=[0, 99.9] clips them"
    )
    _, notices, _ = measured(tmp_path, range_percentiles=[0, 99.9])
    assert "outliers" not in notices
    cold = np.where(hot == 60_000, -9999, hot).astype(np.int16)
    npy(tmp_path / "a.npy", cold)
    _, notices, _ = measured(tmp_path)
    assert "the 0.1th percentile of the values is 100, and the smallest -9,999" in notices["outliers"]
    assert notices["outliers"].endswith("data.range_percentiles=[0.1, 100] clips them")


def test_values_that_fill_the_range_need_no_word(tmp_path: Path) -> None:
    npy(tmp_path / "a.npy", np.linspace(0, 5000, 900).astype(np.uint16).reshape(30, 30))
    _, notices, _ = measured(tmp_path)
    assert not {"outliers", "not-finite"} & set(notices)


def test_arrays_of_a_source_are_measured_as_they_are() -> None:
    images = torch.tensor([[[[1.0, 2.0], [float("nan"), 7.0]]]])
    assert find_limits(ArraySplit(images, None), DataConfig(source="mine"), "mine") == (1, 7)
