"""The base of tasks that ask which views are of one image."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ssl_zoo.task import Task


class JointEmbedding(Task):
    """A task whose views of one image are to be alike, in the features or behind a head."""

    def compared(self, x: Tensor) -> Tensor:
        """Return the output [B, E] of the task's `head` for images [B, C, H, W], or their features."""
        head: Any = getattr(self, "head", None)
        return self.features(x) if head is None else head(self.encoder(x))
