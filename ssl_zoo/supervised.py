"""The common part of supervised baselines, whatever their samples are."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ssl_zoo.errors import UserError
from ssl_zoo.spec import Spec
from ssl_zoo.task import Encoder, Losses, Task, TaskOptions
from ssl_zoo.tree import Tree
from ssl_zoo.views import Rng


class SupervisedTask(Task):
    """Predict the classes of samples by a linear layer on pooled features.

    A subclass names its modality and recipe; samples are trained on as they are unless it overrides
    `views`.

    Attributes:
        smoothing: label smoothing, in [0, 1).
    """

    family = "baseline"
    passes = 1
    needs = ("labels",)
    smoothing: float = 0.0

    def __init__(self, encoder: Encoder, options: TaskOptions, spec: Spec) -> None:
        super().__init__(encoder, options, spec)
        if spec.classes is None:
            raise UserError(f"data.source: task {self.name!r} needs labels, and this data has none")
        self.head = nn.Linear(encoder.width, spec.classes)

    def views(self, batch: Tree, rng: Rng) -> tuple[Any, ...]:
        """Return the samples as they are."""
        return (self.spec.prepare(batch),)

    def loss(self, views: tuple[Any, ...]) -> Losses:
        """Return the cross entropy of samples with their labels [B]."""
        x, labels = views
        logits: Tensor = self.head(self.encoder(x))  # [B, classes]
        return Losses.of_classes(logits, labels, self.smoothing)
