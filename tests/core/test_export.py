"""An exported backbone gives its features without ssl-zoo: under timm to the bit, and in ONNX."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ssl_zoo.backbones.create import create_backbone
from ssl_zoo.config.presets import PRESETS
from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo.errors import SslZooError, UserError
from ssl_zoo.runs.backbone import load_backbone, write_backbone
from ssl_zoo.runs.run import Run
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Encoder
from ssl_zoo.tools import export as module
from ssl_zoo.tools import export_graph
from ssl_zoo.tools.embed import embed
from ssl_zoo.tools.export import export
from ssl_zoo.tools.export_graph import OPSET
from ssl_zoo.tools.export_timm import stem_changes
from tests.conftest import ROOT
from tests.core.pictures import photo, write

NARROW = dict(PRESETS["resnet10_narrow"].options)
SWIN = {"embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8]}

# What is trained, at which size, and the lines that its stem takes beside timm's own arguments.
CONV1 = (
    "model.conv1 = torch.nn.Conv2d(3, 64, kernel_size=(3, 3), stride=({0}, {0}), padding=(1, 1), "
    "bias=False)"
)
NO_POOL = "model.maxpool = torch.nn.Identity()"
CASES: dict[str, tuple[dict[str, Any], int, list[str]]] = {
    "default": ({}, 16, [CONV1.format(2), NO_POOL]),
    "plain": ({"name": "resnet18", "options": NARROW}, 32, [CONV1.format(1), NO_POOL]),
    "original": ({"name": "resnet18", "options": NARROW}, 96, []),
    "deep": (
        {"name": "resnet10t"},
        32,
        ["model.get_submodule('conv1.0').stride = (1, 1)", NO_POOL],
    ),
    "deep stride 2": ({"name": "resnet10t", "stem_stride": 2}, 32, [NO_POOL]),
    "conv_stem": ({"name": "test_efficientnet"}, 32, ["model.conv_stem.stride = (1, 1)"]),
    "conv_stem stride 2": ({"name": "test_efficientnet", "stem_stride": 2}, 32, []),
    "same padding": (
        {"name": "tf_mobilenetv3_small_minimal_100"},
        28,
        ["model.conv_stem.stride = (1, 1)"],
    ),
    "stem": ({"name": "test_byobnet"}, 32, ["model.stem.conv.stride = (1, 1)"]),
    "stem and pool": (
        {"name": "resnetv2_18", "options": {"channels": [8, 16, 32, 64]}},
        32,
        ["model.stem.conv.stride = (1, 1)", "model.stem.pool = torch.nn.Identity()"],
    ),
    "no small stem": ({"name": "test_convnext"}, 64, []),
    "vit": ({"name": "test_vit", "options": {"patch_size": 4}}, 32, []),
    "vit with a class token": ({"name": "test_vit3", "options": {"patch_size": 7}}, 28, []),
    "swin": ({"name": "swin_tiny_patch4_window7_224", "options": SWIN}, 64, []),
}

ORIGINAL = {"name": "resnet18", "stem": "original", "options": NARROW}
CASES |= {"gray": (ORIGINAL, 40, []), "colour": (ORIGINAL, 40, [])}
CHANNELS = {"gray": 1}
"""The channels of the runs that do not have three."""

ALONE = """
import sys
import zipfile
sys.modules["ssl_zoo"] = None
from pathlib import Path
import torch
from safetensors import safe_open
pictures = sorted(Path("pictures").iterdir())
for file in sys.argv[1:]:
    with safe_open(file, "pt") as tensors:
        load = tensors.metadata()["load"]
    scope = {}
    exec(load, scope)
    with torch.no_grad():
        torch.save(scope["model"](torch.load(file + ".images")), file + ".features")
        read = torch.cat([scope["preprocess"](picture) for picture in pictures])
        torch.save(scope["model"](read), file + ".of_files")
"""


def trained(path: Path, backbone: BackboneConfig, size: int, channels: int = 3) -> Path:
    """Make a run with a backbone whose weights and statistics all differ from their initial values."""
    mean, std = (0.3, 0.6, 0.5)[:channels], (0.2, 0.3, 0.25)[:channels]
    spec = ImageSpec(channels=channels, size=size, mean=mean, std=std)
    torch.manual_seed(0)
    encoder = create_backbone(backbone, spec)
    for name, value in encoder.model.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif value.is_floating_point():
            value.add_(0.05 * torch.randn_like(value))
    path.mkdir(parents=True)
    write_backbone(Run(path).backbone_file, encoder, backbone, spec)
    return path


def write_pictures(folder: Path) -> None:
    """Write files that are decoded in different ways, larger than what they are decoded to."""
    exif = Image.Exif()
    exif[0x0112] = 6  # a camera that was turned by a quarter
    write(folder / "exif.jpg", photo((900, 500), 1), exif=exif)
    gray = photo((300, 200), 2).convert("L")
    write(folder / "gray.png", gray)
    clear = photo((150, 170), 3).convert("RGBA")
    clear.putalpha(gray.resize(clear.size))
    write(folder / "alpha.png", clear)
    write(folder / "small.png", photo((9, 12), 4))


def images(size: int, n: int = 2, channels: int = 3) -> Tensor:
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(1))


@contextmanager
def one_thread() -> Iterator[None]:
    """Temporarily compute with one thread, so that sums are rounded as in the other process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All cases, exported, and their features as a process without ssl-zoo computes them."""
    place = tmp_path_factory.mktemp("exported")
    write_pictures(place / "pictures")
    for case, (backbone, size, _) in CASES.items():
        channels = CHANNELS.get(case, 3)
        run = trained(place / "runs" / case, BackboneConfig(**backbone), size, channels)
        export(run, place / f"{case}.safetensors")
        torch.save(images(size, channels=channels), place / f"{case}.safetensors.images")
    subprocess.run(
        [sys.executable, "-I", "-c", ALONE, *(f"{case}.safetensors" for case in CASES)],
        cwd=place, check=True, timeout=600, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return place


def header(file: Path) -> dict[str, str]:
    with safe_open(file, "pt") as tensors:
        metadata: dict[str, str] = tensors.metadata()
    return metadata


def complaint(*arguments: Any, error: type[SslZooError] = UserError) -> str:
    with pytest.raises(error) as caught:
        export(*arguments)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


# ---- for timm


@pytest.mark.parametrize("case", CASES)
def test_timm_without_ssl_zoo_gives_the_features_of_the_run(exported: Path, case: str) -> None:
    model = load_backbone(exported / "runs" / case)
    with torch.no_grad(), one_thread():
        expected = model(images(CASES[case][1], channels=CHANNELS.get(case, 3)))
    features = torch.load(exported / f"{case}.safetensors.features")
    torch.testing.assert_close(features, expected, atol=1e-6, rtol=1e-6)
    assert not torch.allclose(expected[0], expected[1], atol=1e-3)


@pytest.mark.parametrize("case", CASES)
def test_the_code_has_a_line_for_each_change_of_the_stem_and_else_one_call(
    exported: Path, case: str
) -> None:
    code = header(exported / f"{case}.safetensors")["load"].splitlines()
    name = CASES[case][0].get("name", "resnet18")
    changes = CASES[case][2]
    create = code.index("") + 1
    assert code[create].startswith(f"model = timm.create_model({name!r}, ")
    assert code[create + 1 : code.index("model.eval()") + 1] == [
        *changes,
        *([f"timm.models.load_checkpoint(model, '{case}.safetensors')"] if changes else []),
        "model.eval()",
    ]
    assert (f"checkpoint_path='{case}.safetensors'" in code[create]) == (not changes)


def test_the_code_of_the_default_backbone(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", BackboneConfig(), 16, channels=1)
    file = tmp_path / "my backbone.safetensors"
    code = f"""\
import timm
import torch

model = timm.create_model('resnet18', num_classes=0, in_chans=1, channels=[32, 64, 128, 256], \
layers=[1, 1, 1, 1], zero_init_last=False)
model.conv1 = torch.nn.Conv2d(1, 64, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1), bias=False)
model.maxpool = torch.nn.Identity()
timm.models.load_checkpoint(model, '{file}')
model.eval()

# features = model(torch.cat([preprocess(file) for file in files]))  # [B, D]
#
# preprocess(file) returns an image file as float32 [1, 1, 16, 16]: intensities in [0, 1],
# resized by bilinear interpolation, and normalised by the mean and deviation
# with which the network was trained.

import contextlib
"""
    end = """

def preprocess(file):
    \"""Return an image file as the input of the network, float32 [1, 1, 16, 16].\"""
    return torch.from_numpy(image_input(file, 16, 1, [0.3], [0.2]))"""
    printed = export(run, str(file))
    assert printed.startswith(code)
    assert printed.endswith(end)
    assert header(file)["load"] == printed.replace(str(file), file.name)  # a file may be moved


def test_the_code_of_a_transformer_tells_timm_the_size_of_the_images(exported: Path) -> None:
    code = header(exported / "vit.safetensors")["load"].splitlines()
    assert code[:5] == [
        "import timm",
        "import torch",
        "",
        "model = timm.create_model('test_vit', checkpoint_path='vit.safetensors', num_classes=0, "
        "in_chans=3, img_size=32, patch_size=4)",
        "model.eval()",
    ]


def test_the_header_says_how_images_are_normalised(exported: Path) -> None:
    assert json.loads(header(exported / "plain.safetensors")["normalise"]) == {
        "mean": [0.3, 0.6, 0.5],
        "std": [0.2, 0.3, 0.25],
        "size": 32,
        "channels": 3,
        "interpolation": "bilinear",
    }


def test_ssl_zoo_itself_loads_an_exported_file_as_it_does_a_run(exported: Path) -> None:
    ours, again = (
        load_backbone(path) for path in (exported / "runs" / "deep", exported / "deep.safetensors")
    )
    assert again.ssl_zoo_spec == ours.ssl_zoo_spec
    assert again(images(32)).equal(ours(images(32)))


def test_where_the_first_weights_came_from_is_no_part_of_an_export(tmp_path: Path) -> None:
    run = trained(tmp_path / "first", BackboneConfig(name="test_resnet", stem="original"), 32, 3)
    weights = load_file(run / "backbone.safetensors")
    weights |= {"fc.weight": torch.zeros(1000, 96), "fc.bias": torch.zeros(1000)}
    save_file(weights, tmp_path / "private.safetensors")
    options = {
        "drop_rate": 0.1,
        "cache_dir": str(tmp_path),
        "pretrained_cfg_overlay": {"file": str(tmp_path / "private.safetensors")},
    }
    backbone = BackboneConfig(name="test_resnet", stem="original", pretrained=True, options=options)
    run = trained(tmp_path / "run", backbone, 32, 3)
    (tmp_path / "private.safetensors").unlink()
    export(run, tmp_path / "b.safetensors")
    notes = header(tmp_path / "b.safetensors")
    assert str(tmp_path) not in "".join(notes.values())
    assert "num_classes=0, in_chans=3, drop_rate=0.1)" in notes["load"]
    assert load_backbone(tmp_path / "b.safetensors")(images(32, 2, 3)).equal(
        load_backbone(run)(images(32, 2, 3))
    )


def test_a_stem_as_timm_makes_it_needs_no_change() -> None:
    one, other, finer = (nn.Sequential(nn.Conv2d(1, 2, 3, s), nn.Identity()) for s in (2, 2, 1))
    assert stem_changes(one, other) == []
    assert stem_changes(finer, other) == ["model.get_submodule('0').stride = (1, 1)"]


# ---- from a file


def cosine_error(run: Path, place: Path, features: Tensor) -> float:
    """Return 1 minus the least cosine of the pictures' features to those that the run gives them."""
    embed(run / "backbone.safetensors", str(place / "pictures"), place / "pictures.npz", "cpu")
    with np.load(place / "pictures.npz") as rows:
        order = np.argsort(rows["name"])
        assert len(order) == len(list((place / "pictures").iterdir())) == len(features)
        expected = torch.from_numpy(rows["features"][order])
    assert not torch.allclose(expected[0], expected[1], atol=1e-3)
    return 1 - float(F.cosine_similarity(features.double(), expected.double()).min())


@pytest.mark.parametrize("case", ["gray", "colour", "plain", "deep", "vit"])
def test_without_ssl_zoo_the_features_of_files_are_those_that_the_run_gives_them(
    exported: Path, case: str
) -> None:
    features = torch.load(exported / f"{case}.safetensors.of_files")
    assert cosine_error(exported / "runs" / case, exported, features) < 1e-6


@pytest.mark.parametrize("case", ["gray", "colour"])
def test_a_loaded_backbone_comes_with_its_preprocessing(exported: Path, case: str) -> None:
    model: Any = load_backbone(exported / "runs" / case)
    files = sorted((exported / "pictures").iterdir())
    inputs = [model.ssl_zoo_preprocess(file) for file in files]
    assert inputs[0].shape == (1, CHANNELS.get(case, 3), 40, 40)
    with torch.no_grad():
        features = model(torch.cat(inputs))
    assert cosine_error(exported / "runs" / case, exported, features) < 1e-6
    for file, given in zip(files, inputs, strict=True):
        with Image.open(file) as image:
            if file.suffix == ".png":
                assert model.ssl_zoo_preprocess(image).equal(given)
            assert image.getexif() == Image.open(file).getexif()  # the image is not changed


def test_onnx_comes_with_its_preprocessing_which_needs_numpy_and_pillow_alone(
    exported: Path, tmp_path: Path, onnxruntime: Any
) -> None:
    file = tmp_path / "backbone.onnx"
    code = export(exported / "runs" / "colour", file)
    description = onnxruntime.InferenceSession(file).get_modelmeta().description
    assert description.replace("'FILE'", repr(str(file))) == code
    modules = re.findall(r"^(?:import|from) (\w+)", code, re.MULTILINE)
    assert {*modules} - sys.stdlib_module_names == {"onnxruntime", "numpy", "PIL"}
    scope: dict[str, Any] = {"files": sorted((exported / "pictures").iterdir())}
    exec(code, scope)
    (usage,) = re.findall(r"^# features = (.*)  # \[B, D\]$", code, re.MULTILINE)
    features = torch.from_numpy(eval(usage, scope))
    assert cosine_error(exported / "runs" / "colour", exported, features) < 1e-6


# ---- ONNX


@pytest.fixture
def onnxruntime() -> Any:
    pytest.importorskip("onnxscript", reason="the extra ssl-zoo[onnx] is not installed")
    return pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


@pytest.mark.parametrize("case", ["default", "original", "conv_stem", "vit"])
def test_onnx_gives_the_features_for_any_batch_and_size_that_the_network_takes(
    exported: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], onnxruntime: Any, case: str
) -> None:
    size = CASES[case][1]
    file = tmp_path / "backbone.onnx"
    code = export(exported / "runs" / case, file)
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == [file]
    model = load_backbone(exported / "runs" / case)
    sides = (size, size) if case == "vit" else (size + 16, size + 5)
    for n in (1, 5):
        scope: dict[str, Any] = {}
        exec(code, scope)
        x = torch.randn(n, 3, *sides, generator=torch.Generator().manual_seed(1))
        (features,) = scope["session"].run(None, {"images": x.numpy()})
        with torch.no_grad():
            expected = model(x).numpy()
        assert (features.shape, features.dtype) == (expected.shape, np.float32)
        np.testing.assert_allclose(features, expected, atol=1e-4, rtol=1e-4)


def test_onnx_says_how_images_are_normalised_and_nothing_of_this_machine(
    exported: Path, tmp_path: Path, onnxruntime: Any
) -> None:
    file = tmp_path / "backbone.onnx"
    export(exported / "runs" / "default", file)
    session = onnxruntime.InferenceSession(file)
    (given,), (gives,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.shape) == ("images", ["batch", 3, "height", "width"])
    assert (gives.name, gives.shape) == ("features", ["batch", 256])
    notes = session.get_modelmeta().custom_metadata_map
    assert json.loads(notes["normalise"]) == {
        "mean": [0.3, 0.6, 0.5],
        "std": [0.2, 0.3, 0.25],
        "size": 16,
        "channels": 3,
        "interpolation": "bilinear",
    }
    content = file.read_bytes()
    opsets = importlib.import_module("onnx").load(file).opset_import
    assert [opset.version for opset in opsets if opset.domain == ""] == [OPSET]
    assert b"site-packages" not in content
    assert str(tmp_path).encode() not in content


class Branching(Encoder):
    """A network whose computation depends on the images, which no graph can express."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) if x.sum() > 0 else -x.flatten(1)

    def feature_map(self, x: Tensor, *_: Any) -> Tensor:
        return self(x)


def test_what_onnx_cannot_express_or_hold_is_said_in_a_line(
    exported: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("onnxscript", reason="the extra ssl-zoo[onnx] is not installed")
    run, file = exported / "runs" / "default", tmp_path / "b.onnx"
    monkeypatch.setattr(module, "restore_encoder", lambda *_: Branching())
    said = complaint(run, file, error=SslZooError)
    assert "cannot express this backbone in ONNX: " in said
    assert "data-dependent" in said
    monkeypatch.undo()
    monkeypatch.setattr(export_graph, "MAX_ONNX_BYTES", 1000)
    assert "an ONNX file holds 2; export .safetensors or .pt2" in complaint(run, file)
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("case", ["default", "vit"])
def test_a_program_gives_the_features_for_any_batch_and_size_that_the_network_takes(
    exported: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], case: str
) -> None:
    size = CASES[case][1]
    file = tmp_path / "backbone.pt2"
    scope: dict[str, Any] = {}
    exec(export(exported / "runs" / case, file), scope)
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == [file]
    sides = (size, size) if case == "vit" else (size + 16, size + 5)
    model = load_backbone(exported / "runs" / case)
    for n in (1, 5):
        x = torch.randn(n, 3, *sides, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            torch.testing.assert_close(scope["model"](x), model(x))


def test_a_program_comes_with_its_preprocessing_and_nothing_of_this_machine(
    exported: Path, tmp_path: Path
) -> None:
    file = tmp_path / "backbone.pt2"
    code = export(exported / "runs" / "colour", file)
    notes = {"load": "", "normalise": ""}
    torch.export.load(file, extra_files=notes)
    assert notes["load"].replace("'FILE'", repr(str(file))) == code
    assert json.loads(notes["normalise"])["interpolation"] == "bilinear"
    scope: dict[str, Any] = {"files": sorted((exported / "pictures").iterdir())}
    exec(code, scope)
    (usage,) = re.findall(r"^# features = (.*)  # \[B, D\]$", code, re.MULTILINE)
    with torch.no_grad():
        features = eval(usage, scope)
    assert cosine_error(exported / "runs" / "colour", exported, features) < 1e-6
    with zipfile.ZipFile(file) as archive:
        content = b"".join(archive.read(name) for name in archive.namelist())
    assert b"site-packages" not in content
    assert str(tmp_path).encode() not in content
    assert str(ROOT).encode() not in content


def test_onnx_needs_its_extra(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    file = tmp_path / "b.onnx"
    said = complaint(exported / "runs" / "default", file)
    assert said == f"--to {file} needs onnxscript: pip install 'ssl-zoo[onnx]'"


# ---- what is refused


def test_a_file_that_cannot_be_written(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = exported / "runs" / "default"
    said = complaint(run, tmp_path / "b.pt")
    formats = ".safetensors or .pth or no suffix, for a folder or .onnx or .pt2"
    assert said.endswith(f"unknown format for image data; its name must end in {formats}")
    missing = tmp_path / "none" / "b.safetensors"
    assert (
        complaint(run, missing) == f"--to {missing}: there is no folder {missing.parent}; make it first"
    )
    (tmp_path / "d.safetensors").mkdir()
    assert "is a folder; choose another file" in complaint(run, tmp_path / "d.safetensors")
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "cannot be written into" in complaint(run, tmp_path / "b.safetensors")


def test_a_backbone_that_is_not_there_or_whose_plugin_is_not(tmp_path: Path) -> None:
    file = tmp_path / "b.safetensors"
    assert "does not exist: give a run that has ended" in complaint(tmp_path / "none", file)
    run = trained(tmp_path / "run", BackboneConfig(name="test_resnet"), 32)
    weights = run / "backbone.safetensors"
    with safe_open(weights, "pt") as tensors:
        notes = tensors.metadata()
    notes["backbone"] = notes["backbone"].replace("test_resnet", "my_own")
    save_file(load_file(weights), weights, notes)
    reason = "its backbone 'my_own' belongs to a plugin that is not here; install it, or give it with"
    assert complaint(run, file) == f"{weights}: {reason} --plugin FILE"
    assert not file.exists()
