"""Runs and comparisons of older versions are read as they were.

The default network had no name of its own, the unit of budgets was ``images``, and the raw input was the
baseline ``pixels``.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from ssl_zoo.backbones.build import build_encoder
from ssl_zoo.comparison import compare, open_sweep, tabulate
from ssl_zoo.comparison.comparability import comparability_key
from ssl_zoo.config.load import load_config
from ssl_zoo.config.schema import BackboneConfig, EncoderConfig
from ssl_zoo.config.settings import result_affecting_settings
from ssl_zoo.runs.backbone import load_backbone, write_backbone
from ssl_zoo.runs.run import Run
from ssl_zoo.spec import ImageSpec
from ssl_zoo.training import train
from tests.conftest import SMALL, Call, small_config

OLD_BACKBONE = """\
  name: resnet18
  pretrained: false
  stem: auto
  stem_stride: 2
  options: {channels: [32, 64, 128, 256], layers: [1, 1, 1, 1]}
"""
OLD_CONFIG = f"""\
task: {{name: simclr}}
data: {{source: cifar10}}
backbone:
{OLD_BACKBONE}train: {{epochs: 1.0}}
"""
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


def without_start(settings: dict[str, Any]) -> dict[str, Any]:
    """Leave out how residual branches start, which was timm's way: at zero."""
    options = dict(settings["backbone.options"])
    assert options.pop("zero_init_last") is False
    return {**settings, "backbone.options": options}


def test_old_settings_equal_those_of_the_default_network(old_run: Run) -> None:
    old = old_run.config()
    new = load_config(None, {"task.name": "simclr", "data.source": "cifar10", "train.epochs": 1})
    assert (old.backbone.name, new.backbone.name) == ("resnet18", "resnet10_narrow")
    assert comparability_key(old) == without_start(comparability_key(new))
    assert result_affecting_settings(old) == without_start(result_affecting_settings(new))
    baseline = EncoderConfig.model_validate({"backbone": json.loads(OLD_HEADER)})
    now = without_start(result_affecting_settings(EncoderConfig()))
    assert result_affecting_settings(baseline) == now
    other = load_config(None, {"task.name": "simclr", "backbone.name": "resnet18"})
    assert comparability_key(old) != comparability_key(other)


def test_old_weights_are_those_of_the_default_network(old_run: Run) -> None:
    old = load_backbone(old_run.path).state_dict()
    as_timm = BackboneConfig(options={"zero_init_last": True})
    new = build_encoder(as_timm, SPEC, 0).model.state_dict()
    assert old.keys() == new.keys()
    assert all(torch.equal(old[name], new[name]) for name in new)


# ---- images


BRIEF: dict[str, Any] = {"train__epochs": None, "train__log_every": 1}


def as_old(run: Run) -> None:
    """Give a run's files the names that older versions wrote."""
    names = {"samples": "images", "samples_per_second": "images_per_second",
             "passes_per_sample": "passes_per_image"}  # fmt: skip

    def old(values: dict[str, Any]) -> dict[str, Any]:
        return {names.get(key, key): value for key, value in values.items()}

    run.config_file.write_text(run.config_file.read_text().replace("  samples:", "  images:"))
    lines = [json.dumps(old(line)) + "\n" for line in run.metrics()]
    run.metrics_file.write_text("".join(lines))
    run.results_file.write_text(json.dumps(old(run.results())))
    state = run.checkpoints.load()
    settings = state["settings"]
    settings["train.images"] = settings.pop("train.samples")
    state["budget"]["step_images"] = state["budget"].pop("step_samples")
    state["metrics_bytes"] = run.metrics_file.stat().st_size
    run.checkpoints.save(state)


@pytest.fixture(scope="module")
def run_of_images(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = train(
        small_config("rotation", train__samples=256, **BRIEF),
        out=tmp_path_factory.mktemp("old") / "run",
        protocol=["health"],
    )
    as_old(run)
    assert '"images": 256' in run.metrics_file.read_text()
    return run


def test_a_run_that_counted_images_is_read_and_tabulated(run_of_images: Run) -> None:
    assert run_of_images.config().train.samples == 256
    results, metrics = run_of_images.results(), run_of_images.metrics()
    assert (results["samples"], metrics[-1]["samples"]) == (256, 256)
    assert results["samples_per_second"] > 0
    table = tabulate([run_of_images.path], columns=["images", "throughput", "passes"], sort="images")
    figures = next(row for row in table.rows if row.name == "rotation").figures
    assert [column.title for column in table.columns] == ["images", "images/s", "passes"]
    estimates = [figures[name].estimate for name in ("samples", "throughput", "passes")]
    assert [e.mean for e in estimates if e is not None] == [
        256, results["samples_per_second"], results["passes_per_sample"]
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["samples", "images"])
def test_a_run_that_counted_images_goes_on(run_of_images: Run, tmp_path: Path, name: str) -> None:
    subprocess.run(["cp", "-r", str(run_of_images.path), str(tmp_path / "run")], check=True)
    run = train(resume=tmp_path / "run", settings={f"train.{name}": 512}, protocol=["health"])
    assert [line["samples"] for line in run.metrics()] == [128, 256, 384, 512]
    assert run.results()["samples"] == run.config().train.samples == 512
    assert "images" not in json.loads(run.results_file.read_text())


def test_a_checkpoint_that_counted_images_sees_an_edited_budget(
    run_of_images: Run, tmp_path: Path
) -> None:
    subprocess.run(["cp", "-r", str(run_of_images.path), str(tmp_path / "run")], check=True)
    file = tmp_path / "run" / "config.yaml"
    file.write_text(file.read_text().replace("images: 256", "images: 512"))
    with pytest.raises(Exception, match=r"train\.samples: 256 in the checkpoint, 512 in config\.yaml"):
        train(resume=tmp_path / "run")


def test_the_flag_and_the_setting_of_before_still_work(call: Call, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("task: {name: rotation}\ntrain: {images: 300}\n")
    assert load_config(file).train.samples == 300
    assert load_config(file, {"train.samples": 400}).train.samples == 400
    assert load_config(file, sets=["train.images=500"]).train.samples == 500
    assert load_config(file, {"train.epochs": 2}).train.samples is None
    sweeps = [
        open_sweep(tasks=["rotation"], train={"images": 300}),
        open_sweep(tasks=["rotation"], train={"samples": 300}),
    ]
    assert sweeps[0].out == sweeps[1].out
    for flag in ("--images", "--samples"):
        code, _, err = call("train", "--config", file, flag, "-5")
        assert code == 2
        assert "--samples: train.samples: must be greater than 0, not -5" in err


def test_a_metric_of_a_task_may_be_called_images(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.metrics_file.write_text('{"step": 1, "samples": 128, "images": 3.5}\n')
    assert run.metrics() == [{"step": 1, "samples": 128, "images": 3.5}]


# ---- pixels


def test_a_comparison_whose_raw_row_is_pixels_is_kept(tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "tasks": ["rotation"], "seeds": 1, "protocols": ["health"], "baselines": ["pixels"],
        "set": {**SMALL, "train.epochs": None, "train.images": 256},
    }  # fmt: skip
    out = tmp_path / "c"
    compare(out=out, **given)
    (out / "raw").rename(out / "pixels")
    as_old(Run(out / "rotation-0"))
    file = out / "compare.yaml"
    file.write_text(file.read_text().replace("- raw", "- pixels").replace("samples: 256", "images: 256"))
    assert "pixels" in file.read_text()
    assert "train.images: 256" in file.read_text()
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/results.json")}
    table = tabulate([out])
    again = compare(file, out=out)
    assert {path: path.stat().st_mtime_ns for path in out.glob("*/results.json")} == before
    assert [row.name for row in again.rows] == [row.name for row in table.rows] == ["rotation", "pixels"]
    assert again.rows[0].figures["samples"].estimate is not None
    assert any(text == "pixels: the raw input, shrunk to at most 32×32." for text in again.foot)
    assert {cell.name for cell in open_sweep(file, out).cells} == {"pixels", "rotation-0"}
