"""Relative patch position: which of its eight neighbours is another patch of the same image?"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_zoo.nn import mlp
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Encoder, Field, Losses, Task
from ssl_zoo.views import Compose, RandomChannelDrop, RandomGrayscale, Rng
from ssl_zoo.views.tiles import TileGrid, normalise_tiles
from ssl_zoo_vision.augmentation import is_small
from ssl_zoo_vision.predictive.recipe import SGD
from ssl_zoo_vision.tiles import TileOptions, check_tile

CENTRE = 4


class RelativePatch(Task):
    """The place of a patch beside another one is predicted, out of eight."""

    name = "relative-patch"
    paper = "Doersch et al. 2015, Unsupervised Learning by Context Prediction, arXiv:1505.05192"
    family = "predictive"
    passes = 9
    any_size = True
    recipe = {"train": SGD}

    class Options(TileOptions):
        """Relative patch position's options."""

        tile: int | None = Field(None, ge=2, description="side in pixels; none: 1/4 of the input, or 8")
        gap: float = Field(1 / 3, ge=0, le=2, description="mean distance of patches, in sides")
        neighbours: int = Field(8, ge=1, le=8, description="patches whose place beside one is predicted")
        both: bool = Field(False, description="also predict the place of the first beside the second")
        grayscale_p: float = Field(0.66, ge=0, le=1, description="probability of conversion to gray")
        channel_drop_p: float = Field(0.0, ge=0, le=1, description="probability that one channel stays")
        width: int | None = Field(
            None, ge=1, description="width of fc6 to fc8; none: the paper's 4096, or 512 up to 64 pixels"
        )

    def __init__(self, encoder: Encoder, options: Options, spec: ImageSpec) -> None:
        super().__init__(encoder, options, spec)
        tile = options.tile or max(8, min(spec.height, spec.width) // 4)
        check_tile(encoder, spec, tile)
        room = max(2, int(options.gap * tile))
        self.grid, self.gap = TileGrid(3, 3, step=tile + room, side=tile), room - room // 2
        width = options.width or (512 if is_small(spec) else 4096)
        self.fc6 = nn.Sequential(nn.Linear(encoder.width, width), nn.ReLU())
        self.fc789 = mlp([2 * width, width, width, 8])
        # Colours would tell where a lens shows a patch: one is left, the others are noise (section 3.1).
        self.drop = RandomChannelDrop(options.channel_drop_p, max(1, spec.channels - 1), noise=0.01)
        self.augment = Compose(options.crop(spec, self.grid.size), RandomGrayscale(options.grayscale_p))

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """Return patches [B, 1 + n, C, t, t], the centre first, and the labels [B, n] of the others."""
        x = self.augment(batch, rng)  # [B, C, H, W], the size of the grid
        label = rng.uniform(len(x), 8).argsort(1)[:, : self.options.neighbours]  # [B, n]
        shifts = self.grid.random_shifts(len(x), 1 + label.shape[1], rng, self.gap)
        patches = normalise_tiles(self.grid.cut(x, self.cells(label), shifts))
        return self.drop(patches.flatten(0, 1), rng).view_as(patches), label

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        """Return the cross entropy of the places."""
        patches, label = views
        pairs, target = self.pairs(patches), label
        if self.options.both:
            other = pairs.roll(pairs.shape[-1] // 2, -1)  # the two of a pair exchanged
            pairs, target = torch.cat([pairs, other]), torch.cat([label, 7 - label])
        return Losses.of_classes(self.fc789(pairs.flatten(0, 1)), target.flatten())

    @property
    def chance_loss(self) -> float:
        """Log 8."""
        return math.log(8)

    def pairs(self, patches: Tensor) -> Tensor:
        """Return fc6 of the centre and of each of its neighbours, [B, n, 2 · width]."""
        z = self.fc6(self.encoder(patches.flatten(0, 1))).view(*patches.shape[:2], -1)
        return torch.cat([z[:, :1].expand_as(z[:, 1:]), z[:, 1:]], -1)

    def cells(self, label: Tensor) -> Tensor:
        """Return the cells [B, 1 + n] of the centre, and of the neighbours with these labels [B, n]."""
        return F.pad(label + (label >= CENTRE), (1, 0), value=CENTRE)

    def gallery(self, views: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Return the patches in place."""
        patches, label = views
        return {"patches": self.grid.picture(self.grid.place(patches, self.cells(label)))}

    def reconstructions(self, views: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Return the centre and those neighbours that the network places where they were."""
        patches, label = views
        answers = self.fc789(self.pairs(patches).flatten(0, 1)).argmax(1).view_as(label)
        kept = F.pad(answers == label, (1, 0), value=True)[:, :, None, None, None]
        return {"placed right": self.grid.picture(self.grid.place(patches * kept, self.cells(label)))}
