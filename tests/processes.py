"""Child processes for tests, forked from a server that has imported torch, timm and ssl-zoo.

A new interpreter takes 4 to 6 seconds to import them; a fork takes some hundredths. A forked child
behaves like ``python -m ssl_zoo …``: it has its own streams, folder, environment, search path, signals
and exit code. Tests whose claim is about a new interpreter start one with `subprocess` instead.
"""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext, ForkServerProcess

PRELOADED = [
    *("torch", "torch._dynamo", "torch.distributed.nn.functional", "torchvision", "timm", "timm.optim"),
    *("scipy.special", "safetensors.torch", "rich.progress", "typer"),
    *("ssl_zoo.comparison", "ssl_zoo.evaluation.scoring", "ssl_zoo.evaluation.finetune"),
    *("ssl_zoo.training", "ssl_zoo.tools.embed", "ssl_zoo.cli.app"),
]
"""Modules imported by the server; none that reads the terminal or the environment when imported."""

Main = Sequence[str]
"""``["-m", "ssl_zoo", …]`` or ``["-c", CODE, …]``, as given to an interpreter."""


@cache
def _server() -> ForkServerContext:
    """Return the server's context; it starts with the first child."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


class Child:
    """A forked process with the interface of `subprocess.Popen`, as far as tests use it.

    Args:
        main: the arguments of the interpreter.
        cwd: the folder; None for the current one.
        env: the whole environment; None for this process's.
        prepare: a function of a module of the tests, called in the child before its work.
    """

    def __init__(
        self,
        main: Main,
        cwd: str | Path | None = None,
        env: Mapping[str, str] | None = None,
        prepare: Callable[[], None] | None = None,
    ) -> None:
        self.args = list(main)
        self._streams = tempfile.TemporaryDirectory(prefix="streams-")
        self._files = [Path(self._streams.name, name) for name in ("out", "err")]
        for file in self._files:
            file.touch()
        environment = dict(os.environ if env is None else env)
        search_path = [*filter(None, environment.get("PYTHONPATH", "").split(os.pathsep)), *_site_path()]
        folder = str(Path.cwd() if cwd is None else cwd)
        given = (self.args, folder, environment, search_path, list(map(str, self._files)), prepare)
        self._process: ForkServerProcess = _server().Process(target=_run, args=given)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code; minus the number of the signal that ended it; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return the exit code, None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit code.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return self._process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the end and return what was written to standard output and standard error."""
        self.wait(timeout)
        out, err = (file.read_text(encoding="utf-8", errors="replace") for file in self._files)
        return out, err

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self._process.exitcode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


def run(
    main: Main,
    *,
    cwd: str | Path | None = None,
    env: Mapping[str, str] | None = None,
    prepare: Callable[[], None] | None = None,
    timeout: float = 300.0,
) -> subprocess.CompletedProcess[str]:
    """Run a child to its end.

    Raises:
        subprocess.TimeoutExpired: it takes longer, and is killed.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():  # Windows
        command = [sys.executable, *main]
        return subprocess.run(
            command, cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=timeout
        )
    child = Child(main, cwd, env, prepare)
    try:
        out, err = child.communicate(timeout)
    except subprocess.TimeoutExpired:
        child.kill()
        raise
    assert child.returncode is not None
    return subprocess.CompletedProcess(child.args, child.returncode, out, err)


@cache
def _site_path() -> list[str]:
    """Return the search path of a new interpreter, without the folder and PYTHONPATH."""
    code = "import json, sys; print(json.dumps(sys.path[1:]))"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    printed = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
    return list(json.loads(printed))


def _run(
    main: list[str],
    folder: str,
    environment: dict[str, str],
    search_path: list[str],
    streams: list[str],
    prepare: Callable[[], None] | None,
) -> None:
    """Become what an interpreter with these arguments would be, and run it."""
    for number, file in enumerate(streams, 1):
        opened = os.open(file, os.O_WRONLY | os.O_APPEND)
        os.dup2(opened, number)
        os.close(opened)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = sys.__stdout__ = _stream(1, "strict")
    sys.stderr = sys.__stderr__ = _stream(2, "backslashreplace")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    sys.path[:] = [folder, *search_path]
    sys.path_importer_cache.clear()
    tempfile.tempdir = None
    kind, name, *arguments = main
    if prepare is not None:
        prepare()
    try:
        if kind == "-m":
            assert name == "ssl_zoo"
            sys.argv = ["ssl_zoo", *arguments]
            from ssl_zoo.cli.app import main as ssl_zoo_main

            ssl_zoo_main()
        else:
            sys.argv = ["-c", *arguments]
            exec(compile(name, "<string>", "exec"), {"__name__": "__main__"})
    finally:
        for stream in filter(None, (sys.stdout, sys.stderr)):  # None: closed
            with contextlib.suppress(OSError, ValueError):
                stream.flush()


def _stream(number: int, errors: str) -> IO[Any]:
    raw = io.FileIO(number, "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding="utf-8", errors=errors, write_through=number == 2
    )
