"""Supervised training on text: the baseline with labels, under the same budget."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ssl_zoo import Encoder, Losses, Rng, Task, TaskOptions
from ssl_zoo.nn import full_precision
from ssl_zoo_text.recipes import recipe
from ssl_zoo_text.spec import Text, TextSpec


class SupervisedText(Task):
    """Predict the classes of texts: the supervised baseline of the tasks on text."""

    name = "supervised-text"
    paper = "Devlin et al. 2018, BERT, arXiv:1810.04805 (section 4.1, from random weights)"
    family = "baseline"
    modality = "text"
    passes = 1
    recipe = recipe()
    needs = ("labels",)
    spec: TextSpec

    def __init__(self, encoder: Encoder, options: TaskOptions, spec: TextSpec) -> None:
        super().__init__(encoder, options, spec)
        assert spec.classes is not None  # as `needs` has labels
        self.head = nn.Linear(encoder.width, spec.classes)

    def views(self, batch: Text, rng: Rng) -> tuple[Any, ...]:
        """Return the texts as they are."""
        return (self.spec.prepare(batch),)

    def loss(self, views: tuple[Any, ...]) -> Losses:
        """Return the cross entropy of texts with their labels [B]."""
        x, labels = views
        logits: Tensor = full_precision(self.head(self.encoder(x)))  # [B, classes]
        right = (logits.detach().argmax(1) == labels).float()
        return Losses(F.cross_entropy(logits, labels), {"accuracy": right.mean()})

    def gallery(self, views: tuple[Any, ...]) -> dict[str, Any]:
        """Return the texts."""
        return {"text": views[0]}
