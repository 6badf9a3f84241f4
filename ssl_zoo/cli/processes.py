"""``ssl-zoo train`` in other processes: on the devices of this machine, or as a job of a cluster."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_zoo.cli.errors import fail
from ssl_zoo.cli.notices import PRINTED, printed_lines
from ssl_zoo.errors import UserError

if TYPE_CHECKING:
    from ssl_zoo.config.schema import RunConfig


def run_in_processes(number: int) -> None:
    """Do the command of this process, which begins no run, in `number` processes; exit if they fail."""
    from ssl_zoo.runtime import launch as elastic

    error = elastic.launch(number, sys.argv[1:], {PRINTED: printed_lines()})
    if error is not None:
        fail(error.message, error.code)


def launch(run: Path | RunConfig | None, number: int, max_restarts: int) -> None:
    """Do the command of this process in `number` processes, and exit as they do if they fail.

    Args:
        run: the folder of the run, or its configuration, for a new folder.
        number: the number of processes.
        max_restarts: how often they start again after one has died.
    """
    from ssl_zoo.runs.restarts import RUN_FOLDER, has_begun, resume_command
    from ssl_zoo.runtime import launch as elastic

    folder = _folder_of(run)
    variables = {PRINTED: printed_lines(), RUN_FOLDER: str(folder)}
    try:
        error = elastic.launch(number, sys.argv[1:], variables, max_restarts=max_restarts)
        if error is not None:
            resume = error.died and has_begun(folder)
            hint = f"; resume with: {resume_command(folder, number)}" if resume else ""
            fail(f"{error.message}{hint}", error.code)
    finally:
        _remove_if_empty(folder)


def submit(
    run: Path | RunConfig | None, cluster: str, parameters: Mapping[str, Any], json: bool
) -> None:
    """Submit the command of this process as a job, and print where to follow it.

    Args:
        run: the folder of the run, or its configuration, for a new folder.
        cluster: slurm or local.
        parameters: the parameters of submitit.
        json: whether to print JSON.
    """
    from ssl_zoo.cli import console
    from ssl_zoo.runs.restarts import RUN_FOLDER
    from ssl_zoo.runtime.jobs import Command, open_executor

    if "tasks_per_node" in parameters:
        raise UserError("--launcher-set tasks_per_node: --devices is the number of processes of a node")
    folder = _folder_of(run)
    files = folder.with_name(f"{folder.name}.job")  # beside it, as the folder of a new run is empty
    try:
        executor = open_executor(cluster, files, {**parameters, "tasks_per_node": 1})
        job = executor.submit(Command(sys.argv[1:], {RUN_FOLDER: str(folder)}))
    except BaseException:
        _remove_if_empty(files)
        _remove_if_empty(folder)
        raise
    if json:
        console.print_json({"job": job.job_id, "run": str(folder), "log": str(job.paths.stderr)})
        return
    console.say(f"job: {job.job_id}")
    console.say(f"run: {folder}")
    console.say(f"log: {job.paths.stderr}")
    console.say(f"  tail -F {shlex.quote(str(job.paths.stderr))}")


def _folder_of(run: Path | RunConfig | None) -> Path:
    """Return the folder of a run, for a configuration a new one."""
    from ssl_zoo.runs.run import new_run_folder

    assert run is not None
    return run if isinstance(run, Path) else new_run_folder(run)


def _remove_if_empty(folder: Path) -> None:
    """Remove the folder of a run that has written nothing."""
    from ssl_zoo.runs.run import RUNS

    with suppress(OSError):
        folder.rmdir()
        if folder.parent == RUNS:
            RUNS.rmdir()
