"""HuBERT: the cluster of each hidden place is predicted from the places around it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_zoo import Field, Losses
from ssl_zoo.nn import ema_update, frozen_copy
from ssl_zoo_audio.clusters import ClusterOptions, PlaceClusters
from ssl_zoo_audio.encoders.base import SoundEncoder, at_layer, check_layer
from ssl_zoo_audio.heads import CodePredictor
from ssl_zoo_audio.masked import ConvOptions, MaskedTask, feature_penalty, new_token
from ssl_zoo_audio.recipes import recipe
from ssl_zoo_audio.sound import Sound
from ssl_zoo_audio.spec import SoundSpec
from ssl_zoo_audio.spectra import MFCC, at_places


class HuBERT(MaskedTask):
    """Predict the cluster of hidden places: clusters of MFCC, later of the network's own features.

    In the paper and in fairseq each clustering begins a new iteration, which trains a new network. Here
    the same network goes on, so that a third of the budget is not given away, and only the head starts
    anew. Its moments in the optimiser stay; with the recipe's β of 0.9 and 0.98 they fade in 50 steps.
    """

    name = "hubert"
    paper = "Hsu et al. 2021, HuBERT, arXiv:2106.07447"
    family = "masked"
    passes = 1
    recipe = recipe("mel-mini", {"layer": 3}, epochs=25)

    class Options(ConvOptions, ClusterOptions):
        """HuBERT's options."""

        mask_prob: float = Field(
            0.08, gt=0, lt=1, description="probability that a span begins at a place"
        )
        layer: int = Field(3, ge=1, description="the layer whose features are clustered, from 1")
        recluster_at: float = Field(
            1 / 3, gt=0, le=1, description="when its features are clustered, as a share of training"
        )
        out: int = Field(128, ge=2, description="width of the embeddings of clusters")

    def __init__(self, encoder: SoundEncoder, options: Options, spec: SoundSpec) -> None:
        super().__init__(encoder, options, spec)
        check_layer("task.layer", options.layer, encoder.depth)
        self.mfcc = MFCC(spec.rate)
        self.acoustic = PlaceClusters(options.clusters, self.mfcc.width, options.sample)
        self.own = PlaceClusters(options.clusters, encoder.place_width, options.sample, begun=False)
        self.snapshot = frozen_copy(encoder)  # whose features are clustered
        self.token = new_token(encoder)
        self.head = CodePredictor(encoder.place_width, options.clusters, options.out)

    def targets(self, x: Sound, valid: Tensor) -> Tensor:
        """Return the cluster of each place, int64 [B, T], and note features for the next clusters."""
        with torch.no_grad():
            mfcc = at_places(self.mfcc(x.wave, x.length), valid, self.encoder.hop, self.mfcc.log_mel.hop)
            self.acoustic.note_places(mfcc, valid)
            if not self.own.begun:
                return self.acoustic.assign(mfcc)
            features = at_layer(self.snapshot, x, self.options.layer)
            self.own.note_places(features, valid)
            return self.own.assign(features) if self.own.fitted else self.acoustic.assign(mfcc)

    def loss(self, views: tuple[Any, ...]) -> Losses:
        """Return the cross entropy of the clusters of hidden places (equations 1 and 3)."""
        x, hidden = views
        local = self.encoder.local(x, self.options.conv_gradient_scale)
        targets = self.targets(x, local.valid)
        output = self.encoder.context(local, hidden, self.token)[-1]  # [B, T, d]
        logits, target = self.head(output[hidden]), targets[hidden]  # [M, clusters], [M]
        weight = hidden.sum()
        entropy = F.cross_entropy(logits, target, reduction="sum") / weight.clamp(min=1)
        penalty = feature_penalty(local)
        accuracy = (logits.argmax(1) == target).sum() / weight.clamp(min=1)
        logs = {"cross_entropy": entropy.detach(), "accuracy": accuracy, "penalty": penalty.detach()}
        return Losses(entropy + self.options.feature_penalty * penalty, logs, weight)

    def after_step(self, progress: float) -> None:
        """Fit clusters when their sample is full; those of features are predicted by a new head."""
        fitted = self.own.fitted
        self.acoustic.update()
        self.own.update()
        if self.own.fitted and not fitted:
            self.head.restart(seed=0)
        if progress >= self.options.recluster_at and not self.own.begun and self.acoustic.fitted:
            ema_update(self.snapshot, self.encoder, momentum=0.0)
            self.own.begin()
