"""The folder of a cell: a run directory, the reason for a failure, and a lock."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel

from ssl_zoo.comparison.comparability import with_share_held_out
from ssl_zoo.config.schema import EncoderConfig
from ssl_zoo.config.settings import changed_settings, result_affecting_settings
from ssl_zoo.errors import UserError
from ssl_zoo.runs.records import read_record
from ssl_zoo.runs.run import Run
from ssl_zoo.runtime.files import file_lock, write_atomic


class FailureRecord(BaseModel):
    """The content of `failed.json`."""

    failed: str


class CellFolder(Run):
    """The folder of one cell of a comparison.

    A cell that is not trained has no run in it, only `results.json`.

    Attributes:
        failure_file: holds why the cell failed.
        cell_lock_file: locked by the process that works on the cell.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self.failure_file = self.path / "failed.json"
        self.cell_lock_file = self.path / ".cell.lock"

    def failure(self) -> str | None:
        """Return why the cell failed, or None.

        Raises:
            UserError: the file is damaged.
        """
        record = read_record(self.failure_file, FailureRecord, "remove it to try the cell again")
        return None if record is None else str(record["failed"])

    def record_failure(self, reason: str) -> None:
        """Write why the cell failed."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomic(self.failure_file, json.dumps({"failed": reason}).encode())

    @contextmanager
    def cell_lock(self) -> Iterator[None]:
        """Hold an exclusive lock on the cell; wait for a process that holds it."""
        self.path.mkdir(parents=True, exist_ok=True)
        with file_lock(self.cell_lock_file):
            yield


def refuse_changed_settings(
    path: Path, existing: EncoderConfig, current: EncoderConfig, option: str
) -> None:
    """Raise if what is at `path` was made with other settings than those of `current`.

    Raises:
        UserError: it was; `option` chooses another folder.
    """
    before = result_affecting_settings(with_share_held_out(existing))
    for name, (old, new) in changed_settings(before, with_share_held_out(current)).items():
        raise UserError(
            f"{path} was made with {name}={old}, not {new}; choose another {option}, or remove it"
        )
