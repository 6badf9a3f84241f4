"""The steps of gpu.sh: each calls ssl-zoo as its users do, and writes one small file of results.

python benchmarks/gpu_steps.py STEP FOLDER [full|small]
"""

from __future__ import annotations

import itertools
import json
import math
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
TASKS = ("simclr", "moco", "byol", "rotation", "inpainting")
LARGE = {"simclr": 256, "moco": 256, "byol": 128, "rotation": 64, "inpainting": 128}
"""Images in a batch at 224 pixels; rotation turns each four times."""
CROPPED = ("dino", "swav", "deepcluster-v2", "msn", "ibot", "dinov2")
"""Tasks that take several small crops of a large image, each size in a pass of its own."""
PROFILED = (*TASKS, "dino", "swav", "deepcluster-v2", "w-mse", "lejepa", "msn")
"""Tasks whose waits for the GPU are counted."""
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
"""The names in a trace of the calls that wait for the GPU."""


@dataclass(frozen=True)
class Scale:
    """The extent of the measurements: full, or little, to see on a CPU that each step works.

    Attributes:
        seconds: the duration of each measurement.
        epochs: the epochs of a training run for its figures.
        data: the data set of those runs.
        networks: the backbone, the image size and the batch size of the measurements; 0 for `LARGE`.
        rest: further settings of each run.
    """

    seconds: float
    epochs: float
    data: str
    networks: tuple[tuple[str, int, int], ...]
    rest: tuple[str, ...] = ()

    @property
    def small(self) -> bool:
        """True for a rehearsal at a small scale."""
        return bool(self.rest)

    def some(self, names: Sequence[str]) -> Sequence[str]:
        """Return the names that are measured: all, in a rehearsal the first one."""
        return names[:1] if self.small else names


SCALES = {
    "full": Scale(
        4,
        100,
        "fashion-mnist",
        (("resnet18", 32, 512), ("resnet50", 224, 0), ("vit_small_patch16_224", 224, 0)),
    ),
    "small": Scale(0, 0.2, "digits", (("test_resnet", 16, 32),), ("--set", "train.precision=fp32")),
}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PRECISIONS = ("bf16", "fp16") if DEVICE == "cuda" else ("fp32",)


def link(site: Path) -> None:
    """Make the checkout's entry points known to Python in `site`, without building a wheel."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    head = {"Metadata-Version": "2.1", "Name": project["name"], "Version": project["version"]}
    (info / "METADATA").write_text("".join(f"{key}: {value}\n" for key, value in head.items()))
    lines = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())
        for group, points in project["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))


def call(*words: object) -> tuple[str, dict[str, Any]]:
    """Call ``ssl-zoo`` with ``--json``; return its complaint, empty if there is none, and its result."""
    command = [sys.executable, "-m", "ssl_zoo", *map(str, words), "--json"]
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    if ended.returncode:
        return ended.stderr.strip().splitlines()[-1] if ended.stderr else f"code {ended.returncode}", {}
    result: dict[str, Any] = json.loads(ended.stdout)
    return "", result


def bench(task: str, network: tuple[str, int, int], scale: Scale, *rest: str) -> dict[str, Any]:
    """Return the figures of ``ssl-zoo bench``, or why there are none."""
    backbone, side, batch = network
    words = ["bench", "--task", task, "--data", "digits", "--backbone", backbone, "--image-size", side]
    words += ["--batch-size", batch or LARGE[task], "--seconds", scale.seconds, "--no-tune"]
    error, result = call(*words, *scale.rest, *rest)
    kept = (
        "device",
        "samples_per_s",
        "views_per_s",
        "ceiling_views_per_s",
        "ratio",
        "peak_memory_bytes",
        "shares",
    )
    figures = {name: result[name] for name in kept if name in result} or {"error": error}
    row = {"task": task, "backbone": backbone, "side": side, **figures}
    print(json.dumps({k: v for k, v in row.items() if k != "shares"}), flush=True)
    return row


def machine(_: Scale) -> dict[str, Any]:
    """Tell what is measured on."""
    gpu = None
    if DEVICE == "cuda":
        seen = torch.cuda.get_device_properties(0)
        gpu = {"name": seen.name, "memory": seen.total_memory, "cuda": torch.version.cuda}
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "gpu": gpu,
        "cores": os.cpu_count(),
    }


def tasks(scale: Scale) -> list[dict[str, Any]]:
    """Train five tasks for some steps in each precision, and compiled."""
    compilations = (False,) if scale.small else (False, True)
    epochs = 0.3 if scale.small else 2
    return [
        trained(*case, epochs) for case in itertools.product(scale.some(TASKS), PRECISIONS, compilations)
    ]


def zoo(scale: Scale) -> list[dict[str, Any]]:
    """Train each other task that needs neither a teacher of the user's nor colours for some steps."""
    from ssl_zoo.plugins.registry import registry

    names = [name for name in registry.tasks() if name not in (*TASKS, "distillation", "colorization")]
    return [trained(name, "auto", False, 0.3) for name in scale.some(names)]


def trained(task: str, precision: str, compiled: bool, epochs: float) -> dict[str, Any]:
    """Train a task on the digits; return its first and last loss, or the error."""
    row: dict[str, Any] = {"task": task, "precision": precision, "compiled": compiled}
    settings = (f"train.precision={precision}", f"train.compile={str(compiled).lower()}")
    words = [word for setting in settings for word in ("--set", setting)]
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run")
        error, _result = call(
            "train", "--task", task, "--device", DEVICE, "--epochs", epochs, *words, "--out", run
        )
        row |= {"error": error, "seconds": round(time.perf_counter() - start, 1)}
        if not error:
            losses = losses_of(run)
            finite = all(map(math.isfinite, losses))
            row |= {"first": losses[0], "last": losses[-1], "finite": finite}
    print(json.dumps(row), flush=True)
    return row


def losses_of(run: Path) -> list[float]:
    """Return the losses that a run has logged."""
    from ssl_zoo.runs.run import Run

    return [line["loss"] for line in Run.open(run).metrics() if "loss" in line]


def ratios(scale: Scale) -> list[dict[str, Any]]:
    """Measure each task's speed against its ceiling, and its memory."""
    return [bench(task, network, scale) for network in scale.networks for task in scale.some(TASKS)]


def crops(scale: Scale) -> list[dict[str, Any]]:
    """Measure tasks of several crops, with the papers' number of them."""
    backbone, side, batch = scale.networks[-1]
    local = ("--set", "task.local=2") if scale.small else ()  # none by default up to 64 pixels
    return [bench(task, (backbone, side, batch or 64), scale, *local) for task in scale.some(CROPPED)]


def compiled(scale: Scale) -> list[dict[str, Any]]:
    """Measure what `torch.compile` gives to the ceiling."""
    return [
        bench(task, network, scale, "--set", "train.compile=true")
        for network in scale.networks
        for task in scale.some(("simclr", "inpainting"))
    ]


def profile(scale: Scale) -> list[dict[str, Any]]:
    """Count how often the processor waits for the GPU in a step."""
    from ssl_zoo.tools.bench import PROFILED_STEPS

    rows = []
    for task in scale.some(PROFILED):
        with tempfile.TemporaryDirectory() as aside:
            out = Path(aside, "trace")
            words = [
                "bench",
                "--task",
                task,
                "--data",
                "digits",
                "--seconds",
                0,
                "--no-tune",
                "--profile",
            ]
            error, _result = call(*words, "--out", out, *scale.rest)
            row: dict[str, Any] = {"task": task, "error": error}
            if not error:
                events = json.loads((out / "trace.json").read_text())["traceEvents"]
                names = Counter(event.get("name") for event in events)
                row |= {name: names[name] / PROFILED_STEPS for name in (*WAITS, "cudaLaunchKernel")}
                row["item"] = names["aten::item"] / PROFILED_STEPS
            rows.append(row)
            print(json.dumps(row), flush=True)
    return rows


def train(scale: Scale) -> list[dict[str, Any]]:
    """Train three tasks for long, and evaluate them."""
    rows = []
    for task in scale.some(("simclr", "byol", "mae")):
        file = ROOT / "configs" / "fashion-mnist" / f"{task}.yaml"
        configured = ["--config", file] if file.exists() else ["--task", task]
        with tempfile.TemporaryDirectory() as folder:
            words = ["train", *configured, "--data", scale.data, "--epochs", scale.epochs, *scale.rest]
            error, result = call(*words, "--out", Path(folder, "run"))
        kept = {name: result[name] for name in ("scores", "seconds", "samples_per_second") if result}
        rows.append({"task": task, "error": error, **kept})
        print(json.dumps(rows[-1]), flush=True)
    return rows


def peers(scale: Scale) -> dict[str, Any]:
    """Measure against the other libraries in one process."""
    rest = ["--data", "digits", "--rounds", "1", "--steps", "2"] if scale.small else []
    with tempfile.TemporaryDirectory() as aside:
        out = Path(aside, "peers.json")
        command = [sys.executable, "-m", "benchmarks.peers", "--epochs", "0", "--json", str(out)]
        subprocess.run([*command, *rest], check=True, cwd=ROOT)
        measured: dict[str, Any] = json.loads(out.read_text())
    return measured


def compare(scale: Scale) -> dict[str, Any]:
    """Make the comparison of Fashion-MNIST, with three seeds."""
    words: list[object] = ["compare", "--config", ROOT / "configs" / "compare" / "fashion-mnist.yaml"]
    if scale.small:
        words = ["compare", "--tasks", "rotation", "--seeds", 1, "--epochs", 0.2, "--protocol", "knn"]
    with tempfile.TemporaryDirectory() as folder:
        error, result = call(*words, "--out", Path(folder, "c"))
    return {"error": error, "table": result}


def resume(scale: Scale) -> dict[str, Any]:
    """Kill a run amid its steps, resume it, and compare its losses with those of an undisturbed one."""
    with tempfile.TemporaryDirectory() as folder:
        words: list[object] = ["train", "--task", "simclr", "--no-tune", "--deterministic"]
        words += ["--epochs", 2 if scale.small else 30, "--set", "train.checkpoint_seconds=0"]
        words += ["--set", "train.log_every=1", *scale.rest]
        whole, killed = Path(folder, "whole"), Path(folder, "killed")
        error, _result = call(*words, "--out", whole)
        if error:
            return {"error": error}
        command = [sys.executable, "-m", "ssl_zoo", *map(str, words), "--out", str(killed)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not (killed / "checkpoint.pt").exists() and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        code = process.wait()
        error, _result = call("train", "--resume", killed)
        if error:
            return {"code": code, "error": error}
        losses = [losses_of(run) for run in (whole, killed)]
        differ = "" if losses[0] == losses[1] else "the losses differ from those of the undisturbed run"
        return {"code": code, "error": differ, "steps": len(losses[0])}


def sharded(scale: Scale) -> dict[str, Any]:
    """Train a transformer in shards and in copies, in two processes, and compare their losses."""
    if DEVICE == "cuda" and torch.cuda.device_count() < 2:
        return {"error": "", "skipped": "there is one GPU"}
    with tempfile.TemporaryDirectory() as folder:
        words: list[object] = ["train", "--task", "dino", "--devices", 2, "--protocol", "knn"]
        words += ["--epochs", 1 if scale.small else 30, "--set", "train.log_every=1"]
        words += ["--backbone", "test_vit", "--set", "backbone.options.patch_size=4", *scale.rest]
        runs = {parallel: Path(folder, parallel) for parallel in ("ddp", "fsdp")}
        for parallel, run in runs.items():
            error, _result = call(*words, "--set", f"train.parallel={parallel}", "--out", run)
            if error:
                return {"error": error}
        copies, shards = (losses_of(run) for run in runs.values())
        gap = max(abs(a - b) / abs(a) for a, b in zip(copies, shards, strict=True))
        return {"error": "", "steps": len(copies), "largest_relative_gap": gap}


STEPS: dict[str, Callable[[Scale], Any]] = {
    step.__name__: step
    for step in (
        *(machine, tasks, zoo, ratios, crops, compiled, profile, train, peers, compare, resume),
        sharded,
    )
}


def errors(result: Any) -> list[str]:
    """Return the complaints in a result, which is written all the same."""
    rows = result if isinstance(result, list) else [result]
    return [row["error"] for row in rows if isinstance(row, dict) and row.get("error")]


def main() -> None:
    """Do one step, and write its result when it has ended; exit with 1 if a part of it failed."""
    name, folder = sys.argv[1], Path(sys.argv[2])
    if name == "link":
        link(folder)
        return
    start = time.perf_counter()
    result = STEPS[name](SCALES[sys.argv[3]])
    facts = {"step": name, "scale": sys.argv[3], "seconds": round(time.perf_counter() - start, 1)}
    (folder / f"{name}.json").write_text(json.dumps({**facts, "result": result}, indent=1) + "\n")
    if failed := errors(result):
        sys.exit("\n".join(failed))


if __name__ == "__main__":
    main()
