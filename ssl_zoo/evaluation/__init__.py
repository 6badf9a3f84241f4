"""Evaluation of frozen features."""

from ssl_zoo.evaluation.features import Features, extract
from ssl_zoo.evaluation.knn import knn_accuracy
from ssl_zoo.evaluation.linear import linear_accuracy
from ssl_zoo.evaluation.protocols import PROTOCOLS, baselines, evaluate, rehearse, score

__all__ = [
    "PROTOCOLS",
    "Features",
    "baselines",
    "evaluate",
    "extract",
    "knn_accuracy",
    "linear_accuracy",
    "rehearse",
    "score",
]
