"""Several processes on this machine that share each batch, one on each device."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from ssl_zoo.distributed import RENDEZVOUS
from ssl_zoo.runtime import signals
from ssl_zoo.runtime.children import Children


def launch(number: int, arguments: Sequence[str], variables: Mapping[str, str]) -> int:
    """Run ``ssl-zoo`` with these arguments in `number` processes, and wait for them.

    This is `torchrun --standalone` without its own output, and it passes signals on. The processes
    find each other through a file, so that no port has to be free.

    Args:
        number: the number of processes.
        arguments: the arguments of the command.
        variables: what to add to their environment.

    Returns:
        The exit code of the first process that failed; 0 if none did.
    """
    threads = str(max(1, (os.cpu_count() or 1) // number))
    defaults = {"OMP_NUM_THREADS": threads, "TORCH_CPP_LOG_LEVEL": "ERROR"}
    defaults["PYTHONSAFEPATH"] = "1"  # do not import modules from the current folder
    children = Children()
    with tempfile.TemporaryDirectory(prefix="ssl-zoo-", ignore_cleanup_errors=True) as folder:
        shared = {**defaults, **os.environ, **variables, "WORLD_SIZE": str(number)}
        shared[RENDEZVOUS] = Path(folder, "rendezvous").as_uri()
        with signals.handle_stop_signals(children.send_signal):
            for rank in range(number):
                command = [sys.executable, "-m", "ssl_zoo", *arguments]
                children.start(command, {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)})
            return children.wait()
