"""The commands that advice ends with: each of them can be pasted, and does what it says."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from ssl_zoo import load_backbone
from ssl_zoo.advice import api
from ssl_zoo.advice.plan import Trial
from ssl_zoo.backbones.build import build_encoder
from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo.spec import ImageSpec
from tests.conftest import Call, small_config, train
from tests.core.pictures import photo, write


@pytest.fixture(name="data")
def photos_and_labelled(tmp_path: Path) -> list[str]:
    """Make 20 pictures without labels, and 48 in two classes, in folders with spaces in their names."""
    for i in range(20):
        write(tmp_path / "my photos" / f"{i}.png", photo((20, 20), seed=i))
    for i in range(48):
        picture = photo((20, 20), seed=100 + i)
        picture = picture if i % 2 else picture.point(lambda v: v // 2)
        write(tmp_path / "some labels" / ("light" if i % 2 else "dark") / f"{i}.png", picture)
    return ["--data", str(tmp_path / "my photos"), "--labels", str(tmp_path / "some labels")]


@pytest.fixture(name="run", scope="module")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run") / "pre"
    train(small_config("simclr", train__epochs=0.2), out=run)
    return run


@pytest.fixture(name="checkpoint")
def checkpoint_of_another_tool(tmp_path: Path) -> Path:
    encoder = build_encoder(
        BackboneConfig(name="test_resnet"), ImageSpec("image", size=16, channels=3), 0
    )
    file = tmp_path / "other.pth"
    torch.save(encoder.exported_network.state_dict(), file)
    return file


QUICK = ["--tasks", "simclr", "--batch-size", "16", "--device", "cpu", "--precision", "fp32"]


def advise(call: Call, monkeypatch: pytest.MonkeyPatch, *words: object) -> dict[str, object]:
    """Return advice without training, whose verdict is to use the frozen network, in the folder "a"."""
    quick = Trial(step_seconds=1e4, setup_seconds=0.1, steps_per_pass=10)
    monkeypatch.setattr(api, "try_training", lambda *arguments: quick)
    code, out, err = call("advise", *words, *QUICK, "--minutes", "30", "--out", "a", "--json")
    assert code == 0, err
    result: dict[str, object] = json.loads(out)
    return result


def pasted(call: Call, command: object) -> tuple[str, str]:
    """Run a command as a shell would, and return what it prints."""
    program, *words = shlex.split(str(command), comments=True)
    assert program == "ssl-zoo"
    code, out, err = call(*words)
    assert code == 0, err
    return out, err


@pytest.mark.parametrize("kind", ["run", "checkpoint"])
def test_every_command_after_a_frozen_network_is_done(
    kind: str, call: Call, data: list[str], monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    source: Path = request.getfixturevalue(kind)
    named = ["--backbone", "test_resnet", "--image-size", "16"] if kind == "checkpoint" else []
    settings = ["--set", "data.labels=auto", "--set", "data.range_percentiles=[1, 99]"]
    result = advise(call, monkeypatch, *data, "--from", source, *named, *settings)
    verdict, rows = result["verdict"], result["rows"]
    assert isinstance(verdict, dict)
    assert isinstance(rows, list)
    assert verdict["row"] == "pretrained"
    commands = result["commands"]
    assert isinstance(commands, list)
    assert [shlex.split(command)[1] for command in commands] == ["embed", "export", "eval", "advise"]
    embed, export, evaluate, again = commands
    (file,) = {shlex.split(command)[2] for command in (embed, export, evaluate)}
    assert Path(file).parent.parent == Path("a")
    if source.is_file():
        source.unlink()  # what is kept suffices
    pasted(call, embed)
    with np.load("features.npz") as arrays:
        assert len(arrays["features"]) == 68 + 24  # the 24 that are learned from are in the bank too
    pasted(call, export)
    assert load_backbone("backbone.safetensors") is not None
    out, _ = pasted(call, f"{evaluate} --json")
    (scores,) = [row["scores"] for row in rows if row["row"] == "pretrained"]
    found = json.loads(out)["scores"][file]
    assert {name: found[name] for name in ("knn", "linear")} == {
        name: pytest.approx(scores[name]) for name in ("knn", "linear")
    }
    if kind == "run":
        pasted(call, f"{again} --plan --out b")
        first, second = (json.loads(Path(f, "advice.json").read_text())["request"] for f in "ab")
        assert second == {**first, "minutes": 120}


@pytest.mark.parametrize(("settings", "held_out"), [([], 24), (["--set", "data.holdout=0.25"], 12)])
def test_half_of_labels_in_the_data_are_held_out_unless_a_share_is_set(
    settings: list[str], held_out: int, call: Call, data: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = Trial(step_seconds=1, setup_seconds=0.1, steps_per_pass=10)
    monkeypatch.setattr(api, "try_training", lambda *arguments: quick)
    labelled = data[-1]
    words = ["--data", labelled, "--backbone", "test_resnet", "--image-size", 16, "--no-pretrained"]
    code, _, err = call("advise", *words, *QUICK, *settings, "--minutes", 30, "--out", "a", "--plan")
    assert code == 0, err
    assert f"48 images: {48 - held_out} to train, {held_out} held out" in err
    assert ("50% of some labels is held out to evaluate on, by class" in err) is (not settings)
    comparison = yaml.safe_load(Path("a/compare.yaml").read_text())
    assert comparison["set"]["data.holdout"] == held_out / 48  # which the rows are made with
