"""A run's checkpoints: the last one and the one before it, each with checksums."""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ssl_zoo import distributed
from ssl_zoo.errors import SslZooError, Unwritable, UserError
from ssl_zoo.runs.shards import (
    Like,
    check_shards,
    read_shards,
    tensors_of,
    without_shards,
    write_shards,
)
from ssl_zoo.runtime.files import write_atomic
from ssl_zoo.text import error_line

log = logging.getLogger("ssl_zoo.runs.checkpoints")

StateDict = dict[str, Any]
"""Tensors and plain values by name; nothing else can be read back."""


class Checkpoints:
    """The last two checkpoints in a run's directory.

    A checkpoint is a ZIP archive written by `torch.save`; each member has a CRC-32. PyTorch does not
    check these; this class does, so that a truncated checkpoint, or one with a wrong bit, is
    recognised and the one before it is used.

    The tensors of a state that are sharded over processes stand in a folder beside it, which the archive
    names with the checksums of its files, see `ssl_zoo.runs.shards`. They are written before, so that
    the archive alone decides which checkpoint is the last one.

    Attributes:
        file: the last one.
        before: the one before it.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / "checkpoint.pt"
        self.before = folder / "checkpoint.before.pt"
        self._folders = [folder / f"checkpoint.shards.{i}" for i in range(3)]  # one is always free
        self._keep_last = True

    def __bool__(self) -> bool:
        """Return whether there is a checkpoint, intact or not."""
        return self.file.exists() or self.before.exists()

    def save(self, state: StateDict) -> None:
        """Save a checkpoint as the last one; the last one becomes the one before it.

        At any moment there is an intact one, if there was one before. All processes must call this; the
        first one writes, and the others write what they hold of sharded tensors.

        Raises:
            Unwritable: it cannot be written; the last one is still there, under one of the two names.
        """
        if any(distributed.is_sharded(tensor) for _, tensor in tensors_of(state)):
            state = self._save_shards(state)
        if distributed.rank() != 0:
            return

        def make_room() -> None:
            if self._keep_last:
                with contextlib.suppress(FileNotFoundError):
                    self.file.replace(self.before)

        write_atomic(self.file, pack_state(state), make_room)
        self._keep_last = True
        self._remove_unused()

    def _save_shards(self, state: StateDict) -> StateDict:
        """Write the sharded tensors into a free folder; return the state with its name instead."""
        free = self._remove_unused() if distributed.rank() == 0 else []
        name = distributed.broadcast_from_rank0(free[0].name if free else "")
        if not name:
            reason = "a checkpoint cannot be read, which may need any of the folders of shards"
            raise Unwritable(f"cannot write {self.file}", path=self.file, reason=reason)
        folder = self.file.with_name(name)
        shards = {"folder": folder.name, "files": write_shards(state, folder)}
        return {**without_shards(state), "shards": shards}

    def _remove_unused(self) -> list[Path]:
        """Remove the folders that no intact checkpoint names, and return them."""
        existing = {folder.name for folder in self._folders if folder.exists()}
        if not existing:
            return self._folders
        used = set()
        for file in (self.file, self.before):
            try:
                used.add(_unpack(file).get("shards", {}).get("folder"))
            except (FileNotFoundError, AttributeError):
                continue
            except UserError as error:
                if isinstance(error.__cause__, OSError):  # such as a stale handle: it may be intact
                    used |= existing
        free = [folder for folder in self._folders if folder.name not in used]
        for folder in free:
            shutil.rmtree(folder, ignore_errors=True)
        return free

    def load(self, whole: bool = True) -> StateDict:
        """Load the last intact checkpoint; only tensors and plain values are read, no code.

        Args:
            whole: whether to read sharded tensors too, as whole ones; if not, `complete` does later.

        Raises:
            UserError: there is no checkpoint, or none can be read.
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
                self._keep_last = False  # a damaged one must not replace the intact one
            return self.complete(state) if whole else state
        raise UserError(faults[0] if faults else f"{self.file.parent} has no checkpoint; train it first")

    def complete(self, state: StateDict, like: Like | None = None) -> StateDict:
        """Return a state that was loaded with its sharded tensors, if it has any.

        Args:
            state: what `load` gave.
            like: which tensors to read as this process's slices; None for none.
        """
        if "shards" not in state:
            return state
        shards = state.pop("shards")
        completed: StateDict = read_shards(state, self.file.with_name(shards["folder"]), like)
        return completed


def pack_state(state: StateDict) -> memoryview:
    """Return a state in the format of a checkpoint, with checksums."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getbuffer()


def read_checkpoint(file: Path) -> StateDict:
    """Read one checkpoint and verify its checksums; sharded tensors are read later.

    Raises:
        FileNotFoundError: it does not exist.
        UserError: it cannot be read, or is not a checkpoint.
    """
    state = _unpack(file)
    if "shards" in state:
        try:
            check_shards(file.with_name(state["shards"]["folder"]), state["shards"]["files"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:  # not what was written
            raise UserError(f"{file} cannot be read: {error_line(error)}") from error
    return state


def _unpack(file: Path) -> StateDict:
    """Read the archive of a checkpoint.

    Raises:
        FileNotFoundError: it does not exist.
        UserError: it cannot be read, or is not a checkpoint.
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
    except Exception as error:  # damaged files raise errors of every kind
        raise UserError(f"{file} cannot be read: {error_line(error)}") from error
    if not isinstance(state, dict) or "task" not in state:
        raise UserError(f"{file} cannot be read: it is not a checkpoint of ssl-zoo")
    return state


@contextlib.contextmanager
def state_dict_errors(file: Path) -> Iterator[None]:
    """Raise errors of loading a state from `file` as errors about the file.

    Raises:
        UserError: the state does not fit the module.
    """
    try:
        yield
    except Exception as error:  # states of other shapes raise errors of every kind
        message = str(error) if isinstance(error, SslZooError) else f"{type(error).__name__}: {error}"
        reason = " ".join(message.split())[:200]
        raise UserError(f"{file} does not fit the installed versions: {reason}") from error
