"""What a run notes of itself as JSON, and what is said of a file that does not hold it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError

from ssl_zoo.config.errors import first_error
from ssl_zoo.errors import UserError

Count = Annotated[int, Field(ge=0, lt=2**63)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Scores = dict[str, float]


class CellRecord(BaseModel):
    """What a run of a comparison notes beside its results."""

    model_config = ConfigDict(extra="allow")

    row: str = ""
    seed: Count | None = None
    protocols: list[str] = []
    unlabelled: list[str] = []
    seconds: Amount = 0.0


class ResultsRecord(BaseModel):
    """What is read again of `results.json`; whatever else is in it is left alone."""

    model_config = ConfigDict(extra="allow")

    task: str = ""
    steps: Count = 0
    images: Count = 0
    seconds: Amount = 0.0
    images_per_second: Amount = 0.0
    needs_labels: bool = False
    parameters: Count = 0
    passes_per_image: Amount | None = None
    peak_memory_bytes: Count | None = None
    precision: str = ""
    device: str = ""
    skipped: dict[str, str] = {}
    left_out: str = ""
    scores: dict[str, Scores] = {}
    transfer: dict[str, dict[str, Scores]] = {}
    cell: CellRecord = CellRecord()
    config: dict[str, Any] = {}


class MetricsLine(RootModel[dict[str, float]]):
    """A line of `metrics.jsonl`: numbers by name."""


def file_exists(file: Path) -> bool:
    """Whether there is such a file.

    Raises:
        UserError: that cannot be told, as of one in a folder that others may not look into.
    """
    try:
        return file.is_file()
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from error


def read_record(file: Path, model: type[BaseModel], mend: str) -> dict[str, Any] | None:
    """What a file of JSON holds; None if there is none.

    Args:
        file: the file.
        model: what must be in it.
        mend: what is to be done if it is not.

    Raises:
        UserError: it cannot be read, or holds something else.
    """
    text = _text(file, mend)
    return None if text is None else _record(text, model, str(file), mend)


def read_lines(file: Path, model: type[BaseModel], mend: str) -> list[dict[str, Any]]:
    """What a file of JSON holds line by line, without a last one that is still being written.

    Raises:
        UserError: it cannot be read, or a line holds something else.
    """
    *lines, _ = (_text(file, mend) or "").split("\n")
    return [_record(line, model, f"{file}, line {number}", mend) for number, line in enumerate(lines, 1)]


def _text(file: Path, mend: str) -> str | None:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise UserError(f"{file} cannot be read: is no text in UTF-8; {mend}") from error
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}; {mend}") from error


def _record(text: str, model: type[BaseModel], place: str, mend: str) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(text)
        model.model_validate(record, strict=True)
    except ValidationError as error:
        reason = ": ".join(filter(None, first_error(error, record)))
        raise UserError(f"{place} cannot be read: {reason}; {mend}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place} cannot be read: {error}; {mend}") from error
    return record
