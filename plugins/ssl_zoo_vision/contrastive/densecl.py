"""DenseCL: MoCo on whole images, and on their places, matched by the backbone's own features."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ssl_zoo.nn import (
    FeatureQueue,
    Teacher,
    at_places,
    full_precision,
    info_nce,
    mlp,
    output_shape,
    shuffled_groups,
    unit,
)
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Encoder, Field, Losses
from ssl_zoo_vision.contrastive.moco import MoCo
from ssl_zoo_vision.joint_embedding import correspondence


class DenseCL(MoCo):
    """Whole images and their places are matched to keys among two queues."""

    name = "densecl"
    family = "contrastive"
    paper = "Wang et al. 2021, Dense Contrastive Learning, arXiv:2011.09157"
    passes = 2
    # The last stages keep the second one's resolution, as small images leave a map of one place.
    recipe = {**MoCo.recipe, "backbone": {"options": {"output_stride": 8}}}

    class Options(MoCo.Options):
        """DenseCL's options; those of MoCo hold for both of its losses."""

        weight: float = Field(0.5, ge=0, le=1, description="share λ of the places in the loss")
        weight_from: float = Field(
            0.0, ge=0, lt=1, description="share of training before which λ is 0, to warm up"
        )

    def __init__(self, encoder: Encoder, options: Options, spec: ImageSpec) -> None:
        super().__init__(encoder, options, spec)
        width = output_shape(encoder, encoder.feature_map, spec)[1]
        self.dense_head = mlp([width, width, options.out], norm=False)
        momentum = self.key_encoder.start
        self.dense_key_head = Teacher(self.dense_head, start=momentum, end=momentum)
        self.dense_queue = FeatureQueue(len(self.queue.features), options.out)

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        """Return (1 - λ) times the loss of whole images and λ times that of places (equation 3)."""
        return Losses(super().loss(views).total)  # which bounds no mutual information

    def contrast(self, query_view: Tensor, key_view: Tensor, shuffle: Tensor) -> Tensor:
        """Return both losses of the queries of one view [B, C, H, W], and note the keys of the other."""
        pooled, query_map = self.encoder.pooled_and_map(query_view)  # [B, D], [B, d, h, w]
        keys: Any = shuffled_groups(self.keys, key_view, shuffle, self.options.key_groups)
        k, k_places, key_map = (full_precision(x) for x in keys)  # [B, out], [B, N, out], [B, d, h, w]
        best = correspondence(query_map, key_map).unsqueeze(2).expand_as(k_places)
        q = unit(self.head(pooled))
        k = unit(k)
        q_places = unit(at_places(self.dense_head, query_map))
        positives = unit(k_places.gather(1, best))  # [B, N, out]
        tau = self.options.temperature
        whole = info_nce(q, k, self.queue.features, tau)
        dense = info_nce(q_places.flatten(0, 1), positives.flatten(0, 1), self.dense_queue.features, tau)
        self.queue.note(k)
        self.dense_queue.note(unit(k_places.mean(1)))
        weight = self.options.weight if self.progress >= self.options.weight_from else 0.0
        return (1 - weight) * whole + weight * dense

    def keys(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the key encoder's outputs: whole [B, out], of places [B, N, out], features."""
        encoder: Any = self.key_encoder[0]
        pooled, feature_map = encoder.pooled_and_map(x)
        places = at_places(self.dense_key_head, feature_map)
        return self.key_encoder[1](pooled), places, feature_map

    def place_map(self, x: Tensor) -> Tensor:
        """Return the backbone's map [B, d, h, w], by which places correspond."""
        return self.encoder.feature_map(x)

    def after_step(self, progress: float) -> None:
        """Update the key encoder and both queues."""
        super().after_step(progress)
        self.dense_key_head.update(progress, self.dense_head)
        self.dense_queue.update()
