"""Cells in separate processes: on several devices of this machine, or on a cluster."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import Queue
from threading import Event
from typing import Any

import torch

from ssl_zoo.comparison.cells import Cell
from ssl_zoo.comparison.sweep import Launcher, Sweep, named_cell, run_here
from ssl_zoo.errors import UserError
from ssl_zoo.runtime.children import Children
from ssl_zoo.runtime.files import open_no_follow
from ssl_zoo.runtime.jobs import Command, check_cluster, open_executor
from ssl_zoo.runtime.machine import cores

POLL = 1.0
"""Seconds between checks of the progress of cells in other processes."""


def launcher(devices: int, cluster: str | None, parameters: Mapping[str, Any]) -> Launcher:
    """Return the function that works through the cells of a comparison.

    Args:
        devices: the number of cells at a time on this machine; 1 for this process.
        cluster: "slurm" or "local", to submit the cells as jobs instead.
        parameters: the parameters of submitit.

    Raises:
        UserError: the arguments cannot be combined, or there is no such cluster.
    """
    check_cluster(cluster, parameters)
    if cluster is None:
        return run_here if devices == 1 else partial(on_devices, number=devices)
    if devices != 1:
        raise UserError("--devices cannot be combined with --launcher: a job is one run on one device")
    return partial(submit, cluster=cluster, parameters=parameters)


def commands(sweep: Sweep, only: str | None = None) -> list[str]:
    """Return the command of each cell that is not done, for any machine that has the folder.

    Args:
        sweep: the comparison, whose file is written.
        only: the name of one cell; none: all.

    Raises:
        UserError: there is no such cell.
    """
    cells = [named_cell(sweep, only)] if only is not None else sweep.todo()
    sweep.write()
    return [shlex.join(["ssl-zoo", *sweep.command(cell)]) for cell in cells]


def _observe(sweep: Sweep, cell: Cell) -> None:
    """Report the progress of a cell, read from its folder."""
    with suppress(OSError, ValueError, TypeError, LookupError):
        lines = (cell.path / "metrics.jsonl").read_text().splitlines()
        sweep.advance(cell, float(json.loads(lines[-1])["progress"]))


def on_devices(sweep: Sweep, number: int) -> None:
    """Work through the cells with `number` processes, each on its own device.

    On CUDA every process sees one device; on the CPU they share the processors evenly.

    Raises:
        UserError: there are fewer devices.
    """
    config = sweep.comparison.encoder_config(0).train
    cuda = torch.cuda.is_available() and config.device in ("auto", "cuda")
    if config.device not in ("auto", "cuda", "cpu"):
        raise UserError(
            f"--devices {number}: cannot be combined with --device {config.device}, a single device"
        )
    if cuda and number > torch.cuda.device_count():
        raise UserError(f"--devices {number}: there are {torch.cuda.device_count()} CUDA devices here")
    # The visible devices, by the names that the variable gives them.
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    free: Queue[str] = Queue()
    for index in range(number):
        free.put(visible[index] if any(visible) else str(index))
    stop = Event()

    def run(cell: Cell) -> None:
        index = free.get()
        try:
            if stop.is_set():
                return
            environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, cores() // number))}
            environment["PYTHONSAFEPATH"] = "1"  # no modules that lie in the current folder
            if cuda:
                environment["CUDA_VISIBLE_DEVICES"] = index
            command = [sys.executable, "-m", "ssl_zoo", *sweep.command(cell)]
            child = Children()
            with open_no_follow(_log(cell), "ab") as log:
                child.start(command, environment, log)
                code = child.wait(stop)
            if code and cell.status != "done" and not stop.is_set():
                _record_end(cell, f"its process ended with code {code}")
        except OSError as error:
            cell.folder.record_failure(f"its process cannot be started: {error.strerror or error}")
        finally:
            free.put(index)

    with ThreadPoolExecutor(number) as pool:
        waiting = {cell.name: (cell, pool.submit(run, cell)) for cell in sweep.todo()}
        try:
            _watch(sweep, {n: (c, f.done, f.running) for n, (c, f) in waiting.items()})
        except BaseException:
            stop.set()
            raise
    for _, future in waiting.values():
        future.result()


def _watch(
    sweep: Sweep,
    waiting: Mapping[str, tuple[Cell, Callable[[], bool], Callable[[], bool]]],
) -> None:
    """Follow the progress of cells that other processes work on until all have ended."""
    open_cells = dict(waiting)
    while open_cells:
        for name, (cell, done, running) in list(open_cells.items()):
            if done():
                del open_cells[name]
                sweep.end(cell)
            elif running():
                if name not in sweep.progress:
                    sweep.begin(cell)
                _observe(sweep, cell)
        time.sleep(POLL if open_cells else 0)


def _log(cell: Cell) -> Path:
    cell.path.parent.mkdir(parents=True, exist_ok=True)
    folder = cell.path.parent / "logs"
    folder.mkdir(exist_ok=True)
    return folder / f"{cell.name}.log"


def _record_end(cell: Cell, problem: str) -> None:
    """Record the failure of a process that recorded none itself, with the last line of its log."""
    if cell.failure() is None:
        lines = _log(cell).read_text(errors="replace").strip().splitlines() or [""]
        cell.folder.record_failure(f"{problem}: {lines[-1]}" if lines[-1] else problem)


def submit(sweep: Sweep, cluster: str, parameters: Mapping[str, Any]) -> None:
    """Submit every cell as a job through submitit, and wait for them all.

    Args:
        sweep: the comparison.
        cluster: "slurm", or "local" for processes on this machine.
        parameters: the parameters of submitit, such as
            ``{"slurm_partition": "gpu", "timeout_min": 240}``.

    Raises:
        UserError: submitit is not installed, the cluster is not available, or a parameter is unknown.
    """
    executor = open_executor(cluster, sweep.out / "logs", parameters)
    todo = sweep.todo()
    # The local executor starts all jobs at once.
    for cells in [[cell] for cell in todo] if cluster == "local" else [todo]:
        _submit(executor, sweep, cells)


def _submit(executor: Any, sweep: Sweep, cells: Sequence[Cell]) -> None:
    with executor.batch():
        jobs = [executor.submit(Command(sweep.command(cell))) for cell in cells]

    def has_ended(cell: Cell, job: Any) -> bool:
        if not job.done():
            return False
        if cell.status not in ("done", "failed"):
            cell.folder.record_failure(f"job {job.job_id} ended as {job.state}; see {job.paths.stderr}")
        return True

    _watch(
        sweep,
        {
            cell.name: (cell, partial(has_ended, cell, job), partial(_runs, job))
            for cell, job in zip(cells, jobs, strict=True)
        },
    )


def _runs(job: Any) -> bool:
    return bool(job.state == "RUNNING")
