"""The package works without what only Linux, or only POSIX, offers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import importlib, os, pathlib, pkgutil, signal, sys
import filelock, timm, torch, torchvision, typer  # which have an implementation for each system
from torch import _dynamo

for name in ("fcntl", "resource"):
    sys.modules[name] = None
for name in ("O_NOFOLLOW", "pread", "posix_fallocate", "sched_getaffinity"):
    if hasattr(os, name):
        delattr(os, name)
if hasattr(signal, "SIGUSR1"):
    del signal.SIGUSR1

import ssl_zoo
for module in pkgutil.walk_packages(ssl_zoo.__path__, "ssl_zoo."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)

from ssl_zoo.training import train
from tests.conftest import small_config

out = pathlib.Path(sys.argv[1])
run = train(small_config("simclr", train__epochs=None, train__samples=256), out=out, protocol=["knn"])
assert train(resume=out, settings={"train.samples": 512}, protocol=["knn"]).results()["steps"] == 4
"""


def test_a_run_is_trained_and_resumed_without_what_only_posix_has(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "run")],
        capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr


def test_rows_are_read_alike_with_and_without_pread(tmp_path: Path) -> None:
    program = """
import os, sys
import numpy, torch
from ssl_zoo.data.mapped import ArrayFile
from pathlib import Path
numpy.save(sys.argv[1], numpy.arange(60, dtype=numpy.uint8).reshape(20, 3))
rows = torch.tensor([7, 0, 19])
file = ArrayFile(Path(sys.argv[1]))
expected = file.whole[rows]
assert file.read(rows).equal(expected)
del os.pread
assert file.read(rows).equal(expected)
"""
    file = tmp_path / "rows.npy"
    result = subprocess.run(
        [sys.executable, "-c", program, str(file)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
