"""Training: one plain loop, and what surrounds it."""

from ssl_zoo.training.api import train
from ssl_zoo.training.loop import Reporter, Silent
from ssl_zoo.training.trainer import Trainer

__all__ = ["Reporter", "Silent", "Trainer", "train"]
