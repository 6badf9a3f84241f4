"""SwAV: the assignment of one view to prototypes is predicted from the others."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ssl_zoo import distributed
from ssl_zoo.nn import FeatureQueue, Prototypes, across, by_size, sinkhorn, unit
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Encoder, Field, Losses
from ssl_zoo.views import Rng
from ssl_zoo_vision.clustering.options import ClusteringOptions
from ssl_zoo_vision.joint_embedding import JointEmbedding


class SwAV(JointEmbedding):
    """The balanced assignment of each large view to prototypes is predicted from all other views.

    Prototypes are normalised as they are used, with gradient, not in place before each step as in the
    authors' code; both have the same fixed points.
    """

    name = "swav"
    family = "clustering"
    paper = "Caron et al. 2020, Contrasting Cluster Assignments (SwAV), arXiv:2006.09882"
    passes = 2
    recipe = {"train": {"optimizer": "lars", "lr": 0.6, "weight_decay": 1e-6, "warmup": 0.1}}
    any_size = True

    class Options(ClusteringOptions):
        """SwAV's options."""

        epsilon: float = Field(0.05, gt=0, description="smoothness ε of assignments")
        rounds: int = Field(3, ge=1, description="rounds of Sinkhorn-Knopp")
        frozen: float = Field(
            0.01, ge=0, le=1, description="share of training in which prototypes stay as they are"
        )
        queue: int = Field(3840, ge=0, description="earlier embeddings that are balanced too; 0: none")
        queue_from: float = Field(0.04, ge=0, le=1, description="share of training before their use")
        queue_fills: int = Field(
            100, ge=1, description="times the queue is filled before its use (15 epochs in the paper)"
        )
        crop_scale: tuple[float, float] = Field((0.14, 1.0), description="share of a large view")

    def __init__(self, encoder: Encoder, options: Options, spec: ImageSpec) -> None:
        super().__init__(encoder, options, spec)
        self.head = options.head(encoder)
        self.prototypes = Prototypes(options.out, options.number(spec))
        # A row has the embeddings of both large views of an image.
        self.queue = FeatureQueue(options.queue, 2 * options.out) if options.queue else None
        self.queue_ready = False
        self.crops = options.multi_crop(spec, encoder, local=6)

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """Return two large views [B, C, H, W] and then the small ones [B, C, h, w]."""
        return self.crops(batch, rng)

    def before_step(self, progress: float) -> None:
        """Use the queue from its share of training on, once it is short beside what was trained.

        In a queue that embeddings have left meanwhile, collapsed ones get a few prototypes of their own
        and pay less than log K: where all of training is a few fills, drifting pays, and not content.
        """
        super().before_step(progress)
        if self.queue is not None and not self.queue_ready and progress >= self.options.queue_from:
            enough = self.options.queue_fills * self.options.queue
            self.queue_ready = int(self.queue.pushed) >= enough

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        """Return the mean cross entropy of assignments and predictions; log K if all views coincide."""
        joint = unit(self.head(torch.cat(by_size(self.encoder, views))))  # [V·B, out]
        z = joint.chunk(len(views))  # [B, out] each
        old = [z[0][:0]] * 2  # none
        if self.queue is not None:
            if self.queue_ready:
                old = list(distributed.local_rows(self.queue.features).chunk(2, 1))  # [Q / W, out] each
            self.queue.note(torch.cat(z[:2], 1))
        targets = [self.assign(torch.cat(rows))[-len(z[0]) :] for rows in zip(old, z[:2], strict=True)]
        scores = partial(self.prototypes, trained=self.progress >= self.options.frozen)
        return Losses(across(targets, z, self.options.temperature, scores))

    @torch.no_grad()
    def assign(self, z: Tensor) -> Tensor:
        """Return the balanced shares [n, K] of embeddings [n, out] (section 3.1)."""
        return sinkhorn(self.prototypes(z) / self.options.epsilon, self.options.rounds)

    def after_step(self, progress: float) -> None:
        """Replace the oldest embeddings of the queue."""
        if self.queue is not None:
            self.queue.update()
