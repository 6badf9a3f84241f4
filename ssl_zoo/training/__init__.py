"""Training: one plain loop, and what surrounds it."""

from ssl_zoo.training.api import train
from ssl_zoo.training.loop import Reporter, Silent
from ssl_zoo.training.replay import replay
from ssl_zoo.training.trainer import NotFinite, Trainer

__all__ = ["NotFinite", "Reporter", "Silent", "Trainer", "replay", "train"]
