"""The optimiser that the recipes of tasks of classes share."""

from __future__ import annotations

from typing import Any

SGD: dict[str, Any] = {
    "optimizer": "sgd",
    "lr": 0.1,
    "lr_scaling": "none",
    "weight_decay": 5e-4,
    "batch_size": 128,
}
"""RotNet's stochastic gradient descent (arXiv:1803.07728, section 3.1), without its schedule."""
