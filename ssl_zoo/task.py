"""The interface of a pretext task: the classes that an author derives from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from ssl_zoo.errors import Unsuitable
from ssl_zoo.views import Rng

__all__ = ["Encoder", "Field", "Losses", "Task", "TaskOptions"]


class TaskOptions(BaseModel):
    """A task's options with defaults and ranges, ``task.NAME`` in a config; others are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


@dataclass
class Losses:
    """The result of `Task.loss`.

    Attributes:
        total: the scalar to minimise, differentiable.
        logs: detached scalars to log, by name; they stay on the device until they are logged.
        weight: the number of targets that `total` and `logs` are means over, such as hidden pixels,
            where it differs from batch to batch; at least 0, without gradient. Accumulated batches,
            and the shares of several processes, then count by it, as in one joint batch. None where
            all batches count alike, as a mean over samples does. A task gives it always or never.
    """

    total: Tensor
    logs: Mapping[str, Tensor] = field(default_factory=dict)
    weight: Tensor | None = None


class Encoder(nn.Module, ABC):
    """The network under training without any head: the backbone as tasks see it.

    Attributes:
        width: D, the size of the pooled features.
    """

    width: int

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Return the pooled features [B, D] of a prepared batch [B, ...]."""

    @abstractmethod
    def feature_map(self, x: Tensor) -> Tensor:
        """Return the unpooled features [B, d, ...] of a prepared batch [B, ...], the grid last."""

    def stages(self, x: Tensor, indices: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        """Return the pooled features [B, D] and the outputs [B, d, ...] of some stages, in one pass.

        Args:
            x: a prepared batch [B, ...].
            indices: the stages, as the backbone counts them; negative from the end.

        Raises:
            UserError: the backbone has no such stage; `Unsuitable` if it has no stages at all.
        """
        raise Unsuitable(f"{type(self).__name__} has no stages to choose from")

    def tokens(self, x: Tensor, visible: Tensor) -> Tensor:
        """Return the tokens [B, K, d] of the visible positions; the others never enter the blocks.

        Args:
            x: a prepared batch [B, ...].
            visible: the indices of the visible positions, int64 [B, K], into the grid of
                `feature_map`, row by row.

        Raises:
            Unsuitable: the backbone is not a transformer that can leave tokens out.
        """
        raise Unsuitable(f"{type(self).__name__} has no tokens that can be left out")


class Task(nn.Module, ABC):
    """A pretext task: an augmentation, a head and a loss. Derive from it; the class is the plugin.

    All parameters made in `__init__` are trained. A teacher frozen with `ssl_zoo.nn.frozen_copy`, and
    queues and centres in buffers, are saved but not trained. The options are validated already.
    Calling the task calls `loss`, so that distributed training can wrap it.

    A whole task:

        class Rotation(Task):
            name = "rotation"

            class Options(TaskOptions):
                weight: float = Field(1.0, gt=0, description="factor on the loss")

            def __init__(self, encoder, options, spec):
                super().__init__(encoder, options, spec)
                self.head = nn.Linear(encoder.width, 4)

            def views(self, images, rng):
                x = self.spec.prepare(images)
                return tuple(torch.rot90(x, k, (2, 3)) for k in range(4))

            def loss(self, views):
                target = torch.arange(4, device=views[0].device).repeat_interleave(len(views[0]))
                logits = self.head(self.encoder(torch.cat(views)))
                return Losses(self.options.weight * F.cross_entropy(logits, target))

    Attributes:
        name: the task's name, the same as its entry point's.
        paper: the source of the method, e.g. ``"Chen et al. 2020, arXiv:2002.05709"``.
        modality: the modality of the data that the task takes.
        needs_labels: whether the task is a baseline that learns from labels. The trainer then passes
            the labels of the batch, int64 [B], to `loss` as the last view, and tables mark the task.
        recipe: defaults of the configuration by section, such as ``{"train": {"optimizer": "lars"}}``;
            the user's file and flags override them. The sections ``data`` and ``backbone`` are for
            tasks that need other data or backbones than the zoo's defaults, and are ignored where the
            user names a source or a backbone.
        encoder: the backbone, shared with evaluation.
        options: the task's validated `Options`.
        spec: the description of the data.
    """

    name: ClassVar[str]
    paper: ClassVar[str] = ""
    modality: ClassVar[str] = "image"
    recipe: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    needs_labels: ClassVar[bool] = False

    class Options(TaskOptions):
        """No options; a task with options defines its own class of this name."""

    encoder: Encoder

    def __init__(self, encoder: Encoder, options: Any, spec: Any) -> None:
        super().__init__()
        self.encoder = encoder
        self.options = options
        self.spec = spec

    @abstractmethod
    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """Augment a raw batch on its device and return the tensors that `loss` takes.

        Draw all randomness of a step here, from `rng`: the same seed then gives the same views, and
        several processes see what one process with the joint batch would see.
        """

    @abstractmethod
    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        """Return the loss of the views; deterministic except for the network's dropout."""

    def forward(self, views: tuple[Tensor, ...]) -> Losses:
        """Return `loss` of the views."""
        return self.loss(views)

    def after_step(self, progress: float) -> None:
        """Update teachers, queues and centres; called after each real optimiser step.

        Args:
            progress: the fraction of training that is done, in [0, 1]; it ends at 1 with a budget in
                steps, and near 1 with a budget in minutes.
        """

    def features(self, x: Tensor) -> Tensor:
        """Return the features [B, D] that evaluation uses; the pooled encoder unless overridden."""
        features: Tensor = self.encoder(x)
        return features

    def lr_scale(self, parameter: str) -> float:
        """Return the factor on the learning rate of a parameter, by its name; e.g. for a critic."""
        return 1.0

    def gallery(self, views: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Return the columns of a picture of `views`: normalised images [B, C, h, w] by caption.

        By default, every view that is a batch of images is a column.
        """
        images = [v for v in views if v.ndim == 4]
        return {f"view {i}": v for i, v in enumerate(images, 1)}

    def reconstructions(self, views: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Return further columns that need a trained network, as `gallery` does; none by default."""
        return {}
