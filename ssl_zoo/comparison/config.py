"""The settings of a comparison, and the configuration of each of its runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from ssl_zoo.comparison.comparability import SCRATCH, STARTING_WEIGHTS, comparability_key
from ssl_zoo.comparison.selection import (
    common_modality,
    common_section,
    describe_difference,
    grouped,
    learns_from_labels,
    loadable,
)
from ssl_zoo.config.errors import SettingError
from ssl_zoo.config.layers import RECIPE_SECTIONS, SettingsSource
from ssl_zoo.config.load import load_config, load_encoder_config
from ssl_zoo.config.schema import (
    BUDGETS,
    DEFAULT_EPOCHS,
    DataConfig,
    EncoderConfig,
    RunConfig,
    current_path,
)
from ssl_zoo.config.weights import NETWORK
from ssl_zoo.data.source import modality_of
from ssl_zoo.data.sources import known_sources
from ssl_zoo.errors import UserError
from ssl_zoo.evaluation.scoring import UNTRAINED
from ssl_zoo.notices import Notice
from ssl_zoo.plugins.registry import registry
from ssl_zoo.task import Task
from ssl_zoo.text import printable

RAW = "raw"
"""The name of the raw input among the baselines; tables show it by the `raw_name` of its spec."""
OLD_RAW = "pixels"
"""The name of the raw input in older versions, which is read."""
_OTHER_MODALITY = Notice(
    "baselines-left-out",
    "Of all baselines, a comparison leaves out tasks that take another kind of data.",
    "--baselines",
)
KNN_POINTS = 5
"""Default number of kNN evaluations during a run, for its curve."""


_OR_OWN = ", or for single tasks with overrides.TASK.backbone in a file"


def current_row(name: str) -> str:
    """Return today's name of a row that older versions may have named otherwise."""
    return RAW if name == OLD_RAW else name


class Comparison(BaseModel):
    """The settings of a comparison, as in a file of ``configs/compare``."""

    model_config = ConfigDict(extra="forbid")
    _origin: str = "the comparison"
    _locations: Mapping[str, str] = {}

    tasks: list[str] | Literal["all"] = Field("all", description="names of tasks, or all")
    seeds: int = Field(3, ge=1, le=1000, description="runs of each task, with the seeds 0, 1, …")
    protocols: list[str] = Field(
        default=["knn", "linear", "health"], min_length=1, description="evaluation protocols"
    )
    baselines: list[str] | Literal["all"] = Field(
        "all", description=f"{RAW}, {UNTRAINED}, and tasks that learn from labels; or all"
    )
    variants: dict[str, str] = Field(
        default_factory=dict,
        description="further rows of tasks with other settings: by the row's name the task's; overrides "
        "has the settings, under the row's name",
    )
    scratch: list[str] = Field(
        default=[],
        description=f"tasks that get a second row, NAME{SCRATCH}, which starts from random weights "
        "where the others start from trained ones",
    )
    frozen: list[str] = Field(
        default=[],
        description="further trained networks that are scored as they are: timm:NAME with timm's "
        "weights, or a run or a file of weights",
    )
    untrained_only: bool = Field(
        False, description="whether to leave out all rows that are trained, and only score the others"
    )
    columns: list[str] | None = Field(
        None, description="columns of the table; none: all that have values"
    )
    sort: str | None = Field(None, description="column to sort by; none: the first")
    data: dict[str, Any] = Field(default_factory=dict, description="as in a run's configuration")
    backbone: dict[str, Any] = Field(default_factory=dict, description="as in a run's configuration")
    train: dict[str, Any] = Field(default_factory=dict, description="as in a run's configuration")
    overrides: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="sections task, train and backbone of single tasks, by the task's name or the row's",
    )
    set: dict[str, Any] = Field(
        default_factory=dict, description="settings by dotted path, which override all others"
    )

    @field_validator("baselines", mode="before")
    @classmethod
    def _old_baselines(cls, names: Any) -> Any:
        return [current_row(name) for name in names] if isinstance(names, list) else names

    @field_validator("train", "set")
    @classmethod
    def _old_settings(cls, values: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        prefix = "" if info.field_name == "set" else f"{info.field_name}."
        return {current_path(prefix + k).removeprefix(prefix): value for k, value in values.items()}

    @field_validator("tasks", "protocols", "baselines", "scratch", "frozen", "columns")
    @classmethod
    def _without_duplicates(cls, names: Any) -> Any:
        return list(dict.fromkeys(names)) if isinstance(names, list) else names

    def location(self, name: str, option: str | None = None) -> str:
        """Return the location of a field for messages: its option, or the file and its name there."""
        return self._locations.get(name, option or f"--{name}")

    def task_names(self) -> list[str]:
        """Return the names of the tasks to compare, without baselines.

        Raises:
            UserError: there is no such task, or it is a baseline.
        """
        if self.tasks == "all":
            baselines = {n for n, cls in loadable(registry.tasks()).items() if learns_from_labels(cls)}
            names = [name for name in registry.tasks() if name not in baselines]
            if not names:
                raise UserError("--tasks all: no task is installed")
            return names
        location = self.location("tasks")
        for name in self.tasks:
            try:
                baseline = current_row(name) in (RAW, UNTRAINED)
                baseline = baseline or learns_from_labels(registry.load_task(name))
            except UserError as error:
                raise UserError(f"{location}: {error}") from error
            if baseline:
                raise UserError(f"{location}: {name!r} is a baseline; select it with --baselines")
        return self.tasks

    @cached_property
    def modality(self) -> str:
        """The kind of data of the comparison: that of its tasks, or for all tasks that of its source.

        Raises:
            UserError: tasks that are named take different kinds of data.
        """
        classes = loadable(self.task_names())
        if self.tasks != "all" or len(grouped(classes, lambda cls: cls.modality)) == 1:
            return common_modality(classes, self.location("tasks"))
        source = self.set.get("data.source", self.data.get("source", DataConfig().source))
        return modality_of(source, known_sources(registry.collect("ssl_zoo_register_sources")))

    @cached_property
    def recipe(self) -> dict[str, dict[str, Any]]:
        """The data and the backbone of the tasks' recipes, where the comparison does not name them.

        With all tasks, those of its modality count, and what they do not agree on is the default. Tasks
        with a section of their own do not count for it.

        Raises:
            UserError: tasks that are named do not agree.
        """
        modality = self.modality
        suitable = {n: cls for n, cls in loadable(self.task_names()).items() if cls.modality == modality}
        recipe = {}
        for section, name in RECIPE_SECTIONS.items():
            if name is None or self._sets(section, name) or self._sets(section, "weights"):
                continue
            shared = {n: cls for n, cls in suitable.items() if section not in self.overrides.get(n, {})}
            classes = shared or suitable
            common = common_section(classes, section)
            if common is None and self.tasks != "all":
                raise UserError(
                    f"{self.location('tasks')}: the recipes name different settings of {section} "
                    f"({describe_difference(classes, section, name)}); choose one for all tasks with "
                    f"--{section}" + (_OR_OWN if section == "backbone" else "")
                )
            if common:
                recipe[section] = common
        return recipe

    def _sets(self, section: str, name: str) -> bool:
        """Return whether the comparison sets a field for all tasks."""
        return name in getattr(self, section) or f"{section}.{name}" in self.set

    def supervised_names(self) -> list[str]:
        """Return the names of the baselines that are tasks learning from labels, of the modality."""
        modality = self.modality
        return [name for name, cls in self._supervised().items() if cls.modality == modality]

    def _supervised(self) -> dict[str, type[Task]]:
        names = (name for name in registry.tasks() if self.has_baseline(name))
        return {name: cls for name, cls in loadable(names).items() if learns_from_labels(cls)}

    def trained_rows(self) -> dict[str, str]:
        """Return the task of each row that is trained, by its name: tasks, then supervised baselines.

        Raises:
            UserError: there is no such task, or it is a baseline.
        """
        if self.untrained_only:
            return {}
        rows = (*self.task_names(), *self.variants, *self.scratch_rows(), *self.supervised_names())
        return {row: self.task_of(row) for row in rows}

    def scratch_rows(self) -> list[str]:
        """Return the names of the second rows of tasks, which start from random weights."""
        return [f"{name}{SCRATCH}" for name in self.scratch]

    def task_of(self, row: str) -> str:
        """Return the task of a row that is trained."""
        if row in self.variants:
            return self.variants[row]
        return row.removesuffix(SCRATCH) if self.is_scratch(row) else row

    def is_scratch(self, row: str) -> bool:
        """Return whether a row is a task's second one, which starts from random weights."""
        return row.endswith(SCRATCH) and row.removesuffix(SCRATCH) in self.scratch

    def report_left_out(self) -> None:
        """Give a notice of the baselines, of all, that take another kind of data."""
        modality = self.modality
        others = {name: cls for name, cls in self._supervised().items() if cls.modality != modality}
        for other, names in grouped(others, lambda cls: cls.modality).items():
            _OTHER_MODALITY(
                f"left out of the baselines, as they take {other} data, not {modality} data: {names}"
            )

    def has_baseline(self, name: str) -> bool:
        """Return whether the baseline with this name is selected."""
        return self.baselines == "all" or name in self.baselines

    def settings_hash(self) -> str:
        """Return eight hexadecimal digits that depend on the settings that affect figures."""
        settings = self.model_dump(include={"data", "backbone", "train", "overrides", "set"})
        settings |= {"recipe": recipe} if (recipe := self.recipe) else {}
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]

    def default_folder(self) -> Path:
        """Return the folder to use if none is given: the same for the same settings."""
        source = printable(self.encoder_config(0).data.source_name).replace(":", "-") or "data"
        return Path("runs") / f"compare-{source}-{self.settings_hash()}"

    def encoder_config(self, seed: int) -> EncoderConfig:
        """Return the configuration that all runs with this seed have in common.

        Raises:
            UserError: a setting is invalid.
        """
        settings = {k: v for k, v in self.set.items() if not k.startswith("task.")}
        recipe = SettingsSource(self.recipe, "the recipes of the tasks")
        return load_encoder_config(
            settings={**settings, "train.seed": seed}, base=[self._common()], recipe=recipe
        )

    def describe_variant(self, row: str) -> str | None:
        """Return what a variant is, such as "simmim with target=hog"; None for another row."""
        if row not in self.variants:
            return None
        sections = self.overrides.get(row, {}).items()
        changes = [
            f"{'' if section == 'task' else f'{section}.'}{name}={value}"
            for section, values in sections
            for name, value in (values or {}).items()
        ]
        return f"{self.variants[row]} with {', '.join(changes)}" if changes else self.variants[row]

    def row_overrides(self, row: str) -> dict[str, dict[str, dict[str, Any]]]:
        """Return the sections of `overrides` that hold for a row, by the names that they have there.

        Those of a variant follow its task's, which they override; a backbone replaces the task's.
        """
        own, task = self.overrides.get(row, {}), self.variants.get(row)
        if task is None:
            return {row: own}
        of_task = self.overrides.get(task, {})
        if "backbone" in own:
            of_task = {name: values for name, values in of_task.items() if name != "backbone"}
        return {task: of_task, row: own}

    def has_own_backbone(self, row: str) -> bool:
        """Return whether the overrides of a row have the section ``backbone``."""
        return any("backbone" in sections for sections in self.row_overrides(row).values())

    def run_config(self, row: str, seed: int) -> RunConfig:
        """Return the configuration of one run.

        Its backbone is the comparison's, unless the row's overrides have the section ``backbone``,
        which then replaces all of the comparison's.

        Args:
            row: the name of the task, a variant, or a second row, which starts from random weights.
            seed: the seed.

        Raises:
            UserError: a setting is invalid, or an override would make the run incomparable.
        """
        own = [
            SettingsSource(sections, f"{self._origin}: overrides.{name}")
            for name, sections in self.row_overrides(row).items()
        ]
        common, settings = self.encoder_config(seed), self.set
        if self.is_scratch(row):
            common = common.model_copy(update={"backbone": common.backbone.untrained()})
            settings = {path: v for path, v in settings.items() if path not in STARTING_WEIGHTS}
        # Given in full, so that no task's recipe changes the data, the backbone or the budget.
        sections = ("data",) if self.has_own_backbone(row) else ("data", "backbone")
        settings = {
            path: value
            for path, value in settings.items()
            if value is not None or path.partition(".")[0] not in sections  # null has taken effect there
        } | {"task.name": self.task_of(row), "train.seed": seed}
        same = {name: getattr(common, name).model_dump() for name in sections}
        base = SettingsSource({**same, "train": {**self._default_budget(), **self.train}}, self._origin)
        config = load_config(settings=settings, base=[base, *own])
        expected = comparability_key(common)
        for path, value in comparability_key(config).items():
            if value != expected[path] and path.partition(".")[0] in (*sections, "train"):
                raise UserError(
                    f"{own[-1].origin}: {path}={value} would make its runs incomparable with the others "
                    f"({expected[path]}); set it for all tasks"
                )
        if config.train.patience is not None:
            raise SettingError(
                "train.patience",
                "the runs of a comparison have one budget; leave it out: train.keep_best keeps the best",
            )
        # Tuning measures speed, so on a busy machine equal runs could end up with other precisions.
        defaults: dict[str, Any] = {"tune": False}
        if config.train.knn_every is None:
            defaults["knn_points"] = KNN_POINTS
        new = {k: v for k, v in defaults.items() if k not in config.train.model_fields_set}
        return config.model_copy(update={"train": config.train.model_copy(update=new)})

    def _default_budget(self) -> dict[str, Any]:
        """Return the default budget, unless the comparison sets one."""
        given = any(self._sets("train", name) for name in BUDGETS)
        return {} if given else {"epochs": DEFAULT_EPOCHS}

    def _common(self) -> SettingsSource:
        sections = {"data": self.data, "backbone": self.backbone, "train": self.train}
        return SettingsSource(sections, self._origin)

    def to_yaml(self) -> str:
        """Return the settings as YAML that `load_comparison` reads, also if its weights are gone."""
        config, recipe = self.encoder_config(0), self.recipe
        # Written out, so that the folder stays what it is if a task gets another recipe.
        complete = self.model_copy(update={s: {**v, **getattr(self, s)} for s, v in recipe.items()})
        if config.backbone.weights is not None:
            network = config.backbone.model_dump(include={*NETWORK, "mean", "std", "interpolation"})
            size = {"image_size": config.data.image_size}
            complete = complete.model_copy(
                update={"backbone": {**self.backbone, **network}, "data": {**complete.data, **size}}
            )
        values = complete.model_dump(mode="json", exclude_none=True)
        text: str = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)
        return text
