"""The settings that the tasks on text have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TRAIN: Mapping[str, Any] = {
    "optimizer": "adamw",
    "optimizer_options": {"betas": [0.9, 0.98]},
    "lr": 2e-3,
    "lr_scaling": "none",
    "batch_size": 32,
    "weight_decay": 0.01,
    "clip_norm": 1.0,
    "schedule": "linear",
    "warmup": 0.05,
    "epochs": 3,
}
"""For a network of some million parameters and a few minutes; AdamW with a linear decay to 0."""


def recipe(backbone: str = "modernbert-micro", **train: Any) -> dict[str, dict[str, Any]]:
    """Return a recipe on the bundled text with changes of `TRAIN`."""
    return {"data": {"source": "kjv"}, "backbone": {"name": backbone}, "train": {**TRAIN, **train}}
