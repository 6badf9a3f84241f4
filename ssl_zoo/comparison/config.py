"""What is compared: the file of a comparison, and what it makes of each of its runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from ssl_zoo.comparison.table import known_columns, unknown_column
from ssl_zoo.config.load import Given, load_config, load_encoder_config
from ssl_zoo.config.schema import BUDGETS, EncoderConfig, RunConfig
from ssl_zoo.config.yaml import read_yaml
from ssl_zoo.errors import UserError
from ssl_zoo.evaluation import protocols
from ssl_zoo.evaluation.scoring import UNTRAINED
from ssl_zoo.plugins.registry import (
    registry,
)
from ssl_zoo.text import did_you_mean, printable

RAW = "pixels"
"""What the raw input is called among the baselines."""
KNN_POINTS = 5
"""How often a run is evaluated on the way, for its curve, unless it is told otherwise."""


class Comparison(BaseModel):
    """The tasks, the seeds, and what all runs have in common; a file of ``configs/compare``."""

    model_config = ConfigDict(extra="forbid")
    _origin: str = "the comparison"
    _places: Mapping[str, str] = {}

    tasks: list[str] | Literal["all"] = Field("all", description="names, or all")
    seeds: int = Field(3, ge=1, le=1000, description="runs of each task, of the seeds 0, 1, …")
    protocols: list[str] = Field(
        default=["knn", "linear", "health"], min_length=1, description="how features are evaluated"
    )
    baselines: list[str] | Literal["all"] = Field(
        "all", description=f"{RAW}, {UNTRAINED}, and tasks that learn from labels; or all"
    )
    columns: list[str] | None = Field(None, description="of the table; none: what was measured")
    sort: str | None = Field(None, description="column to sort by; none: the first")
    data: dict[str, Any] = Field(default_factory=dict, description="as in a run's configuration")
    backbone: dict[str, Any] = Field(default_factory=dict, description="likewise")
    train: dict[str, Any] = Field(default_factory=dict, description="likewise")
    overrides: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="by task its own sections task and train"
    )
    set: dict[str, Any] = Field(
        default_factory=dict, description="settings by dotted path, which override all else"
    )

    @field_validator("tasks", "protocols", "baselines", "columns")
    @classmethod
    def _once(cls, names: Any) -> Any:
        return list(dict.fromkeys(names)) if isinstance(names, list) else names

    def place(self, name: str, option: str | None = None) -> str:
        """What errors call a field: its option, or its place in the file that it comes from."""
        return self._places.get(name, option or f"--{name}")

    def names(self) -> list[str]:
        """The tasks that are compared, baselines not among them.

        Raises:
            UserError: there is no such task, or it is a baseline.
        """
        if self.tasks == "all":
            found = [name for name in registry.tasks() if not _learns_from_labels(name)]
            if not found:
                raise UserError("--tasks all: no installed distribution brings any task")
            return found
        place = self.place("tasks")
        for name in self.tasks:
            try:
                baseline = name in (RAW, UNTRAINED) or registry.load_task(name).needs_labels
            except UserError as error:
                raise UserError(f"{place}: {error}") from error
            if baseline:
                raise UserError(f"{place}: {name!r} is a baseline, which --baselines selects")
        return self.tasks

    def supervised(self) -> list[str]:
        """The tasks among the baselines, which learn from labels."""
        return [
            name for name in registry.tasks() if self.has_baseline(name) and _learns_from_labels(name)
        ]

    def has_baseline(self, name: str) -> bool:
        """Whether a baseline of this name is wanted."""
        return self.baselines == "all" or name in self.baselines

    def identity(self) -> str:
        """Eight characters that follow from the settings which decide a run's figures."""
        decisive = self.model_dump(include={"data", "backbone", "train", "overrides", "set"})
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:8]

    def folder(self) -> Path:
        """Where a comparison is that is given no place: always the same for the same settings."""
        source = printable(Path(self.encoder_config(0).data.source).name).replace(":", "-") or "data"
        return Path("runs") / f"compare-{source}-{self.identity()}"

    def encoder_config(self, seed: int) -> EncoderConfig:
        """What all runs have in common.

        Raises:
            UserError: it is wrong.
        """
        given = {k: v for k, v in self.set.items() if not k.startswith("task.")}
        return load_encoder_config({**given, "train.seed": seed}, base=[self._common()])

    def run_config(self, task: str, seed: int) -> RunConfig:
        """The configuration of one run.

        Raises:
            UserError: it is wrong, or a task's overrides make its run incomparable.
        """
        own = Given(self.overrides.get(task, {}), f"{self._origin}: overrides.{task}")
        settings = {**self.set, "task.name": task, "train.seed": seed}
        common = self.encoder_config(seed)
        # Given whole, so that no task's recipe brings a source or a backbone of its own.
        same = {name: getattr(common, name).model_dump() for name in ("data", "backbone")}
        base = Given({**same, "train": self.train}, self._origin)
        config = load_config(overrides=settings, base=[base, own])
        for path, value in comparability_key(config).items():
            if value != comparability_key(common)[path]:
                raise UserError(
                    f"{own.origin}: {path}={value} would make its runs incomparable with the "
                    f"others' ({comparability_key(common)[path]}); set it for all"
                )
        # Of equal runs none is to compute in another number format because the machine was busy.
        defaults: dict[str, Any] = {"tune": False}
        if config.train.knn_every is None:
            defaults["knn_points"] = KNN_POINTS
        new = {k: v for k, v in defaults.items() if k not in config.train.model_fields_set}
        return config.model_copy(update={"train": config.train.model_copy(update=new)})

    def _common(self) -> Given:
        sections = {"data": self.data, "backbone": self.backbone, "train": self.train}
        return Given(sections, self._origin)

    def dump(self) -> str:
        """The comparison as YAML that `load_comparison` reads."""
        values = self.model_dump(mode="json", exclude_none=True)
        dumped: str = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)
        return dumped


def _learns_from_labels(name: str) -> bool:
    """Whether a task does; one that cannot be loaded does not, and its row will say why."""
    try:
        return registry.load_task(name).needs_labels
    except UserError:
        return False


def load_comparison(file: str | Path | None, given: Mapping[str, Any]) -> Comparison:
    """Read a comparison from a file and what was given beside it, which overrides the file.

    Raises:
        UserError: anything about them is wrong, in any of the runs that they describe.
    """
    values = read_yaml(file, "the settings of a comparison, such as tasks") if file is not None else {}
    if isinstance(values.get("set"), dict):
        given = {**given, "set": {**values["set"], **given.get("set", {})}}
    try:
        comparison = Comparison.model_validate({**values, **given})
    except ValidationError as error:
        raise UserError(_reason(error, file)) from error
    if file is not None:
        comparison._origin = f"--config {file}"
        comparison._places = {n: f"--config {file}: {n}" for n in values if n not in given}
    _check(comparison)
    return comparison


def _check(comparison: Comparison) -> None:
    names = comparison.names()
    protocols(comparison.protocols, comparison.place("protocols", "--protocol"))
    columns = known_columns()
    for option, name in (
        *(("columns", name) for name in comparison.columns or ()),
        *([("sort", comparison.sort)] if comparison.sort is not None else []),
    ):
        if name not in columns:
            raise UserError(unknown_column(comparison.place(option), name, columns))
    if comparison.baselines and comparison.baselines != "all":
        known = [RAW, UNTRAINED, *(name for name in registry.tasks() if _learns_from_labels(name))]
        for name in (name for name in comparison.baselines if name not in known):
            raise UserError(
                f"{comparison.place('baselines')}: there is no {name!r}.{did_you_mean(name, known)} "
                f"There are: {', '.join(known)}"
            )
    installed = registry.tasks() if comparison.overrides else ()
    for name in comparison.overrides:
        if name not in (*names, *installed):  # a file may say more than is compared this time
            said = f"{comparison._origin}: overrides.{name}: there is no such task."
            raise UserError(said + did_you_mean(name, names))
    registry.check_observers(comparison.encoder_config(0).train.observers)
    for name in names if comparison.tasks != "all" else ():
        comparison.run_config(name, 0)


def _reason(error: ValidationError, file: str | Path | None) -> str:
    first = error.errors(include_url=False)[0]
    path = ".".join(str(part) for part in first["loc"] if part not in ("list[str]", "literal['all']"))
    prefix = f"--config {file}: " if file is not None else ""
    if first["type"] == "extra_forbidden":
        known = list(Comparison.model_fields)
        hint = did_you_mean(path, known) or f" There are: {', '.join(known)}"
        return f"{prefix}{path}: there is no such setting of a comparison.{hint}"
    return f"{prefix}{path}: {first['msg'].replace('Input should be', 'must be')}"


def comparability_key(config: EncoderConfig) -> dict[str, Any]:
    """What runs must have in common for their figures to stand in one table, by dotted path."""
    data = config.data.model_dump(include={"source", "image_size", "holdout"})
    if (path := Path(str(data["source"])).expanduser()).is_dir():
        data["source"] = str(path.resolve())
    train = {name: getattr(config.train, name) for name in BUDGETS}
    found = {f"data.{k}": v for k, v in data.items()}
    found |= {f"backbone.{k}": v for k, v in config.backbone.resolve().model_dump().items()}
    return {**found, **{f"train.{k}": v for k, v in train.items()}}
