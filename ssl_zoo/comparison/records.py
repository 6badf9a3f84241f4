"""Records of results: one small file for each cell, in a folder that grows over days and machines."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ssl_zoo.comparison.cell_folder import refuse_changed_settings
from ssl_zoo.comparison.cells import Cell
from ssl_zoo.comparison.comparability import STARTING_WEIGHTS, comparable_settings, starts_random
from ssl_zoo.config.errors import first_error
from ssl_zoo.config.schema import BUDGETS, EncoderConfig, RunConfig
from ssl_zoo.config.settings import NEUTRAL
from ssl_zoo.errors import UserError
from ssl_zoo.notices import Notice
from ssl_zoo.runs.provenance import command_line
from ssl_zoo.runs.records import Count, RunFacts, Scores, read_record
from ssl_zoo.runs.run import Run
from ssl_zoo.runtime.files import write_atomic

_KEPT = Notice(
    "record-kept",
    "A record of a cell stays as it is where the new run has failed, or lacks some of its scores.",
    "remove the record, or evaluate by all its protocols",
)
_HINT = "make it again with --record, or remove it"


class Record(RunFacts):
    """The fields of a record that are read; other fields are kept unchanged."""

    row: str
    seed: Count | None
    family: str
    baseline: bool
    own_backbone: str | None = None
    variant: str | None = None
    scores: Scores
    config: dict[str, Any]
    modality: str
    data: dict[str, Any] = {}
    budget: str = ""
    command: str = ""
    versions: dict[str, str] = {}
    failure: str | None = None


@dataclass(frozen=True)
class StoredRecord:
    """A record in its file.

    Attributes:
        file: the file.
        values: the fields of `Record` that it has, and others.
        config: the configuration, without a task for a baseline that is not trained.
    """

    file: Path
    values: Mapping[str, Any]
    config: EncoderConfig

    @property
    def own_backbone(self) -> bool:
        """True if other rows of its table may have another backbone."""
        return self.values.get("own_backbone") is not None

    @classmethod
    def read(cls, file: Path) -> StoredRecord | None:
        """Read a record; return None if there is none.

        Raises:
            UserError: it cannot be read, or its content is invalid.
        """
        values = read_record(file, Record, _HINT)
        if values is None:
            return None
        sections = values["config"]
        model = RunConfig if "task" in sections else EncoderConfig
        try:
            return cls(file, values, model.model_validate(sections))
        except ValidationError as error:
            reason = ": ".join(filter(None, first_error(error, sections)))
            raise UserError(f"{file} cannot be read: config: {reason}; {_HINT}") from error

    def refuse_incomparable(self, other: EncoderConfig, row: str, name: str, own_backbone: bool) -> None:
        """Raise if another run cannot stand in one table with that of this record.

        Args:
            other: the configuration of the other run.
            row: its row.
            name: its name for the message.
            own_backbone: whether it may have another backbone.

        Raises:
            UserError: it differs in the data, the backbone or the budget.
        """
        own, theirs = comparable_settings(self.config), comparable_settings(other)
        if starts_random(row) or starts_random(self.values["row"]):
            own = {path: v for path, v in own.items() if path not in STARTING_WEIGHTS}
        if own_backbone or self.own_backbone:
            own = {path: v for path, v in own.items() if not path.startswith("backbone.")}
        for path, value in own.items():
            if value != theirs[path]:
                raise UserError(
                    f"{self.file} was made with {path}={value}, and {name} has {theirs[path]}, so they "
                    "cannot stand in one table; choose another --record"
                )


def record_file(folder: Path, cell: Cell) -> Path:
    """Return the file of the record of a cell."""
    return folder / f"{cell.row if cell.seed is None else f'{cell.row}-{cell.seed}'}.json"


def has_records(folder: Path) -> bool:
    """Return whether a folder holds records rather than a run or a comparison."""
    return folder.is_dir() and not Run(folder).config_file.exists() and any(folder.glob("*.json"))


def read_records(folder: Path) -> list[StoredRecord]:
    """Read all records in a folder, by name of the file.

    Raises:
        UserError: there are none, one cannot be read, or they cannot stand in one table.
    """
    records = _read_all(folder)
    if not records:
        raise UserError(f"{folder} has no records; make some with: ssl-zoo compare --record {folder}")
    first = representative(records)
    for record in records:
        row, name = record.values["row"], record.file.stem
        first.refuse_incomparable(record.config, row, name, record.own_backbone)
    return records


def _read_all(folder: Path) -> list[StoredRecord]:
    read = (StoredRecord.read(file) for file in sorted(folder.glob("*.json")))
    return [record for record in read if record is not None]


def representative(records: Sequence[StoredRecord]) -> StoredRecord:
    """Return the first record that has all settings which must be equal in all."""
    common = [record for record in records if not record.own_backbone] or records
    return next((record for record in common if not starts_random(record.values["row"])), common[0])


def check_records(folder: Path, cells: Iterable[Cell]) -> None:
    """Check that the records of cells can be written beside those in a folder.

    Raises:
        UserError: there is a record of the same row and seed with other settings, or one of another
            row that cannot stand in one table with them.
    """
    records = {record.file: record for record in _read_all(folder)}
    for cell in cells if records else ():
        file = record_file(folder, cell)
        try:
            config = cell.config
        except UserError:  # its task is broken or gone, which its row will show
            continue
        if file in records:
            refuse_changed_settings(file, records[file].config, config, "--record")
        else:
            first = representative(list(records.values()))
            own_backbone = cell.own_backbone is not None
            first.refuse_incomparable(config, cell.row, cell.name, own_backbone)


def write_record(folder: Path, cell: Cell) -> None:
    """Write the record of a cell; one that is there is replaced only by a complete one.

    Raises:
        UserError: the record that is there cannot be read.
        Unwritable: it cannot be written.
    """
    file, new = record_file(folder, cell), _record(cell)
    existing = StoredRecord.read(file)
    if existing is not None:
        before = existing.values
        if new["failure"] is None and new["scores"] == before["scores"] and not before.get("failure"):
            return
        if new["failure"] is not None or before["scores"].keys() - new["scores"].keys():
            reason = "has failed" if new["failure"] is not None else "has fewer scores"
            _KEPT(f"{file} is kept, as {cell.name} {reason}; remove it to replace it")
            return
    write_atomic(file, (json.dumps(new, indent=1, ensure_ascii=False) + "\n").encode())


def _record(cell: Cell) -> dict[str, Any]:
    """Return everything that the record of a cell holds."""
    results, made = cell.results(), cell.provenance()
    row = next(iter(results.get("scores", {})), cell.title)
    return {
        "row": row,
        "seed": cell.seed,
        "family": cell.family,
        "baseline": cell.baseline,
        **({"own_backbone": name} if (name := cell.own_backbone) is not None else {}),
        **(
            {"variant": text} if (text := cell.comparison.describe_variant(cell.row)) is not None else {}
        ),
        "budget": describe_budget(cell.config),
        "scores": results.get("scores", {}).get(row, {}),
        "failure": cell.failure(),
        **{name: results[name] for name in RunFacts.model_fields if name in results},
        "modality": cell.comparison.modality,
        "data": {"noun": noun} if (noun := results.get("data", {}).get("noun")) else {},
        "command": command_without_folder(),
        **{name: made[name] for name in ("started", "python", "versions", "git") if name in made},
        "config": _settings(cell.config),
    }


def command_without_folder() -> str:
    """Return the command of this process without its --out, a folder of one machine."""
    words, kept = iter(shlex.split(command_line())), []
    for word in words:
        if word == "--out":
            next(words, None)
        elif not word.startswith("--out="):
            kept.append(word)
    return shlex.join(kept)


def _settings(config: EncoderConfig) -> dict[str, Any]:
    """Return the settings by section, without those that concern the machine."""
    sections: dict[str, Any] = config.model_dump(mode="json", exclude={"provenance"})
    return {
        section: {name: v for name, v in values.items() if f"{section}.{name}" not in NEUTRAL}
        for section, values in sections.items()
    }


def describe_budget(config: EncoderConfig) -> str:
    """Return the budget, such as "2 epochs"."""
    for name in BUDGETS:
        value = getattr(config.train, name)
        if value is not None:
            return f"{value:g} {name}" if isinstance(value, float) else f"{value:,} {name}"
    raise AssertionError("TrainConfig has a budget")
