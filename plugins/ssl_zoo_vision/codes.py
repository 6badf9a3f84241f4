"""Codes of patches, as a tokenizer of images that needs no weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_zoo import distributed
from ssl_zoo.errors import UserError
from ssl_zoo.nn import MAX_SCORES, kmeans, product, unit
from ssl_zoo_vision.patches import normalised

SAMPLE = 2**16
"""The number of patches that are clustered at most."""

FLAT = 1e-3
"""The deviation below which a patch of normalised pixels is flat."""


class PatchCodes(nn.Module):
    """K codes, the nearest of which is the class of a patch: random ones, or the means of k-means.

    A patch is normalised, and with random codes projected at random on few dimensions. Source: BEST-RQ,
    arXiv:2202.01855, section 3.1, for speech. Flat patches, such as those of an empty background, have
    no direction, so they are a class of their own, K.

    Attributes:
        projection: [P, c], fixed; the identity for k-means.
        codes: [K, c] of length 1; not trained, but saved.

    Args:
        values: P, the number of values in a patch.
        number: K.
        width: c, the width of the random projection; None for codes of k-means, see `cluster`.
    """

    projection: Tensor
    codes: Tensor

    def __init__(self, values: int, number: int, width: int | None) -> None:
        super().__init__()
        projection = torch.eye(values) if width is None else torch.randn(values, width)
        self.register_buffer("projection", projection)
        self.register_buffer("codes", unit(torch.randn(number, projection.shape[1])))

    def cluster(self, batches: Iterable[Tensor]) -> None:
        """Replace the codes by the means of the first patches of some batches [B, N, P], on the sphere.

        All processes must give equally many batches; their patches are clustered together, those that
        are flat left out.

        Raises:
            UserError: there are fewer patches than codes.
        """
        found: list[Tensor] = []
        for patches in batches:
            found.append(distributed.all_gather(self.projected(patches).flatten(0, 1)))
            if sum(map(len, found)) >= SAMPLE:
                break
        rows = torch.cat(found)[:SAMPLE]
        rows = rows[rows.any(1)]
        if len(rows) < len(self.codes):
            raise UserError(
                f"task.codes: {len(rows):,} patches that are not flat cannot form {len(self.codes):,} "
                "codes; choose fewer"
            )
        self.codes.copy_(kmeans(rows, len(self.codes))[0])

    def projected(self, patches: Tensor) -> Tensor:
        """Return what is compared with the codes, [..., c] of length 1, of patches [B, N, P].

        It is 0 for flat patches, whose direction would be that of rounding errors.
        """
        flat = patches.var(2, keepdim=True) < FLAT**2
        return unit(product(normalised(patches), self.projection)).masked_fill(flat, 0)

    def forward(self, patches: Tensor) -> Tensor:
        """Return the class of patches [B, N, P], int64 [B, N]: of the nearest code, or K if flat."""
        rows = self.projected(patches).flatten(0, 1)
        parts = rows.split(max(1, MAX_SCORES // len(self.codes)))
        nearest = torch.cat([product(part, self.codes.T).argmax(1) for part in parts])
        return nearest.where(rows.any(1), len(self.codes)).view(patches.shape[:2])

    def of_classes(self, numbers: Tensor) -> Tensor:
        """Return the codes [..., c] of classes, int64 [...]; 0 of the class of flat patches."""
        return F.pad(self.codes, (0, 0, 0, 1))[numbers]
