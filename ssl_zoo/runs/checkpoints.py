"""A run's checkpoints: the last one and the one before it, each with checksums."""

from __future__ import annotations

import contextlib
import io
import logging
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ssl_zoo.errors import SslZooError, UserError
from ssl_zoo.runtime.files import write_atomic
from ssl_zoo.text import error_line

log = logging.getLogger("ssl_zoo.runs.checkpoints")

StateDict = dict[str, Any]
"""Tensors and plain values by name; nothing else can be read back."""


class Checkpoints:
    """The last two checkpoints in a run's directory.

    A checkpoint is what `torch.save` writes: a ZIP archive, whose members each have a CRC-32. PyTorch
    does not look at these when it reads; here they are checked, so that a checkpoint that was cut off
    or has a wrong bit is recognised, and the one before it is used.

    Attributes:
        file: the last one.
        before: the one before it.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / "checkpoint.pt"
        self.before = folder / "checkpoint.before.pt"
        self._keep_last = True

    def __bool__(self) -> bool:
        """Whether there is any, whole or not."""
        return self.file.exists() or self.before.exists()

    def save(self, state: StateDict) -> None:
        """Put a checkpoint in the place of the last one, which becomes the one before it.

        At any moment there is a whole one, if there was one when this began.

        Raises:
            Unwritable: it cannot be written; the last one is still there, under one of the two names.
        """

        def make_room() -> None:
            if self._keep_last:
                with contextlib.suppress(FileNotFoundError):
                    self.file.replace(self.before)

        write_atomic(self.file, pack_state(state), make_room)
        self._keep_last = True

    def load(self) -> StateDict:
        """Read the last one that is whole; only tensors and plain values are read, no code.

        Raises:
            UserError: there is none, or none can be read.
        """
        faults: list[str] = []
        for file in (self.file, self.before):
            try:
                state = read_checkpoint(file)
            except FileNotFoundError:
                continue
            except UserError as error:
                faults.append(str(error))
                continue
            if faults:
                log.warning("%s; the one before it is used, of step %s", faults[0], state.get("step"))
                self._keep_last = False  # a broken one must not take the good one's place
            return state
        raise UserError(faults[0] if faults else f"{self.file.parent} has no checkpoint; train it first")


def pack_state(state: StateDict) -> memoryview:
    """A state as it is written, with checksums."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getbuffer()


def read_checkpoint(file: Path) -> StateDict:
    """Read one checkpoint, whose checksums must be right.

    Raises:
        FileNotFoundError: it is not there.
        UserError: it cannot be read, or is something else.
    """
    try:
        with file.open("rb") as opened:
            damaged = zipfile.ZipFile(opened).testzip()
            if damaged is not None:
                raise ValueError(f"{damaged} has a wrong checksum")
            opened.seek(0)
            state = torch.load(opened, map_location="cpu", weights_only=True)
    except (FileNotFoundError, MemoryError):
        raise
    except Exception as error:  # whatever a broken file makes its readers raise
        raise UserError(f"{file} cannot be read: {error_line(error)}") from error
    if not isinstance(state, dict) or "task" not in state:
        raise UserError(f"{file} cannot be read: it is no checkpoint of ssl-zoo's")
    return state


@contextlib.contextmanager
def state_dict_errors(file: Path) -> Iterator[None]:
    """Within, states are loaded from a file; one that does not fit is the file's fault.

    Raises:
        UserError: a state does not fit.
    """
    try:
        yield
    except Exception as error:  # whatever a state of another shape makes its readers raise
        said = str(error) if isinstance(error, SslZooError) else f"{type(error).__name__}: {error}"
        reason = " ".join(said.split())[:200]
        raise UserError(f"{file} does not fit what is installed here: {reason}") from error
