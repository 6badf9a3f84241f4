"""A process that works for hours, or carries out one run after another, comes to hold no more."""

from __future__ import annotations

import atexit
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from ssl_zoo import compare, evaluate, train
from ssl_zoo.plugins.registry import registry
from tests.conftest import TASKS, command, flags, small_config
from tests.core.pictures import photo, write
from tests.memory import PROCESS, Held

pytestmark = pytest.mark.skipif(not (PROCESS / "status").exists(), reason="only Linux tells")

ROOT = Path(__file__).parents[2]
STEPS_PER_EPOCH = 9
"""Of eight images, among the 72 of 80 that are trained on."""
SAMPLES = 9
"""How often it is noted what a process holds; a multiple of 3."""
SHORT = 15 * STEPS_PER_EPOCH * SAMPLES
HOURS = 445 * STEPS_PER_EPOCH * SAMPLES
"""SimCLR on Fashion-MNIST, as `configs/fashion-mnist` has it, makes two steps a second on two cores:
18,000 seconds' worth."""

SETTINGS: dict[str, Any] = {
    "data__image_size": 8,
    "backbone__name": "resnet18",
    "backbone__options": {"channels": [4, 4, 4, 8], "layers": [1, 1, 1, 1]},
    "train__batch_size": 8,
}
"""Steps of some milliseconds."""
OPTIONS: dict[str, dict[str, Any]] = {
    "simclr": {"task__out": 16},
    "moco": {"task__out": 16, "task__queue": 64},
    "byol": {"task__hidden": 16, "task__out": 8},
}

OBSERVER = """
import json
from dataclasses import asdict

from ssl_zoo import hookimpl
from tests.memory import Held


@hookimpl
def ssl_zoo_step_logged(run, step, metrics):
    if "loss" in metrics and step % EVERY == 0:
        with (run.path / "held.jsonl").open("a") as file:
            file.write(json.dumps(asdict(Held.now())) + "\\n")
"""
"""Notes what the process holds."""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 80 images of two classes."""
    folder = tmp_path_factory.mktemp("photos")
    for i in range(80):
        write(folder / f"class-{i % 2}" / f"{i}.png", photo((12, 12), seed=i))
    return folder


def alone(arguments: list[str]) -> str:
    """What a process of its own prints, which holds nothing of other tests."""
    done = subprocess.run(
        arguments, cwd=ROOT, check=False, capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def check_level(samples: Sequence[Held], most_bytes: int, most_objects: int) -> None:
    """The last third holds no more than the one before it; the first is there to warm up.

    Memory is given a margin, because what lies between blocks in use is not given back; and objects,
    because work is not noted at the very same point each time. The threads that decode come one by
    one, as they are needed; files are given none.
    """
    third = len(samples) // 3
    margins = {"resident": most_bytes, "objects": most_objects, "threads": 2, "files": 0}
    for name, margin in margins.items():
        counts = [getattr(sample, name) for sample in samples]
        assert max(counts[-third:]) <= max(counts[third:-third]) + margin, f"{name}: {counts}"


@pytest.mark.parametrize(
    ("task", "resident", "steps"),
    [
        ("simclr", "never", SHORT),
        pytest.param("simclr", "never", HOURS, marks=pytest.mark.slow),
        pytest.param("moco", "always", HOURS, marks=pytest.mark.slow),
        pytest.param("byol", "never", HOURS, marks=pytest.mark.slow),
    ],
)
def test_a_long_run_comes_to_hold_no_more(
    task: str, resident: str, steps: int, photos: Path, tmp_path: Path, tried: Counter[str]
) -> None:
    observer, run = tmp_path / "observer.py", tmp_path / "run"
    observer.write_text(OBSERVER.replace("EVERY", str(steps // SAMPLES)))
    arguments = flags(
        task, data__source=photos, data__resident=resident, train__epochs=steps // STEPS_PER_EPOCH,
        train__log_every=STEPS_PER_EPOCH, train__knn_points=SAMPLES, train__checkpoint_seconds=0.2,
        **SETTINGS, **OPTIONS[task],
    )  # fmt: skip
    alone(command("--plugin", observer, "train", *arguments, "--out", run))
    samples = [Held(**json.loads(line)) for line in (run / "held.jsonl").read_text().splitlines()]
    assert len(samples) == SAMPLES
    # The progress bar remembers the last 1,000 lines. Whatever else kept a single object of each step,
    # or of each line for hours, is seen; so is who keeps a view of each step's eight images (6 KiB).
    lines = steps // STEPS_PER_EPOCH // 3
    check_level(samples, most_bytes=2 * 2**20, most_objects=40 + min(1_000, lines))
    tried["steps of long runs"] += steps


def registered() -> dict[str, Any]:
    """What runs could leave something in, beside memory."""
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    return {
        "filters of warnings": len(warnings.filters),
        "loggers": len(loggers),
        "handlers of loggers": sum(len(getattr(logger, "handlers", ())) for logger in loggers),
        "calls at exit": atexit._ncallbacks(),  # type: ignore[attr-defined]
        "modules": len(sys.modules),
        "search path": len(sys.path),
        "environment": dict(os.environ),
        "signals": [str(signal.getsignal(number)) for number in sorted(signal.valid_signals())],
        "Python's threads": [thread.name for thread in threading.enumerate()],
        "plugins": [len(registry.hook_modules().hooks), len(registry._local), len(registry._warned)],
    }


def work(folder: str, photos: str, rounds: str, *tasks: str) -> None:
    """In every round train and evaluate each task; print what is held after each round."""
    places = ({"data__resident": "never"}, {"data__resident": "always"}, {"data__cache": folder})
    shared = {"data__source": photos, "train__knn_points": 2, "train__checkpoint_seconds": 0}
    for number in range(int(rounds)):
        for i, task in enumerate(tasks):
            given = {**SETTINGS, **shared, **places[(number + i) % 3], **OPTIONS.get(task, {})}
            run = train(small_config(task, **given), out=Path(folder) / f"{number}-{i}")
            evaluate(run.path, ["knn", "lowshot"], with_baselines=False)
        sections = {
            "data": {"source": photos, "image_size": 8},
            "train": {"images": 16, "batch_size": 8},
        }
        compare(
            out=Path(folder) / f"{number}", tasks=[tasks[0]], seeds=1, baselines=["pixels"],
            protocols=["knn"], backbone={"name": "test_resnet"}, **sections,
        )  # fmt: skip
        print(json.dumps([asdict(Held.now()), registered()]), flush=True)


@pytest.mark.parametrize(
    ("rounds", "tasks"),
    [(6, ("moco", "inpainting")), pytest.param(9, (*TASKS, "supervised"), marks=pytest.mark.slow)],
    ids=["12", "54"],
)
def test_one_run_after_another_leaves_nothing_behind(
    rounds: int, tasks: tuple[str, ...], photos: Path, tmp_path: Path, tried: Counter[str]
) -> None:
    program = f"import sys; from {__name__} import work; work(*sys.argv[1:])"
    printed = alone([sys.executable, "-c", program, str(tmp_path), str(photos), str(rounds), *tasks])
    noted = [json.loads(line) for line in printed.splitlines()]
    held, left = [Held(**now) for now, _ in noted], [now for _, now in noted]
    assert len(noted) == rounds
    assert left[-1] == left[rounds // 3]
    # Python's objects tell exactly whether anything of a run is still referred to: its trainer alone has
    # hundreds. The memory is that of the C library's arenas, one for each thread that has decoded.
    check_level(held, most_bytes=8 * 2**20, most_objects=20)
    tried["runs one after another"] += rounds * len(tasks)
