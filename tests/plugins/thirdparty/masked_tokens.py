"""Masked image modelling with a token in place of hidden patches (SimMIM, Xie et al. 2022)."""

import torch
import torch.nn.functional as F
from torch import nn

from ssl_zoo import Field, Losses, Task, TaskOptions, Unsuitable
from ssl_zoo.nn import full_precision, output_shape
from ssl_zoo.views.masks import coarse_places


class MaskedTokens(Task):
    """The pixels of hidden places are predicted by a linear layer."""

    name = "masked-tokens"
    paper = "Xie et al. 2022, arXiv:2111.09886"
    recipe = {
        "backbone": {"name": "vit_tiny_patch16_224",
                     "options": {"patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2,
                                 "class_token": False, "global_pool": "avg", "fc_norm": False}},
        "train": {"optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.05},
    }  # fmt: skip

    class Options(TaskOptions):
        """The options of the mask."""

        hidden: float = Field(0.6, gt=0, lt=1, description="share of places to hide")

    def __init__(self, encoder, options, spec):
        super().__init__(encoder, options, spec)
        if encoder.embed_width is None:
            raise Unsuitable("masked-tokens needs patches; choose --backbone vit_tiny_patch16_224")
        _, d, rows, columns = output_shape(encoder, encoder.feature_map, spec)
        self.grid, self.stride = (rows, columns), spec.size // rows
        self.token = nn.Parameter(torch.zeros(encoder.embed_width))
        self.pixels = nn.Conv2d(d, spec.channels * self.stride**2, 1)

    def views(self, images, rng):
        number = max(1, round(self.options.hidden * self.grid[0] * self.grid[1]))
        return self.spec.prepare(images), coarse_places(len(images), self.grid, number, rng)

    def predict(self, x, hidden):
        """Return predicted images [B, C, h, w]."""
        features = self.encoder.feature_map(x, hidden, self.token)
        return F.pixel_shuffle(full_precision(self.pixels(features)), self.stride)

    def cover(self, hidden):
        """Return the hidden places as pixels, bool [B, 1, h, w]."""
        return hidden.repeat_interleave(self.stride, 1).repeat_interleave(self.stride, 2).unsqueeze(1)

    def loss(self, views):
        x, hidden = views
        error = (self.predict(x, hidden) - x).abs().mean(1, keepdim=True)
        return Losses(error[self.cover(hidden)].mean())

    def gallery(self, views):
        x, hidden = views
        return {"masked": x.masked_fill(self.cover(hidden), 0)}

    def reconstructions(self, views):
        x, hidden = views
        return {"predicted": torch.where(self.cover(hidden), self.predict(x, hidden), x)}
