"""Shared by the attempts to break the program."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest

from ssl_zoo.runs.run import Run
from ssl_zoo.training import train
from tests.conftest import TRIED, small_config


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
