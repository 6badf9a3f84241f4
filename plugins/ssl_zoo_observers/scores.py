"""The names of a run and of its scores, the same in all observers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssl_zoo.runs.run import Run


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


def run_identifier(run: Run) -> str:
    """Return an identifier that stays the same when the run is resumed or its parent folder is moved."""
    content = run.path.resolve().name.encode() + run.config_file.read_bytes()  # includes the start time
    return hashlib.sha256(content).hexdigest()[:16]
