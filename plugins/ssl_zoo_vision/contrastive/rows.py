"""The masked convolutions of CPC v2: predictions of rows of a map from the rows above."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ssl_zoo.nn import places_of


class MaskedBlock(nn.Sequential):
    """A residual block whose output sees its own row and the one above, and none below."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__(
            nn.Conv2d(width, hidden, 1),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, (1, 3), padding=(0, 1)),
            nn.ZeroPad2d((0, 0, 1, 0)),  # a row on top
            nn.Conv2d(hidden, hidden, (2, 1)),
            nn.ReLU(),
            nn.Conv2d(hidden, width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output for a map [B, D, R, C], of the same shape."""
        y = x
        for layer in self:
            y = layer(y)
        return x + y


class RowPredictor(nn.Module):
    """A context of the rows up to each place, and predictions of rows further down.

    Sources: Hénaff et al. 2019, arXiv:1905.09272, appendix (the masked convolutions), and van den Oord
    et al. 2018, arXiv:1807.03748, section 2.2 (a matrix W_k for each offset).

    Args:
        width: D, the width of the features.
        out: the width of a prediction.
        offsets: the numbers of rows k from a place to those that it predicts, rising by 1.
        hidden: the hidden width of a block.
        layers: the number of blocks; a context sees as many rows above its own.
    """

    def __init__(self, width: int, out: int, offsets: range, hidden: int, layers: int) -> None:
        super().__init__()
        self.offsets = offsets
        self.context = nn.Sequential(*(MaskedBlock(width, hidden) for _ in range(layers)), nn.ReLU())
        self.steps = nn.ModuleList(nn.Conv2d(width, out, 1) for _ in offsets)  # W_k

    def forward(self, z: Tensor, number: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the predictions [n, out] of all rows from k on, and their numbers [n], for each k.

        Args:
            z: the features of all places [B, D, R, C].
            number: the number of each place, int64 [B, R, C].
        """
        c = self.context(z)
        for k, w in zip(self.offsets, self.steps, strict=True):
            yield places_of(w(c[:, :, :-k])).flatten(0, 1), number[:, k:].flatten()


class RowPredictors(nn.Module):
    """Predictors with a context from above, and from the right, below and the left.

    Args:
        directions: how many of these, each with parameters of its own.
        sizes: the arguments of a `RowPredictor`.
    """

    def __init__(self, directions: int, *sizes: Any) -> None:
        super().__init__()
        self.predictors = nn.ModuleList(RowPredictor(*sizes) for _ in range(directions))

    def forward(self, z: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield predictions [n, out] and the numbers [n] of their places among all of the batch.

        Args:
            z: the features of all places [B, D, R, C]; the places of the batch are counted row by row.
        """
        number = torch.arange(z[:, 0].numel(), device=z.device).view_as(z[:, 0])
        for turn, predictor in enumerate(self.predictors):
            yield from predictor(z.rot90(turn, (2, 3)), number.rot90(turn, (1, 2)))
