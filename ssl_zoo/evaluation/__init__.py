"""Evaluation of representations: the subjects that are evaluated, and the protocols that score them.

The names here are imported when they are first used, so that listing plugins imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssl_zoo.evaluation.api import evaluate
    from ssl_zoo.evaluation.features import Features, extract
    from ssl_zoo.evaluation.protocol import (
        Metric,
        Protocol,
        Scores,
        known_metrics,
        known_protocols,
        protocols,
        standard_protocols,
        warnings,
    )
    from ssl_zoo.evaluation.scoring import (
        ONLINE_EVAL_SIZES,
        baselines,
        report_no_scores,
        score,
        scored_protocols,
        unsupported_protocols,
    )
    from ssl_zoo.evaluation.subject import Subject, dry_run, evaluating

_HOMES = {
    "Features": "features",
    "extract": "features",
    "Metric": "protocol",
    "Protocol": "protocol",
    "Scores": "protocol",
    "known_metrics": "protocol",
    "known_protocols": "protocol",
    "protocols": "protocol",
    "standard_protocols": "protocol",
    "warnings": "protocol",
    "ONLINE_EVAL_SIZES": "scoring",
    "baselines": "scoring",
    "evaluate": "api",
    "report_no_scores": "scoring",
    "score": "scoring",
    "scored_protocols": "scoring",
    "unsupported_protocols": "scoring",
    "Subject": "subject",
    "dry_run": "subject",
    "evaluating": "subject",
}

__all__ = [
    "ONLINE_EVAL_SIZES",
    "Features",
    "Metric",
    "Protocol",
    "Scores",
    "Subject",
    "baselines",
    "dry_run",
    "evaluate",
    "evaluating",
    "extract",
    "known_metrics",
    "known_protocols",
    "protocols",
    "report_no_scores",
    "score",
    "scored_protocols",
    "standard_protocols",
    "unsupported_protocols",
    "warnings",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
