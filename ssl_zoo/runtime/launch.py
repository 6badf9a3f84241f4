"""Several processes on this machine that share each batch, one on each device."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

from ssl_zoo.runtime import signals

GRACE = 10
"""Seconds that the others are given once a process has failed."""


def launch(number: int, arguments: Sequence[str]) -> int:
    """Run ``ssl-zoo`` with these arguments in so many processes, and wait for them.

    As `torchrun --standalone` does, but that it adds nothing to what the processes say, and that
    signals reach them.

    Returns:
        The exit code of the first process that failed; 0 if none did.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    threads = str(max(1, (os.cpu_count() or 1) // number))
    defaults = {"OMP_NUM_THREADS": threads, "TORCH_CPP_LOG_LEVEL": "ERROR"}
    defaults["PYTHONSAFEPATH"] = "1"  # modules that lie in the current folder are none of ours
    shared = {**defaults, **os.environ, "WORLD_SIZE": str(number)}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes: list[subprocess.Popen[bytes]] = []

    def forward(number: int) -> None:
        for process in processes:
            process.send_signal(number)

    with signals.handle_stop_signals(forward):
        for i in range(number):
            environment = {**shared, "RANK": str(i), "LOCAL_RANK": str(i)}
            command = [sys.executable, "-m", "ssl_zoo", *arguments]
            processes.append(subprocess.Popen(command, env=environment))
        return _wait(processes)


def _wait(processes: Sequence[subprocess.Popen[bytes]]) -> int:
    """Wait for all processes; once one has failed, the others cannot go on for long."""
    while not (failed := [code for p in processes if (code := p.poll())]):
        if all(p.returncode == 0 for p in processes):
            return 0
        time.sleep(0.05)
    deadline = time.monotonic() + GRACE
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
        process.kill()
        process.wait()
    code = failed[0]
    return code if code > 0 else 128 - code
