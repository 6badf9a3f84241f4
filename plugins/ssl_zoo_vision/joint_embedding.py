"""The base of tasks that ask which views are of one image."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_zoo.task import Task


class JointEmbedding(Task):
    """A task whose views of one image are to be alike, in the features or behind a head.

    Attributes:
        masked_views: the indices of the views of which places are hidden; the task's `views` then has
            their masks too, bool [n·B, h, w], view by view, true where hidden.
    """

    masked_views: ClassVar[tuple[int, ...]] = ()

    def compared(self, x: Tensor) -> Tensor:
        """Return the output [B, E] of the task's `head` for images [B, C, H, W], or their features."""
        head: Any = getattr(self, "head", None)
        return self.features(x) if head is None else head(self.encoder(x))

    def gallery(self, views: tuple[Tensor, ...]) -> dict[str, Any]:
        """Return the views, and what is seen of those of which places are hidden."""
        shown = super().gallery(views)
        if self.masked_views:
            (masks,) = (v for v in views if v.dtype == torch.bool)
            for i, mask in zip(self.masked_views, masks.chunk(len(self.masked_views)), strict=True):
                seen = F.interpolate((~mask).float().unsqueeze(1), views[i].shape[2:])  # [B, 1, H, W]
                shown[f"seen of view {i + 1}"] = views[i] * seen
        return shown
