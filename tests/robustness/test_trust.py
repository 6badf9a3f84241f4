"""What others made may be read: a run, a comparison, settings, data. None of it is executed, nothing is
written but where the user said, and no name becomes markup, a formula or a terminal's command.
"""

from __future__ import annotations

import ast
import csv
import html.parser
import io
import json
import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from ssl_zoo.backbones.timm_encoder import create_backbone
from ssl_zoo.comparison import open_sweep
from ssl_zoo.comparison.render import to_csv, to_html, to_latex, to_markdown
from ssl_zoo.comparison.table import Outcome, build_table
from ssl_zoo.config.load import _Dumper
from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo.errors import SslZooError, UserError
from ssl_zoo.reporting import report
from ssl_zoo.runs.provenance import provenance
from ssl_zoo.runs.run import Run
from ssl_zoo.spec import ImageSpec
from ssl_zoo.tools.export import export
from ssl_zoo.training import train
from tests.conftest import Call, flags, small_config
from tests.core.pictures import broken, folder, go_offline, named, photo, write

OPENING = {
    "checkpoint.pt": ("train", "views", "report", "eval"),
    "backbone.safetensors": ("embed", "export"),
}
"""The commands that read a file of a run."""


class Evil:
    """What makes a folder when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = str(canary)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.canary,)


def saved(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def two_faced(canary: Path) -> bytes:
    """A checkpoint at which PyTorch's safe reader stumbles, without having seen what comes after.

    An ordered dictionary is given a state that only pickle itself understands: who takes this error for
    one of another kind and reads the file once more, by pickle, executes the rest.
    """
    target = str(canary).encode()
    code = b"\x80\x02ccollections\nOrderedDict\n)RN}\x86b0cos\nmkdir\n"
    code += b"X" + struct.pack("<I", len(target)) + target + b"\x85R."
    sound, made = zipfile.ZipFile(io.BytesIO(saved({}))), io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name in sound.namelist():
            archive.writestr(name, code if name.endswith("data.pkl") else sound.read(name))
    return made.getvalue()


def array(canary: Path) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([Evil(canary)], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def arrays(canary: Path) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=True, weight=np.array([Evil(canary)], dtype=object))
    return buffer.getvalue()


PAYLOADS: dict[str, Callable[[Path], bytes]] = {
    "pickle": lambda canary: pickle.dumps(Evil(canary)),
    "checkpoint": lambda canary: saved({"task": Evil(canary), "ema": None}),
    "old checkpoint": lambda canary: saved({"task": Evil(canary)}, _use_new_zipfile_serialization=False),
    "two-faced checkpoint": two_faced,
    "array": array,
    "arrays": arrays,
}
READERS: dict[str, Callable[[io.BytesIO], Any]] = {
    "pickle": pickle.load,
    "array": lambda file: np.load(file, allow_pickle=True),
    "arrays": lambda file: np.load(file, allow_pickle=True)["weight"],
}
"""What a careless program would read them with; the others with `torch.load`."""


@pytest.fixture(name="trained", scope="module")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    config = small_config("simclr", train__epochs=0.2, task__hidden=16, task__out=8)
    return train(config, out=tmp_path_factory.mktemp("trust") / "run", protocol=["knn"])


@pytest.fixture
def run(trained: Run, tmp_path: Path) -> Run:
    """A finished run of others, to be tampered with."""
    shutil.copytree(trained.path, tmp_path / "run")
    return Run(tmp_path / "run")


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """What exists once anything was executed."""
    return tmp_path / "canary"


def commands(run: Path) -> dict[str, list[str | Path]]:
    return {
        "train": ["train", "--resume", run],
        "views": ["views", "--run", run, "-o", "views.png"],
        "report": ["report", run, "--map", "pca"],
        "eval": ["eval", run, "--protocol", "knn"],
        "embed": ["embed", run, "-o", "features.npz"],
        "export": ["export", run, "--to", "exported.safetensors"],
        "compare": ["compare", run],
    }


def contents(place: Path) -> dict[str, bytes]:
    """All files below a folder, and where links lead."""
    return {
        str(path.relative_to(place)): bytes(path.readlink()) if path.is_symlink() else path.read_bytes()
        for path in place.rglob("*")
        if path.is_symlink() or path.is_file()
    }  # fmt: skip


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
        with pytest.raises(SslZooError):
            named(source, tmp_path / "root")
        assert not canary.exists(), source
        tried["attacks"] += 1


def test_a_library_that_would_execute_scripts_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets")
    monkeypatch.setattr("ssl_zoo.data.timm_sets.metadata.version", lambda name: "3.6.0")
    with pytest.raises(UserError, match=r"datasets 3\.6\.0 would run code.*pip install 'datasets>=4'"):
        named("hf:mnist", Path("root"))


# ---- YAML


TAGS = [
    "!!python/object/apply:os.mkdir [{canary}]",
    "!!python/object/new:os.mkdir [{canary}]",
    "!!python/object/apply:subprocess.Popen\n  - [mkdir, {canary}]",
    "!!python/name:os.mkdir",
    "!!python/module:os",
    "!!python/object:tests.robustness.test_trust.Evil {{canary: {canary}}}",
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
    run.config_file.write_text(yaml.dump(config, Dumper=_Dumper))
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
        known = provenance(small_config("simclr"))["git"]
        assert revision.startswith(known)
        assert not canary.exists()
        tried["attacks"] += 1
    subprocess.run(["git", "describe", "--always", "--dirty"], check=False, capture_output=True)
    assert canary.exists()  # so that was no idle threat


# ---- where it is written


REPLACED = [
    "checkpoint.pt",
    "checkpoint.before.pt",
    "results.json",
    "backbone.safetensors",
    "report.html",
]
"""What is written aside first, and then takes the place of what was there."""


def with_steps_left(run: Run) -> list[list[str | Path]]:
    """Commands that write all there is to be written in a run, once there is something left to do."""
    config = yaml.safe_load(run.config_file.read_text())
    config["train"] |= {"epochs": None, "images": 512, "checkpoint_seconds": 0}
    run.config_file.write_text(yaml.dump(config, Dumper=_Dumper))
    return [commands(run.path)[name] for name in ("train", "report")]


@pytest.mark.parametrize("place", ["{}", ".{}.part"], ids=["in place", "aside"])
@pytest.mark.parametrize("dangling", [False, True], ids=["to a file", "to nothing"])
def test_a_link_in_the_way_of_a_runs_file_is_replaced(
    run: Run, call: Call, place: str, dangling: bool, tmp_path: Path, tried: Counter[str]
) -> None:
    names = [name for name in REPLACED if (name, place) not in KEPT]
    (tmp_path / "mine").mkdir()
    for name in names:
        mine, link = tmp_path / "mine" / name, run.path / place.format(name)
        if not dangling:
            mine.write_text("{}")
        link.unlink(missing_ok=True)
        link.symlink_to(mine)
        tried["attacks"] += 1
    for command in with_steps_left(run):
        code, _, said = call(*command)
        assert code == 0, said
    assert contents(tmp_path / "mine") == ({} if dangling else dict.fromkeys(names, b"{}"))
    assert all((run.path / name).is_file() and not (run.path / name).is_symlink() for name in REPLACED)


KEPT = [("checkpoint.pt", "{}")]
"""What it goes on from must be there."""


@pytest.mark.parametrize("dangling", [False, True], ids=["to a file", "to nothing"])
@pytest.mark.parametrize("name", ["metrics.jsonl", ".lock"])
def test_a_link_in_the_place_of_a_file_that_grows_is_refused(
    run: Run, call: Call, name: str, dangling: bool, tmp_path: Path, tried: Counter[str]
) -> None:
    mine = tmp_path / "mine" / "profile"
    mine.parent.mkdir()
    if not dangling:
        mine.write_text("mine\n")
    (run.path / name).unlink(missing_ok=True)
    (run.path / name).symlink_to(mine)
    go_on, _ = with_steps_left(run)
    code, _, said = call(*go_on)
    assert code == 1, said
    assert f"cannot write {run.path / name}: " in said
    assert contents(mine.parent) == ({} if dangling else {"profile": b"mine\n"})
    tried["attacks"] += 1


@pytest.mark.parametrize(
    "name",
    [
        ".lock",
        "pixels/.cell.lock",
        pytest.param("logs/pixels.log", marks=pytest.mark.slow),
        ".table.md.part",
    ],
)
def test_no_link_in_a_comparison_leads_what_is_written_out_of_it(
    call: Call, name: str, tmp_path: Path, tried: Counter[str]
) -> None:
    mine, out = tmp_path / "mine" / "profile", tmp_path / "c"
    mine.parent.mkdir()
    (out / name).parent.mkdir(parents=True)
    (out / name).symlink_to(mine)
    devices = "2" if name.startswith("logs/") else "1"
    code, _, said = call(
        "compare", "--tasks", "simclr", "--seeds", "1", "--baselines", "pixels", "--protocol", "knn",
        "--set", "train.optimizer=sgdx", "--device", "cpu", "--out", out, "--devices", devices,
    )  # fmt: skip
    assert code in (1, 2), said  # simclr fails at once
    assert "--debug" not in said
    assert contents(mine.parent) == {}
    tried["attacks"] += 1


MEMBERS = ["../outside", "../../outside", "../../../../outside", "{outside}", "link/outside", "hard"]


def archive_of(file: Path, outside: Path, suffix: str = "") -> None:
    """An archive whose members would lie outside of where it is unpacked, some by links."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w:gz" if file.suffix == ".gz" else "w") as archive:
        for target, name in ((str(outside.parent), "link"), (str(outside), "hard")):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            archive.addfile(link)
        for name in MEMBERS:
            content = io.BytesIO()
            photo().save(content, "PNG")
            member = tarfile.TarInfo(name.format(outside=outside) + suffix)
            member.size = content.tell()
            content.seek(0)
            archive.addfile(member, content)


def test_no_archive_is_unpacked_outside_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tried: Counter[str]
) -> None:
    go_offline(monkeypatch)
    root, outside = tmp_path / "data" / "root", tmp_path / "mine" / "outside"
    outside.parent.mkdir()
    for name in ("fgvc-aircraft-2013b.tar.gz", "SUN397.tar.gz", "dtd/dtd-r1.0.1.tar.gz"):
        archive_of(root / name, outside)
    before = contents(tmp_path)
    for source in ("fgvc-aircraft", "sun397", "dtd"):
        with pytest.raises(UserError):
            named(source, root)
        assert contents(tmp_path) == before, source
        tried["attacks"] += len(MEMBERS)


def test_an_archive_of_images_is_read_and_not_unpacked(tmp_path: Path, tried: Counter[str]) -> None:
    outside = tmp_path / "mine" / "outside"
    outside.parent.mkdir()
    archive_of(tmp_path / "root" / "photos.tar", outside, ".png")
    before = contents(tmp_path)
    data = named("timm:photos", tmp_path / "root" / "photos.tar", image_size=14)
    data.train.batch(torch.arange(len(data.train)))
    assert contents(tmp_path) == before
    tried["attacks"] += len(MEMBERS)


# ---- what is exported


def test_exported_code_does_nothing_but_load(run: Run, tmp_path: Path, tried: Counter[str]) -> None:
    with safe_open(run.backbone_file, "pt") as file:
        header = file.metadata()
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    known = json.loads(header["backbone"])
    evil = "'); import os; os.mkdir('evil') #\n\"\"\"\nimport os\n"
    attempts = [
        {"options": {"pretrained_cfg_overlay": {"description": evil, evil: 1}}},
        {"options": {f"x=__import__('os').mkdir('evil'), {evil}": 1}},
        {"options": {"global_pool": evil}},
        {"options": {"pretrained_cfg": {"notes": [evil], "input_size": [3, 16, 16]}}},
        {"name": f"test_resnet.{evil}"},
        {"name": evil},
        {"options": {"drop_rate": 0.5}},
    ]
    specs = [{}, {"mean": [evil]}, {"size": evil}, {"channels": evil}, {"modality": evil}, {evil: evil}]
    written = 0
    for backbone in attempts:
        for spec in specs:
            its = {**json.loads(header["spec"]), **spec}
            changed = {"backbone": json.dumps({**known, **backbone}), "spec": json.dumps(its)}
            save_file(state, run.backbone_file, {**header, **changed})
            tried["attacks"] += 1
            try:
                code = export(run.path, tmp_path / "out.safetensors")
            except UserError:
                continue
            written += 1
            with safe_open(tmp_path / "out.safetensors", "pt") as file:
                only_loads(file.metadata()["load"])
            only_loads(code)
    assert written


def only_loads(code: str) -> None:
    """Code imports timm and torch, calls what builds and loads a model, and else has plain values."""
    harmless = {"timm.create_model", "timm.models.load_checkpoint", "model.get_submodule", "model.eval"}
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called in harmless or re.fullmatch(r"torch\.nn\.(Conv2d|Identity)", called), code
        elif isinstance(node, ast.Import):
            assert {name.name for name in node.names} <= {"timm", "torch"}, code
        else:
            assert not isinstance(node, ast.ImportFrom | ast.FunctionDef | ast.ClassDef), code


# ---- what is shown


MARKUP = [
    "<script>document.title = 'pwned'</script>",
    "</title><script>document.title = 'pwned'</script>",
    "</style><script>document.title = 'pwned'</script>",
    "</svg><img src=x onerror=\"document.title = 'pwned'\">",
    '"><svg onload="document.title = \'pwned\'">',
    "' onmouseover='document.title = 1' x='",
    "<iframe srcdoc='<script>parent.document.title = 1</script>'>",
    "<a href=\"javascript:document.title = 'pwned'\">x</a>",
    "<meta http-equiv=refresh content='0;url=https://example.org'>",
    "<!-- --><base href=https://example.org>",
    "]]><script>document.title = 'pwned'</script>",
    "{{ 7 * 7 }}{% raw %}",
    "&lt;script&gt;document.title = 'pwned'",
    "$\\href{javascript:alert(1)}{x}$",
    "\x1b]0;pwned\x07\x1b[2J",
]
"""What no page may take for markup."""
AS_FILE = [text.replace("/", "∕") for text in MARKUP]
"""The same as names of files and folders."""


class Page(html.parser.HTMLParser):
    """What a browser would find in a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.text = ""
        self.policy: list[str] = []
        self.feed(text)
        self.close()
        for tag in ("script", "iframe", "object", "embed", "base", "link", "form"):
            assert not self.tags[tag], tag
        assert self.policy == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        given = dict(attrs)
        for name, value in attrs:
            assert not name.startswith("on"), (tag, name)
            assert name != "srcdoc", tag
            if name in ("href", "src", "xlink:href"):
                assert (value or "").startswith(("#", "data:image/")), (tag, value)
        if tag == "meta" and "http-equiv" in given:
            self.policy.append(given["content"] or "")

    def handle_data(self, data: str) -> None:
        self.text += data


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def title_in_browser(page: Path, profile: Path) -> str:
    """The title of a page, once a browser has opened it and done what is in it."""
    assert CHROMIUM is not None
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
         f"--user-data-dir={profile}", "--virtual-time-budget=2000", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    found = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    return found[1] if found else ""


@pytest.fixture(name="hostile", scope="module")
def hostile_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run in which every text that others can write is markup, trained on files named so."""
    place = tmp_path_factory.mktemp("hostile")
    photos = place / AS_FILE[0]
    for c, name in enumerate(AS_FILE):
        for i in range(4):
            write(photos / name / f"{i}{AS_FILE[i]}.png", photo((20, 20), seed=10 * c + i))
    broken(photos / AS_FILE[0] / f"{AS_FILE[1]}.png")
    config = small_config("simclr", data__source=str(photos), train__batch_size=16, train__knn_points=1)
    run = train(config, out=place / AS_FILE[1], protocol=["knn"])
    settings = yaml.safe_load(run.config_file.read_text())
    made = settings["provenance"]
    made |= {"command": MARKUP[1], "started": MARKUP[2], "python": MARKUP[3], "git": MARKUP[4]}
    made["versions"] |= {text: text for text in MARKUP}
    run.config_file.write_text(yaml.dump(settings, Dumper=_Dumper, allow_unicode=True))
    results = run.results()
    results["scores"] |= {text: {"knn": 50.0 + i} for i, text in enumerate(MARKUP)}
    results |= {"device": MARKUP[5], "precision": MARKUP[6], "left_out": MARKUP[7]}
    results["skipped"] |= {text: text for text in MARKUP}
    run.write_results(results)
    return run


@pytest.fixture(name="page", scope="module")
def hostile_page(hostile: Run) -> Path:
    return report(hostile.path, map="pca")


def test_a_report_has_every_name_as_text(page: Path, tried: Counter[str]) -> None:
    read = Page(page.read_text())
    for text in MARKUP:
        shown = text if text.isprintable() else "x1b]0;pwned"
        assert shown in read.text, text
    tried["attacks"] += 5 * len(MARKUP)


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_runs_nothing_in_a_report(page: Path, hostile: Run, tmp_path: Path) -> None:
    title = title_in_browser(page, tmp_path / "profile")
    assert "pwned" not in title.replace("document.title = 'pwned'", "")
    assert title.startswith("simclr: ")


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_would_run_nothing_even_if_a_name_were_markup(page: Path, tmp_path: Path) -> None:
    leaky = tmp_path / "leaky.html"
    leak = "<script>document.title = 'pwned'</script><img src=x onerror=\"document.title = 'pwned'\">"
    text = page.read_text()
    leaky.write_text(text.replace("<h1>", f"{leak}<h1>"))
    assert title_in_browser(leaky, tmp_path / "profile").startswith("simclr: ")
    unguarded = re.sub(r"<meta http-equiv=[^>]*>", "", leaky.read_text())
    leaky.write_text(unguarded)
    assert title_in_browser(leaky, tmp_path / "profile") == "pwned"


def test_a_comparisons_failures_are_text(tmp_path: Path, call: Call, tried: Counter[str]) -> None:
    out = tmp_path / "c"
    settings = {"tasks": ["simclr", "moco"], "seeds": 1, "baselines": ["pixels"], "protocols": ["knn"]}
    sweep = open_sweep(None, out, **settings)
    sweep.write()
    for text in MARKUP:
        for cell in sweep.cells:
            cell.folder.record_failure(text)
        Page(report(out, map="pca").read_text())
        code, said, warned = call("compare", out, "--out", tmp_path / "tables")
        assert code == 0, warned
        assert is_tame(said + warned)
        Page((tmp_path / "tables" / "table.html").read_text())
        tried["attacks"] += 1


def is_tame(text: str) -> bool:
    """Whether a terminal shows a text and does nothing else."""
    return all(c.isprintable() or c == "\n" for c in text)


def test_no_terminal_is_told_to_do_anything(
    hostile: Run,
    run: Run,
    call: Call,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    tried: Counter[str],
) -> None:
    control = "\x1b]0;pwned\x07\x1b[2J\x9b31m\r\b\u202e"
    results = run.results()
    results["scores"] = {"simclr": results["scores"]["simclr"], control: {"knn": 1.0}}
    results["device"] = results["precision"] = control
    run.write_results(results)
    attempts: list[list[str | Path]] = [
        ["compare", run.path],
        ["compare", hostile.path],
        ["eval", hostile.path, "--protocol", "knn"],
        ["embed", hostile.path, "-o", "features.npz"],
        ["report", hostile.path, "--map", "pca", "-o", "page.html"],
        ["train", "--task", control],
        ["train", "--task", "simclr", "--set", f"task.{control}=1"],
        ["train", "--task", "simclr", "--data", control],
        ["train", "--task", "simclr", "--backbone", control],
        ["compare", "--tasks", control],
    ]
    for attempt in attempts:
        _, said, warned = call(*attempt)
        assert is_tame(said), (attempt, said)
        assert is_tame(warned), (attempt, warned)
        tried["attacks"] += 1
    broken_state = torch.load(run.checkpoints.file, weights_only=True)
    broken_state["task"][control] = torch.zeros(1)
    torch.save(broken_state, run.checkpoints.file)
    run.checkpoints.before.write_bytes(b"\x80\x02c" + control.encode() + b"\nx\n.")
    for command in ("train", "views", "eval"):
        _, said, warned = call(*commands(run.path)[command])
        assert is_tame(said + warned), (command, warned)
        tried["attacks"] += 1


# ---- tables


FORMULAS = [
    "=1+1",
    "+1",
    "-1+1",
    "@SUM(1)",
    "\t=1+1",
    "\r=1+1",
    " =1+1",
    "\n=1+1",
    '=HYPERLINK("https://x")',
]
NASTY = [
    *MARKUP,
    *FORMULAS,
    "\\input{/etc/passwd}",
    "[x](javascript:alert(1))",
    "![x](https://example.org/x.png)",
    "[x]: https://example.org",
    "a|b\\|c\\",
    "\\<img src=x>",
    "^^5cinput x",
    "%\\write18{x}",
    "**b**",
]


def table_of(text: str) -> Any:
    outcomes = [
        Outcome(text, 0, Run("r"), {"knn": 1.0}, {"left_out": text}),
        Outcome("other", 0, Run("s"), {}, {}, failure=text),
        Outcome("text", 0, Run("t"), {"knn": text}, {}),
    ]
    return build_table(outcomes, text, ["knn"], foot=[text])


def attack_tables(text: str) -> None:
    table = table_of(text)
    Page(to_html(table))
    for row in csv.reader(io.StringIO(to_csv(table), newline="")):
        for cell in row:
            assert cell.strip()[:1] not in ("=", "@", "+"), cell
            assert not re.match(r"\s*-(?![\d.]+$)", cell), cell
    markdown = re.sub(r"\\[\\|<\[]", "", to_markdown(table))
    assert not re.search(r"[<\[]", markdown), markdown
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {3}
    latex = to_latex(table)
    known = {"begin", "end", "centering", "toprule", "midrule", "bottomrule", "textbf", "caption", "pm",
             "times", "tau", "ldots", "textbackslash", "textasciitilde", "textasciicircum"}  # fmt: skip
    assert set(re.findall(r"\\([A-Za-z]+)", latex)) <= known, latex
    assert "^^" not in latex
    assert not re.search(r"(?<!\\)%", latex), latex


@example(text="a")
@given(
    st.one_of(
        st.sampled_from(NASTY), st.text(), st.text("\\|<>[]()=+-@%^$#{}~_& \t\r\n'\"x1", max_size=12)
    )
)
def test_no_name_in_a_table_is_markup_a_formula_or_a_command(tried: Counter[str], text: str) -> None:
    attack_tables(text)
    tried["attacks"] += 4


@pytest.mark.parametrize("text", NASTY)
def test_what_is_known_to_be_nasty_is_text_in_every_table(text: str, tried: Counter[str]) -> None:
    attack_tables(text)
    tried["attacks"] += 4
