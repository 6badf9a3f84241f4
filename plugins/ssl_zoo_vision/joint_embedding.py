"""The base of tasks that ask which views are of one image."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_zoo.nn import places_of, product, unit
from ssl_zoo.task import Task
from ssl_zoo_vision.patches import patchify, take, unpatchify


def correspondence(query_map: Tensor, key_map: Tensor) -> Tensor:
    """Return the key's place most similar to each of the query's, int64 [B, N].

    Similarity is the cosine of features [B, d, h, w], N = h · w, as in DenseCL (Wang et al. 2021,
    arXiv:2011.09157, equation 4).
    """
    q, k = (unit(places_of(x)) for x in (query_map, key_map))
    return product(q, k.mT).argmax(2)


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

    def place_map(self, x: Tensor) -> Tensor | None:
        """Return the features [B, d, h, w] by whose cosine the task finds places of two views alike.

        None: it asks about whole images, as by default.
        """
        return None

    def gallery(self, views: tuple[Tensor, ...]) -> dict[str, Any]:
        """Return the views, and what is seen of those of which places are hidden."""
        shown = super().gallery(views)
        if self.masked_views:
            (masks,) = (v for v in views if v.dtype == torch.bool)
            for i, mask in zip(self.masked_views, masks.chunk(len(self.masked_views)), strict=True):
                seen = F.interpolate((~mask).float().unsqueeze(1), views[i].shape[2:])  # [B, 1, H, W]
                shown[f"seen of view {i + 1}"] = views[i] * seen
        return shown

    def reconstructions(self, views: tuple[Tensor, ...]) -> dict[str, Any]:
        """Return, of a task on places, view 1 put together from those of view 2 most like its own."""
        query_map = self.place_map(views[0])
        if query_map is None:
            return super().reconstructions(views)
        key_map = self.place_map(views[1])
        assert key_map is not None
        grid = query_map.shape[2:]
        patch = math.ceil(views[1].shape[2] / grid[0]), math.ceil(views[1].shape[3] / grid[1])
        size = grid[0] * patch[0], grid[1] * patch[1]
        patches = patchify(F.interpolate(views[1], size, mode="bilinear"), patch)  # [B, N, P]
        found = take(patches, correspondence(query_map, key_map))
        return {"view 1 from view 2": unpatchify(found, patch, size)}
