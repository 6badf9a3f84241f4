"""Inputs that are not square are cropped, trained on, evaluated and exported as square ones are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import ssl_zoo
from ssl_zoo.config.load import dump_config, load_config
from ssl_zoo.config.schema import DataConfig
from ssl_zoo.errors import UserError
from ssl_zoo.evaluation import evaluate
from ssl_zoo.notices import collect_notices
from ssl_zoo.options import CropOptions
from ssl_zoo.runs.build import load_data
from ssl_zoo.runs.run import Run
from ssl_zoo.sizes import parse_size
from ssl_zoo.spec import ImageSpec
from ssl_zoo.tools.export import export
from ssl_zoo.training import train
from ssl_zoo.views import RandomResizedCrop, Rng
from tests.conftest import small_config
from tests.core.pictures import CPU, everything, folder, one_line, photo, write
from tests.core.test_canvas import canvas_of, prepared

# Settings


@pytest.mark.parametrize("text", ["32x64", "32X64", " 32 × 64 ", [32, 64], (32.0, "64")])
def test_a_size_is_height_and_width(text: Any) -> None:
    assert parse_size(text) == (32, 64)


@pytest.mark.parametrize("given", [16, "16", "16x16", [16, 16]])
def test_a_square_is_recorded_as_its_side(given: Any) -> None:
    config = load_config(None, {"task.name": "simclr", "data.image_size": given})
    assert "image_size: 16\n" in dump_config(config)
    assert '"size":16' in ImageSpec(size=parse_size(given)).to_header().replace(" ", "")


def test_what_is_recorded_of_another_shape_is_read_again(tmp_path: Path) -> None:
    config = load_config(None, {"task.name": "simclr", "data.image_size": "32x64"})
    (tmp_path / "c.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "c.yaml").data.image_size == (32, 64)
    spec = ImageSpec(size=(32, 64))
    assert ImageSpec.from_header(spec.to_header()) == spec
    assert (spec.height, spec.width) == (32, 64)


@pytest.mark.parametrize(
    "text", ["32x", "x64", "32x64x3", "32,64", "32.5", "-8x8", "wide", [32], [8, 8, 8], {"height": 8}]
)
def test_a_text_that_is_no_size_is_refused(text: Any) -> None:
    with pytest.raises(UserError) as caught:
        load_config(None, {"task.name": "simclr", "data.image_size": text})
    assert one_line(caught).startswith(
        "data.image_size: give one side or HEIGHTxWIDTH in pixels, such as 64 or 32x64, not "
    )


@pytest.mark.parametrize("size", ["2x32", "32x4097", 3])
def test_a_side_that_is_too_short_or_too_long_is_refused(size: Any) -> None:
    with pytest.raises(UserError, match=r"^data\.image_size: must have 4 to 4096 pixels a side, not "):
        load_config(None, {"task.name": "simclr", "data.image_size": size})


# Images


def test_evaluation_sees_the_middle_of_the_shape_of_the_input(tmp_path: Path) -> None:
    for name, shape in {"a": (96, 128), "b": (200, 40), "c": (64, 32)}.items():  # width, height
        write(tmp_path / f"{name}.png", photo(shape))
    with collect_notices() as notices:
        data = load_data(DataConfig(source=str(tmp_path), image_size="28x14"), CPU)
    (text,) = (notice["text"] for notice in notices if notice["notice"] == "not-square")
    assert text.endswith(
        ": none of the 3 images is of the aspect 28×14; evaluation sees the central 28×14"
    )
    boxes = {"a": (16, 0, 80, 128), "b": (90, 0, 110, 40), "c": (24, 0, 40, 32)}
    for (name, box), raw in zip(boxes.items(), everything(data), strict=True):
        whole = Image.open(tmp_path / f"{name}.png")
        middle = whole.resize((16, 32), Image.Resampling.BILINEAR, box)
        assert np.array_equal(raw.permute(1, 2, 0), middle), name
        ours = data.spec.preprocess(tmp_path / f"{name}.png")
        assert ours.shape == (1, 3, 28, 14)
        prepared = data.spec.prepare(raw[None])
        torch.testing.assert_close(ours, prepared, atol=1e-4, rtol=0)


def test_windows_of_a_panorama_have_the_shape_of_the_input_and_show_its_ends(tmp_path: Path) -> None:
    columns = np.linspace(0, 255, 900).round().astype(np.uint8)
    write(tmp_path / "panorama.png", Image.fromarray(np.tile(columns, (60, 1))))
    data = prepared(tmp_path, image_size="14x28", canvas=30)
    assert canvas_of(data).side == 30
    one = torch.tensor([0])
    passes = torch.cat([data.train.at_pass(seed).batch(one) for seed in range(100)])
    assert passes.shape == (100, 1, 30, 60)
    assert (passes.min(), passes.max()) == (0, 255)


def test_tiles_have_the_shape_of_the_input(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 64, 3), dtype=np.uint8)
    write(tmp_path / "a.png", Image.fromarray(pixels))
    data = folder(tmp_path, image_size="14x28", tile=16)
    tiles = [pixels[y : y + 16, x : x + 32] for y in (0, 16) for x in (0, 32)]
    assert np.array_equal(everything(data).permute(0, 2, 3, 1), np.stack(tiles))


def test_a_canvas_has_at_least_the_shorter_side(tmp_path: Path) -> None:
    write(tmp_path / "a.png", photo((100, 100)))
    assert canvas_of(folder(tmp_path, image_size="14x28", canvas=14)).side == 14
    with pytest.raises(UserError, match=r"data\.canvas: is 13, and the network's input has 14 pixels"):
        folder(tmp_path, image_size="14x28", canvas=13)


# A run


def test_crops_stretch_what_they_show_no_more_than_those_of_a_square_input() -> None:
    x = torch.zeros(500, 1, 64, 128)  # a window of the input's aspect
    frame = CropOptions(crop_scale=(0.1, 0.3)).frame(ImageSpec(size=(32, 64)))
    assert isinstance(frame, RandomResizedCrop)
    drawn = frame.draw(x, Rng(0))
    stretch = (64 / drawn.width) / (32 / drawn.height)  # enlargement along the width over the height
    assert 0.7 < stretch.min() < 0.8
    assert 1.25 < stretch.max() < 1.4


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Train on photographs of many shapes, and resume the run for a second epoch."""
    root = tmp_path_factory.mktemp("wide")
    for i, size in enumerate([(90, 40), (40, 90), (64, 64), (41, 77)] * 4):
        write(root / "photos" / "ab"[i % 2] / f"{i:02}.png", photo(size, i))
    settings = {"data__source": str(root / "photos"), "data__image_size": "32x64", "data__holdout": 0.5}
    config = small_config("simclr", **settings, train__batch_size=4)
    train(config, out=root / "run", protocol=())
    return train(resume=root / "run", settings={"train.epochs": 2}, protocol=())


def test_a_run_is_resumed_evaluated_and_loaded(run: Run, tmp_path: Path) -> None:
    assert run.config().data.image_size == (32, 64)
    (scores,) = evaluate(run.path, protocol=["knn"], with_baselines=False).values()
    assert 0 <= scores["knn"] <= 100
    model: Any = ssl_zoo.load_backbone(run.path)
    assert model.ssl_zoo_preprocess(photo((90, 40))).shape == (1, 3, 32, 64)


def features_of_code(code: str, files: list[Path]) -> Tensor:
    """Return the features that the code of an export computes of files."""
    scope: dict[str, Any] = {"files": files}
    exec("import torch\n" + code, scope)
    (usage,) = re.findall(r"^# features = (.*)  # \[B, D\]$", code, re.MULTILINE)
    with torch.no_grad():
        return torch.as_tensor(eval(usage, scope))


@pytest.mark.parametrize("suffix", [".safetensors", ".onnx"])
def test_an_export_gives_the_features_of_the_run(run: Run, tmp_path: Path, suffix: str) -> None:
    if suffix == ".onnx":
        pytest.importorskip("onnxscript", reason="the extra ssl-zoo[onnx] is not installed")
        pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    files = sorted(Path(run.config().data.source_text).rglob("*.png"))[:4]
    features = features_of_code(export(run.path, tmp_path / f"backbone{suffix}"), files)
    model: Any = ssl_zoo.load_backbone(run.path)
    with torch.no_grad():
        expected = model(torch.cat([model.ssl_zoo_preprocess(file) for file in files]))
    torch.testing.assert_close(features, expected, atol=1e-4, rtol=1e-4)
