"""The agreement of a run's files and data with its checkpoint, from which it goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ssl_zoo.config.errors import SettingError
from ssl_zoo.config.schema import RunConfig
from ssl_zoo.config.settings import (
    BUDGET_SETTINGS,
    NEUTRAL,
    changed_settings,
    result_affecting_settings,
)
from ssl_zoo.config.source_names import source_name
from ssl_zoo.data import DataSet, Split
from ssl_zoo.data.fingerprint import hash_contents, hash_names
from ssl_zoo.errors import UserError
from ssl_zoo.runs.checkpoints import StateDict
from ssl_zoo.runs.hints import new_run_hint
from ssl_zoo.runs.run import Run
from ssl_zoo.text import shorten_repr

SOURCE = "data.source"
"""A setting that may be edited, as data may be moved; `check_data` sees whether it is the same data."""


def describe_origin(config: RunConfig, data: DataSet) -> dict[str, Any]:
    """Return what a checkpoint keeps of its settings and data, for `check_settings` and `check_data`."""
    return {
        "settings": result_affecting_settings(config),
        **_describe_split(data.train),
        "test": None if data.test is None else _describe_split(data.test),
    }


def _describe_split(split: Split) -> dict[str, Any]:
    """Return what a checkpoint keeps of a split."""
    return {"samples": len(split), "names": hash_names(split), "contents": hash_contents(split)}


def resumed_config(run: Run, state: StateDict, settings: Mapping[str, Any]) -> RunConfig:
    """Return the configuration with which a run goes on.

    Args:
        run: the run.
        state: its checkpoint; empty if it has none.
        settings: changes by dotted path: a budget, or settings that affect no result.

    Raises:
        UserError: other settings are to be changed, or were edited in the run's file.
    """
    for path in settings:
        if path not in NEUTRAL and path not in BUDGET_SETTINGS:
            raise SettingError(
                path,
                f"cannot be changed for an existing run; {new_run_hint(run, settings=settings)}",
            )
    config = run.config(settings)
    budget = any(path in BUDGET_SETTINGS for path in settings)
    check_settings(run, state, config, BUDGET_SETTINGS if budget else ())
    return config


def check_settings(run: Run, state: StateDict, config: RunConfig, ignored: tuple[str, ...] = ()) -> None:
    """Raise if a run's settings are not those that its checkpoint was trained with.

    Args:
        run: the run.
        state: its checkpoint; one of an older version has no settings, and is not checked.
        config: the configuration in the run's file.
        ignored: the beginnings of the paths of settings that may differ.

    Raises:
        UserError: settings that affect results were edited.
    """
    changed = {
        path: values
        for path, values in changed_settings(state.get("settings", {}), config).items()
        if path != SOURCE and not path.startswith(ignored)
    }
    if not changed:
        return
    differences = "; ".join(
        f"{path}: {shorten_repr(old)} in the checkpoint, {shorten_repr(new)} in {run.config_file.name}"
        for path, (old, new) in changed.items()
    )
    hints = [f"put the old value{'s' if len(changed) > 1 else ''} back"]
    for path in BUDGET_SETTINGS:
        if path in changed and changed[path][1] is not None:
            flag = f"--{path.removeprefix('train.')} {repr(changed[path][1]).removesuffix('.0')}"
            hints.append(f"change the length of the run: ssl-zoo train --resume {run.path} {flag}")
    if not changed.keys() <= set(BUDGET_SETTINGS):
        hints.append(new_run_hint(run, changed))
    raise UserError(f"{run.path}: {differences}; {', or '.join(hints)}")


def data_difference(state: StateDict, config: RunConfig, data: DataSet) -> str | None:
    """Return how data differ from those that a checkpoint was trained and evaluated on; None if not.

    Args:
        state: the checkpoint. One of an earlier version does not know its data, which are taken for the
            same unless a part is held out, then at random and now by class and without copies.
        config: the configuration in the run's file.
        data: the data.
    """
    if "samples" not in state:
        other_holdout = data.facts.held_out and (data.bank.labels is not None or data.facts.copies)
        return (
            "an earlier version trained the run, and held out other samples" if other_holdout else None
        )
    before, now = state["samples"], len(data.train)
    source = state["settings"][SOURCE]
    moved = source_name(source) != config.data.source_name
    if before != now:
        return f"the run was trained on {before:,} samples, and there are {now:,} now"
    if state["names"] != hash_names(data.train):
        return f"the run was trained on {before:,} samples, and others have taken their place"
    if state["names"] is None and moved:  # nothing else tells MNIST from Fashion-MNIST
        return f"the run was trained on {source}"
    if "contents" not in state:  # of an earlier version
        return None
    if state["contents"] != hash_contents(data.train):
        return f"the run was trained on {before:,} samples, and their contents have changed"
    if state["test"] != (None if data.test is None else _describe_split(data.test)):
        return "the samples evaluated on are not those of the run"
    return None


def check_data(run: Run, state: StateDict, config: RunConfig, data: DataSet) -> None:
    """Raise if data are not those that a run's checkpoint was trained and evaluated on.

    Raises:
        UserError: the samples differ.
    """
    if (difference := data_difference(state, config, data)) is not None:
        consequence = "the run would not go on as it began"
        if data.facts.held_out:
            consequence = "samples held out until now could be trained on"
        raise UserError(
            f"data.source: {data.name}: {difference}, so that {consequence}; restore the data, or "
            f"{new_run_hint(run)}"
        )
