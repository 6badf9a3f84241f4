"""Runs and comparisons made before the default network had a name of its own are read as they were."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from ssl_zoo.backbones.build import build_encoder
from ssl_zoo.comparison.config import comparability_key
from ssl_zoo.config.load import load_config
from ssl_zoo.config.schema import BackboneConfig, EncoderConfig
from ssl_zoo.config.settings import result_affecting_settings
from ssl_zoo.runs.backbone import load_backbone, write_backbone
from ssl_zoo.runs.run import Run
from ssl_zoo.spec import ImageSpec

OLD_BACKBONE = """\
  name: resnet18
  pretrained: false
  stem: auto
  stem_stride: 2
  options: {channels: [32, 64, 128, 256], layers: [1, 1, 1, 1]}
"""
OLD_CONFIG = f"task: {{name: simclr}}\nbackbone:\n{OLD_BACKBONE}train: {{epochs: 1.0}}\n"
OLD_HEADER = (
    '{"name":"resnet18","pretrained":false,"stem":"auto","stem_stride":2,'
    '"options":{"channels":[32,64,128,256],"layers":[1,1,1,1]}}'
)
SPEC = ImageSpec(channels=1, size=16, mean=(0.5,), std=(0.25,))


@pytest.fixture
def old_run(tmp_path: Path) -> Run:
    run = Run(tmp_path)
    run.config_file.write_text(OLD_CONFIG)
    backbone = BackboneConfig.model_validate_json(OLD_HEADER)
    write_backbone(run.backbone_file, build_encoder(backbone, SPEC, 0), backbone, SPEC)
    with safe_open(run.backbone_file, "pt") as tensors:
        assert tensors.metadata()["backbone"] == OLD_HEADER
    return run


def test_old_settings_equal_those_of_the_default_network(old_run: Run) -> None:
    old = old_run.config()
    new = load_config(None, {"task.name": "simclr", "train.epochs": 1})
    assert (old.backbone.name, new.backbone.name) == ("resnet18", "resnet10_narrow")
    assert comparability_key(old) == comparability_key(new)
    assert result_affecting_settings(old) == result_affecting_settings(new)
    baseline = EncoderConfig.model_validate({"backbone": json.loads(OLD_HEADER)})
    assert result_affecting_settings(baseline) == result_affecting_settings(EncoderConfig())
    other = load_config(None, {"task.name": "simclr", "backbone.name": "resnet18"})
    assert comparability_key(old) != comparability_key(other)


def test_old_weights_are_those_of_the_default_network(old_run: Run) -> None:
    old = load_backbone(old_run.path).state_dict()
    new = build_encoder(BackboneConfig(), SPEC, 0).model.state_dict()
    assert old.keys() == new.keys()
    assert all(torch.equal(old[name], new[name]) for name in new)
