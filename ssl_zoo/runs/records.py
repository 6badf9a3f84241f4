"""The JSON files of a run: their formats, and reading them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError

from ssl_zoo.config.errors import first_error
from ssl_zoo.errors import UserError

Count = Annotated[int, Field(ge=0, lt=2**63)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Scores = dict[str, float]

OLD_KEYS = {
    "images": "samples",
    "images_per_second": "samples_per_second",
    "passes_per_image": "passes_per_sample",
}
"""The names of values in files of older versions, and the present ones, under which they are read."""


class CellRecord(BaseModel):
    """The facts that a comparison adds to the results of a run."""

    model_config = ConfigDict(extra="allow")

    row: str = ""
    seed: Count | None = None
    protocols: list[str] = []
    unlabelled: list[str] = []  # of earlier versions: protocols for which labels lacked
    unsupported: dict[str, str] = {}
    seconds: Amount = 0.0


class RunFacts(BaseModel):
    """The facts of a run that its `results.json` and the record of its results both have."""

    model_config = ConfigDict(extra="allow")

    task: str = ""
    steps: Count = 0
    samples: Count = 0
    seconds: Amount = 0.0
    samples_per_second: Amount = 0.0
    needs_labels: bool = False
    parameters: Count = 0
    passes_per_sample: Amount | None = None
    peak_memory_bytes: Count | None = None
    precision: str = ""
    device: str = ""
    machine: str = ""
    left_out: str = ""
    cell: CellRecord = CellRecord()


class ResultsRecord(RunFacts):
    """The fields of `results.json` that are read; other fields are kept unchanged."""

    skipped: dict[str, str] = {}
    excluded: dict[str, str] = {}
    scores: dict[str, Scores] = {}
    transfer: dict[str, dict[str, Scores]] = {}
    config: dict[str, Any] = {}


class MetricsLine(RootModel[dict[str, float]]):
    """A line of `metrics.jsonl`: numbers by name."""


def file_exists(file: Path) -> bool:
    """Return whether a file exists.

    Raises:
        UserError: it is unknown, as in a folder without read permission.
    """
    try:
        return file.is_file()
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from error


def read_record(file: Path, model: type[BaseModel], hint: str) -> dict[str, Any] | None:
    """Read a JSON file; return None if it does not exist.

    Args:
        file: the file.
        model: the format of its content.
        hint: what to do if the content is invalid, for messages.

    Raises:
        UserError: it cannot be read, or its content is invalid.
    """
    text = _text(file, hint)
    return None if text is None else _record(text, model, str(file), hint)


def read_lines(file: Path, model: type[BaseModel], hint: str) -> list[dict[str, Any]]:
    """Read a JSON Lines file, without a last line that is still being written.

    Raises:
        UserError: it cannot be read, or a line is invalid.
    """
    *lines, _ = (_text(file, hint) or "").split("\n")
    return [_record(line, model, f"{file}, line {number}", hint) for number, line in enumerate(lines, 1)]


def _text(file: Path, hint: str) -> str | None:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise UserError(f"{file} cannot be read: is not valid UTF-8; {hint}") from error
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}; {hint}") from error


def _record(text: str, model: type[BaseModel], location: str, hint: str) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(text)
        if isinstance(record, dict):
            record = {_current_key(key, record): value for key, value in record.items()}
        model.model_validate(record, strict=True)
    except ValidationError as error:
        reason = ": ".join(filter(None, first_error(error, record)))
        raise UserError(f"{location} cannot be read: {reason}; {hint}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{location} cannot be read: {error}; {hint}") from error
    return record


def _current_key(key: str, record: Mapping[str, Any]) -> str:
    """Return the present name of a value; a record that has it already may use the old one anew."""
    current = OLD_KEYS.get(key, key)
    return key if current in record else current
