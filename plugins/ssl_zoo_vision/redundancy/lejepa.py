"""LeJEPA: views predict their common centre, and embeddings follow a standard normal distribution."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ssl_zoo.nn import by_size, full_precision, mlp, sigreg
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Encoder, Field, Losses
from ssl_zoo.views import Rng
from ssl_zoo_vision.augmentation import Crops, MultiCropOptions, is_small
from ssl_zoo_vision.joint_embedding import JointEmbedding


def invariance(views: Sequence[Tensor], large: int) -> Tensor:
    """Return the mean squared distance of all views' embeddings to the mean μ of the large views'.

    Args:
        views: embeddings [B, D] of all views, the large ones first.
        large: the number of large views, at least 1.
    """
    z = torch.stack(list(views))  # [V, B, D]
    return (z - z[:large].mean(0)).pow(2).mean()


class LeJEPA(JointEmbedding):
    """Views predict their centre; SIGReg alone prevents collapse: no teacher, no stop-gradient."""

    name = "lejepa"
    family = "redundancy"
    paper = "Balestriero and LeCun 2025, LeJEPA, arXiv:2511.08544"
    passes = 2
    recipe = {"train": {"optimizer": "adamw", "lr": 2e-3, "weight_decay": 5e-4, "warmup": 0.1}}
    any_size = True

    class Options(MultiCropOptions):
        """LeJEPA's options."""

        lam: float = Field(0.05, ge=0, le=1, description="weight λ of SIGReg, 1 - λ is the rest's")
        directions: int | None = Field(
            None, ge=1, description="random directions in a step; none: 1024, or 256 up to 64 pixels"
        )
        hidden: int = Field(2048, ge=1, description="hidden width of the head")
        out: int = Field(64, ge=2, description="width of the embedding; the authors' are 16 to 128")
        large: int = Field(2, ge=2, description="number of large views")
        crop_scale: tuple[float, float] = Field((0.3, 1.0), description="share of a large view")
        jitter: tuple[float, float, float, float] = Field(
            (0.4, 0.4, 0.2, 0.1), description="brightness, contrast, saturation, hue"
        )
        solarise_p: float = Field(0.2, ge=0, le=1, description="probability of solarising a view")
        local_scale: tuple[float, float] = Field((0.05, 0.3), description="share of a small crop")
        local_size: float = Field(98 / 224, gt=0, le=1, description="sides of a small crop, as a share")

        def kinds(self) -> tuple[Crops, ...]:
            """Return the kind of the large views."""
            return (Crops(self.large, solarise_p=self.solarise_p),)

    def __init__(self, encoder: Encoder, options: Options, spec: ImageSpec) -> None:
        super().__init__(encoder, options, spec)
        self.head = mlp([encoder.width, options.hidden, options.hidden, options.out])
        self.directions = options.directions or (256 if is_small(spec) else 1024)
        self.crops = options.multi_crop(spec, encoder, local=6, solarise_p=options.solarise_p)

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """Return views [B, C, H, W], large ones first, and directions [M, out], new in each step."""
        return *self.crops(batch, rng), rng.shared.normal(self.directions, self.options.out)

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        """Return (1 - λ) · invariance + λ · SIGReg, the mean of each view's."""
        *crops, directions = views
        joint = full_precision(self.head(torch.cat(by_size(self.encoder, crops))))
        z = joint.chunk(len(crops))  # [B, out] each
        alike = invariance(z, self.options.large)
        normal = torch.stack([sigreg(view, directions) for view in z]).mean()
        lam = self.options.lam
        return Losses(
            (1 - lam) * alike + lam * normal,
            {"invariance": alike.detach(), "sigreg": normal.detach()},
        )
