"""The settings that runs must have in common to stand in one table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ssl_zoo.config.schema import BUDGETS, EncoderConfig
from ssl_zoo.config.settings import NEUTRAL
from ssl_zoo.config.source_names import plain_source
from ssl_zoo.config.weights import weights_file
from ssl_zoo.evaluation.scoring import UNTRAINED

SCRATCH = "-scratch"
"""The end of the name of a row whose task starts from random weights, beside one that does not."""
STARTING_WEIGHTS = tuple(
    f"backbone.{name}"
    for name in ("pretrained", "weights", "weights_prefix", "mean", "std", "interpolation")
)
"""The settings in which rows that start from random weights differ from the others beside them."""
TRAINING_INPUT = frozenset({"data.canvas"})
"""The settings of the data that choose what training sees of the samples, as augmentations do.

Samples, splits and evaluation are the same with any of them, so runs with others are separate rows.
"""


def starts_random(row: str) -> bool:
    """Return whether a row starts from random weights, whatever the others start from."""
    return row == UNTRAINED or row.endswith(SCRATCH)


def comparability_key(config: EncoderConfig) -> dict[str, Any]:
    """Return the settings that must be equal for runs to stand in one table, files as full paths."""
    key = comparable_settings(config)
    paths = [Path(source).expanduser() for source in config.data.sources]
    if any(path.exists() for path in paths):
        key["data.source"] = plain_source([str(path.resolve()) for path in paths])
    if (weights := config.backbone.weights) is not None:
        key["backbone.weights"] = str(weights_file(weights).resolve())
    return key


def comparable_settings(config: EncoderConfig) -> dict[str, Any]:
    """Return the settings that must be equal for runs to stand in one table, by dotted path.

    They are the budget, the network, and all settings of the data but those that concern the machine
    (`NEUTRAL`) or training alone (`TRAINING_INPUT`).
    """
    data = with_share_held_out(config).data.model_dump()
    backbone = config.backbone.spelled_out().model_dump()
    train = {name: getattr(config.train, name) for name in (*BUDGETS, "patience")}
    key = {f"data.{k}": v for k, v in data.items()}
    key |= {f"backbone.{k}": v for k, v in backbone.items()}
    key |= {f"train.{k}": v for k, v in train.items()}
    return {path: v for path, v in key.items() if path not in NEUTRAL | TRAINING_INPUT}


def with_share_held_out(config: EncoderConfig) -> EncoderConfig:
    """Return a configuration with the share that a comparison holds out, where none is set.

    Runs and records of earlier versions spell it out.
    """
    share = config.data.share_to_hold_out(needed=True)
    return config.model_copy(update={"data": config.data.model_copy(update={"holdout": share})})
