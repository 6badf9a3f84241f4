"""Prediction of latent blocks from a context (I-JEPA, Assran et al. 2023)."""

import torch
import torch.nn.functional as F
from torch import nn

from ssl_zoo import Losses, Task
from ssl_zoo.nn import ema_update, frozen_copy, full_precision, output_shape, schedule
from ssl_zoo.views.masks import Rectangles, context_and_targets


class LatentBlocks(Task):
    """The teacher's tokens of hidden blocks are predicted from the tokens of a context."""

    name = "latent-blocks"
    paper = "Assran et al. 2023, arXiv:2301.08243"
    recipe = {
        "backbone": {"name": "vit_tiny_patch16_224",
                     "options": {"patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2,
                                 "class_token": False, "global_pool": "avg", "fc_norm": False}},
        "train": {"optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.04},
    }  # fmt: skip

    def __init__(self, encoder, options, spec):
        super().__init__(encoder, options, spec)
        self.teacher = frozen_copy(encoder)
        _, d, *self.grid = output_shape(encoder, encoder.feature_map, spec)
        places = self.grid[0] * self.grid[1]
        self.context, self.wanted = max(1, places // 4), max(1, places // 8)
        self.position = nn.Parameter(0.02 * torch.randn(places, d))
        self.token = nn.Parameter(torch.zeros(d))
        self.predictor = nn.TransformerEncoderLayer(d, 2, 2 * d, dropout=0, batch_first=True)
        self.out = nn.Linear(d, d)

    @property
    def exported_encoder(self):
        return self.teacher

    def views(self, images, rng):
        grid = tuple(self.grid)
        context, targets = Rectangles(grid, (0.85, 1.0)), Rectangles(grid, (0.15, 0.2), (0.75, 1.5))
        visible, wanted = context_and_targets(len(images), context, targets, 4, self.context, rng)
        return self.spec.prepare(images), visible, wanted

    def loss(self, views):
        x, visible, wanted = views  # [B, C, h, w], [B, K], [B, 4, M]
        tokens = self.encoder.tokens(x, visible)  # [B, K, d]
        with torch.no_grad():
            latent = full_precision(self.teacher.feature_map(x)).flatten(2).transpose(1, 2)  # [B, N, d]
            latent = F.layer_norm(latent, latent.shape[2:])
        losses = []
        for block in wanted.unbind(1):  # each is a sequence of its own
            queries = self.token + self.position[block]  # [B, M, d]
            sequence = torch.cat([tokens + self.position[visible], queries.to(tokens.dtype)], 1)
            predicted = full_precision(self.out(self.predictor(sequence)[:, visible.shape[1] :]))
            target = latent.gather(1, block.unsqueeze(2).expand(-1, -1, latent.shape[2]))
            losses.append(F.smooth_l1_loss(predicted, target))
        return Losses(torch.stack(losses).mean())

    def after_step(self, progress):
        ema_update(self.teacher, self.encoder, schedule(0.996, 1.0, progress, "linear"))
