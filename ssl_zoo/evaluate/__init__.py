"""Evaluation of frozen features."""

from ssl_zoo.evaluate.features import Features, extract
from ssl_zoo.evaluate.knn import knn_accuracy
from ssl_zoo.evaluate.linear import linear_accuracy
from ssl_zoo.evaluate.protocols import PROTOCOLS, baselines, evaluate, rehearse, score

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
