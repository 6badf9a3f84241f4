"""The check of two processes that share a batch."""

from __future__ import annotations

import contextlib
import json
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ssl_zoo import distributed, tree
from ssl_zoo.nn import stop_dropout
from ssl_zoo.plugins.registry import registry
from ssl_zoo.plugins.validation import PLUGIN_ERRORS
from ssl_zoo.testing.case import Case, compute, snapshot
from ssl_zoo.testing.check import CheckFailed, CheckSkipped, require
from ssl_zoo.testing.rank_server import RANKS, TIMEOUT, server
from ssl_zoo.text import locate_error, one_line
from ssl_zoo.training.accumulation import Accumulation
from ssl_zoo.views import Rng

Share = Callable[[Any, int, int], dict[str, Any]]
"""Takes a case, a rank and the number of processes; returns tensors, in dictionaries and lists."""

_TOTAL = 16
"""The number of samples in the joint batch."""


def check_two_processes_are_one(case: Case) -> str:
    """Check that two processes with half a batch each equal one process with the whole batch."""
    joint = _share(case, 0, 1)
    if case.cls.__module__ == "__main__":
        raise CheckSkipped(unbuildable(f"{case.cls.__qualname__} is defined in __main__"))
    shares = in_two_processes(_share, case)
    loss = float(torch.stack([share["loss"] for share in shares]).mean())
    alone = float(joint["loss"])
    require(
        abs(loss - alone) <= 1e-4 * max(1.0, abs(alone)),
        f"the loss is {alone:.6f} in one process, {loss:.6f} in two: gather tensors that couple samples "
        "(distributed.all_gather), draw with `rng`, take means over a process's own samples, and give "
        "Losses.weight where the number of targets differs",
    )
    # A gradient that is 0 up to rounding, as before a normalisation, is compared with the others' norm.
    min_norm = 1e-3 * max(float(gradient.norm()) for gradient in joint["gradients"].values())
    for name, gradient in joint["gradients"].items():
        shared = torch.stack([share["gradients"][name] for share in shares]).mean(0)
        error = float((shared - gradient).norm() / gradient.norm().clamp(min=min_norm))
        require(
            error < 0.02,
            f"the gradient of {name} is not that of one process (off by {100 * error:.0f} %): gather "
            "with gradient (distributed.all_gather)",
        )
    first, second = (share["state"] for share in shares)
    for name, value in first.items():
        agree = torch.allclose(value, second[name], rtol=1e-4, atol=1e-5)
        require(
            agree, f"{name} differs between processes after a step: gather the tensors that update it"
        )
    return f"loss {alone:.4f}, {loss:.4f}"


def _share(case: Case, rank: int, world: int) -> dict[str, Any]:
    """Return a process's loss, gradients, and state after a step."""
    task = case.build()
    stop_dropout(task)  # which each process draws for itself
    if world > 1:
        distributed.sync_batchnorm(task)
    mine = slice(rank * _TOTAL // world, (rank + 1) * _TOTAL // world)
    task.before_step(0.5)
    views = tuple(task.views(tree.rows(case.data.batch(_TOTAL), mine), Rng(3, "cpu", rank, world)))
    losses = compute(task, views + tuple(part[mine] for part in case.needed(_TOTAL)))
    joint = Accumulation(1)
    joint.add(losses).backward()
    joint.normalise(task.parameters())
    gradients = {n: p.grad.clone() for n, p in task.named_parameters() if p.grad is not None}
    task.after_step(0.5)
    local = (".running_mean", ".running_var", ".num_batches_tracked")
    state = {n: v for n, v in snapshot(task).items() if not n.endswith(local)}
    loss = distributed.mean(losses.total, joint.mean().weight)
    return {"loss": loss, "gradients": gradients, "state": state}


def in_two_processes(share: Share, case: Any) -> list[dict[str, Any]]:
    """Return what `share` returns for a case in each of two processes.

    Args:
        share: a function of a module, called with the case, the rank and the number of processes.
        case: the case.

    Raises:
        CheckSkipped: another process cannot build it.
        CheckFailed: one of them fails, or they do not end.
    """
    try:
        content = pickle.dumps((share, case))
    except Exception as error:
        raise CheckSkipped(unbuildable(error)) from error
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "case.pickle").write_bytes(content)
        (folder / "plugins.json").write_text(json.dumps(registry.files()))
        try:
            failed = server.run(work, folder)
        except TimeoutError as error:
            raise CheckFailed(
                f"two processes do not end within {TIMEOUT} seconds: does one wait for the other?"
            ) from error
        if failed is not None:
            message = folder / "failed"
            text = (message if message.exists() else folder / f"output-{failed}").read_text().strip()
            last = text.splitlines()[-1] if text else "without a message"
            raise CheckFailed(f"one of two processes failed: {last}")
        return [torch.load(folder / f"share-{rank}.pt", weights_only=True) for rank in range(RANKS)]


def unbuildable(reason: object) -> str:
    """Return the message that another process cannot build a case."""
    return (
        f"another process cannot build it: {one_line(reason)}; let the class and its data be importable "
        "by name"
    )


def work(folder: Path, rank: int) -> None:
    """Compute a rank's share of the case in `folder`, and save it there."""
    torch.set_num_threads(1)
    for file in json.loads((folder / "plugins.json").read_text()):
        registry.load_file(file)
    # Written by the parent process into a new folder.
    share, case = pickle.loads((folder / "case.pickle").read_bytes())
    rendezvous = f"file://{folder / 'rendezvous'}"
    torch.distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=RANKS)
    try:
        torch.save(share(case, rank, RANKS), folder / f"share-{rank}.pt")
        distributed.barrier()
    except PLUGIN_ERRORS as error:
        # Written before the group ends, which makes the other process fail too: the first is the cause.
        with contextlib.suppress(FileExistsError), (folder / "failed").open("x") as file:
            file.write(locate_error(error))
        raise
    finally:
        torch.distributed.destroy_process_group()
