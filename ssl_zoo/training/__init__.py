"""Training: one plain loop, and what surrounds it."""

from ssl_zoo.training.trainer import Reporter, Silent, Trainer, train

__all__ = ["Reporter", "Silent", "Trainer", "train"]
