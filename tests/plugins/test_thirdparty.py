"""Plugins of unlike shape go through every command, with no change of the core."""

from __future__ import annotations

import io
import json
import math
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from ssl_zoo.runs.run import Run
from ssl_zoo.tools import bench
from tests.conftest import KNN, Call, command, ssl_zoo
from tests.processes import Child

PLUGINS = Path(__file__).parent / "thirdparty"

pytestmark = pytest.mark.usefixtures("isolated_registry")


def pictures() -> Iterator[tuple[int, int, bytes]]:
    """Yield number, class and content of 120 PNG files of 16×16 pixels, bright above or below."""
    generator = torch.Generator().manual_seed(0)
    for i in range(120):
        pixels = torch.randint(0, 90, (16, 16), generator=generator, dtype=torch.uint8)
        pixels[8 * (i % 2) :][:8] += 120
        file = io.BytesIO()
        Image.fromarray(pixels.numpy()).save(file, "PNG")
        yield i, i % 2, file.getvalue()


def write_pictures(folder: Path) -> None:
    """Write the pictures into a folder for each class."""
    for i, label, content in pictures():
        file = folder / "pictures" / ("above", "below")[label] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def write_archives(folder: Path) -> None:
    """Write the pictures into three archives; the first part of a name tells the class."""
    (folder / "shards").mkdir()
    for i, label, content in pictures():
        with tarfile.open(folder / "shards" / f"{i // 40}.tar", "a") as archive:
            info = tarfile.TarInfo(f"{label}-{i}.png")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def write_table(folder: Path) -> None:
    """Write a table of four numbers and a class."""
    rng = np.random.default_rng(0)
    classes = np.arange(300) % 3
    values = rng.normal(size=(300, 4)) + classes[:, None] * [2, 1, 0, -1]
    lines = [",".join(f"{v:.3f}" for v in row) + f",{y}" for row, y in zip(values, classes, strict=True)]
    (folder / "table.csv").write_text("\n".join(["a,b,c,d,class", *lines]))


def write_texts(folder: Path) -> None:
    """Write 120 short texts of two classes."""
    words = ("the sun is up", "rain and wind"), ("so"[i % 2] * (i % 5) for i in range(60))
    lines = [f"{k}\t{word} {tail}" for tail in words[1] for k, word in enumerate(words[0])]
    (folder / "texts.tsv").write_text("\n".join(lines))


@dataclass(frozen=True)
class Plugin:
    """A plugin in a file, and the arguments with which its task is trained.

    Attributes:
        task: the task.
        arguments: the arguments of ``ssl-zoo train``, beside the task.
        unlike: the checks of the conformance suite that rightly fail, with the reason.
        prepare: writes its data into the current folder.
        export: the suffix of a format that its backbone can be exported to.
    """

    task: str
    arguments: tuple[str, ...] = ()
    unlike: tuple[str, ...] = ()
    prepare: Callable[[Path], None] = lambda folder: None
    export: str = ".safetensors"


PICTURES = ("--data", "pictures", "--image-size", "16")

THIRD_PARTY = {
    "multi_crop": Plugin("multi-crop", PICTURES, prepare=write_pictures),
    "latent_blocks": Plugin("latent-blocks", PICTURES, prepare=write_pictures, export=".onnx"),
    "masked_tokens": Plugin("masked-tokens", PICTURES, prepare=write_pictures),
    "sparse_masks": Plugin("sparse-masks", PICTURES, prepare=write_pictures),
    "memory_bank": Plugin(
        "memory-bank", (*PICTURES, "--backbone", "test_resnet"), prepare=write_pictures
    ),
    "next_byte": Plugin(
        "next-byte",
        ("--data", "texts.tsv"),
        unlike=("views_vary=the next byte is its target",),
        prepare=write_texts,
    ),
    "waveform": Plugin("wave-coding", export=".onnx"),
    "numbers_table": Plugin("shuffled-columns", ("--data", "table.csv"), prepare=write_table),
    "image_stream": Plugin(
        "simclr",
        ("--data", "tars:shards", "--set", "data.resident=never", "--backbone", "test_resnet"),
        prepare=write_archives,
    ),
    "five_channels": Plugin("simclr", ("--data", "bands", "--backbone", "test_resnet")),
}
SWIN = {"patch_size": 2, "window_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2]}


@pytest.fixture(params=THIRD_PARTY)
def plugin(request: pytest.FixtureRequest, call: Call) -> tuple[list[str], Plugin]:
    """Each plugin: the arguments that add it, and its description."""
    chosen = THIRD_PARTY[request.param]
    chosen.prepare(Path.cwd())
    return ["--plugin", str(PLUGINS / f"{request.param}.py")], chosen


def train_arguments(plugin: Plugin, out: str) -> list[str]:
    budget = ["--samples", "96", "--batch-size", "32", "--set", "train.log_every=1"]
    machine = ["--set", "train.precision=fp32", "--set", "train.checkpoint_seconds=0"]
    return ["train", *KNN, "--task", plugin.task, *plugin.arguments, *budget, *machine, "--out", out]


def done(call: Call, *arguments: str) -> str:
    """Return the standard output of a command that succeeds without a warning."""
    code, out, err = call(*arguments)
    assert code == 0, err
    assert "Traceback" not in err
    return out


def read_embedding(file: str) -> dict[str, Any]:
    with np.load(file) as arrays:
        return dict(arrays)


def test_a_plugin_goes_through_every_command(
    plugin: tuple[list[str], Plugin], call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    added, chosen = plugin
    monkeypatch.setattr(bench, "BLOCK_SECONDS", 0.02)
    done(call, *added, *train_arguments(chosen, "run"))
    scores = Run.open("run").results()["scores"]
    assert scores.keys() >= {chosen.task, "random-init"}
    assert all(math.isfinite(score["knn"]) for score in scores.values())

    rows = json.loads(done(call, *added, "eval", "run", "--protocol", "knn,linear", "--json"))["scores"]
    assert rows[chosen.task]["knn"] == pytest.approx(scores[chosen.task]["knn"])
    file = "run/backbone.safetensors"
    source = Run.open("run").config().data.source
    exact = ["--data", source, "--protocol", "knn", "--precision", "fp32", "--json"]
    alone = json.loads(done(call, *added, "eval", file, *exact))["scores"]
    assert alone[file]["knn"] == pytest.approx(scores[chosen.task]["knn"])

    done(call, *added, "embed", "run", "-o", "run.npz")
    embedded = read_embedding("run.npz")
    assert np.isfinite(embedded["features"]).all()
    assert len(embedded["features"]) == len(embedded["label"]) > 0
    done(call, *added, "export", "run", "--to", f"exported{chosen.export}")
    assert Path(f"exported{chosen.export}").stat().st_size > 0

    shown = done(call, *added, "views", "--run", "run", *picture_of(chosen))
    assert Path("views.png").is_file() or len(shown.splitlines()) > 4
    done(call, *added, "report", "run")
    assert "<html" in Path("run/report.html").read_text()
    measured = json.loads(done(call, *added, "bench", *bench_arguments(chosen), "--json"))
    assert measured["samples_per_s"] > 0


def picture_of(plugin: Plugin) -> list[str]:
    return [] if plugin.task in ("next-byte", "shuffled-columns") else ["-o", "views.png"]


def bench_arguments(plugin: Plugin) -> list[str]:
    return ["--task", plugin.task, *plugin.arguments, "--batch-size", "32", "--seconds", "0.2"]


def test_a_plugin_is_compared(plugin: tuple[list[str], Plugin], call: Call) -> None:
    added, chosen = plugin
    budget = ["--samples", "64", "--batch-size", "32", "--seeds", "1", "--protocol", "knn"]
    done(call, *added, "compare", "--tasks", chosen.task, *chosen.arguments, *budget, "--out", "table")
    rows = {row["name"] for row in json.loads(Path("table/table.json").read_text())["rows"]}
    assert {chosen.task, "random-init"} <= rows


def test_a_plugin_passes_the_conformance_suite(plugin: tuple[list[str], Plugin], call: Call) -> None:
    added, chosen = plugin
    expected = [part for check in chosen.unlike for part in ("--expect", check)]
    data = () if chosen.arguments[:4] == PICTURES else chosen.arguments
    code, out, err = call(*added, "check", chosen.task, *data, *expected)
    assert code == 0, out + err


def weights(folder: str) -> dict[str, Tensor]:
    return load_file(Path(folder) / "backbone.safetensors")


def test_a_plugin_that_is_killed_goes_on_exactly(plugin: tuple[list[str], Plugin], call: Call) -> None:
    added, chosen = plugin
    done(call, *added, *train_arguments(chosen, "whole"))
    child = Child(command(*added, *train_arguments(chosen, "killed"))[1:])
    logged = Path("killed/metrics.jsonl")
    deadline = time.monotonic() + 60
    while child.poll() is None and not (logged.exists() and logged.read_text().count("\n") >= 2):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.kill()
    child.wait()
    done(call, *added, "train", *KNN, "--resume", "killed")
    whole, resumed = weights("whole"), weights("killed")
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())


@pytest.mark.parametrize("plugin", ["memory_bank", "next_byte", "image_stream"], indirect=True)
def test_two_processes_train_as_one(plugin: tuple[list[str], Plugin], call: Call) -> None:
    added, chosen = plugin
    done(call, *added, *train_arguments(chosen, "one"))
    finished = ssl_zoo(*added, *train_arguments(chosen, "two"), "--devices", "2")
    assert finished.returncode == 0, finished.stderr
    alone, shared = ([line["loss"] for line in Run.open(r).metrics()] for r in ("one", "two"))
    assert alone == pytest.approx(shared, rel=1e-3)
