"""Training: one plain loop, and what surrounds it."""

from ssl_zoo.train.trainer import Trainer, train

__all__ = ["Trainer", "train"]
