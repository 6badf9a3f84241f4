"""Memory, threads and open files stay level in a run of hours, and from one run to the next."""

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

pytestmark = pytest.mark.skipif(not (PROCESS / "status").exists(), reason="needs Linux's /proc")

ROOT = Path(__file__).parents[2]
STEPS_PER_EPOCH = 9
"""Steps of 8 images; the train split has 72 of the 80 images."""
SAMPLES = 9
"""The number of measurements of a process in a run; a multiple of 3."""
SHORT = 15 * STEPS_PER_EPOCH * SAMPLES
HOURS = 445 * STEPS_PER_EPOCH * SAMPLES
"""As many steps as 18,000 seconds of SimCLR on Fashion-MNIST (`configs/fashion-mnist`), which makes two
steps a second on two cores."""

SETTINGS: dict[str, Any] = {
    "data__image_size": 8,
    "backbone__name": "resnet18",
    "backbone__options": {"channels": [8, 8, 8, 8], "layers": [1, 1, 1, 1]},
    "train__batch_size": 8,
}
"""A network whose steps take a few milliseconds."""
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
"""An observer that records the memory, objects, threads and files of the process."""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of 80 images of two classes."""
    folder = tmp_path_factory.mktemp("photos")
    for i in range(80):
        write(folder / f"class-{i % 2}" / f"{i}.png", photo((12, 12), seed=i))
    return folder


def alone(arguments: list[str]) -> str:
    """Run a separate process, which is independent of other tests, and return its output."""
    done = subprocess.run(
        arguments, cwd=ROOT, check=False, capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def check_level(samples: Sequence[Held], max_bytes: int, max_objects: int) -> None:
    """Check that the last third of the samples holds no more than the second; the first is warm-up.

    Memory has a margin because free memory between blocks in use is not returned to the system; objects
    have one because the measurements are not at exactly the same point of the work; threads have one
    because decoding threads start one by one as they are needed. Files have none.
    """
    third = len(samples) // 3
    margins = {"resident": max_bytes, "objects": max_objects, "threads": 2, "files": 0}
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
    # The progress bar remembers the last 1,000 lines. These limits detect a leak of one object per step
    # or, over hours, per line, and of one view of each step's eight images (6 KiB).
    lines = steps // STEPS_PER_EPOCH // 3
    check_level(samples, max_bytes=2 * 2**20, max_objects=40 + min(1_000, lines))
    tried["steps of long runs"] += steps


def registered() -> dict[str, Any]:
    """Return the global state, besides memory, in which runs could leave something."""
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
    """Train and evaluate each task in every round, and print the measurements after each round."""
    storage = ({"data__resident": "never"}, {"data__resident": "always"}, {"data__cache": folder})
    shared = {"data__source": photos, "train__knn_points": 2, "train__checkpoint_seconds": 0}
    for number in range(int(rounds)):
        for i, task in enumerate(tasks):
            settings = {**SETTINGS, **shared, **storage[(number + i) % 3], **OPTIONS.get(task, {})}
            run = train(small_config(task, **settings), out=Path(folder) / f"{number}-{i}")
            evaluate(run.path, ["knn", "lowshot"], with_baselines=False)
        sections = {
            "data": {"source": photos, "image_size": 8},
            "train": {"samples": 16, "batch_size": 8},
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
    measurements = [json.loads(line) for line in printed.splitlines()]
    held, state = [Held(**now) for now, _ in measurements], [now for _, now in measurements]
    assert len(measurements) == rounds
    assert state[-1] == state[rounds // 3]
    # The number of Python objects shows whether a run is still referenced: its trainer alone has
    # hundreds. The memory margin is for the C library's arenas, one for each decoding thread.
    check_level(held, max_bytes=8 * 2**20, max_objects=20)
    tried["runs one after another"] += rounds * len(tasks)
