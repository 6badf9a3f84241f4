"""Masked image modelling in a convolutional network (SparK, Tian et al. 2023)."""

import torch
import torch.nn.functional as F
from torch import nn

from ssl_zoo import Losses, Task, Unsuitable
from ssl_zoo.nn import full_precision, output_shape
from ssl_zoo.views.masks import coarse_places


class SparseMasks(Task):
    """Hidden cells are reconstructed from two stages, which compute with visible cells alone."""

    name = "sparse-masks"
    paper = "Tian et al. 2023, arXiv:2301.03580"
    recipe = {"backbone": {"name": "resnet18", "stem": "small",
                           "options": {"channels": [8, 16, 32, 64], "layers": [1, 1, 1, 1]}},
              "train": {"optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.04}}  # fmt: skip

    def __init__(self, encoder, options, spec):
        super().__init__(encoder, options, spec)
        _, d, rows, columns = output_shape(encoder, encoder.feature_map, spec)
        if rows < 2:
            raise Unsuitable(
                f"sparse-masks: {spec.size} pixels are one cell; choose a larger --image-size"
            )
        self.grid = (rows, columns)
        _, (earlier, _) = self._stages(encoder, spec.example(1))
        self.token = nn.Parameter(torch.zeros(d, 1, 1))
        self.earlier_token = nn.Parameter(torch.zeros(earlier.shape[1], 1, 1))
        self.project = nn.Conv2d(d, 32, 1)
        self.project_earlier = nn.Conv2d(earlier.shape[1], 32, 3, padding=1)
        self.pixels = nn.Conv2d(32, spec.channels, 3, padding=1)

    @staticmethod
    def _stages(encoder, x, hidden=None):
        return encoder.stages(x, (-2, -1), hidden)

    def views(self, images, rng):
        number = max(1, round(0.6 * self.grid[0] * self.grid[1]))
        return self.spec.prepare(images), coarse_places(len(images), self.grid, number, rng)

    def loss(self, views):
        x, hidden = views
        _, (earlier, last) = self._stages(self.encoder, x, hidden)
        earlier, last = full_precision(earlier), full_precision(last)
        last = torch.where(hidden[:, None], self.token, last)
        cells = F.interpolate(hidden[:, None].float(), earlier.shape[2:]).bool()
        earlier = torch.where(cells, self.earlier_token, earlier)
        maps = F.interpolate(self.project(last), earlier.shape[2:]) + self.project_earlier(earlier)
        predicted = full_precision(self.pixels(F.interpolate(maps.relu(), x.shape[2:])))
        cover = F.interpolate(hidden[:, None].float(), x.shape[2:])
        return Losses(((predicted - x).square() * cover).sum() / (cover.sum() * x.shape[1]))
