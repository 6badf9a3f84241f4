"""Shared by all tests: small runs, and the command line in this process or as a child.

pytest runs two workers (pytest-xdist) with one thread each, as networks this small only wait for other
threads; a test that is named (``::`` or ``-k``) runs in this process.
"""

from __future__ import annotations

import copy
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by torch when it is imported, and by children

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

from ssl_zoo.cli import app as cli
from ssl_zoo.config.load import load_config
from ssl_zoo.config.schema import RunConfig
from ssl_zoo.plugins.entry_points import installed
from ssl_zoo.plugins.registry import registry
from tests import processes

if TYPE_CHECKING:
    from ssl_zoo.runs.run import Run

_COMMON = {"deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}
settings.register_profile("quick", max_examples=60, **_COMMON)
settings.register_profile("thorough", max_examples=1000, **_COMMON)
settings.load_profile("quick")


TRIED: Counter[str] = Counter()
"""The attempts to break the program, by kind; counted by tests/robustness, over all workers."""


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Send a worker's counts to the controller."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["tried"] = dict(TRIED)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Add the counts of a worker that has ended."""
    TRIED.update(getattr(node, "workeroutput", {}).get("tried", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the number of attempts of each kind."""
    if TRIED:
        counts = ", ".join(f"{number:,} {kind}" for kind, number in sorted(TRIED.items()))
        terminalreporter.write_line(f"tried: {counts}")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return the number of workers for ``-n auto``: two, or none for a test that is named."""
    named = config.option.keyword or any("::" in argument for argument in config.args)
    return 0 if named or config.option.usepdb or config.option.collectonly else 2


ROOT = Path(__file__).parent.parent
"""The folder of the repository."""

OTHERS = sorted({entry.distribution for entry in installed()} - {"ssl-zoo"})
"""Distributions of plugins that happen to be installed here, which have tests of their own."""
os.environ["SSL_ZOO_DISABLE_PLUGINS"] = ",".join(OTHERS)

TASKS = ("simclr", "moco", "byol", "rotation", "inpainting")

Call = Callable[..., tuple[int, str, str]]
"""The command line in this process: its exit code, standard output and standard error."""

SMALL = {
    "backbone.name": "test_resnet",
    "backbone.options.channels": [8, 8, 16, 16],
    "backbone.stem_stride": 2,
    "data.image_size": 16,
    "train.epochs": 1,
    "train.batch_size": 128,
    "train.log_every": 1,
    "train.precision": "fp32",
    "train.device": "cpu",
}
"""A run of a second: a tiny network on the bundled digits."""

KNN = ("--protocol", "knn")
"""Arguments of ``ssl-zoo train``: a linear probe takes longer than the rest of a small run."""

OPTIONS: dict[str, dict[str, Any]] = {
    "moco": {"task.queue": 300},
    "byol": {"task.hidden": 64, "task.out": 32},
    "inpainting": {"task.hidden": 32},
}


def small_config(task: str, **settings: Any) -> RunConfig:
    """Return the configuration of a small run; settings are dotted paths with `__` for the dot."""
    return load_config(None, {"task.name": task, **small_settings(task, settings)})


def flags(task: str, **settings: Any) -> list[str]:
    """Return the same settings as arguments of ``ssl-zoo train``."""
    merged = small_settings(task, settings)
    return ["--task", task, *(a for k, v in merged.items() for a in ("--set", f"{k}={v}"))]


def small_settings(task: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a small run by path, changed by settings with `__` for the dot."""
    given = {name.replace("__", "."): value for name, value in settings.items()}
    merged = {**SMALL, **OPTIONS.get(task, {}), **given}
    if given.keys() & {"backbone.name", "backbone.options"}:
        del merged["backbone.options.channels"]  # those of the usual network
    return merged


def train(config: RunConfig | None = None, **arguments: Any) -> Run:
    """Train as `ssl_zoo.train` does, but evaluate by kNN alone unless protocols are named."""
    from ssl_zoo import training

    return training.train(config, **{"protocol": ["knn"], **arguments})


def command(*arguments: str | Path) -> list[str]:
    """Return the command of a new interpreter that runs ssl-zoo."""
    return [sys.executable, "-m", "ssl_zoo", *map(str, arguments)]


def ssl_zoo(
    *arguments: str | Path, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run ssl-zoo as a user would, in a child process."""
    main = ["-m", "ssl_zoo", *map(str, arguments)]
    return processes.run(main, cwd=cwd, env={**os.environ, **environment})


def figures(folder: Path) -> dict[str, Any]:
    """All that was measured of features, by row, but not how long it took."""
    read = json.loads((folder / "table.json").read_text())
    measured = ("knn", "rankme", "spread", "alignment", "uniformity", "linear")
    return {row["name"]: {name: row["figures"].get(name) for name in measured} for row in read["rows"]}


@pytest.fixture(params=TASKS)
def task_name(request: pytest.FixtureRequest) -> str:
    """Each of the five tasks."""
    name: str = request.param
    return name


@pytest.fixture
def call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Call]:
    """Call the command line in an empty folder: the exit code, standard output and standard error.

    What its ``--plugin`` adds to the registry of this process is gone after the test.
    """
    before = {name: copy.copy(value) for name, value in vars(registry).items()}
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ssl-zoo", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capfd.readouterr()  # of processes that it starts too
        code = ended.value.code
        return (code if isinstance(code, int) else 0), out, err

    yield call
    vars(registry).update(before)


@pytest.fixture
def isolated_registry() -> Iterator[None]:
    """Isolate the registry as in a new process, and remove the modules of plugins."""
    before = set(sys.modules)
    with registry.isolated():
        yield
    for name in set(sys.modules) - before:
        if name.startswith(("dist_", "ssl_zoo_plugin_")):
            del sys.modules[name]
