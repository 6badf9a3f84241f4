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
from ssl_zoo.evaluation.scoring import MIDWAY, baselines, evaluate, possible, score
from ssl_zoo.evaluation.subject import Subject, evaluating, rehearse

__all__ = [
    "MIDWAY",
    "Features",
    "Metric",
    "Protocol",
    "Scores",
    "Subject",
    "baselines",
    "evaluate",
    "evaluating",
    "extract",
    "known_metrics",
    "known_protocols",
    "possible",
    "protocols",
    "rehearse",
    "score",
    "warnings",
]
