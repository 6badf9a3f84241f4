"""MoCo: a query is matched to its key among a queue of keys from a momentum encoder."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_zoo import distributed
from ssl_zoo.nn import FeatureQueue, ema_update, frozen_copy, full_precision, mlp, sum_over_rows
from ssl_zoo.notices import Notice
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Encoder, Field, Losses, Task
from ssl_zoo.views import Rng
from ssl_zoo_vision.augmentation import SMALL, ViewOptions


def info_nce(q: Tensor, k: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """Return InfoNCE with a queue of negatives (He et al. 2019, equation 1).

    Args:
        q: queries [B, D], unit rows.
        k: their keys [B, D], unit rows, without gradient.
        queue: negative keys [K, D], unit rows.
        temperature: τ > 0.

    Returns:
        The mean over the B queries of the cross entropy of the key among 1 + K candidates.
    """
    queue = queue.to(full_precision(q).dtype)

    def cross_entropy(q: Tensor, k: Tensor) -> Tensor:
        with torch.autocast(q.device.type, enabled=False):
            positive = (q * k).sum(1, keepdim=True)  # [rows, 1]
            negative = q @ queue.T  # [rows, K]
        logits = torch.cat([positive, negative], 1) / temperature
        return F.cross_entropy(logits, logits.new_zeros(len(q), dtype=torch.long), reduction="sum")

    rows = full_precision(q), full_precision(k)
    return sum_over_rows(cross_entropy, *rows, columns=1 + len(queue)) / len(q)


FEWER_GROUPS = Notice(
    "moco-groups",
    "MoCo's keys are divided into fewer groups than task.key_groups where each would have less than two "
    "images.",
    "a larger batch, or task.key_groups",
)


class MoCo(Task):
    """A query is matched to its key among a queue of keys from a momentum encoder.

    Batch statistics could leak which key belongs to a query. Keys are therefore shuffled over the
    joint batch and normalised in groups (section 3.3, "shuffling BN"), one or more per process.
    """

    name = "moco"
    paper = "He et al. 2019, 2020, Momentum Contrast (v1, v2), arXiv:1911.05722, arXiv:2003.04297"
    family = "contrastive"
    recipe = {
        "train": {
            "optimizer": "momentum",
            "lr": 0.03,
            "weight_decay": 1e-4,
            "momentum": 0.9,
            "warmup": 0.0,
        }
    }

    class Options(ViewOptions):
        """MoCo's options; the defaults are those of v2.

        For v1, set temperature=0.07, head=linear, blur_p=0, jitter=[0.4, 0.4, 0.4, 0.4], jitter_p=1.
        """

        temperature: float = Field(0.2, gt=0, description="temperature τ")
        momentum: float | None = Field(
            None,
            ge=0,
            le=1,
            description="momentum of the key encoder; none: 0.999, or 0.99 up to 64 pixels",
        )
        queue: int | None = Field(
            None, ge=1, description="number of negatives; none: 65536, or 4096 up to 64 pixels"
        )
        head: Literal["mlp", "linear"] = Field(
            "mlp", description="mlp: head of MoCo v2; linear: head of MoCo v1"
        )
        out: int = Field(128, ge=2, description="width of the embedding")
        symmetric: bool = Field(False, description="use each view once as query and once as key")
        key_groups: int = Field(2, ge=1, description="groups in which keys are batch-normalised")
        crop_scale: tuple[float, float] = Field((0.2, 1.0), description="share of the image's area")

    def __init__(self, encoder: Encoder, options: Options, spec: ImageSpec) -> None:
        super().__init__(encoder, options, spec)
        small = spec.size <= SMALL
        widths = [encoder.width, options.out]
        head = mlp(widths if options.head == "linear" else [encoder.width, *widths], norm=False)
        self.head = head
        self.key_encoder = frozen_copy(nn.Sequential(encoder, head))
        self.key_encoder.local_batchnorm = True  # type: ignore[assignment]
        self.queue = FeatureQueue(options.queue or (4096 if small else 65536), options.out)
        self.momentum = (0.99 if small else 0.999) if options.momentum is None else options.momentum
        self.view = options.view(spec)
        self.new_keys: list[Tensor] = []

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """Return two views [B, C, H, W] and a permutation [N] of the joint batch."""
        shuffle = rng.permutation(len(batch) * distributed.world_size())
        return self.view(batch, rng), self.view(batch, rng), shuffle

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        """Return InfoNCE of the queries against their keys and the queue from before this step."""
        view_1, view_2, shuffle = views
        pairs = [(view_1, view_2), (view_2, view_1)] if self.options.symmetric else [(view_1, view_2)]
        losses = []
        for query_view, key_view in pairs:
            q = F.normalize(full_precision(self.head(self.encoder(query_view))), dim=1)  # [B, out]
            k = self.keys(key_view, shuffle)  # [B, out]
            losses.append(info_nce(q, k, self.queue.features, self.options.temperature))
            if self.training:
                self.new_keys.append(k)
        loss = torch.stack(losses).mean()
        candidates = len(self.queue.features) + 1
        return Losses(loss, {"mi_bound": math.log(candidates) - loss.detach()})

    @torch.no_grad()
    def keys(self, x: Tensor, shuffle: Tensor) -> Tensor:
        """Return the unit keys [B, out] of a view [B, C, H, W], computed in shuffled groups."""
        joint = distributed.all_gather(x)[shuffle]
        mine = distributed.local_rows(joint)
        wanted = max(1, self.options.key_groups // distributed.world_size())
        groups = max(1, min(wanted, len(mine) // 2))  # a single image has no batch statistics
        if groups < wanted:
            FEWER_GROUPS(f"moco: {groups} groups of keys, not {wanted}, as each needs two images")
        k = torch.cat([self.key_encoder(group) for group in mine.tensor_split(groups)])
        k = distributed.all_gather(F.normalize(full_precision(k), dim=1))
        return distributed.local_rows(k[shuffle.argsort()])

    def before_step(self, progress: float) -> None:
        """Forget the keys of the last step, which are still there if fp16 overflowed."""
        super().before_step(progress)
        self.new_keys.clear()

    def after_step(self, progress: float) -> None:
        """Update the key encoder by momentum, and replace the oldest negatives by the new keys."""
        ema_update(self.key_encoder, nn.Sequential(self.encoder, self.head), self.momentum)
        for k in self.new_keys:
            self.queue.push(distributed.all_gather(k))
