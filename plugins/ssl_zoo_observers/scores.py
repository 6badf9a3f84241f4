"""The scores of a run as both observers name them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def named_scores(results: Mapping[str, Any]) -> dict[str, float]:
    """Every score under a name of its own.

    Args:
        results: what a run's ``results.json`` holds.

    Returns:
        ``score/METRIC`` of what was trained, the same name in every run, and
        ``baseline/ROW/METRIC`` of what it is compared with.
    """
    return {
        f"score/{metric}" if row == results["task"] else f"baseline/{row}/{metric}": value
        for row, its in results["scores"].items()
        for metric, value in its.items()
    }
