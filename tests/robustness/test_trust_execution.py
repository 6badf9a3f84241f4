"""Files of others execute nothing: pickles, weights, archives, YAML, names in settings, git."""

from __future__ import annotations

import io
import os
import pickle
import re
import shutil
import subprocess
import sys
import tarfile
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
import yaml

from ssl_zoo.backbones.create import create_backbone
from ssl_zoo.comparison import open_sweep
from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo.config.yaml import PlainDumper
from ssl_zoo.errors import SslZooError, UserError
from ssl_zoo.runs.provenance import provenance
from ssl_zoo.runs.run import Run
from ssl_zoo.spec import ImageSpec
from tests.conftest import Call, flags
from tests.core.pictures import folder, go_offline, named, photo, write
from tests.robustness.hostile import (
    OPENING,
    PAYLOADS,
    READERS,
    Evil,
    commands,
    contents,
)

# ---- what is unpickled


@pytest.mark.parametrize("payload", PAYLOADS)
def test_the_payloads_are_live(payload: str, canary: Path) -> None:
    read = READERS.get(payload, lambda file: torch.load(file, weights_only=False))
    read(io.BytesIO(PAYLOADS[payload](canary)))
    assert canary.is_dir()


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("file", OPENING)
def test_no_file_of_a_run_is_executed(
    run: Run, canary: Path, call: Call, file: str, payload: str, tried: Counter[str]
) -> None:
    for name in {file, file.replace("checkpoint", "checkpoint.before")}:
        (run.path / name).write_bytes(PAYLOADS[payload](canary))
    for command in OPENING[file]:
        code, _, said = call(*commands(run.path)[command])
        assert not canary.exists(), command
        if command != "report":  # whose page says what it lacks
            assert code == 2, said
            assert "cannot be read" in said
        tried["attacks"] += 1


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("suffix", [".pth", ".bin", ".npz", ".npy", ".safetensors"])
@pytest.mark.parametrize("source", ["file", "url"])
def test_no_weights_are_executed(
    tmp_path: Path, canary: Path, source: str, suffix: str, payload: str, tried: Counter[str]
) -> None:
    file = tmp_path / f"weights{suffix}"
    file.write_bytes(PAYLOADS[payload](canary))
    for custom in (False, True):
        overlay = {source: str(file) if source == "file" else file.as_uri(), "custom_load": custom}
        options = {"pretrained_cfg_overlay": {"hf_hub_id": None, **overlay}, "cache_dir": str(tmp_path)}
        with pytest.raises(UserError):
            create_backbone(
                BackboneConfig(name="test_vit", pretrained=True, options=options), ImageSpec()
            )
        assert not canary.exists()
        tried["attacks"] += 1
    with pytest.raises(UserError, match=r"backbone\.weights: "):
        create_backbone(BackboneConfig(name="test_vit", weights=str(file)), ImageSpec())
    assert not canary.exists()
    tried["attacks"] += 1


def test_pytorch_reads_as_it_did_once_a_backbone_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    variable = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    for before in (None, "0"):
        if before is not None:
            monkeypatch.setenv(variable, before)
        create_backbone(BackboneConfig(name="test_resnet"), ImageSpec())
        assert os.environ.get(variable) == before


def test_no_cache_of_images_is_executed(tmp_path: Path, canary: Path, tried: Counter[str]) -> None:
    for i in range(12):
        write(tmp_path / "photos" / f"{i}.png", photo(seed=i))
    first = folder(tmp_path / "photos", cache=str(tmp_path / "cache"))
    samples = first.train.batch(torch.arange(len(first.train)))
    for payload in PAYLOADS.values():
        for file in (tmp_path / "cache").glob("*.npy"):
            file.write_bytes(payload(canary))
        again = folder(tmp_path / "photos", cache=str(tmp_path / "cache"))
        assert again.train.batch(torch.arange(len(again.train))).equal(samples)
        assert not canary.exists()
        tried["attacks"] += 1


@pytest.mark.parametrize("payload", PAYLOADS)
def test_no_downloaded_data_set_is_executed(
    tmp_path: Path, canary: Path, payload: str, monkeypatch: pytest.MonkeyPatch, tried: Counter[str]
) -> None:
    go_offline(monkeypatch)
    content = PAYLOADS[payload](canary)
    files = {
        "mnist": ["MNIST/processed/training.pt", "MNIST/processed/test.pt"],
        "cifar10": [f"cifar-10-batches-py/{n}" for n in ("data_batch_1", "test_batch", "batches.meta")],
        "flowers102": [f"flowers-102/{n}" for n in ("imagelabels.mat", "setid.mat", "102flowers.tgz")],
        "svhn": ["train_32x32.mat", "test_32x32.mat"],
        "stl10": ["stl10_binary.tar.gz"],
    }
    for name, paths in files.items():
        for path in paths:
            (tmp_path / name / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / path).write_bytes(content)
        with pytest.raises(UserError):
            named(name, tmp_path / name)
        assert not canary.exists(), name
        tried["attacks"] += 1


def test_a_list_of_what_is_in_an_archive_is_neither_read_nor_written(
    tmp_path: Path, canary: Path, tried: Counter[str]
) -> None:
    with tarfile.open(tmp_path / "photos.tar", "w") as archive:
        for c in "ab":
            for i in range(6):
                archive.add(write(tmp_path / f"{i}.png", photo(seed=i)), f"{c}/{i}.png")
    with (tmp_path / "photos.tar").open("r+b") as file:
        file.truncate(11 * 1024**3)  # of which timm keeps lists; it takes no room on the disk
    listed = tmp_path / "_photos_tarinfos.pickle"
    assert named("timm:photos", tmp_path / "photos.tar", image_size=14).classes == ("a", "b")
    assert not listed.exists()
    listed.write_bytes(pickle.dumps(Evil(canary)))
    assert named("timm:photos", tmp_path / "photos.tar", image_size=14).classes == ("a", "b")
    assert not canary.exists()
    tried["attacks"] += 2


def test_no_script_of_a_data_set_is_executed(
    tmp_path: Path, canary: Path, monkeypatch: pytest.MonkeyPatch, tried: Counter[str]
) -> None:
    pytest.importorskip("datasets")
    go_offline(monkeypatch)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    there = tmp_path / "evil"
    there.mkdir()
    (there / "evil.py").write_text(f"import os\nos.mkdir({str(canary)!r})\n")
    (there / "train.pkl").write_bytes(pickle.dumps(Evil(canary)))
    with tarfile.open(there / "train.tar", "w") as archive:
        for kind in ("pkl", "pickle", "pyd", "pth"):
            archive.add(there / "train.pkl", f"0.{kind}")
    monkeypatch.chdir(there)
    for source in (f"hf:{there}", "hf:evil", "hf:pandas", "hf:webdataset"):
        for stream in (False, True):
            with pytest.raises(SslZooError):
                named(source, tmp_path / "root", options={"stream": stream})
            assert not canary.exists(), source
            tried["attacks"] += 1


def test_a_library_that_would_execute_scripts_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets")
    monkeypatch.setattr("ssl_zoo.data.timm_sets.metadata.version", lambda name: "3.6.0")
    with pytest.raises(
        UserError, match=r"datasets 3\.6\.0 would execute code.*pip install 'datasets>=4'"
    ):
        named("hf:mnist", Path("root"))


# ---- YAML


TAGS = [
    "!!python/object/apply:os.mkdir [{canary}]",
    "!!python/object/new:os.mkdir [{canary}]",
    "!!python/object/apply:subprocess.Popen\n  - [mkdir, {canary}]",
    "!!python/name:os.mkdir",
    "!!python/module:os",
    "!!python/object:tests.robustness.hostile.Evil {{canary: {canary}}}",
    "!<tag:yaml.org,2002:python/object/apply:os.mkdir> [{canary}]",
]


@pytest.mark.parametrize("tag", TAGS)
def test_no_tag_of_yaml_is_executed(
    run: Run, canary: Path, call: Call, tag: str, tmp_path: Path, tried: Counter[str]
) -> None:
    value = tag.format(canary=canary)
    yaml.unsafe_load(f"evil: {value}")
    for _ in range(50):  # one of them starts a process
        if ("os.mkdir" not in tag and "Popen" not in tag) or "name:" in tag or canary.exists():
            break
        time.sleep(0.1)
    else:
        raise AssertionError("this tag threatens nothing")
    shutil.rmtree(canary, ignore_errors=True)
    settings, comparison = tmp_path / "settings.yaml", tmp_path / "c" / "comparison.yaml"
    settings.write_text(f"task: {{name: simclr}}\ntrain:\n  seed: {value}\n")
    comparison.parent.mkdir()
    open_sweep(None, comparison.parent, tasks=["simclr"]).write()
    (kept,) = comparison.parent.glob("*.yaml")
    kept.write_text(f"tasks: [simclr]\ntrain: {value}\n")
    run.config_file.write_text(f"{run.config_file.read_text()}\nevil: {value}\n")
    attempts: list[list[str | Path]] = [
        *commands(run.path).values(),
        ["train", "--config", settings],
        ["compare", "--config", kept],
        ["compare", comparison.parent],
        ["report", comparison.parent],
        ["train", "--task", "simclr", "--set", f"train.seed={value}"],
    ]
    for attempt in attempts:
        code, _, said = call(*attempt)
        assert not canary.exists(), attempt
        if attempt[0] not in ("embed", "export", "report"):  # which need no settings, or say so
            assert code == 2, (attempt, said)
            assert said.startswith("error: ")
        tried["attacks"] += 1


# ---- what settings name


NAMES = ["../../outside", "/tmp/outside", "os.mkdir", "x; touch outside"]


@pytest.mark.parametrize("name", NAMES)
def test_no_name_in_settings_becomes_a_path_or_code(
    run: Run, call: Call, name: str, tmp_path: Path, tried: Counter[str]
) -> None:
    before = contents(tmp_path)
    small = flags("simclr")
    attempts: list[list[str | Path]] = [
        ["train", "--task", name],
        ["train", *small, "--set", f"backbone.name={name}"],
        ["train", *small, "--set", f"backbone.name=hf-hub:{name}"],
        ["train", *small, "--set", f"backbone.name=local-dir:{name}"],
        ["train", *small, "--set", f"backbone.name=test_resnet.local-dir:{name}"],
        ["train", *small, "--set", f"train.optimizer={name}"],
        ["train", *small, "--set", f"train.observers=[{name!r}]"],
        ["train", *small, "--data", f"timm:{name}"],
        ["train", *small, "--set", f"backbone.options={{{name!r}: 1}}"],
        ["train", *small, "--set", f"backbone.options.checkpoint_path={name}"],
        ["compare", "--tasks", name],
        ["compare", "--tasks", "simclr", "--baselines", name],
        ["compare", "--tasks", "simclr", "--protocol", name],
        ["compare", "--tasks", "simclr", "--only", name],
        ["compare", "--tasks", "simclr", "--set", f"overrides.{name}.train.lr=1"],
        ["eval", run.path, "--protocol", name],
        ["eval", f"timm:{name}"],
        ["new-task", name],
        ["check", name],
    ]
    for attempt in attempts:
        code, _, said = call(*attempt)
        assert code == 2, (attempt, said)
        assert contents(tmp_path) == before, attempt
        tried["attacks"] += 1


def test_a_run_is_made_below_runs_whatever_its_data_is_called(
    call: Call, tmp_path: Path, tried: Counter[str]
) -> None:
    for name in ("...", "a:b", "$(touch outside)", "-rf", "\x1b[2J", "a\nb"):
        for i in range(20):
            write(tmp_path / name / f"{i}.png", photo(seed=i))
        before = contents(tmp_path)
        code, _, said = call("train", *flags("simclr", train__batch_size=16), "--data", tmp_path / name)
        assert code == 0, said
        made = contents(tmp_path).keys() - before.keys()
        assert made
        assert all(re.match(r"here/runs/simclr-[^/]*/", path) for path in made), made
        assert "\x1b" not in said
        shutil.rmtree(tmp_path / "here" / "runs")
        tried["attacks"] += 1


def test_no_plugin_is_loaded_because_a_run_names_it(
    run: Run, canary: Path, call: Call, tried: Counter[str]
) -> None:
    plugin = run.path / "evil.py"
    plugin.write_text(f"import os\nos.mkdir({str(canary)!r})\n")
    config = yaml.safe_load(run.config_file.read_text())
    config["provenance"] |= {"command": f"ssl-zoo --plugin {plugin} train", "plugins": [str(plugin)]}
    config["train"]["observers"] = ["evil", "evil.py", str(plugin)]
    run.config_file.write_text(yaml.dump(config, Dumper=PlainDumper))
    for command in commands(run.path).values():
        call(*command)
        assert not canary.exists(), command
        tried["attacks"] += 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--task", "simclr"],
        ["compare", "--tasks", "simclr", "--seeds", "1", "--baselines", "pixels", "--out", "c"],
    ],
    ids=["train", "compare"],
)
def test_no_module_in_the_current_folder_is_imported_by_other_processes(
    canary: Path, tmp_path: Path, arguments: list[str], tried: Counter[str]
) -> None:
    code = f"import os\nos.path.exists({str(canary)!r}) or os.mkdir({str(canary)!r})\n"
    for module in ("yaml", "torch", "ssl_zoo", "random"):
        (tmp_path / f"{module}.py").write_text(code)
    program = Path(sys.executable).with_name("ssl-zoo")  # python -m would look here for modules itself
    small = ["--backbone", "test_resnet", "--device", "cpu", "--set", "train.optimizer=sgdx"]
    command = [program, *arguments, *small, "--devices", "2"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
    )
    assert not canary.exists(), done.stderr
    assert "timm has no optimiser 'sgdx'" in done.stderr
    tried["attacks"] += 1


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_git_executes_nothing_that_the_current_folder_names(
    canary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tried: Counter[str]
) -> None:
    place = tmp_path / "photos"
    place.mkdir()
    monkeypatch.chdir(place)
    author = ["-c", "user.name=a", "-c", "user.email=a@example.org"]

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout

    git("init", "-q")
    (place / "a").write_text("a")
    git("add", "a")
    git(*author, "commit", "-q", "-m", "a")
    revision = git("rev-parse", "HEAD").strip()
    make = f"mkdir -p {canary}"
    git("config", "core.fsmonitor", f"{make}; false")
    git("config", "filter.x.clean", f"{make}; cat")
    git("config", "remote.origin.url", ".")
    git("config", "remote.origin.uploadpack", f"{make}; git-upload-pack")
    git("config", "remote.origin.promisor", "true")
    git("config", "extensions.partialClone", "origin")
    (place / ".git/info").mkdir(exist_ok=True)
    (place / ".git/info/attributes").write_text("* filter=x")
    hook = place / ".git/hooks/post-index-change"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\n{make}\n")
    hook.chmod(0o755)
    os.utime(place / "a", (1, 1))
    for lacking in (False, True):
        if lacking:
            (place / ".git/objects" / revision[:2] / revision[2:]).unlink()
        known = provenance("simclr")["git"]
        assert revision.startswith(known)
        assert not canary.exists()
        tried["attacks"] += 1
    subprocess.run(["git", "describe", "--always", "--dirty"], check=False, capture_output=True)
    assert canary.exists()  # so that was no idle threat
