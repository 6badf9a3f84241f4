"""Distillation: images, and places of an image, are as alike for a student as for a frozen teacher."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_zoo import distributed
from ssl_zoo.nn import FeatureQueue, full_precision, mlp, output_shape, places_of, unit
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Encoder, Field, Losses
from ssl_zoo.views import Rng
from ssl_zoo_vision.augmentation import ViewOptions
from ssl_zoo_vision.distillation.frozen import FrozenTeacher, TeacherOptions
from ssl_zoo_vision.distillation.similarity import similarity_loss
from ssl_zoo_vision.joint_embedding import JointEmbedding


def queue_size(samples: int) -> int:
    """Return a power of two, a third of the images or less, in 16..8192, as in lightly-train's table."""
    return min(8192, max(16, 2 ** ((samples // 3).bit_length() - 1))) if samples >= 3 else 16


class Distillation(JointEmbedding):
    """A student compares images, and the places of each image, as a frozen pretrained teacher does."""

    name = "distillation"
    family = "distillation"
    prerequisites = "a pretrained teacher"
    paper = "Lightly 2025, LightlyTrain (distillation v1 and v3), github.com/lightly-ai/lightly-train"
    passes = 2
    recipe = {
        # LightlyTrain's 1.8 at 1536 images, which it scales by the root of the batch.
        "train": {
            **{"optimizer": "lars", "lr": 0.73, "lr_scaling": "sqrt", "weight_decay": 1e-6},
            **{"warmup": 0.1, "clip_norm": 1.0},
        }
    }

    class Options(TeacherOptions, ViewOptions):
        """The options of distillation."""

        temperature: float = Field(0.07, gt=0, description="temperature τ of similarities")
        places: float = Field(1.0, ge=0, description="weight of the places' loss; 0 is v1")
        queue: int | None = Field(
            None, ge=1, description="earlier images to compare with; none: by the size of the data"
        )
        crop_scale: tuple[float, float] = Field((0.14, 1.0), description="share of the image's area")
        jitter: tuple[float, float, float, float] = Field(
            (0.4, 0.4, 0.2, 0.1), description="brightness, contrast, saturation, hue"
        )
        blur_p: float | None = Field(0.0, ge=0, le=1, description="probability of blur")

    def __init__(self, encoder: Encoder, options: Options, spec: ImageSpec) -> None:
        super().__init__(encoder, options, spec)
        self.teacher = FrozenTeacher(options, spec)
        self.head = mlp([encoder.width, self.teacher.width], std=0.02)
        place_width = output_shape(encoder, encoder.feature_map, spec)[1]
        widths = [place_width, self.teacher.place_width]
        compare = options.places > 0 and self.teacher.number_of_places > 1
        self.place_head = mlp(widths, std=0.02) if compare else None
        size = options.queue or queue_size(spec.samples or 2**20)
        self.queue = FeatureQueue(size, self.teacher.width)
        self.augment = options.view(spec)

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """Return a view [B, C, H, W], the share [1] of it in the mixed image, and a permutation [N]."""
        order = rng.permutation(len(batch) * distributed.world_size())
        return self.augment(batch, rng), rng.shared.uniform(1), order

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        """Return the loss of images plus that of places; at least 0."""
        x, share, order = views
        other = distributed.local_rows(distributed.all_gather(x)[order])
        x = x.lerp(other, (1 - share).to(x.dtype))  # [B, C, H, W]
        (pooled, places), (target, target_places) = self.encoder.pooled_and_map(x), self.teacher(x)
        s, t = unit(self.head(pooled)), unit(target)  # [B, D]
        keys = torch.cat([distributed.all_gather(t), self.queue.features])  # the batch among them
        self.queue.note(t)
        images = similarity_loss(s[None], t[None], keys[None], keys[None], self.options.temperature)
        if self.place_head is None:
            return Losses(images)
        mapped = self.place_head(places_of(places)).mT.unflatten(2, places.shape[2:])
        mapped = F.interpolate(full_precision(mapped), target_places.shape[2:], mode="bilinear")
        a, b = unit(places_of(mapped)), unit(places_of(target_places))  # [B, h·w, d]
        of_places = similarity_loss(a, b, a, b, self.options.temperature)
        logs = {"images": images.detach(), "places": of_places.detach()}
        return Losses(images + self.options.places * of_places, logs)

    def after_step(self, progress: float) -> None:
        """Replace the oldest rows of the queue."""
        self.queue.update()
