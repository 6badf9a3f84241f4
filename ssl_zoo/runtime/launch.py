"""Several processes that share each batch, one on each device, by torch's elastic launcher."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure
from torch.distributed.elastic.rendezvous import RendezvousParameters
from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

from ssl_zoo.runtime import signals
from ssl_zoo.runtime.error_file import LAUNCHED, MEETING, ErrorRecord, parse_error
from ssl_zoo.runtime.machine import cores

log = logging.getLogger(__name__)

POLL = 0.1
"""Seconds between checks of the processes."""


class Meeting(NamedTuple):
    """The place where the launchers of all machines of a run meet.

    Attributes:
        nodes: the number of machines.
        endpoint: host and port of the first of them; port 0 for any free one.
        run_id: a name that they share.
        address: the name or address of this machine, for the others.
    """

    nodes: int = 1
    endpoint: str = "localhost:0"
    run_id: str = ""
    address: str = "localhost"

    @classmethod
    def of_environment(cls) -> Meeting:
        """Return that of the variable `MEETING`; without it, one of this machine alone."""
        if MEETING not in os.environ:
            return cls()
        nodes, endpoint, run_id, address = os.environ[MEETING].split()
        return cls(int(nodes), endpoint, run_id, address)


def launch(
    number: int,
    arguments: Sequence[str],
    variables: Mapping[str, str],
    *,
    max_restarts: int = 0,
) -> ErrorRecord | None:
    """Run ``ssl-zoo`` with these arguments in `number` processes, and wait for them.

    This is torchrun with one line in place of its own output. A stop signal is passed on, and the
    processes may take their time to save. If one of them dies or fails, the others are ended, and all
    start again, unless the input was wrong.

    Args:
        number: the number of processes on this machine.
        arguments: the arguments of the command.
        variables: what to add to their environment.
        max_restarts: how often they are started again.

    Returns:
        The error that ended them; None if all have succeeded.
    """
    meeting = Meeting.of_environment()
    threads = str(max(1, cores() // number))
    defaults = {"OMP_NUM_THREADS": threads, "TORCH_CPP_LOG_LEVEL": "ERROR"}
    defaults["PYTHONSAFEPATH"] = "1"  # do not import modules from the current folder
    if meeting.nodes > 1:
        defaults["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # as processes that restart need another
    before = dict(os.environ)
    os.environ.update({**defaults, **before, **variables, LAUNCHED: "1"})
    try:
        with tempfile.TemporaryDirectory(prefix="ssl-zoo-", ignore_cleanup_errors=True) as folder:
            return _run(_agent(number, arguments, max_restarts, meeting, folder))
    finally:
        os.environ.clear()
        os.environ.update(before)


def _agent(
    number: int, arguments: Sequence[str], max_restarts: int, meeting: Meeting, folder: str
) -> _Agent:
    """Return the agent that starts and watches the processes, with a folder for their errors."""
    quiet = logging.getLogger("torch.distributed.elastic")
    quiet.addHandler(logging.NullHandler())
    quiet.propagate = False
    run_id = meeting.run_id or uuid.uuid4().hex
    parameters = RendezvousParameters(
        "c10d", meeting.endpoint, run_id, meeting.nodes, meeting.nodes, meeting.address
    )
    spec = WorkerSpec(
        role="ssl-zoo",
        local_world_size=number,
        rdzv_handler=get_rendezvous_handler(parameters),
        entrypoint=sys.executable,
        args=("-m", "ssl_zoo", *(a.replace("$", "$$") for a in arguments)),  # as torch substitutes $
        max_restarts=max_restarts,
        monitor_interval=POLL,
        local_addr=meeting.address,
    )
    return _Agent(spec, DefaultLogsSpecs(log_dir=folder))


def _run(agent: _Agent) -> ErrorRecord | None:
    """Run an agent, passing signals on, and return what ended its processes."""
    # Torch's own handlers, which give processes 30 s to save, are set in the main thread only.
    with signals.handle_stop_signals(agent.signals.append), ThreadPoolExecutor(1) as pool:
        result: Future[RunResult] = pool.submit(agent.run)
        while not result.done():  # on Windows no signal arrives during a wait without end
            time.sleep(POLL / 2)
    with contextlib.suppress(Exception):  # on another machine, its launcher may have ended
        agent.spec.rdzv_handler.shutdown()
    if isinstance(error := result.exception(), _Ended):
        return error.record
    failures = result.result().failures
    return describe(failures) if failures else None


class _Ended(Exception):
    """A failure after which no process is started again."""

    def __init__(self, record: ErrorRecord) -> None:
        super().__init__(record.message)
        self.record = record


class _Agent(LocalElasticAgent):
    """Torch's agent, which also passes signals on, says why it restarts, and knows when not to.

    Attributes:
        spec: what it starts.
        signals: numbers of signals that are to be passed on.
    """

    def __init__(self, spec: WorkerSpec, logs: DefaultLogsSpecs) -> None:
        super().__init__(spec, logs)
        self.spec = spec
        self.signals: list[int] = []
        self._stopped_by = 0
        self._restarts = 0

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        while self.signals:
            self._stopped_by = self.signals.pop(0)
            for worker in worker_group.workers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker.id, self._stopped_by)
        result: RunResult = super()._monitor_workers(worker_group)
        if result.state == WorkerState.FAILED:
            record = describe(result.failures, self._stopped_by)
            if self._stopped_by or record.code == 2 or record.code - 128 in signals.STOP_SIGNALS:
                raise _Ended(record)
            if self._restarts < self.spec.max_restarts:
                self._restarts += 1
                total = self.spec.max_restarts
                log.warning("%s; restart %d of %d", record.message, self._restarts, total)
        return result


def describe(failures: Mapping[int, ProcessFailure], stopped_by: int = 0) -> ErrorRecord:
    """Return the error that ended all processes, of those that failed.

    Args:
        failures: the failures by rank, in the order in which they were noticed.
        stopped_by: the signal that was passed on to them, 0 if none was.
    """
    found = [(rank, _record(failure), failure) for rank, failure in failures.items()]
    first = min(failure.timestamp for failure in failures.values())
    rank, record, failure = min(found, key=lambda item: _distance(item[1], item[2], first))
    if record is None:
        if stopped_by and failure.exitcode in (-stopped_by, 128 + stopped_by):
            return ErrorRecord("interrupted", 128 + stopped_by)
        return _death(rank, failure)
    alike = [r for _, r, _ in found if r is not None and r.message == record.message]
    if record.code == 1 and len(alike) == 1 < len(failures):
        return ErrorRecord(f"rank {rank}: {record.message}", record.code)
    return record


def _record(failure: ProcessFailure) -> ErrorRecord | None:
    data = failure.error_file_data
    return parse_error(data) if isinstance(data, dict) else None


def _distance(record: ErrorRecord | None, failure: ProcessFailure, first: int) -> int:
    """Return how far a failure is from the cause of all, from 0; `first` is the time of the first."""
    if record is None:
        # Once one process has failed torch ends the others, after 30 seconds by force.
        ended = failure.exitcode in (-signal.SIGTERM, 128 + signal.SIGTERM)
        return 3 if ended or failure.timestamp >= first + 20 else 0
    if record.consequence:
        return 4
    return 2 if record.code > 128 else 1


def _death(rank: int, failure: ProcessFailure) -> ErrorRecord:
    """Return the error of a process that ended without one."""
    code = failure.exitcode
    if code >= 0:
        return ErrorRecord(f"rank {rank} ended with code {code}", code, died=True)
    name = failure.signal_name()
    hint = ", as happens where memory runs out" if name == "SIGKILL" else ""
    return ErrorRecord(f"rank {rank} was ended by {name}{hint}", 128 - code, died=True)
