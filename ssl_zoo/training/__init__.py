"""Training: the loop, one step of it, and a whole run."""

from ssl_zoo.training.api import train
from ssl_zoo.training.finite import NotFinite
from ssl_zoo.training.replay import replay
from ssl_zoo.training.summary import RunSummary
from ssl_zoo.training.trainer import Trainer

__all__ = ["NotFinite", "RunSummary", "Trainer", "replay", "train"]
