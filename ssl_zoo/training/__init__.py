"""Training: one plain loop, and what surrounds it."""

from ssl_zoo.training.trainer import Trainer, train

__all__ = ["Trainer", "train"]
