"""Weights that cannot be taken, or of which several could be: the message says what is in the file."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ssl_zoo.backbones.create import create_backbone
from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo.errors import UserError
from tests.conftest import ssl_zoo
from tests.core.test_weights import RESNET, body, build, features, images, other, source, spec, under


def pretrained(file: Path, **settings: Any) -> None:
    """Build the network with timm's own way to load a file."""
    overlay = {**RESNET, "pretrained_cfg_overlay": {"file": str(file)}}
    config = BackboneConfig(name="resnet18", pretrained=True, options=overlay, **settings)
    create_backbone(config, spec())


def test_quantised_weights_are_refused_not_scored_as_numbers(tmp_path: Path) -> None:
    state = source().state_dict()
    codes = {n: (t * 100).to(torch.int8) if n.endswith("conv1.weight") else t for n, t in state.items()}
    save_file(codes, tmp_path / "int8.safetensors")
    for load in (build, pretrained):
        with pytest.raises(UserError, match=r"5 not floating-point numbers.*: conv1\.weight int8, "):
            load(tmp_path / "int8.safetensors")
    save_file({n: t.half() for n, t in state.items()}, tmp_path / "half.safetensors")
    build(tmp_path / "half.safetensors")


@pytest.mark.parametrize(
    ("taken", "left"),
    [
        ("online_encoder.net.", "target_encoder.net."),
        ("online_network.encoder.", "target_network.encoder."),
        ("target_encoder.", "encoder."),  # I-JEPA
        ("ema_model.", "online_model."),
    ],
)
def test_of_two_encoders_the_one_that_the_method_evaluates_is_taken(
    tmp_path: Path, taken: str, left: str
) -> None:
    state = body(source().state_dict())
    torch.save({**under(left, other(state)), **under(taken, state)}, tmp_path / "two.pth")
    encoder = build(tmp_path / "two.pth")
    assert torch.equal(features(encoder.model, images()), features(source(), images()))


def test_a_prefix_without_its_outer_part_is_refused_with_the_prefixes_of_the_file(
    tmp_path: Path,
) -> None:
    state = under("net.x.", body(source().state_dict()))
    torch.save({"state_dict": state}, tmp_path / "nested.pth")
    with pytest.raises(UserError) as error:
        build(tmp_path / "nested.pth", weights_prefix="net.x")
    assert "they stand under 'state_dict.net.x.'" in str(error.value)
    build(tmp_path / "nested.pth", weights_prefix="state_dict.net.x")


def test_names_outside_the_prefix_are_not_called_missing(tmp_path: Path) -> None:
    state = body(source().state_dict())
    half = {n if n.startswith("layer4") else f"backbone.{n}": t for n, t in state.items()}
    torch.save(half, tmp_path / "half.pth")
    with pytest.raises(UserError) as error:
        build(tmp_path / "half.pth")
    assert "15 in the file, but not under the prefix: layer4.0.conv1.weight, " in str(error.value)
    assert "missing" not in str(error.value)


def test_all_names_are_listed_and_their_number_is_given_once(tmp_path: Path) -> None:
    state = source().state_dict()
    save_file({n: t for n, t in state.items() if not n.startswith("layer4")}, tmp_path / "w.safetensors")
    with pytest.raises(UserError) as error:
        build(tmp_path / "w.safetensors")
    norm = "{weight,bias,running_mean,running_var}"
    assert (
        f"15 missing in the file: layer4.0.conv1.weight, layer4.0.bn1.{norm}, layer4.0.conv2.weight, "
        f"layer4.0.bn2.{norm}, layer4.0.downsample.0.weight, layer4.0.downsample.1.{norm}; give"
    ) in str(error.value)


def test_scores_of_numpy_beside_the_weights_do_not_matter(tmp_path: Path) -> None:
    state = source().state_dict()
    scores = {"best": np.float64(71.5), "loss": np.float32(0.5), "epoch": np.int64(3)}
    torch.save({"state_dict": state, **scores}, tmp_path / "w.pth")
    encoder = build(tmp_path / "w.pth")
    assert torch.equal(features(encoder.model, images()), features(source(), images()))


def test_a_file_with_code_is_refused_with_the_name_of_what_it_holds(tmp_path: Path) -> None:
    torch.save({"state_dict": source().state_dict(), "path": Path("x")}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"\(Unsupported global: GLOBAL pathlib\S*\); if you trust it"):
        build(tmp_path / "w.pth")


def test_pretrained_with_a_wrong_file_prints_one_line(tmp_path: Path) -> None:
    file = tmp_path / "moco.pth"
    torch.save(under("encoder_q.", source().state_dict()), file)
    overlay = json.dumps({**RESNET, "pretrained_cfg_overlay": {"file": str(file)}})
    options = ["--pretrained", "--image-size", "16", "--set", f"backbone.options={overlay}", "--quiet"]
    ended = ssl_zoo("eval", "timm:resnet18", *options)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: backbone.pretrained: the weights do not fit resnet18: ")
    assert not logging.getLogger("timm.models._builder").filters
