"""Jigsaw puzzles: predict the order of nine shuffled tiles of an image."""

from __future__ import annotations

import math

from torch import Tensor, nn

from ssl_zoo.nn import mlp
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Encoder, Field, Losses, Task
from ssl_zoo.views import Compose, RandomChannelShift, RandomGrayscale, Rng
from ssl_zoo.views.tiles import TileGrid, normalise_tiles
from ssl_zoo_vision.predictive.permutations import permutations
from ssl_zoo_vision.predictive.recipe import SGD
from ssl_zoo_vision.tiles import TileOptions, check_tile

TILES = 9


class Jigsaw(Task):
    """Nine tiles of an image are shuffled, and the permutation is predicted out of a fixed set."""

    name = "jigsaw"
    paper = "Noroozi & Favaro 2016, Learning by Solving Jigsaw Puzzles, arXiv:1603.09246"
    family = "predictive"
    passes = 9
    recipe = {"train": SGD}

    class Options(TileOptions):
        """Jigsaw's options."""

        permutations: int = Field(100, ge=2, le=1000, description="number of permutations, out of 9!")
        tile: int | None = Field(
            None, ge=2, description="side in pixels; none: 64/225 of the input's shorter, at least 16"
        )
        gap: float = Field(
            11 / 64, ge=0, le=1, description="space around a tile in its cell, as a share of its side"
        )
        grayscale_p: float = Field(0.3, ge=0, le=1, description="probability of conversion to gray")
        channel_shift: int | None = Field(
            None, ge=0, description="maximum shift of a channel in pixels; none: the paper's 2 in 225"
        )
        width: int = Field(256, ge=1, description="width of fc6, for each tile; the paper's is 1024")
        hidden: int = Field(1024, ge=1, description="width of fc7, for the puzzle; the paper's is 4096")

    permutations: Tensor

    def __init__(self, encoder: Encoder, options: Options, spec: ImageSpec) -> None:
        super().__init__(encoder, options, spec)
        tile = options.tile or max(16, round(min(spec.height, spec.width) * 64 / 225))
        check_tile(encoder, spec, tile)
        self.grid = TileGrid(3, 3, step=tile + math.ceil(options.gap * tile), side=tile)
        # Saved, so that a resumed run keeps its permutations.
        self.register_buffer("permutations", permutations(options.permutations, TILES).clone())
        self.fc6 = nn.Sequential(nn.Linear(encoder.width, options.width), nn.ReLU())
        self.fc78 = mlp([TILES * options.width, options.hidden, options.permutations])
        side = self.grid.size[0]
        pixels = round(side * 2 / 225) if options.channel_shift is None else options.channel_shift
        self.augment = Compose(
            options.crop(spec, side), RandomChannelShift(pixels), RandomGrayscale(options.grayscale_p)
        )

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """Return shuffled tiles [B, 9, C, t, t], and the indices [B] of their permutations."""
        x = self.augment(batch, rng)  # [B, C, H, W], the size of the grid
        target = (rng.uniform(len(x)) * len(self.permutations)).long()
        shifts = self.grid.random_shifts(len(x), TILES, rng)
        return normalise_tiles(self.grid.cut(x, self.permutations[target], shifts)), target

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        """Return the cross entropy of the permutation."""
        tiles, target = views
        return Losses.of_classes(self.logits(tiles), target)

    @property
    def chance_loss(self) -> float:
        """The log of the number of permutations."""
        return math.log(len(self.permutations))

    def logits(self, tiles: Tensor) -> Tensor:
        """Return the logits [B, permutations] of tiles [B, 9, C, t, t], which are encoded one by one."""
        z = self.fc6(self.encoder(tiles.flatten(0, 1)))  # [9B, width]
        logits: Tensor = self.fc78(z.view(len(tiles), -1))
        return logits

    def gallery(self, views: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Return the puzzle as the network sees it, and the same tiles in their cells."""
        tiles, target = views
        solved = self.grid.place(tiles, self.permutations[target])
        return {"puzzle": self.grid.picture(tiles), "solved": self.grid.picture(solved)}

    def reconstructions(self, views: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Return the tiles where the network places them."""
        tiles, _ = views
        cells = self.permutations[self.logits(tiles).argmax(1)]
        return {"prediction": self.grid.picture(self.grid.place(tiles, cells))}
