"""The command line in this process, for tests that call it hundreds of times."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from ssl_zoo.cli import app as cli
from ssl_zoo.plugins.registry import registry


@dataclass(frozen=True)
class CommandResult:
    """The result of a command.

    Attributes:
        code: the exit code.
        out: the text on standard output.
        err: the text on standard error; notices are silenced.
    """

    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The error message, which must be the only output, in one line."""
        assert self.out == "", self
        assert self.err.startswith("error: "), self
        assert self.err.count("\n") == 1, self
        assert self.err.endswith("\n"), self
        assert len(self.err.splitlines()) == 1, self
        assert "Traceback" not in self.err, self
        assert "--debug" not in self.err, self
        return self.err.removeprefix("error: ").rstrip("\n")


@contextmanager
def _fresh(folder: Path) -> Iterator[pytest.MonkeyPatch]:
    """Temporarily work in a folder, with installed plugins only."""
    before = Path.cwd()
    with pytest.MonkeyPatch.context() as patch, registry.isolated():
        os.chdir(folder)
        try:
            yield patch
        finally:
            os.chdir(before)


def say(arguments: Iterable[str | Path], folder: Path) -> CommandResult:
    """Call the command line as a process in a folder would, with equally strict streams."""
    out = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="strict", newline="\n")
    err = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace", newline="\n")
    with _fresh(folder) as patch:
        patch.setattr(sys, "argv", ["ssl-zoo", "--quiet", *map(str, arguments)])
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        with pytest.raises(SystemExit) as ended:
            cli.main()
    for stream in (out, err):
        stream.flush()
    code = ended.value.code
    texts = [stream.buffer.getvalue().decode() for stream in (out, err)]  # type: ignore[attr-defined]
    return CommandResult(code if isinstance(code, int) else 0, *texts)
