"""Child processes that are started, receive signals and end together."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Mapping, Sequence
from threading import Event
from typing import IO, Any

GRACE = 10.0
"""Seconds that the other processes have to end after one has failed."""
POLL = 0.05
"""Seconds between checks of the processes."""


class Children:
    """A group of child processes that do one piece of work."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(
        self, command: Sequence[str], environment: Mapping[str, str], output: IO[Any] | None = None
    ) -> None:
        """Start one more process.

        Args:
            command: the program and its arguments.
            environment: the whole environment.
            output: the file for standard output and standard error; None for this process's own.

        Raises:
            OSError: it cannot be started.
        """
        self._processes.append(subprocess.Popen(command, env=environment, stdout=output, stderr=output))

    def send_signal(self, number: int) -> None:
        """Send a signal to all processes that still run."""
        for process in self._processes:
            process.send_signal(number)

    def wait(self, stop: Event | None = None) -> int:
        """Wait until all processes have ended; once one has failed, the others are soon killed.

        Args:
            stop: an event after which the processes are asked to end, for as long as they need.

        Returns:
            The exit code of the first process that failed, 128 + signal if a signal ended it; 0 if
            none failed.
        """
        terminated = False
        while not (failed := [code for p in self._processes if (code := p.poll())]):
            if all(process.returncode == 0 for process in self._processes):
                return 0
            if stop is None or terminated:
                time.sleep(POLL)
            elif stop.wait(POLL):
                terminated = True
                for process in self._processes:
                    process.terminate()
        self._kill_after(GRACE)
        code = failed[0]
        return code if code > 0 else 128 - code

    def _kill_after(self, grace: float) -> None:
        """Kill the processes that have not ended after `grace` seconds."""
        deadline = time.monotonic() + grace
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
            process.kill()
            process.wait()
