"""Settings of training that several tasks share; they suit the bundled syllables and two CPU cores."""

from __future__ import annotations

from typing import Any

ADAMW: dict[str, Any] = {
    "optimizer": "adamw",
    "optimizer_options": {"betas": [0.9, 0.98]},
    "lr": 1e-3,
    "lr_scaling": "none",
    "weight_decay": 0.01,
    "schedule": "linear",
    "warmup": 0.08,
    "clip_norm": 10.0,
    "batch_size": 32,
    "epochs": 40,
}


def recipe(backbone: str, options: dict[str, Any] | None = None, **train: Any) -> dict[str, Any]:
    """Return a task's recipe: a network, its options, and what differs from `ADAMW`."""
    return {
        "data": {"source": "syllables"},
        "backbone": {"name": backbone, "options": options or {}},
        "train": {**ADAMW, **train},
    }
