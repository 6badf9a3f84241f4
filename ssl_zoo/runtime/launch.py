"""Several processes that share each batch, one on each device, by torch's elastic launcher."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, NamedTuple

from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure
from torch.distributed.elastic.rendezvous import RendezvousParameters
from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

from ssl_zoo.runtime import signals
from ssl_zoo.runtime.error_file import LAUNCHED, RENDEZVOUS, ErrorRecord, parse_error
from ssl_zoo.runtime.machine import cores

log = logging.getLogger(__name__)

POLL = 0.1
"""Seconds between checks of the processes."""
_UNFORCED = 20
"""Seconds after a failure in which no process is ended by force; torch waits for 30."""


class Rendezvous(NamedTuple):
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
    def of_environment(cls) -> Rendezvous:
        """Return that of the variable `RENDEZVOUS`; without it, one of this machine alone."""
        if RENDEZVOUS not in os.environ:
            return cls()
        nodes, endpoint, run_id, address = os.environ[RENDEZVOUS].split()
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
    processes may take their time to save; while none runs, as before all machines have met, it ends the
    wait. If one of them dies or fails, the others are ended, and all start again, unless the input was
    wrong.

    Args:
        number: the number of processes on this machine.
        arguments: the arguments of the command.
        variables: what to add to their environment.
        max_restarts: how often they are started again.

    Returns:
        The error that ended them; None if all have succeeded.
    """
    rendezvous = Rendezvous.of_environment()
    threads = str(max(1, cores() // number))
    defaults = {"OMP_NUM_THREADS": threads, "TORCH_CPP_LOG_LEVEL": "ERROR"}
    defaults["PYTHONSAFEPATH"] = "1"  # do not import modules from the current folder
    if rendezvous.nodes > 1:
        defaults["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # as processes that restart need another
    before = dict(os.environ)
    os.environ.update({**defaults, **before, **variables, LAUNCHED: "1"})
    try:
        with tempfile.TemporaryDirectory(prefix="ssl-zoo-", ignore_cleanup_errors=True) as folder:
            return _run(partial(_agent, number, arguments, max_restarts, rendezvous, folder))
    finally:
        os.environ.clear()
        os.environ.update(before)


def _agent(
    number: int,
    arguments: Sequence[str],
    max_restarts: int,
    rendezvous: Rendezvous,
    folder: str,
    running: _Running,
) -> _Agent:
    """Return the agent that starts and watches the processes, with a folder for their errors."""
    quiet = logging.getLogger("torch.distributed.elastic")
    quiet.addHandler(logging.NullHandler())
    quiet.propagate = False
    run_id = rendezvous.run_id or uuid.uuid4().hex
    parameters = RendezvousParameters(
        "c10d", rendezvous.endpoint, run_id, rendezvous.nodes, rendezvous.nodes, rendezvous.address
    )
    spec = WorkerSpec(
        role="ssl-zoo",
        local_world_size=number,
        rdzv_handler=get_rendezvous_handler(parameters),
        entrypoint=sys.executable,
        args=("-m", "ssl_zoo", *(a.replace("$", "$$") for a in arguments)),  # as torch substitutes $
        max_restarts=max_restarts,
        monitor_interval=POLL,
        local_addr=rendezvous.address,
    )
    return _Agent(spec, DefaultLogsSpecs(log_dir=folder), running)


def _run(make_agent: Callable[[_Running], _Agent]) -> ErrorRecord | None:
    """Make an agent and run it, passing signals on, and return what ended its processes."""
    running = _Running()
    result: Future[RunResult] = Future()

    def work() -> None:
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.suppress(Exception))  # the first machine may be gone
            try:
                agent = make_agent(running)
                stack.callback(agent.spec.rdzv_handler.shutdown)
                result.set_result(agent.run())
            except BaseException as error:
                result.set_exception(error)

    received: list[int] = []
    # Torch's own handlers, which give processes 30 s to save, are set in the main thread only. Its waits
    # for other machines take minutes and cannot be ended: the thread is a daemon, to be left in them.
    thread = threading.Thread(target=work, daemon=True)
    with signals.handle_stop_signals(received.append):
        thread.start()
        while thread.is_alive() and not (received and result.done()):
            time.sleep(POLL / 2)  # on Windows no signal arrives during a wait without end
            while received and not result.done():
                number = received.pop(0)
                if not running.send_signal(number):
                    return _interrupted(number)
    if isinstance(error := result.exception(), _NoRestart):
        return error.record
    failures = result.result().failures
    return describe(failures, forced=running.forced) if failures else None


def _interrupted(number: int) -> ErrorRecord:
    """Return the error of processes that a signal has ended."""
    return ErrorRecord("interrupted", 128 + number)


class _Running:
    """The processes that run at this time, shared by the agent's thread and the one with the signals.

    Attributes:
        pids: their process IDs; those that have ended may be among them.
        stopped_by: the last signal, 0 if none came.
        forced: whether torch, after a failure, waited so long that it may have ended some by force.
        lock: what is held while they start, so that none starts after a signal.
    """

    def __init__(self) -> None:
        self.pids: list[int] = []
        self.stopped_by = 0
        self.forced = False
        self.lock = threading.Lock()

    def send_signal(self, number: int) -> bool:
        """Send a signal to the processes; return whether there are any, if not, none will start."""
        # The console of Windows tells every process of Ctrl-C, and os.kill would end them unsaved.
        told = os.name == "nt" and number == signal.SIGINT
        with self.lock:
            self.stopped_by = number
            for pid in self.pids if not told else ():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            return bool(self.pids)


class _NoRestart(Exception):
    """A failure after which no process is started again."""

    def __init__(self, record: ErrorRecord) -> None:
        super().__init__(record.message)
        self.record = record


class _Agent(LocalElasticAgent):
    """Torch's agent, which also ends at stop signals, says why it restarts, and knows when not to.

    Attributes:
        spec: what it starts.
    """

    def __init__(self, spec: WorkerSpec, logs: DefaultLogsSpecs, running: _Running) -> None:
        super().__init__(spec, logs)
        self.spec = spec
        self._running = running
        self._restarts = 0

    def _rendezvous(self, worker_group: WorkerGroup) -> None:
        self._running.pids = []
        self._check_signals()
        super()._rendezvous(worker_group)

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        with self._running.lock:
            self._check_signals()
            started: dict[int, Any] = super()._start_workers(worker_group)
            self._running.pids = list(started.values())
        return started

    def _check_signals(self) -> None:
        """Raise if a stop signal came, as no process is to start then."""
        if self._running.stopped_by:
            raise _NoRestart(_interrupted(self._running.stopped_by))

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        began = time.monotonic()
        result: RunResult = super()._monitor_workers(worker_group)
        # The clock of the day, by which torch notes deaths, may jump.
        self._running.forced = time.monotonic() - began >= _UNFORCED
        if result.state == WorkerState.SUCCEEDED:
            self._running.pids = []  # what follows is a wait for the other machines
        if result.state == WorkerState.FAILED:
            stopped_by = self._running.stopped_by
            record = describe(result.failures, stopped_by, self._running.forced)
            if stopped_by or record.code == 2 or record.code - 128 in signals.STOP_SIGNALS:
                raise _NoRestart(record)
            if self._restarts < self.spec.max_restarts:
                self._restarts += 1
                total = self.spec.max_restarts
                log.warning("%s; restart %d of %d", record.message, self._restarts, total)
        return result


def describe(
    failures: Mapping[int, ProcessFailure], stopped_by: int = 0, forced: bool = False
) -> ErrorRecord:
    """Return the error that ended all processes, of those that failed.

    Args:
        failures: the failures by rank, in the order in which they were noticed.
        stopped_by: the signal that was passed on to them, 0 if none was.
        forced: whether torch may have ended some of them by force.
    """
    found = [(rank, _record(failure), failure) for rank, failure in failures.items()]
    late = min(failure.timestamp for failure in failures.values()) + _UNFORCED if forced else math.inf
    rank, record, failure = min(found, key=lambda item: _distance(item[1], item[2], late))
    if record is None:
        if stopped_by and failure.exitcode in (-stopped_by, 128 + stopped_by):
            return _interrupted(stopped_by)
        return _death(rank, failure)
    alike = [r for _, r, _ in found if r is not None and r.message == record.message]
    if record.code == 1 and len(alike) == 1 < len(failures):
        return ErrorRecord(f"rank {rank}: {record.message}", record.code)
    return record


def _record(failure: ProcessFailure) -> ErrorRecord | None:
    data = failure.error_file_data
    return parse_error(data) if isinstance(data, dict) else None


def _distance(record: ErrorRecord | None, failure: ProcessFailure, late: float) -> int:
    """Return how far a failure is from the cause of all, from 0; from the time `late` on by force."""
    if record is None:
        ended = failure.exitcode in (-signal.SIGTERM, 128 + signal.SIGTERM)
        return 3 if ended or failure.timestamp >= late else 0
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
