"""Exports under torchvision's names, and as a folder for Hugging Face's hub with a model card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml

from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo.errors import Unsuitable
from ssl_zoo.runs.backbone import load_backbone
from ssl_zoo.runs.run import Run
from ssl_zoo.tools.export import export
from ssl_zoo.tools.model_card import write_card
from tests.conftest import small_config
from tests.core.test_export import NARROW, images, trained

VIT = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}


@pytest.mark.parametrize("name", ["resnet18", "resnet50.a1_in1k"])
def test_torchvision_loads_the_weights_strictly_with_the_same_features(
    name: str, tmp_path: Path
) -> None:
    run = trained(tmp_path / "run", BackboneConfig(name=name, stem="original"), 32)
    file = tmp_path / "backbone.pth"
    scope: dict[str, Any] = {}
    exec(export(run, file), scope)
    assert type(scope["model"]).__module__.startswith("torchvision")
    with torch.no_grad():
        features, expected = scope["model"](images(48)), load_backbone(run)(images(48))
    assert expected.std() > 0
    torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("backbone", "channels"),
    [
        ({"name": "resnet18"}, 3),  # with a small stem
        ({"name": "resnet18", "stem": "original"}, 1),
        ({"name": "resnet18", "stem": "original", "options": NARROW}, 3),
        ({"name": "resnet18d"}, 3),
    ],
)
def test_a_network_that_torchvision_lacks_is_refused(
    backbone: dict[str, Any], channels: int, tmp_path: Path
) -> None:
    run = trained(tmp_path / "run", BackboneConfig(**backbone), 32, channels)
    with pytest.raises(
        Unsuitable, match=r"torchvision has no network that is resnet18d? with this stem"
    ):
        export(run, tmp_path / "backbone.pth")
    assert [file.name for file in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    ("backbone", "size", "channels"),
    [
        ({"name": "resnet18", "stem": "original", "options": NARROW}, 40, 1),
        ({"name": "vit_tiny_patch16_224", "options": VIT}, 32, 3),
    ],
)
def test_timm_loads_the_folder_offline_with_the_same_features(
    backbone: dict[str, Any], size: int, channels: int, tmp_path: Path
) -> None:
    run, folder = tmp_path / "run", tmp_path / "folder"
    trained(run, BackboneConfig(**backbone), size, channels)
    code = export(run, folder)
    assert sorted(file.name for file in folder.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    scope: dict[str, Any] = {}
    exec(code, scope)
    x = images(size, channels=channels)
    with torch.no_grad():
        expected = load_backbone(run)(x)
        torch.testing.assert_close(scope["model"](x), expected, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(load_backbone(folder / "model.safetensors")(x), expected)
    data = timm.data.resolve_model_data_config(scope["model"])
    assert tuple(data["input_size"]) == (channels, size, size)
    assert tuple(data["mean"]) == (0.3, 0.6, 0.5)[:channels]
    assert code in (folder / "README.md").read_text()
    assert str(tmp_path) not in (folder / "config.json").read_text()


def test_a_small_stem_which_timm_cannot_build_is_refused_and_no_folder_left(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", BackboneConfig(name="resnet18", options=NARROW), 32)
    with pytest.raises(
        Unsuitable, match="timm cannot build a small stem from such a folder; train with"
    ):
        export(run, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_the_model_card_tells_data_budget_weights_licence_and_scores(tmp_path: Path) -> None:
    config = small_config("simclr", backbone__name="resnet18", backbone__pretrained=True)
    run = Run.create(tmp_path / "run", config)
    run.write_results(
        {"samples": 1408, "stopped_early": True, "data": {"train": 1438}}
        | {"scores": {"simclr": {"knn": 91.26, "rankme": 10.0}, "pixels": {"knn": 97.0}}}
    )
    write_card(tmp_path, run.path, "CODE", config.backbone, "timm")
    text = (tmp_path / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "tags": ["self-supervised-learning", "feature-extraction"],
        "library_name": "timm",
        "license": "apache-2.0",
    }
    for line in (
        "# resnet18, trained by simclr",
        "- data: digits, 1,438 samples to train on",
        "- budget: 1 epochs, 1,408 samples drawn, stopped early; batches of 128, seed 0",
        "- started from: timm's weights of resnet18",
        "- licence of those weights: apache-2.0",
        "| | simclr | pixels |",
        "| kNN % | 91.3 | 97.0 |",
        "| RankMe | 10.0 |  |",
    ):
        assert line in body.splitlines()
    assert "- task: simclr (Chen et al. 2020" in body
    random = Run.create(tmp_path / "random", small_config("simclr", data__source="a/b<i>"))
    write_card(tmp_path, random.path, "CODE", config.backbone, "")
    text = (tmp_path / "README.md").read_text()
    assert "- started from: random weights\n- licence of those weights: none, they are random" in text
    assert "- data: b&lt;i&gt;\n" in text
    assert "- input:" not in text
    gray = Run.create(tmp_path / "gray", small_config("colorization"))
    write_card(tmp_path, gray.path, "CODE", config.backbone, "")
    assert "\n- input: gray images of the same CIE lightness" in (tmp_path / "README.md").read_text()
    assert "license:" not in text
