"""New runs from a run: by the commands that messages give, and on images of the size of its weights."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from ssl_zoo.config.load import load_config
from ssl_zoo.config.yaml import PlainDumper
from ssl_zoo.notices import collect_notices
from ssl_zoo.runs.run import Run
from ssl_zoo.training import train
from tests.conftest import Call, small_config
from tests.core.pictures import photo, write

BRIEF: dict[str, Any] = {"train__epochs": None, "train__samples": 256}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Train the default network on the digits, with nothing set about the size of images."""
    settings = {"backbone__name": None, "data__image_size": None, **BRIEF}
    out = tmp_path_factory.mktemp("runs") / "first one"
    return train(small_config("rotation", **settings), out=out, protocol=(), with_baselines=False)


@pytest.fixture
def run(finished: Run, tmp_path: Path) -> Run:
    """Return a copy that a test may edit; its path has a space."""
    return Run(shutil.copytree(finished.path, tmp_path / finished.path.name))


def edit(run: Run, section: str, **values: Any) -> None:
    config = yaml.safe_load(run.config_file.read_text())
    config[section] |= values
    run.config_file.write_text(yaml.dump(config, Dumper=PlainDumper))


def follow(call: Call, message: str, *options: str) -> Run:
    """Run the command in a message as it is printed, and return its run."""
    (command,) = re.findall(r"ssl-zoo (train --(?:from|config) .*)$", message)
    code, _, err = call(*shlex.split(command), "--out", "next", *options)
    assert code == 0, err
    return Run.open("next")


def test_a_run_with_an_edited_weight_decay_starts_anew_from_its_weights(call: Call, run: Run) -> None:
    edit(run, "train", weight_decay=0.1)
    code, _, err = call("train", "--resume", run.path)
    assert code == 2
    config = follow(call, err).config()
    assert config.train.weight_decay == 0.1
    assert config.backbone.weights == str(run.path)
    assert config.data.image_size == 16


def test_a_run_with_an_edited_network_starts_anew_without_its_weights(call: Call, run: Run) -> None:
    edit(run, "backbone", name="test_resnet")
    code, _, err = call("train", "--resume", run.path)
    assert code == 2
    assert "--from" not in err
    config = follow(call, err).config()
    assert (config.backbone.name, config.backbone.weights) == ("test_resnet", None)


def test_another_rate_for_a_finished_run_starts_anew_with_it(call: Call, run: Run) -> None:
    code, _, err = call("train", "--resume", run.path, "--lr", "0.1")
    assert code == 2
    config = follow(call, err).config()
    assert (config.task.name, config.train.lr) == ("rotation", 0.1)
    assert config.backbone.weights == str(run.path)


def test_a_run_whose_data_have_changed_starts_anew_from_its_weights(
    call: Call, run: Run, tmp_path: Path
) -> None:
    for i in range(24):
        write(tmp_path / "photos" / str(i % 2) / f"{i}.png", photo(seed=i, size=(40, 40)))
    edit(run, "data", source=str(tmp_path / "photos"))
    code, _, err = call("train", "--resume", run.path)
    assert code == 2
    config = follow(call, err, "--samples", "8", "--batch-size", "8").config()
    assert config.data.source == str(tmp_path / "photos")
    assert config.data.image_size == 16


def test_weights_of_a_run_replace_the_pretrained_ones_of_its_file(run: Run) -> None:
    edit(run, "backbone", pretrained=True)
    config = load_config(run.config_file, {"backbone.weights": str(run.path)})
    assert (config.backbone.pretrained, config.backbone.weights) == (False, str(run.path))


def test_a_network_on_other_images_takes_their_size_from_its_weights_and_it_is_said(run: Run) -> None:
    other = {"task.name": "rotation", "backbone.weights": str(run.path), "data.source": "photos"}
    with collect_notices() as notices:
        assert load_config(None, other).data.image_size == 16
    text = f"images of 16×16 pixels, as {run.path} was trained on (--image-size changes it)"
    assert [n["text"] for n in notices] == [text]
    with collect_notices() as notices:
        assert load_config(run.config_file, {**other, "data.image_size": 32}).data.image_size == 32
    assert notices == []
