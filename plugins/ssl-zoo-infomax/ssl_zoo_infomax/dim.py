"""Deep InfoMax: maximise the mutual information of an image's features and its parts."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor, nn
from torch.func import functional_call

from ssl_zoo import (
    CropOptions,
    Encoder,
    Field,
    ImageSpec,
    Losses,
    Rng,
    Task,
    Unsuitable,
    UserError,
    distributed,
)
from ssl_zoo.nn import full_precision, mlp, output_shape
from ssl_zoo_infomax.estimators import donsker_varadhan, info_nce, jsd, log_mean_exp


class Embedding(nn.Module):
    """Two layers with an identity-initialised shortcut; on a map's cells they are 1×1 convolutions."""

    def __init__(self, width: int, units: int) -> None:
        super().__init__()
        self.layers = mlp([width, units, units])
        self.shortcut = nn.Linear(width, units, bias=False)
        nn.init.eye_(self.shortcut.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return the embedding [..., units] of x [..., width]."""
        rows = x.flatten(0, -2)
        embedded: Tensor = self.layers(rows) + self.shortcut(rows)
        return embedded.view(*x.shape[:-1], -1)


class DotCritic(nn.Module):
    """Encode-and-dot-product: T is the product of the embeddings of vector and part.

    The product is divided by the root of their width, so that initial scores are of order 1.
    """

    def __init__(self, width: int, part_width: int, units: int) -> None:
        super().__init__()
        self.vector = Embedding(width, units)
        self.part = nn.Sequential(Embedding(part_width, units), nn.LayerNorm(units))

    def forward(self, y: Tensor, parts: Tensor) -> Tensor:
        """Return the scores [B, N, P] of vectors [B, D] with the parts [B, P, d] of all N images."""
        vector = full_precision(self.vector(y))  # [B, units]
        part = distributed.all_gather(full_precision(self.part(parts)))  # [N, P, units]
        with torch.autocast(y.device.type, enabled=False):
            scores = vector @ part.flatten(0, 1).T / math.sqrt(vector.shape[1])  # [B, N·P]
        return scores.view(-1, *part.shape[:2])


class ConcatCritic(nn.Module):
    """Three layers on the concatenated vector and part.

    The first layer is computed as the sum of a layer on each, so that no pair is concatenated.
    """

    def __init__(self, width: int, part_width: int, units: int) -> None:
        super().__init__()
        self.vector = nn.Linear(width, units)
        self.part = nn.Linear(part_width, units, bias=False)
        self.rest = nn.Sequential(
            nn.ReLU(inplace=True), nn.Linear(units, units), nn.ReLU(inplace=True), nn.Linear(units, 1)
        )

    def forward(self, y: Tensor, parts: Tensor) -> Tensor:
        """Return the scores [B, N, P] of vectors [B, D] with the parts [B, P, d] of all N images."""
        part = distributed.all_gather(full_precision(self.part(parts)))  # [N, P, units]
        scores: Tensor = self.rest(self.vector(y)[:, None, None] + part)  # [B, N, P, 1]
        return full_precision(scores.squeeze(3))


CRITICS = {"dot": DotCritic, "concat": ConcatCritic}


def information(scores: Tensor, estimator: Literal["jsd", "infonce", "dv"]) -> Tensor:
    """Estimate the mutual information of vectors and parts (Hjelm et al. 2018, section 3.1).

    A vector's negatives are the same part of all other images of the joint batch.

    Args:
        scores: [B, N, P], of this process's B vectors with all N images' parts.
        estimator: the estimator.

    Returns:
        The mean over this process's vectors and over parts, in nats.
    """
    b, n, _ = scores.shape
    own = distributed.rank() * b + torch.arange(b, device=scores.device)
    others = (own[:, None] + torch.arange(1, n, device=scores.device)) % n  # [B, N - 1]
    positive = scores.take_along_dim(own[:, None, None], 1).squeeze(1)  # [B, P]
    negative = scores.take_along_dim(others[:, :, None], 1)  # [B, N - 1, P]
    if estimator == "jsd":
        return jsd(positive, negative)
    if estimator == "infonce":
        return info_nce(positive, negative)
    # The logarithm is of a mean over all processes.
    return donsker_varadhan(positive, distributed.all_gather(log_mean_exp(negative)[None]))


def prior_losses(discriminator: nn.Module, y: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
    """Return both adversarial losses of matching the vectors to the prior (equation 7).

    As in the authors' code, the encoder has the non-saturating loss, and the discriminator's loss is
    not weighted.

    Args:
        discriminator: maps vectors [B, D] to logits [B, 1] of being samples of the prior.
        y: the encoder's vectors [B, D].
        prior: samples of the prior [B, D].

    Returns:
        The encoder's loss, without gradient for the discriminator, and the discriminator's loss,
        without gradient for the encoder.
    """

    def bce(logit: Tensor, drawn: float) -> Tensor:
        logit = full_precision(logit)
        return F.binary_cross_entropy_with_logits(logit, torch.full_like(logit, drawn))

    still = {name: p.detach() for name, p in discriminator.named_parameters()}
    fooling = bce(functional_call(discriminator, still, (y,)), 1.0)
    telling = 0.5 * (bce(discriminator(prior), 1.0) + bce(discriminator(y.detach()), 0.0))
    return fooling, telling


class DeepInfoMax(Task):
    """Maximise the mutual information of an image's features with its feature map, in parts or whole."""

    name = "dim"
    paper = "Hjelm et al. 2018, Learning Deep Representations by MI Maximization, arXiv:1808.06670"
    family = "contrastive"
    passes = 1
    recipe = {
        "train": {
            "optimizer": "adam",
            "lr": 1e-3,
            "lr_scaling": "none",
            "weight_decay": 0.0,
            "warmup": 0.0,
        }
    }

    class Options(CropOptions):
        """Deep InfoMax's options; the defaults are the paper's DIM(L); alpha=1, beta=0 is its DIM(G)."""

        alpha: float = Field(0.0, ge=0, description="weight of the objective on the whole map (global)")
        beta: float = Field(
            1.0, ge=0, description="weight of the objective on each cell of the map (local)"
        )
        gamma: float = Field(0.1, ge=0, description="weight of matching a uniform prior")
        estimator: Literal["jsd", "infonce", "dv"] = Field(
            "jsd", description="estimator of mutual information"
        )
        stage: int = Field(
            -2, description="backbone stage that provides the map; negative counts from the end"
        )
        units: int = Field(512, ge=1, description="width of the critics; the authors' is 2048")
        global_critic: Literal["concat", "dot"] = Field(
            "concat",
            description="concat: layers on vector and map, as in the paper; dot: inner product",
        )
        crop_scale: tuple[float, float] = Field((0.5, 1.0), description="share of the image's area")

        @model_validator(mode="after")
        def _something_to_learn(self) -> DeepInfoMax.Options:
            if not self.alpha and not self.beta:
                raise ValueError("alpha and beta: one of them must be above 0")
            return self

    def __init__(self, encoder: Encoder, options: Options, spec: ImageSpec) -> None:
        super().__init__(encoder, options, spec)
        try:
            shape = output_shape(encoder, lambda x: encoder.stages(x, [options.stage])[1][0], spec)
        except UserError as error:
            raise Unsuitable(f"task.stage: {error}") from error
        (_, d, *grid), width, units = shape, encoder.width, options.units
        whole = d * math.prod(grid)
        # A term without weight has no parameters.
        self.local_critic = DotCritic(width, d, units) if options.beta else None
        self.global_critic = (
            CRITICS[options.global_critic](width, whole, units) if options.alpha else None
        )
        self.discriminator = mlp([width, 1000, 200, 1], norm=False) if options.gamma else None
        self.augment = options.view(spec)

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """Return crops [B, C, H, W] of the images, and samples [B, D] of the prior."""
        x = self.augment(batch, rng)
        return (x, rng.uniform(len(x), self.encoder.width)) if self.options.gamma else (x,)

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        """Return minus the weighted estimates, plus both losses of matching the prior (equation 8)."""
        options = self.options
        y, (feature_map,) = self.encoder.stages(views[0], [options.stage])  # [B, D], [B, d, h, w]
        total, logs = torch.zeros((), device=y.device), {}
        if self.local_critic is not None:
            cells = feature_map.flatten(2).transpose(1, 2)  # [B, h·w, d]
            local = information(self.local_critic(y, cells), options.estimator)
            total, logs["local"] = total - options.beta * local, local.detach()
        if self.global_critic is not None:
            whole = feature_map.flatten(1).unsqueeze(1)  # [B, 1, d·h·w]
            of_all = information(self.global_critic(y, whole), options.estimator)
            total, logs["global"] = total - options.alpha * of_all, of_all.detach()
        if options.estimator != "jsd":
            # The information shared with the map is at least either estimate.
            logs["mi_bound"] = torch.stack(list(logs.values())).amax()
        if self.discriminator is not None:
            fooling, telling = prior_losses(self.discriminator, y, views[1])
            total = total + options.gamma * fooling + telling
            logs |= {"fooling": fooling.detach(), "telling": telling.detach()}
        return Losses(total, logs)
