"""Evaluation of representations: what is evaluated, and the protocols that judge it."""

from ssl_zoo.evaluation.features import Features, extract
from ssl_zoo.evaluation.protocol import (
    Metric,
    Protocol,
    Scores,
    known_metrics,
    known_protocols,
    protocols,
    warnings,
)
from ssl_zoo.evaluation.scoring import ONLINE_EVAL_SIZES, baselines, evaluate, score, supported_protocols
from ssl_zoo.evaluation.subject import Subject, dry_run, evaluating

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
    "score",
    "supported_protocols",
    "warnings",
]
