"""A frozen teacher that sees images in its own size and normalisation."""

from __future__ import annotations

import logging
import math

import torch
from torch import Tensor, nn

from ssl_zoo.backbones.build import build_encoder
from ssl_zoo.config.pretrained import trained_on
from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo.errors import UserError
from ssl_zoo.nn import output_shape, unsaved
from ssl_zoo.notices import Notice
from ssl_zoo.runs.backbone import load_encoder
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Encoder, Field, TaskOptions

log = logging.getLogger(__name__)

ONE_PLACE = Notice(
    "distillation-places",
    "Distillation compares whole images alone where the teacher's feature map has a single place.",
    "larger images, or another task.teacher",
)


class TeacherOptions(TaskOptions):
    """The options that name a pretrained teacher.

    Nothing is downloaded unless it is asked for: the default is a small untrained network, with a
    warning, which only shows that a task runs.
    """

    teacher: str = Field("test_resnet", description="a timm network, or a preset of the zoo")
    pretrained: bool = Field(False, description="load timm's weights of the teacher, downloaded once")
    teacher_size: int | None = Field(
        None, ge=1, description="pixels of its images' side; none: those it was trained on"
    )
    weights: str | None = Field(
        None, description="a run, or its backbone.safetensors, as the teacher in place of a timm network"
    )

    def load(self, spec: ImageSpec) -> tuple[Encoder, ImageSpec]:
        """Return the teacher, and the description of the images that it takes.

        Args:
            spec: the description of the images, for an untrained teacher.

        Raises:
            UserError: there is no such network, its weights are not available, or it takes no images.
        """
        if self.weights is not None:
            encoder, own = load_encoder(self.weights)
            if not isinstance(own, ImageSpec):
                raise UserError(f"task.weights: its network takes {own.modality} data, not images")
            return encoder, own
        stem, own = "auto", spec
        if self.pretrained:
            known = trained_on(self.teacher)
            if known is None:
                raise UserError(f"task.teacher: timm has no weights of {self.teacher!r}; choose another")
            channels, size = len(known.mean), self.teacher_size or known.size
            own = ImageSpec(
                channels=channels,
                size=size,
                mean=known.mean,
                std=known.std,
                interpolation=known.interpolation,
            )
            stem = "original"
        else:
            log.warning(
                "task.teacher: %s is untrained, so there is little to learn from it; set "
                "task.pretrained=true, or task.weights to a run or its backbone.safetensors",
                self.teacher,
            )
        values = {"name": self.teacher, "pretrained": self.pretrained, "stem": stem}
        return build_encoder(BackboneConfig.model_validate(values), own, seed=0), own


class FrozenTeacher(nn.Module):
    """A teacher without gradient, in evaluation mode, left out of checkpoints.

    Attributes:
        width: D, the width of its pooled features.
        place_width: d, the width of its feature map.
        number_of_places: h · w, of that map.

    Args:
        options: the options that name it.
        spec: the description of the images that the student takes.
    """

    def __init__(self, options: TeacherOptions, spec: ImageSpec) -> None:
        super().__init__()
        encoder, self.own = options.load(spec)
        self.own.check_channels(spec.channels)
        self.spec = spec
        self.width = encoder.width
        _, self.place_width, *grid = output_shape(encoder, encoder.feature_map, self.own)
        self.number_of_places = math.prod(grid)
        if self.number_of_places == 1:
            ONE_PLACE("task.teacher: its feature map has one place, so places are not compared")
        self.encoder = unsaved(encoder)

    @torch.no_grad()
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return pooled features [B, D] and the map [B, d, h, w] of the student's input [B, C, H, W]."""
        pooled, places = self.encoder.pooled_and_map(self.own.prepare(self.spec.denormalise(x)))
        return pooled, places
