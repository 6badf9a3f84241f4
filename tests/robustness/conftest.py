"""Count the attempts to break the program, over all workers, and report them at the end."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ssl_zoo.runs.run import Run
from ssl_zoo.training import train
from tests.conftest import small_config

TRIED: Counter[str] = Counter()


@pytest.fixture(scope="session")
def tried() -> Counter[str]:
    """Return the number of attempts of each kind; every test adds its own."""
    return TRIED


@pytest.fixture(name="trained", scope="module")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a finished run, trained once for each module."""
    config = small_config("simclr", train__epochs=0.2, task__hidden=16, task__out=8)
    return train(config, out=tmp_path_factory.mktemp("trust") / "run", protocol=["knn"])


@pytest.fixture(name="run")
def copied_run(trained: Run, tmp_path: Path) -> Run:
    """Return a finished run, to be tampered with."""
    shutil.copytree(trained.path, tmp_path / "run")
    return Run(tmp_path / "run")


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """Return a path that exists once anything was executed."""
    return tmp_path / "canary"


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
