"""BEiT with a tokenizer that needs no weights: classify the hidden patches."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_zoo import distributed
from ssl_zoo.nn import full_precision
from ssl_zoo.options import CropOptions
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Encoder, Field, Losses
from ssl_zoo_vision.codes import PatchCodes
from ssl_zoo_vision.masked.token_task import TokenTask
from ssl_zoo_vision.patches import moments, normalised, take
from ssl_zoo_vision.transformers import MASKED_ADAMW, MASKED_VIT


class BEiT(TokenTask):
    """The class of each hidden patch is predicted: flat, or the nearest of K codes.

    The paper's classes are tokens of DALL-E's autoencoder, which was trained on other images: its
    results do not hold here. It divides the output weights of block l by √(2l) at the start, as timm's
    ``beit_*`` networks do, and other ViTs with ``backbone.options.fix_init=true``.
    """

    name = "beit"
    paper = "Bao et al. 2021, BEiT: BERT Pre-Training of Image Transformers, arXiv:2106.08254"
    recipe = {"train": {**MASKED_ADAMW, "clip_norm": 3.0}, "backbone": MASKED_VIT}

    class Options(CropOptions):
        """The options of BEiT."""

        mask_ratio: float = Field(0.385, gt=0, lt=1, description="share of hidden patches; 75 of 196")
        tokenizer: Literal["random-codes", "kmeans"] = Field(
            "random-codes", description="codes of patches: random ones in a random projection, or means"
        )
        codes: int = Field(512, ge=2, description="number K of codes; the paper has 8192 tokens")
        code_width: int = Field(16, ge=1, description="width of the random projection")

    def __init__(self, encoder: Encoder, options: Options, spec: ImageSpec) -> None:
        super().__init__(encoder, options, spec, options.mask_ratio)
        width = options.code_width if options.tokenizer == "random-codes" else None
        self.tokenizer = PatchCodes(self.grid.values, options.codes, width)
        self.classes = options.codes + 1  # that of flat patches is the last
        self.head = nn.Linear(self.grid.width, self.classes)

    def before_training(self, batches: Iterator[tuple[Tensor, ...]]) -> None:
        """Cluster patches of the first epoch, where the codes are to be k-means'."""
        if self.options.tokenizer == "kmeans":
            self.tokenizer.cluster(self.grid.patches(x) for x, *_ in batches)

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        """Return the cross entropy of the hidden places' codes, and the entropy of these."""
        x, hidden = views
        codes = self.tokenizer(self.grid.patches(x))  # [B, N], of the whole image
        labels = codes.gather(1, hidden).flatten()  # [B·M]
        logits = self.predict(x, hidden).flatten(0, 1)  # [B·M, K + 1]
        logs = {
            "accuracy": (logits.detach().argmax(1) == labels).float().mean(),
            "label_entropy": self.entropy(labels),
        }
        return Losses(F.cross_entropy(logits, labels), logs)

    def predict(self, x: Tensor, hidden: Tensor) -> Tensor:
        """Return the logits [B, M, K + 1] of the hidden places' codes."""
        return full_precision(self.head(self.encode(x, hidden)))

    def entropy(self, labels: Tensor) -> Tensor:
        """Return the entropy of labels [n], a scalar; far below log K most codes are unused.

        Where an image has a plain background, the class of flat patches takes a share of its own.
        """
        ones = torch.ones_like(labels, dtype=torch.float32)
        counts = ones.new_zeros(self.classes).scatter_add_(0, labels, ones)
        shares: Tensor = distributed.mean(counts / len(labels))
        entropy: Tensor = torch.special.entr(shares).sum()
        return entropy

    @property
    def chance_loss(self) -> float:
        """The log of the number of classes."""
        return math.log(self.classes)

    def answers(self, views: tuple[Tensor, ...]) -> Tensor:
        """Return the patches [B, M, P] nearest to the predicted codes, as bright as those hidden.

        A code tells the form of a patch alone, so brightness and contrast are the hidden patch's own.
        """
        x, hidden = views
        patches = self.grid.patches(x)
        predicted = self.tokenizer.of_classes(self.predict(x, hidden).argmax(2))  # [B, M, c]
        found = self.nearest_patches(x, predicted, self.tokenizer.projected(patches))
        mean, deviation = moments(take(patches, hidden))
        return normalised(found) * deviation + mean
