"""Jobs on a cluster, or on this machine, through submitit."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ssl_zoo.errors import UserError
from ssl_zoo.runtime.children import POLL, Children
from ssl_zoo.runtime.error_file import RENDEZVOUS
from ssl_zoo.runtime.launch import Rendezvous

CLUSTERS = ("slurm", "local")
"""The clusters: slurm, and processes on this machine."""
MAX_REQUEUES = 100
"""How often a job that reaches its time limit is requeued."""


def check_cluster(cluster: str | None, parameters: Mapping[str, Any]) -> None:
    """Check the choice of a cluster, and that there is one where parameters are given.

    Raises:
        UserError: there is no such cluster.
    """
    if cluster is None and parameters:
        raise UserError("--launcher-set requires --launcher slurm")
    if cluster is not None and cluster not in CLUSTERS:
        raise UserError(f"--launcher: there is no {cluster!r}; there are: {', '.join(CLUSTERS)}")


def open_executor(cluster: str, folder: Path, parameters: Mapping[str, Any]) -> Any:
    """Return submitit's executor of a cluster.

    Args:
        cluster: one of `CLUSTERS`.
        folder: the folder of the jobs' files: logs, and what they run.
        parameters: the parameters of submitit, such as
            ``{"slurm_partition": "gpu", "timeout_min": 240}``.

    Raises:
        UserError: submitit is not installed, the cluster is not available, or a parameter is unknown.
    """
    try:
        import submitit
    except ImportError as error:
        raise UserError(f"--launcher {cluster} needs submitit: pip install 'ssl-zoo[slurm]'") from error
    try:
        limit = {f"{cluster}_max_num_timeout": MAX_REQUEUES}
        executor = submitit.AutoExecutor(folder=folder, cluster=cluster, **limit)
        executor.update_parameters(**{"timeout_min": 24 * 60, "name": "ssl-zoo", **parameters})
    except (RuntimeError, TypeError, NameError, ValueError, AssertionError) as error:
        raise UserError(f"--launcher {cluster}: {' '.join(str(error).split())}") from error
    return executor


class Command:
    """A command of ``ssl-zoo`` as a job, which goes on when the cluster has stopped and requeued it.

    Its processes are asked to end, and save, when submitit announces that the job will be stopped; the
    same command, started again, resumes what it had begun.

    Args:
        arguments: the arguments of the command.
        variables: what to add to its environment.
    """

    def __init__(self, arguments: Sequence[str], variables: Mapping[str, str] | None = None) -> None:
        self.arguments = list(arguments)
        self.variables = dict(variables or {})

    def __call__(self) -> None:
        """Run the command on one of the job's machines, and wait for it.

        Raises:
            RuntimeError: it has failed.
        """
        environment = {**os.environ, "PYTHONSAFEPATH": "1", **self._rendezvous(), **self.variables}
        self._children = Children()
        # Slurm sends its notice to every process of a job; it is for this one alone, which passes it on.
        notice = {getattr(signal, f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}")}
        signal.pthread_sigmask(signal.SIG_BLOCK, notice)
        self._children.start([sys.executable, "-m", "ssl_zoo", *self.arguments], environment)
        with ThreadPoolExecutor(1) as pool:
            self._code: Future[int] = pool.submit(self._children.wait)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, notice)
            if code := self._wait():
                raise RuntimeError(f"ssl-zoo ended with code {code}")

    def checkpoint(self) -> Any:
        """Let the command save and end, and return what to run when the job starts again."""
        from submitit.helpers import DelayedSubmission

        if hasattr(self, "_code"):
            self._children.send_signal(signal.SIGTERM)
            self._wait()
        return DelayedSubmission(Command(self.arguments, self.variables))

    def _wait(self) -> int:
        """Wait for the end of the command, also in a handler of signals during another wait."""
        while not self._code.done():
            time.sleep(POLL)
        return self._code.result()

    def _rendezvous(self) -> dict[str, str]:
        """Return the variable by which the machines of this job find each other."""
        import submitit

        job = submitit.JobEnvironment()
        if job.num_nodes == 1:
            return {}
        number = int("".join(filter(str.isdigit, job.job_id)) or 0)
        endpoint = f"{job.hostnames[0]}:{20000 + number % 10000}"  # of its own on a shared machine
        rendezvous = Rendezvous(job.num_nodes, endpoint, job.job_id, job.hostnames[job.node])
        return {RENDEZVOUS: " ".join(map(str, rendezvous))}
