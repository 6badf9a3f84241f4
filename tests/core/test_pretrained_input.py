"""Pretrained networks are fed with the normalisation and the size that their weights were trained on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision.transforms.v2.functional as TF
import yaml

from ssl_zoo import load_backbone
from ssl_zoo.backbones.inputs import input_spec
from ssl_zoo.comparison import compare
from ssl_zoo.comparison.comparability import comparable_settings
from ssl_zoo.config.load import load_config, load_encoder_config
from ssl_zoo.config.pretrained import trained_on
from ssl_zoo.config.schema import BackboneConfig, DataConfig
from ssl_zoo.config.settings import changed_settings, result_affecting_settings
from ssl_zoo.data import load
from ssl_zoo.evaluation import evaluate
from ssl_zoo.notices import collect_notices
from ssl_zoo.preprocess import resize
from ssl_zoo.runs.build import build_data
from ssl_zoo.runs.run import Run
from ssl_zoo.spec import ImageSpec
from ssl_zoo.tools.export import export
from ssl_zoo.training import train
from tests.conftest import small_config, small_settings
from tests.core.pictures import CPU, photo, write

MEAN, STD = (0.9,), (0.05,)
"""A normalisation far from that of the digits, 0.31 and 0.38."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Train a network that knows the digits in a normalisation which is not theirs."""
    given: dict[str, Any] = {"backbone__mean": MEAN, "backbone__std": STD, "backbone__stem": "original"}
    given["backbone__options"] = {}  # those of the network that timm knows by this name
    config = small_config("supervised", train__epochs=2, **given)
    return train(config, out=tmp_path_factory.mktemp("runs") / "own", protocol=["knn"])


@pytest.fixture(scope="module")
def published(run: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Export its weights for timm, and return the settings under which timm has them as pretrained."""
    folder = tmp_path_factory.mktemp("hub") / "network"
    export(run.path, folder)
    known = json.loads((folder / "config.json").read_text())["pretrained_cfg"]
    overlay = {
        name: known[name] for name in ("mean", "std", "input_size", "interpolation", "num_classes")
    }
    overlay["file"] = str(folder / "model.safetensors")
    return {
        "backbone.name": "test_resnet",
        "backbone.pretrained": True,
        "backbone.stem": "original",
        "backbone.options": {"pretrained_cfg_overlay": overlay},
    }


def measured() -> ImageSpec:
    spec = load(DataConfig(image_size=16), CPU).spec
    assert isinstance(spec, ImageSpec)
    return spec


def test_a_frozen_pretrained_network_is_as_good_as_it_was_and_less_so_by_the_datas_normalisation(
    run: Run, published: dict[str, Any]
) -> None:
    machine = {"data.image_size": 16, "train.device": "cpu", "train.precision": "fp32"}
    settings = {**published, **machine}
    before = run.results()["scores"]
    with collect_notices() as notices:
        rows = evaluate("timm:test_resnet", ["knn"], settings=settings)
    assert rows["timm:test_resnet"] == {"knn": before["supervised"]["knn"]}
    assert rows["pixels"] == before["pixels"]
    (text,) = [n["text"] for n in notices if n["notice"] == "normalisation"]
    assert "by mean 0.9 and deviation 0.05, as its weights were trained, not by the data's" in text
    untrained = {"backbone.stem": "original", **machine}
    random = evaluate("timm:test_resnet", ["knn"], with_baselines=False, settings=untrained)
    assert rows["random-init"] == random["timm:test_resnet (untrained)"]
    own = {"backbone.mean": measured().mean, "backbone.std": measured().std}
    as_data = evaluate("timm:test_resnet", ["knn"], with_baselines=False, settings={**settings, **own})
    assert as_data["timm:test_resnet"]["knn"] < before["supervised"]["knn"] - 5


def test_the_rows_of_a_comparison_each_get_the_normalisation_of_their_weights(
    run: Run, published: dict[str, Any], tmp_path: Path
) -> None:
    brief = {"train.epochs": None, "train.samples": 128}
    settings = small_settings("rotation", {**brief, **published})
    names: dict[str, Any] = {"tasks": ["rotation"], "baselines": ["raw", "random-init"], "seeds": 1}
    compare(out=tmp_path / "c", **names, protocols=["knn"], set=settings)

    def knn(cell: str) -> float:
        results = json.loads((tmp_path / "c" / cell / "results.json").read_text())
        (scores,) = results["scores"].values()
        return float(scores["knn"])

    before = run.results()["scores"]
    assert knn("pretrained-0") == before["supervised"]["knn"]
    assert knn("raw") == before["pixels"]["knn"]
    trained = Run(tmp_path / "c" / "rotation-0")
    assert trained.spec().network_settings() == {
        **{"mean": [0.9], "std": [0.05]},
        "interpolation": "bilinear",
    }
    assert knn("rotation-0") == evaluate(trained.path, ["knn"], False)["rotation"]["knn"]


def test_a_run_from_another_keeps_its_normalisation_also_when_that_is_gone(
    run: Run, tmp_path: Path
) -> None:
    for i in range(12):
        write(tmp_path / "photos" / f"{i}.png", photo(seed=i))
    own = {"backbone.weights": str(run.path), "data.source": str(tmp_path / "photos")}
    config = load_config(None, {"task.name": "rotation", **own})
    spec = build_data(config, CPU).spec
    assert (spec.mean, spec.std) == (MEAN * 3, STD * 3)  # type: ignore[attr-defined]
    kept = Run.create(tmp_path / "next", config)
    gone = kept.config_file.read_text().replace(str(run.path), str(tmp_path / "gone"))
    kept.config_file.write_text(gone)
    assert build_data(kept.config(), CPU).spec == spec
    other = {"backbone.weights": None, "backbone.pretrained": True, "backbone.name": "resnet18"}
    again = load_config(run.config_file, {"backbone.weights": None, **other})
    assert again.backbone.mean == (0.485, 0.456, 0.406)  # not what the file had for other weights


def test_a_run_of_an_older_version_goes_on_with_the_normalisation_that_it_had(tmp_path: Path) -> None:
    config = small_config("rotation", backbone__name="resnet18", backbone__pretrained=True)
    run = Run.create(tmp_path / "run", config)
    assert build_data(run.config(), CPU).spec.mean == (pytest.approx(0.449),)  # type: ignore[attr-defined]
    sections = yaml.safe_load(run.config_file.read_text())
    for section, names in {
        "backbone": ("mean", "std", "interpolation"),
        "data": ("default_size",),
    }.items():
        for name in names:
            del sections[section][name]
    run.config_file.write_text(yaml.safe_dump(sections))
    old = build_data(run.config(), CPU).spec
    assert replace(old, samples=None) == measured()


def test_one_channel_gets_the_average_and_several_get_that_of_one() -> None:
    gray, colour = ImageSpec(channels=1, mean=(0.3,), std=(0.2,)), ImageSpec()
    config = BackboneConfig(mean=colour.mean, std=colour.std)
    spec = input_spec(gray, config)
    assert isinstance(spec, ImageSpec)
    assert spec.mean == (pytest.approx(sum(colour.mean) / 3),)
    assert input_spec(colour, BackboneConfig(mean=MEAN, std=STD)) == replace(
        colour, mean=MEAN * 3, std=STD * 3
    )
    four = ImageSpec(channels=4, mean=(0.1,) * 4, std=(0.2,) * 4)
    with collect_notices() as notices:
        assert input_spec(four, config) == four
    assert "4 channels are normalised by their own" in notices[0]["text"]
    # timm adds the kernels of the colours for one channel, so gray images look to them as in colour.
    same = BackboneConfig(mean=(0.5,) * 3, std=(0.25,) * 3)
    kernel, image = torch.randn(8, 3, 3, 3), torch.randint(256, (2, 1, 8, 8), dtype=torch.uint8)
    fed, in_colour = input_spec(replace(gray, size=8), same), input_spec(replace(colour, size=8), same)
    torch.testing.assert_close(
        F.conv2d(fed.prepare(image), kernel.sum(1, keepdim=True)),  # type: ignore[arg-type]
        F.conv2d(in_colour.prepare(image), kernel),  # type: ignore[arg-type]
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize(
    ("given", "files", "digits"),
    [
        ({}, 518, 16),
        ({"data.image_size": 28}, 28, 28),
        ({"data.default_size": 56}, 56, 16),
    ],
)
def test_files_take_the_size_of_the_weights_unless_one_is_set_and_small_arrays_stay_small(
    given: dict[str, Any], files: int, digits: int, tmp_path: Path
) -> None:
    write(tmp_path / "a.png")
    network = {"backbone.name": "vit_small_patch14_dinov2", "backbone.pretrained": True, **given}
    for source, side in ((str(tmp_path), files), ("digits", digits)):
        config = load_encoder_config({**network, "data.source": source})
        spec = load(config.data, CPU).spec
        assert isinstance(spec, ImageSpec)
        assert spec.size == side
        assert config.backbone.mean == (0.485, 0.456, 0.406)


def test_weights_of_another_tool_are_taken_for_imagenets_unless_a_tag_or_a_setting_tells(
    tmp_path: Path,
) -> None:
    file = tmp_path / "w.pth"
    file.touch()
    half = (0.5, 0.5, 0.5)
    for name, given, mean, guessed in (
        ("vit_small_patch16_224", {}, (0.485, 0.456, 0.406), True),
        ("vit_small_patch16_224.augreg_in1k", {}, half, False),
        ("vit_small_patch16_224", {"backbone.mean": half, "backbone.std": half}, half, False),
        ("resnet18", {"backbone.options": {"pretrained_cfg_overlay": {"mean": half}}}, half, False),
    ):
        with collect_notices() as notices:
            values = {"backbone.name": name, "backbone.weights": str(file), **given}
            assert load_encoder_config(values).backbone.mean == mean
        assert [n["notice"] for n in notices] == ["normalisation-guessed"] * guessed
    assert load_encoder_config({"backbone.name": "resnet18"}).backbone.mean is None


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("side", "size"), [(37, 32), (64, 20), (20, 33)])
def test_resizing_is_torchvisions_clipped_to_the_range(interpolation: str, side: int, size: int) -> None:
    coarse = torch.randint(2, (2, 3, 10, 10), generator=torch.Generator().manual_seed(0)).byte() * 255
    x = F.interpolate(coarse, (side, side))
    spec = ImageSpec(size=size, mean=(0.0,) * 3, std=(1.0,) * 3, interpolation=interpolation)  # type: ignore[arg-type]
    mode = TF.InterpolationMode(interpolation)
    free = TF.resize(x / 255, [size, size], mode, antialias=True)
    assert (free.max() > 1.05) == (interpolation == "bicubic")
    torch.testing.assert_close(spec.prepare(x), free.clamp(0, 1), atol=1e-5, rtol=0)
    if size < side:  # files are decoded to squares that are larger than the input
        ours = torch.from_numpy(resize(x[0].double().numpy() / 255, size, interpolation))
        torch.testing.assert_close(ours.float(), free[0].clamp(0, 1), atol=1e-5, rtol=0)


def test_pretrained_weights_are_evaluated_with_their_interpolation_and_others_bilinearly(
    run: Run, tmp_path: Path
) -> None:
    (file := tmp_path / "w.pth").touch()
    bicubic = {"pretrained_cfg_overlay": {"interpolation": "bicubic"}}
    vit, resnet = "vit_small_patch16_224.dino", "resnet18.tv_in1k"
    for given, expected in (
        ({"backbone.name": vit, "backbone.pretrained": True}, "bicubic"),
        ({"backbone.name": vit}, None),
        ({"backbone.name": vit, "backbone.weights": str(file)}, "bicubic"),
        ({"backbone.name": "vit_small_patch16_224", "backbone.weights": str(file)}, None),
        ({"backbone.name": resnet, "backbone.pretrained": True}, "bilinear"),
        ({"backbone.name": resnet, "backbone.pretrained": True, "backbone.options": bicubic}, "bicubic"),
        (
            {"backbone.name": vit, "backbone.pretrained": True, "backbone.interpolation": "bilinear"},
            "bilinear",
        ),
        ({"backbone.weights": str(run.path)}, "bilinear"),
    ):
        assert load_encoder_config(given).backbone.interpolation == expected
    pretrained = load_encoder_config({"backbone.name": vit, "backbone.pretrained": True}).backbone
    assert input_spec(ImageSpec(), pretrained).interpolation == "bicubic"  # type: ignore[attr-defined]
    untrained = input_spec(ImageSpec(), pretrained.untrained())
    assert untrained.interpolation == "bilinear"  # type: ignore[attr-defined]


def test_a_run_from_pretrained_weights_states_their_interpolation_wherever_it_goes(
    published: dict[str, Any], tmp_path: Path
) -> None:
    overlay = published["backbone.options"]["pretrained_cfg_overlay"] | {"interpolation": "bicubic"}
    options = {"pretrained_cfg_overlay": overlay}
    given = {name.replace(".", "__"): value for name, value in published.items()}
    config = small_config("rotation", **{**given, "backbone__options": options})
    trained = train(config, out=tmp_path / "run", protocol=[])
    network: Any = load_backbone(trained.path)
    spec = network.ssl_zoo_spec
    assert spec.interpolation == "bicubic"
    image = photo((18, 18)).convert("L")
    batch = torch.from_numpy(np.array(image))[None, None]
    torch.testing.assert_close(network.ssl_zoo_preprocess(image), spec.prepare(batch))
    code = export(trained.path, tmp_path / "folder")
    assert "by bicubic interpolation" in code
    assert "interpolation='bicubic'" in code
    assert "by bicubic interpolation" in (tmp_path / "folder" / "README.md").read_text()
    known = json.loads((tmp_path / "folder" / "config.json").read_text())["pretrained_cfg"]
    assert known["interpolation"] == "bicubic"
    again = load_encoder_config({"backbone.weights": str(trained.path)})
    assert again.backbone.interpolation == "bicubic"
    header = json.loads(spec.to_header())
    del header["interpolation"]  # as earlier versions wrote it
    assert ImageSpec.from_header(json.dumps(header)).interpolation == "bilinear"


@pytest.mark.parametrize(
    "overlay", [{"mean": "evil"}, {"std": [0.0, 1, 1]}, {"no": 1}, {"input_size": 3}]
)
def test_a_description_of_weights_that_makes_no_sense_is_not_used(overlay: dict[str, Any]) -> None:
    assert trained_on("resnet18", {"pretrained_cfg_overlay": overlay}) is None


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"mean": [0.5]}, "mean and std belong together"),
        ({"mean": [0.5], "std": [0.5, 0.5]}, "mean and std belong together"),
        ({"mean": [0.5], "std": [0.0]}, "std must be above 0"),
        ({"mean": [], "std": []}, "std must be above 0"),
    ],
)
def test_a_normalisation_that_cannot_be_is_refused(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        BackboneConfig(**given)


def test_settings_without_an_interpolation_are_those_of_bilinear() -> None:
    none = small_config("simclr")
    bilinear = small_config("simclr", backbone__interpolation="bilinear")
    bicubic = small_config("simclr", backbone__interpolation="bicubic")
    assert changed_settings(result_affecting_settings(none), bilinear) == {}
    changed = changed_settings(result_affecting_settings(none), bicubic)
    assert changed == {"backbone.interpolation": ("bilinear", "bicubic")}
    assert comparable_settings(none) == comparable_settings(bilinear) != comparable_settings(bicubic)
