"""CPC v2: from the rows of patches above, tell which patches of the batch come further down."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ssl_zoo import distributed
from ssl_zoo.nn import at_places, contrastive_loss, full_precision, product
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Encoder, Field, Losses, Task
from ssl_zoo.views import Compose, Normalise, RandomChannelDrop, RandomHorizontalFlip, Rng
from ssl_zoo_vision.contrastive.rows import RowPredictors
from ssl_zoo_vision.tiles import TileOptions, overlapping_grid


class CPC(Task):
    """Patches are encoded alone, and a context of the rows above predicts those further down."""

    name = "cpc"
    paper = "Hénaff et al. 2019, Data-Efficient Image Recognition with CPC, arXiv:1905.09272"
    family = "contrastive"
    prerequisites = "group or layer norm"
    input_note = "overlapping patches of images; ssl-zoo embed takes the mean of their features"
    passes = 49
    any_size = True
    # The rate is 4e-4 at 64 images, which are thousands of patches to be told apart.
    recipe = {
        "train": {"optimizer": "adam", "lr": 1.6e-3, "weight_decay": 1e-5, "batch_size": 64},
        "backbone": {"options": {"norm_layer": "groupnorm1"}},
    }

    class Options(TileOptions):
        """CPC's options."""

        tile: int | None = Field(None, ge=2, description="side in pixels; none: 1/4 of the input")
        channel_drop_p: float = Field(0.8, ge=0, le=1, description="probability of two channels lost")
        ahead: int = Field(5, ge=2, description="largest number of rows from a context to a prediction")
        directions: int = Field(1, ge=1, le=4, description="contexts: from above, right, below, left")
        layers: int = Field(5, ge=1, description="residual blocks of a context, each seeing a row more")
        hidden: int = Field(256, ge=1, description="hidden width of a context")
        out: int = Field(64, ge=1, description="width of predictions and targets")
        temperature: float = Field(10.0, gt=0, description="divisor of dot products")

    def __init__(self, encoder: Encoder, options: Options, spec: ImageSpec) -> None:
        super().__init__(encoder, options, spec)
        self.grid = overlapping_grid(encoder, spec, options.tile or min(spec.height, spec.width) // 4)
        rows = min(self.grid.rows, self.grid.columns)
        offsets = range(self.grid.apart, min(options.ahead, rows - 1) + 1)  # nearer ones have been seen
        sizes = encoder.width, options.out, offsets, options.hidden, options.layers
        self.predict = RowPredictors(options.directions, *sizes)
        self.target = nn.Linear(encoder.width, options.out)
        self.crop = options.crop(spec, spec.size)
        self.augment = Compose(
            RandomHorizontalFlip(options.flip_p(spec)),
            RandomChannelDrop(options.channel_drop_p, 2, fill=spec.mean),
            Normalise(spec),
        )

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """Return overlapping patches [B, R · C, channels, t, t], each changed by itself."""
        patches = self.grid.cut(self.crop(batch, rng))
        return (self.augment(patches.flatten(0, 1), rng).view_as(patches),)

    def embed(self, patches: Tensor) -> Tensor:
        """Return the features z [B, D, R, C] of patches [B, R · C, channels, t, t], encoded alone."""
        z: Tensor = self.encoder(patches.flatten(0, 1)).view(*patches.shape[:2], -1)
        return z.mT.reshape(len(z), -1, self.grid.rows, self.grid.columns)

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        """Return InfoNCE against all patches of the batch, summed over directions and offsets."""
        z, tau = self.embed(views[0]), self.options.temperature
        targets = full_precision(at_places(self.target, z).flatten(0, 1))  # [B · R · C, out]
        candidates, first = distributed.all_gather(targets), distributed.rank() * len(targets)
        terms = [contrastive_loss(p, candidates, first + n, tau) for p, n in self.predict(z)]
        losses = torch.stack(terms)
        bound = math.log(len(candidates)) - losses.detach().mean()
        return Losses(losses.sum(), {"mi_bound": bound})

    def features(self, x: Tensor) -> Tensor:
        """Return the mean features [B, D] of the patches of images, cut as in training."""
        return self.embed(self.grid.cut(x)).mean((2, 3))

    def gallery(self, views: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Return the patches, and those from which the last row is predicted."""
        patches, above = views[0], views[0].clone()
        above[:, -self.grid.apart * self.grid.columns :] = 0
        return {"patches": self.grid.picture(patches), "context": self.grid.picture(above)}

    def reconstructions(self, views: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Return the first rows, then the patches of the batch that are taken for the rows below."""
        z, patches = self.embed(views[0]), views[0].flatten(0, 1)
        predicted, number = next(self.predict(z))
        best = product(predicted, at_places(self.target, z).flatten(0, 1).T).argmax(1)
        taken = patches.index_copy(0, number, patches[best])
        return {"prediction": self.grid.picture(taken.view_as(views[0]))}
