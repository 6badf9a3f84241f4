"""The interface of a pretext task: what an author writes, and all that the core knows of it."""

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
    """What `Task.loss` returns.

    Attributes:
        total: the scalar to minimise, differentiable.
        logs: detached scalars worth logging, by name; they stay on the device until they are logged.
    """

    total: Tensor
    logs: Mapping[str, Tensor] = field(default_factory=dict)


class Encoder(nn.Module, ABC):
    """The network under training without any head: the backbone as tasks see it.

    Attributes:
        width: D, the size of the pooled features.
    """

    width: int

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """A prepared batch [B, ...] to pooled features [B, D]."""

    @abstractmethod
    def feature_map(self, x: Tensor) -> Tensor:
        """A prepared batch [B, ...] to unpooled features [B, d, ...], the places last."""

    def stages(self, x: Tensor, indices: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        """The pooled features [B, D] and the outputs [B, d, ...] of some stages, from one pass.

        Args:
            x: a prepared batch [B, ...].
            indices: which stages, as the backbone counts them; negative from the end.

        Raises:
            UserError: the backbone has no such stage; `Unsuitable` where it has none at all.
        """
        raise Unsuitable(f"{type(self).__name__} has no stages to choose from")

    def tokens(self, x: Tensor, visible: Tensor) -> Tensor:
        """The tokens [B, K, d] of some places alone; what lies elsewhere never enters the blocks.

        Args:
            x: a prepared batch [B, ...].
            visible: the numbers of the places that are seen, int64 [B, K], of those that
                `feature_map` has, counted row by row.

        Raises:
            Unsuitable: the backbone is no transformer that can leave places out.
        """
        raise Unsuitable(f"{type(self).__name__} has no tokens that can be left out")


class Task(nn.Module, ABC):
    """A pretext task: an augmentation, a head and a loss. Derive from it; the class is the plugin.

    Whatever parameters `__init__` makes are trained; freeze a teacher with `ssl_zoo.nn.frozen_copy`
    and keep queues and centres in buffers, and they are saved, but not trained. The options come
    validated. Calling the task is calling `loss`, which is what distributed training wraps.

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
        paper: where the method comes from, e.g. ``"Chen et al. 2020, arXiv:2002.05709"``.
        modality: the modality of the data that the task takes.
        needs_labels: whether it is a baseline that learns from labels; the trainer then gives `loss`
            those of the batch, int64 [B], as the last of the views, and tables say so.
        recipe: defaults for a config, by section, such as ``{"train": {"optimizer": "lars"}}``, which
            a user's file and flags override. Those of ``data`` and ``backbone`` are for a task that the
            zoo's own do not suit, and hold only where the user names no other source or backbone.
        encoder: the backbone, shared with evaluation.
        options: this task's validated `Options`.
        spec: what the data looks like.
    """

    name: ClassVar[str]
    paper: ClassVar[str] = ""
    modality: ClassVar[str] = "image"
    recipe: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    needs_labels: ClassVar[bool] = False

    class Options(TaskOptions):
        """No options; a task that has some defines its own class of this name."""

    encoder: Encoder

    def __init__(self, encoder: Encoder, options: Any, spec: Any) -> None:
        super().__init__()
        self.encoder = encoder
        self.options = options
        self.spec = spec

    @abstractmethod
    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """The augmentation: a raw batch in, what `loss` needs out, computed on the batch's device.

        All randomness of a step is drawn here, from `rng`, so that the same seed gives the same
        views, and that several processes see what one process with the joint batch would.
        """

    @abstractmethod
    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        """The loss of these views, deterministic but for the network's own dropout."""

    def forward(self, views: tuple[Tensor, ...]) -> Losses:
        """Call `loss`."""
        return self.loss(views)

    def after_step(self, progress: float) -> None:
        """Move teachers, queues and centres. Called after each real optimiser step.

        Args:
            progress: the share of training that is done, in [0, 1]; it ends at 1 with a budget in
                steps, and near it with one in minutes.
        """

    def features(self, x: Tensor) -> Tensor:
        """What evaluation sees: a prepared batch to [B, D]; the pooled encoder unless overridden."""
        features: Tensor = self.encoder(x)
        return features

    def lr_scale(self, parameter: str) -> float:
        """The factor on the learning rate for the parameter of this name, e.g. for a critic."""
        return 1.0

    def gallery(self, views: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """The columns of a picture of `views`: a caption and normalised images [B, C, h, w] each.

        Without an override, every view that is a batch of images is a column.
        """
        images = [v for v in views if v.ndim == 4]
        return {f"view {i}": v for i, v in enumerate(images, 1)}

    def reconstructions(self, views: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Further columns that only a trained network can fill, of the same form; none by default."""
        return {}
