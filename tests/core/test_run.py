"""A run directory is intact at any moment, and an error in one is reported in one line."""

from __future__ import annotations

import errno
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ssl_zoo.errors import SslZooError, UserError
from ssl_zoo.runs.backbone import load_backbone, write_backbone
from ssl_zoo.runs.build import build_data, build_task, restore_task
from ssl_zoo.runs.run import Run
from ssl_zoo.runtime.files import write_atomic
from tests.conftest import small_config, train

CPU = torch.device("cpu")


@pytest.fixture(name="run", scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    config = small_config("simclr", train__epochs=0.2)
    return train(config, out=tmp_path_factory.mktemp("r") / "run")


@pytest.fixture
def empty(tmp_path: Path) -> Run:
    """Create a run that has made no step."""
    return Run.create(tmp_path / "run", small_config("simclr"))


def complaint(function: Any, *arguments: Any) -> str:
    with pytest.raises(UserError) as caught:
        function(*arguments)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


# ---- writing


def test_a_file_is_replaced_with_its_new_content_and_nothing_else_is_left(tmp_path: Path) -> None:
    file = tmp_path / "file"
    for content in (b"old", b"new and longer", b""):
        write_atomic(file, content)
        assert file.read_bytes() == content
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_whole_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    file = tmp_path / "file"
    write_atomic(file, b"old")

    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*(os, "fsync") if broken == "fsync" else (Path, "replace"), full)
    with pytest.raises(SslZooError, match=f"cannot write {file}: No space left on device"):
        write_atomic(file, b"new")
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_full_disk_costs_no_checkpoint(empty: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    empty.checkpoints.save({"task": {"w": torch.ones(3)}})

    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SslZooError, match="No space left"):
        empty.checkpoints.save({"task": {"w": torch.zeros(3)}})
    assert empty.checkpoints.load()["task"]["w"].equal(torch.ones(3))


def test_a_run_that_cannot_write_its_configuration_is_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert "No space left" in complaint(Run.create, tmp_path / "run", small_config("simclr"))
    assert list(tmp_path.iterdir()) == []


def test_runs_without_a_place_of_their_own_get_different_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = small_config("simclr")
    with ThreadPoolExecutor(8) as pool:  # all within one second
        paths = [run.path for run in pool.map(lambda _: Run.create(None, config), range(8))]
    assert len(set(paths)) == 8
    assert all(str(path).startswith("runs/simclr-digits-") for path in paths)


def test_a_run_is_not_made_over_anything(empty: Run, tmp_path: Path) -> None:
    config = small_config("simclr")
    message = complaint(Run.create, empty.path, config)
    assert message.endswith(f"choose another folder, or resume it: --resume {empty.path}")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "mine", tmp_path / "file"):
        assert complaint(Run.create, path, config).endswith("not empty; choose another folder")
    assert "cannot be made: Not a directory" in complaint(Run.create, tmp_path / "file" / "run", config)
    (tmp_path / "void").mkdir()
    assert Run.create(tmp_path / "void", config).config_file.is_file()


def test_discarding_a_run_spares_what_is_not_its_own(empty: Run) -> None:
    (empty.path / "notes.txt").write_text("x")
    (empty.path / "an-observers").mkdir()
    empty.metrics_file.write_text("")
    empty.discard()
    assert [p.name for p in empty.path.iterdir()] == ["notes.txt"]


def test_what_a_run_was_made_with_is_written_down(run: Run) -> None:
    provenance = run.config().provenance
    assert {"ssl-zoo", "torch", "torchvision", "timm"} <= provenance["versions"].keys()
    assert provenance["versions"]["torch"] == version("torch")
    assert run.config().task == small_config("simclr").task


# ---- what is wrong with a run


def test_a_directory_that_is_no_run(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        assert complaint(Run.open, path) == f"{path} is not a run: it has no config.yaml"


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04 and so on", None])
def test_a_checkpoint_that_is_cut_off_or_garbage(empty: Run, run: Run, content: bytes | None) -> None:
    whole = run.checkpoints.file.read_bytes()
    empty.checkpoints.file.write_bytes(whole[: len(whole) // 2] if content is None else content)
    message = complaint(empty.checkpoints.load)
    assert message.startswith(f"{empty.checkpoints.file} cannot be read: ")
    assert complaint(lambda: train(resume=empty.path)) == message


def test_a_checkpoint_of_something_else(empty: Run) -> None:
    data = build_data(empty.config(), CPU)
    assert complaint(empty.checkpoints.load) == f"{empty.path} has no checkpoint; train it first"
    torch.save([1, 2], empty.checkpoints.file)
    assert "is not a checkpoint of ssl-zoo" in complaint(empty.checkpoints.load)
    torch.save({"task": {"w": torch.ones(3)}, "ema": None}, empty.checkpoints.file)
    message = complaint(restore_task, empty, data.spec)
    assert message.startswith(f"{empty.checkpoints.file} does not fit the installed versions: ")
    assert "does not fit the installed versions" in complaint(lambda: train(resume=empty.path))


def test_a_run_whose_task_is_no_longer_installed(empty: Run) -> None:
    text = empty.config_file.read_text()
    empty.config_file.write_text(text.replace("name: simclr", "name: origami"))
    for function in (Run.open(empty.path).config, lambda: train(resume=empty.path)):
        message = complaint(function)
        assert message.startswith(f"{empty.config_file}: ")
        assert "there is no task 'origami'" in message


@pytest.mark.parametrize("newer", ["99.0.0", "0.99.1", "1000.1"])
def test_a_run_that_a_newer_version_made(empty: Run, newer: str) -> None:
    here = version("ssl-zoo")
    text = empty.config_file.read_text()
    # Settings that a newer version has added are not what is complained of.
    made = text.replace(f"ssl-zoo: {here}", f"ssl-zoo: {newer}").replace("train:", "train:\n  new: 1")
    empty.config_file.write_text(made)
    for function in (Run.open(empty.path).config, lambda: train(resume=empty.path)):
        assert complaint(function) == (
            f"{empty.path} was made by ssl-zoo {newer}, which is newer than {here} here; "
            "upgrade: pip install -U ssl-zoo"
        )
    empty.config_file.write_text(text.replace(f"ssl-zoo: {here}", "ssl-zoo: 0.0.1"))
    assert Run.open(empty.path).config().task.name == "simclr"


def test_results_that_are_broken_and_metrics_that_are_still_being_written(empty: Run) -> None:
    assert (empty.results(), empty.metrics()) == ({}, [])
    empty.metrics_file.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert empty.metrics() == [{"step": 1}, {"step": 2}]
    empty.write_results({"a": 1, "b": 2})
    empty.write_results({"b": 3})
    assert json.loads(empty.results_file.read_text()) == {"a": 1, "b": 3}
    empty.results_file.write_text("{")
    assert complaint(empty.results).startswith(f"{empty.results_file} cannot be read: ")


# ---- the backbone


def test_the_backbone_gives_the_features_of_the_trained_task_to_the_bit(run: Run) -> None:
    data = build_data(run.config(), CPU)
    x = data.spec.prepare(data.train.batch(torch.arange(64)))
    expected = restore_task(run, data.spec).features(x)
    for path in (run.path, str(run.path), run.backbone_file):
        model = load_backbone(path)
        assert not model.training
        assert model(x).equal(expected)
        assert model.ssl_zoo_spec == replace(data.spec, samples=None)
    untrained = build_task(run.config(), data.spec).eval()
    assert not untrained.features(x).equal(expected)


@pytest.mark.parametrize(
    ("name", "size"), [("test_resnet", 16), ("test_vit", 32), ("test_efficientnet", 96)]
)
def test_timm_alone_loads_the_weights_of_a_backbone(tmp_path: Path, name: str, size: int) -> None:
    settings = {"backbone__name": name, "data__image_size": size, "backbone__stem": "original"}
    run = Run.create(tmp_path / "run", small_config("rotation", **settings))
    config = run.config()
    data = build_data(config, CPU)
    task = build_task(config, data.spec).eval()
    write_backbone(run.backbone_file, task.encoder, config.backbone, data.spec)

    with safe_open(run.backbone_file, "pt") as file:
        header = {key: json.loads(value) for key, value in file.metadata().items() if key != "modality"}
    backbone, spec = header["backbone"], header["spec"]
    options = {"num_classes": 0, "in_chans": spec["channels"], **backbone["options"]}
    if name == "test_vit":
        options["img_size"] = spec["size"]
    model = timm.create_model(backbone["name"], **options)
    model.load_state_dict(load_file(run.backbone_file))
    x = data.spec.prepare(data.train.batch(torch.arange(8)))
    assert model.eval()(x).equal(task.features(x))


@pytest.fixture
def broken_backbones(tmp_path: Path, run: Run) -> dict[str, Path]:
    whole = run.backbone_file.read_bytes()
    files = {name: tmp_path / f"{name}.safetensors" for name in ("cut", "garbage", "foreign", "other")}
    files["cut"].write_bytes(whole[: len(whole) // 2])
    files["garbage"].write_bytes(b"garbage")
    save_file({"w": torch.ones(2)}, files["foreign"])
    with safe_open(run.backbone_file, "pt") as file:
        save_file({"w": torch.ones(2)}, files["other"], file.metadata())
    return files


def test_a_backbone_that_is_broken_or_not_ours(
    broken_backbones: dict[str, Path], tmp_path: Path
) -> None:
    for name in ("cut", "garbage"):
        assert "cannot be read: " in complaint(load_backbone, broken_backbones[name])
    assert "is no backbone that ssl-zoo wrote" in complaint(load_backbone, broken_backbones["foreign"])
    assert "does not fit the installed versions" in complaint(load_backbone, broken_backbones["other"])
    for path in (tmp_path, tmp_path / "none"):
        assert "does not exist: give a run that has ended" in complaint(load_backbone, path)
