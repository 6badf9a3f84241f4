"""A process that has imported torch and this package, and starts pairs of ranks from itself.

An interpreter takes seconds to import them. The server imports them once, while other checks run;
on Linux it then forks the ranks, elsewhere it spawns them.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TIMEOUT = 240
"""The time limit of two ranks, in seconds."""
RANKS = 2
"""The usual number of ranks."""

Work = Callable[[Path, int], None]
"""A function of an importable module, called in each rank with a folder and the rank."""


class RankServer:
    """A server that runs on demand, for this process alone."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._owner = 0

    def start(self) -> None:
        """Start the server unless it runs already."""
        forked = self._owner != os.getpid()  # the server of a parent process is not ours
        if self._process is None or forked or self._process.poll() is not None:
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
            environment["PYTHONSAFEPATH"] = "1"  # no modules but those on this process's path
            self._process = subprocess.Popen(
                [sys.executable, "-c", f"from {__name__} import serve; serve()"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                text=True, env=environment,
            )  # fmt: skip
            self._owner = os.getpid()

    def run(self, work: Work, folder: Path, ranks: int = RANKS) -> int | None:
        """Run `work` in two ranks, or another number, and wait for them.

        Their output goes to ``output-RANK`` in the folder.

        Returns:
            The rank that failed first, whose error caused that of the other; None if none failed.

        Raises:
            TimeoutError: they have not ended after `TIMEOUT` seconds.
            RuntimeError: the server itself has failed.
        """
        self.start()
        assert self._process is not None
        requests, replies = self._process.stdin, self._process.stdout
        assert requests is not None
        assert replies is not None
        request = {
            "work": [work.__module__, work.__qualname__],
            "folder": str(folder),
            "ranks": ranks,
            "cwd": str(Path.cwd()),
            "path": sys.path,
            "environment": {**os.environ, "OMP_NUM_THREADS": "1"},
        }
        try:
            print(json.dumps(request), file=requests, flush=True)
            reply = replies.readline()
        except BaseException:
            self.stop()
            raise
        if not reply:
            self.stop()
            raise RuntimeError("the process that starts two others has ended")
        failed: int | str | None = json.loads(reply)
        if isinstance(failed, str):
            raise TimeoutError(failed)
        return failed

    def stop(self) -> None:
        """Stop the server and the ranks that it runs."""
        if self._process is not None and self._owner == os.getpid():
            self._process.terminate()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe:
                    with contextlib.suppress(OSError):
                        pipe.close()
        self._process = None


server = RankServer()
atexit.register(server.stop)


def serve() -> None:
    """Answer requests on standard input, one a line, until it is closed."""
    import ssl_zoo.testing  # noqa: F401  # what the ranks need is imported once, here

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # at its exit the ranks end too
    for line in sys.stdin:
        print(json.dumps(_run(json.loads(line))), flush=True)


def _run(request: dict[str, Any]) -> int | str | None:
    """Return the rank that failed first, None if none did, or ``"timeout"``."""
    multiprocessing.set_start_method("fork" if sys.platform == "linux" else "spawn", force=True)
    ranks = [
        multiprocessing.Process(target=_rank, args=(request, i), daemon=True)
        for i in range(request["ranks"])
    ]
    for rank in ranks:
        rank.start()
    try:
        return _first_failure(ranks)
    finally:
        for rank in ranks:
            rank.kill()
            rank.join()


def _first_failure(ranks: list[multiprocessing.Process]) -> int | str | None:
    deadline = time.monotonic() + TIMEOUT
    running = list(ranks)
    while running:
        sentinels = [rank.sentinel for rank in running]
        if not multiprocessing.connection.wait(sentinels, max(0.0, deadline - time.monotonic())):
            return "timeout"
        running = [rank for rank in running if rank.is_alive()]
        for i, rank in enumerate(ranks):
            if rank.exitcode:
                return i
    return None


def _rank(request: dict[str, Any], rank: int) -> None:
    """Do the work of a rank as if the requesting process had started it."""
    folder = Path(request["folder"])
    with (folder / f"output-{rank}").open("w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    with Path(os.devnull).open() as nothing:
        os.dup2(nothing.fileno(), 0)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["cwd"])
    sys.path[:] = request["path"]
    module, name = request["work"]
    getattr(__import__(module, fromlist=[name]), name)(folder, rank)
