"""Names of a run's scores, the same in both observers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def named_scores(results: Mapping[str, Any]) -> dict[str, float]:
    """Return every score under a unique name.

    Args:
        results: the content of a run's ``results.json``.

    Returns:
        ``score/METRIC`` for the trained encoder, the same name in every run, and
        ``baseline/ROW/METRIC`` for the baselines.
    """
    return {
        f"score/{metric}" if row == results["task"] else f"baseline/{row}/{metric}": value
        for row, scores in results["scores"].items()
        for metric, value in scores.items()
    }
