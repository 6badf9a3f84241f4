"""Reading the settings of a comparison, and checking them before anything is computed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ssl_zoo.comparison.columns import find_column, known_columns
from ssl_zoo.comparison.comparability import SCRATCH
from ssl_zoo.comparison.config import OLD_RAW, RAW, Comparison
from ssl_zoo.comparison.selection import learns_from_labels, loadable
from ssl_zoo.config.errors import SettingError, first_error
from ssl_zoo.config.yaml import read_yaml
from ssl_zoo.errors import UserError
from ssl_zoo.evaluation import protocols
from ssl_zoo.evaluation.scoring import PRETRAINED, UNTRAINED
from ssl_zoo.plugins.registry import registry
from ssl_zoo.text import did_you_mean

_ROW = re.compile(r"[A-Za-z0-9][\w.-]*")
"""The names that a row may have, as they are those of folders too."""


def load_comparison(file: str | Path | None, overrides: Mapping[str, Any]) -> Comparison:
    """Load the settings of a comparison from a file, and check those of every run.

    Args:
        file: a YAML file; None for none.
        overrides: fields of `Comparison`, which override those of the file.

    Raises:
        UserError: a setting is invalid, or that of a run would be.
    """
    values = read_yaml(file, "the settings of a comparison, such as tasks") if file is not None else {}
    if isinstance(values.get("set"), dict):
        overrides = {**overrides, "set": {**values["set"], **overrides.get("set", {})}}
    if isinstance(overrides.get("tasks"), list):
        values = with_tasks(values, overrides["tasks"])
    merged = {**values, **overrides}
    try:
        comparison = Comparison.model_validate(merged)
    except ValidationError as error:
        path, reason = first_error(error, merged, list(Comparison.model_fields))
        raise SettingError(path, reason, f"--config {file}" if file is not None else "") from error
    if file is not None:
        comparison._origin = f"--config {file}"
        comparison._locations = {n: f"--config {file}: {n}" for n in values if n not in overrides}
    _check(comparison)
    return comparison


def with_tasks(values: Mapping[str, Any], tasks: Sequence[str]) -> dict[str, Any]:
    """Return settings as in a file for these tasks, without the second rows and variants of others."""
    variants, overrides = values.get("variants"), values.get("overrides")
    kept: dict[str, Any] = {}
    if isinstance(variants, dict):
        kept["variants"] = {row: task for row, task in variants.items() if task in tasks}
        if isinstance(overrides, dict):
            gone = variants.keys() - kept["variants"].keys()
            kept["overrides"] = {name: own for name, own in overrides.items() if name not in gone}
    if isinstance(values.get("scratch"), list):
        kept["scratch"] = [name for name in values["scratch"] if name in tasks]
    return {**values, **kept, "tasks": list(tasks)}


def _check(comparison: Comparison) -> None:
    names = comparison.task_names()
    protocols(comparison.protocols, comparison.location("protocols", "--protocol"))
    columns = known_columns()
    for option, name in (
        *(("columns", name) for name in comparison.columns or ()),
        *([("sort", comparison.sort)] if comparison.sort is not None else []),
    ):
        find_column(comparison.location(option), name, columns)
    if comparison.baselines and comparison.baselines != "all":
        location = comparison.location("baselines")
        labelled = {n: c for n, c in loadable(registry.tasks()).items() if learns_from_labels(c)}
        known = [RAW, UNTRAINED, *labelled]
        for name in (name for name in comparison.baselines if name not in known):
            raise UserError(
                f"{location}: there is no baseline {name!r}."
                f"{did_you_mean(name, known)} There are: {', '.join(known)}"
            )
        for name, cls in labelled.items():
            if name in comparison.baselines and cls.modality != comparison.modality:
                raise UserError(
                    f"{location}: {name!r} takes {cls.modality} data, not {comparison.modality} data; "
                    "leave it out"
                )
    installed = registry.tasks() if comparison.overrides else ()
    for name in comparison.overrides:
        # Rows that are not compared may have overrides too.
        rows = {*names, *installed, *comparison.variants}
        if not rows & {name, name.removesuffix(SCRATCH)}:
            message = f"{comparison._origin}: overrides.{name}: there is no such task."
            raise UserError(message + did_you_mean(name, [*names, *comparison.variants]))
    _check_variants(comparison, names)
    common = comparison.encoder_config(0)
    location = comparison.location("scratch", "scratch")
    for name in comparison.scratch:
        if name not in names:
            message = f"{location}: {name!r} is not among the tasks."
            raise UserError(message + did_you_mean(name, names))
        if not common.backbone.starts_trained:
            raise UserError(
                f"{location}: all tasks start from random weights; leave it out, or give trained ones "
                "with --pretrained or --from FILE"
            )
    registry.check_observers(common.train.observers)
    further = (*comparison.variants, *comparison.scratch_rows())
    for row in (*names, *further) if comparison.tasks != "all" else further:
        comparison.run_config(row, 0)


def _check_variants(comparison: Comparison, names: Sequence[str]) -> None:
    """Raise if a variant has no task among those compared, or a name that is taken or is no name."""
    location = comparison.location("variants", "variants")
    taken = {RAW, OLD_RAW, UNTRAINED, PRETRAINED, *registry.tasks()}
    for row, task in comparison.variants.items():
        if task not in names:
            message = f"{location}: {row}: {task!r} is not among the tasks."
            raise UserError(message + did_you_mean(task, names))
        of_networks = row.startswith((f"{PRETRAINED}-", f"{UNTRAINED}-"))
        if row in taken or of_networks or row.endswith(SCRATCH) or not _ROW.fullmatch(row):
            raise UserError(
                f"{location}: {row!r} cannot be the name of a row; choose letters, digits, '-', '_' and "
                f"'.', not the name of another row, nor an end in {SCRATCH!r}"
            )
