"""Two processes that share a batch, as one process with the whole batch."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from ssl_zoo import distributed
from ssl_zoo.plugins.registry import registry
from ssl_zoo.plugins.validation import PLUGIN_ERRORS
from ssl_zoo.task import Task
from ssl_zoo.testing.case import Case, CheckFailed, CheckSkipped, backward, require, snapshot
from ssl_zoo.text import locate_error
from ssl_zoo.views import Rng

_PATIENCE = 240
"""Seconds that the processes are given."""
_TOTAL = 16
"""Samples in the joint batch."""


def check_two_processes_are_one(case: Case) -> str:
    """Two processes with half of the batch each have the loss and the gradient of one with all."""
    joint = _share(case, 0, 1)
    with tempfile.TemporaryDirectory() as folder:
        shares = _run(case, Path(folder))
    loss = float(torch.stack([share["loss"] for share in shares]).mean())
    alone = float(joint["loss"])
    require(
        abs(loss - alone) <= 1e-4 * max(1.0, abs(alone)),
        f"the loss is {alone:.6f} in one process, {loss:.6f} in two: gather what couples samples "
        "(distributed.all_gather), draw with `rng`, and take means over a process's own samples",
    )
    # A gradient that is 0 but for rounding, as before a normalisation, is measured by the others'.
    least = 1e-3 * max(float(gradient.norm()) for gradient in joint["gradients"].values())
    for name, gradient in joint["gradients"].items():
        shared = torch.stack([share["gradients"][name] for share in shares]).mean(0)
        error = float((shared - gradient).norm() / gradient.norm().clamp(min=least))
        require(
            error < 0.02,
            f"the gradient of {name} is not that of one process (off by {100 * error:.0f} %): gather "
            "with gradient (distributed.all_gather)",
        )
    first, second = (share["kept"] for share in shares)
    for name, value in first.items():
        agree = torch.allclose(value, second[name], rtol=1e-4, atol=1e-5)
        require(agree, f"{name} differs between processes after a step: gather what moves it")
    return f"loss {alone:.4f}, {loss:.4f}"


def _share(case: Case, rank: int, world: int) -> dict[str, Any]:
    """One process's loss, gradients, and what it keeps after a step."""
    task = case.build()
    _stop_dropout(task)
    if world > 1:
        distributed.sync_batchnorm(task)
    mine = slice(rank * _TOTAL // world, (rank + 1) * _TOTAL // world)
    views = tuple(task.views(case.setting.batch(_TOTAL)[mine], Rng(3, "cpu", rank, world)))
    losses = backward(task, views + tuple(labels[mine] for labels in case.labels(_TOTAL)))
    gradients = {n: p.grad.clone() for n, p in task.named_parameters() if p.grad is not None}
    task.after_step(0.5)
    local = (".running_mean", ".running_var", ".num_batches_tracked")
    kept = {n: v for n, v in snapshot(task).items() if not n.endswith(local)}
    return {"loss": losses.total.detach(), "gradients": gradients, "kept": kept}


def _stop_dropout(task: Task) -> None:
    """Let nothing drop out, which each process draws for itself."""
    for module in task.modules():
        if isinstance(module, _DropoutNd):
            module.p = 0.0
        elif isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
        elif isinstance(module, DropPath):
            module.drop_prob = 0.0


def _run(case: Case, folder: Path) -> list[dict[str, Any]]:
    """What two processes make of the case.

    Raises:
        CheckSkipped: they could not build it.
    """
    try:
        content = pickle.dumps(case)
        if case.cls.__module__ == "__main__":
            raise TypeError(f"{case.cls.__qualname__} is defined in __main__")
    except Exception as error:
        raise CheckSkipped(
            f"another process cannot build it: {' '.join(str(error).split())}; let the class and "
            "the setting be importable by name"
        ) from error
    (folder / "case.pickle").write_bytes(content)
    (folder / "plugins.json").write_text(json.dumps(registry.files()))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    environment["PYTHONSAFEPATH"] = "1"  # no modules but those on this process's path
    command = [sys.executable, "-c", f"from {__name__} import work; work()", str(folder)]
    started = []
    for rank in range(2):
        said = (folder / f"said-{rank}").open("w")
        started.append(
            subprocess.Popen(
                [*command, str(rank)], env=environment, stdout=said, stderr=subprocess.STDOUT
            )
        )
    try:
        failed = _first_to_fail(started)
    finally:
        for process in started:
            process.kill()
            process.wait()
    if failed is not None:
        known = folder / "failed"
        text = (known if known.exists() else folder / f"said-{failed}").read_text().strip()
        require(False, f"one of two processes failed: {(text or 'without a word').splitlines()[-1]}")
    return [torch.load(folder / f"share-{rank}.pt", weights_only=True) for rank in range(2)]


def _first_to_fail(processes: list[subprocess.Popen[bytes]]) -> int | None:
    """The number of the process that fails first, of which the other's failure is but an echo.

    Raises:
        CheckFailed: they do not end.
    """
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        codes = [process.poll() for process in processes]
        for number, code in enumerate(codes):
            if code:
                return number
        if None not in codes:
            return None
        time.sleep(0.05)
    raise CheckFailed(
        f"two processes do not end within {_PATIENCE} seconds: does one wait for the other?"
    )


def work() -> None:
    """What one of the processes does, whose arguments are the folder and its rank."""
    folder, rank = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    for file in json.loads((folder / "plugins.json").read_text()):
        registry.load_file(file)
    # Written by the parent process into a folder of its own.
    case: Case = pickle.loads((folder / "case.pickle").read_bytes())
    rendezvous = f"file://{folder / 'rendezvous'}"
    torch.distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2)
    try:
        share: dict[str, Tensor | dict[str, Tensor]] = _share(case, rank, 2)
        torch.save(share, folder / f"share-{rank}.pt")
        distributed.barrier()
    except PLUGIN_ERRORS as error:
        # Before the group ends, at which the other process fails too: what is first is the cause.
        with contextlib.suppress(FileExistsError), (folder / "failed").open("x") as file:
            file.write(locate_error(error))
        raise
    finally:
        torch.distributed.destroy_process_group()
