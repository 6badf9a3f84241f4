"""The settings that affect results, and how those of two configurations differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ssl_zoo.config.schema import BUDGETS, EncoderConfig, current_path

NEUTRAL = frozenset(
    {
        *("data.resident", "data.workers", "data.root", "data.cache"),
        *("train.precision", "train.channels_last", "train.threads", "train.compile"),
        *("train.tune", "train.device", "train.parallel"),
        *("train.checkpoint_seconds", "train.log_every", "train.observers", "train.eval_batch_size"),
        *("train.find_unused_parameters", "train.keep_every", "train.grad_checkpointing"),
    }
)
"""Settings that concern the machine and what is written; they may be edited in a run's file."""

BUDGET_SETTINGS = tuple(f"train.{name}" for name in BUDGETS)
"""The settings of the budget, by dotted path."""


RECORDED = frozenset({"data.canvas"})
"""Settings in whose place a run records what it chose, where they are left at "auto"."""


def result_affecting_settings(config: EncoderConfig) -> dict[str, Any]:
    """Return all settings that affect the figures of a run, by dotted path, as plain values."""
    sections = config.model_dump(mode="json", exclude={"provenance"})
    # A preset equals its spelled-out form.
    sections["backbone"] = config.backbone.spelled_out().model_dump(mode="json")
    flat = {f"{s}.{name}": value for s, values in sections.items() for name, value in values.items()}
    return {path: value for path, value in flat.items() if path not in NEUTRAL}


def changed_settings(before: Mapping[str, Any], config: EncoderConfig) -> dict[str, tuple[Any, Any]]:
    """Return the settings that differ, by dotted path, with the value before and that in `config`.

    A setting left at "auto" does not differ from what a run chose in its place.

    Args:
        before: the `result_affecting_settings` of a configuration, perhaps of another version, whose
            settings may be fewer or more.
        config: the other configuration.
    """
    before = {current_path(path): value for path, value in before.items()}
    now = result_affecting_settings(config)
    return {
        path: (before[path], value)
        for path, value in now.items()
        if path in before
        and before[path] != value
        and not (path in RECORDED and "auto" in (before[path], value))
    }
