"""The interface of a pretext task: the classes that an author derives from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from ssl_zoo.errors import Unsuitable
from ssl_zoo.nn import DeferredUpdate, enable_gradient_checkpointing, full_precision
from ssl_zoo.tree import Tree
from ssl_zoo.views import Rng

__all__ = ["Encoder", "Field", "Losses", "Task", "TaskOptions"]

NEEDS = ("labels", "index")
"""The names of everything that a task can ask for beside samples, see `Task.needs`."""


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
            where it differs from batch to batch; at least 0, without gradient. A batch with none counts
            as 0, whatever its total; its gradient must be finite, so divide by at least 1. Accumulated
            batches, and the shares of several processes, then count by it, as in one joint batch. None
            where all batches count alike, as a mean over samples does. A task gives it always or never.
    """

    total: Tensor
    logs: Mapping[str, Tensor] = field(default_factory=dict)
    weight: Tensor | None = None

    @classmethod
    def of_classes(cls, logits: Tensor, target: Tensor, smoothing: float = 0.0) -> Losses:
        """Return the cross entropy of classes in float32, with the accuracy among the logs.

        Args:
            logits: [n, classes].
            target: the class of each row, int64 [n].
            smoothing: label smoothing, in [0, 1).
        """
        logits = full_precision(logits)
        accuracy = (logits.detach().argmax(1) == target).float().mean()
        return cls(F.cross_entropy(logits, target, label_smoothing=smoothing), {"accuracy": accuracy})


class Encoder(nn.Module, ABC):
    """The network under training without any head: the backbone as tasks see it.

    An input `x` is a prepared batch: a tensor [B, ...], or a named tuple of such tensors where the
    modality has several, such as ids and lengths. An encoder that cannot do what a method asks for
    raises `Unsuitable` with a line that names a backbone that can.

    Hidden places: `hidden` is a mask on the grid of `feature_map`, bool [B, h, w] for images (one axis
    for sequences), true where the input is hidden. Where `token` [e] is given, with e the `embed_width`,
    it stands in hidden places before positions are added, as in SimMIM and BEiT; it is the task's
    parameter. Where it is None nothing stands there: transformers leave the places out, convnets
    compute with the visible places alone (SparK), and the map is 0 in hidden places.

    Attributes:
        width: D, the size of the pooled features.
        embed_width: e, the size of a token that can stand in hidden places; None if it has no tokens.
        finetune_lr: the peak learning rate of fine-tuning, at batches of 128 samples.
        passing_methods: the names of further methods of a plugin's encoder through which tasks pass a
            batch, or local features of one, as their first positional argument, so that these count as
            a pass too, see `Task.passes`.
    """

    passing_methods: ClassVar[tuple[str, ...]] = ()
    width: int
    embed_width: int | None = None
    finetune_lr: float = 1e-3

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute, unless a method has its name, which would be hidden or hide it.

        Raises:
            AttributeError: a method has its name.
        """
        if name in _METHODS:
            raise AttributeError(f"{name} is a method of Encoder; choose another name for the attribute")
        super().__setattr__(name, value)

    @abstractmethod
    def forward(self, x: Tree) -> Tensor:
        """Return the pooled features [B, D] of a prepared batch [B, ...]."""

    @abstractmethod
    def feature_map(self, x: Tree, hidden: Tensor | None = None, token: Tensor | None = None) -> Tensor:
        """Return the unpooled features [B, d, ...] of a prepared batch [B, ...], the grid last.

        Args:
            x: a prepared batch [B, ...].
            hidden: the hidden places, bool [B, ...] on the grid of the result.
            token: what stands in hidden places, [e]; None for nothing.

        Raises:
            Unsuitable: the backbone cannot hide places so.
        """

    def pooled_and_map(
        self, x: Tree, hidden: Tensor | None = None, token: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the pooled features [B, D] and the unpooled ones [B, d, ...], in one pass if possible.

        Args:
            x: a prepared batch [B, ...].
            hidden: as for `feature_map`.
            token: as for `feature_map`.

        Raises:
            Unsuitable: the backbone cannot hide places so.
        """
        if hidden is not None:
            raise Unsuitable(f"{type(self).__name__} cannot pool features of partly hidden samples")
        return self(x), self.feature_map(x)

    def stages(
        self, x: Tree, indices: Sequence[int], hidden: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the pooled features [B, D] and the outputs [B, d, ...] of some stages, in one pass.

        Args:
            x: a prepared batch [B, ...].
            indices: the stages, as the backbone counts them; negative from the end.
            hidden: the hidden places, in which nothing stands, bool [B, ...] on the last stage's grid.

        Raises:
            UserError: the backbone has no such stage; `Unsuitable` if it has no stages at all.
        """
        raise Unsuitable(f"{type(self).__name__} has no stages to choose from")

    def tokens(
        self,
        x: Tree,
        visible: Tensor | None = None,
        attend: Tensor | None = None,
        prefix: bool = False,
    ) -> Tensor:
        """Return the tokens [B, K, d] of the visible positions; the others never enter the blocks.

        Args:
            x: a prepared batch [B, ...].
            visible: the indices of the visible positions, int64 [B, K], into the grid of
                `feature_map`, row by row; None for all.
            attend: which token may look at which, bool [B or 1, K, K], true where row may look at
                column; None for all at all.
            prefix: whether to return class and register tokens too, before the others.

        Raises:
            Unsuitable: the backbone is not a transformer that can do so.
        """
        raise Unsuitable(f"{type(self).__name__} has no tokens that can be left out")

    def valid(self, x: Tree) -> Tensor | None:
        """Return which places of `feature_map` are real, bool [B, ...]; None if all, as in images."""
        return None

    @property
    def exported_network(self) -> nn.Module:
        """The network that is saved, exported, and given by `ssl_zoo.load_backbone`.

        It is the encoder itself, unless it wraps another library's network.
        """
        return self

    def checkpoint_gradients(self) -> None:
        """Let the network recompute its activations in the backward pass, which saves memory.

        Losses and gradients stay the same; so must running statistics, which `ssl_zoo` freezes in the
        backward pass. By default a model of transformers can, as the `exported_network`; others cannot.

        Raises:
            Unsuitable: it cannot.
        """
        if not enable_gradient_checkpointing(self.exported_network):
            name = type(self).__name__
            reason = f"{name} cannot recompute activations; leave it out"
            raise Unsuitable(f"train.grad_checkpointing: {reason}")

    def parameter_layers(self) -> list[list[nn.Parameter]]:
        """Return the parameters by layer, from the input on, for a rate that decays by layer.

        By default all are one layer.
        """
        return [list(self.parameters())]


_METHODS = {name for name in vars(Encoder) if not name.startswith("_")} - {*Encoder.__annotations__}


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
        family: the family of methods by which lists and tables group tasks: ``"contrastive"``,
            ``"distillation"``, ``"clustering"``, ``"redundancy"``, ``"masked"``, ``"predictive"``,
            ``"generative"`` and ``"baseline"`` are in use; a family of your own works too.
        modality: the modality of the data that the task takes.
        prerequisites: what the task asks of backbone and batch, in a few words for the list of tasks,
            such as ``"batch norm"``, ``"a ViT"`` or ``"batches of 256 or more"``.
        passes: samples that encoders, a teacher's included, process for each sample of a batch in the
            first step, with the default options and the smallest images; 0 if unknown. Lists show it, a
            check compares it; results have the mean over all steps.
        needs: what `loss` gets beside the views, after them and in this order: ``"labels"``, the
            classes of the samples, int64 [B], which makes the task a supervised baseline that tables
            mark; ``"index"``, their numbers in the train split, int64 [B] below ``spec.samples``, for
            memory banks and cluster assignments.
        input_note: what the exported network takes, where that is not all that the task's samples are,
            such as gray images; model cards and the list of tasks say it. `features` does the same.
        any_size: whether the task passes images of other sizes than ``spec.size`` through the encoder,
            such as small crops. The backbone is then built so that it takes them.
        expected_failures: the conformance checks that the task rightly fails, by name, with the reasons,
            such as ``{"views_vary": "the text is its own target; nothing is random"}``.
        recipe: defaults of the configuration by section, such as ``{"train": {"optimizer": "lars"}}``;
            the user's file and flags override them. The sections ``data`` and ``backbone`` are for
            tasks that need other data or backbones than the zoo's defaults, and are ignored where the
            user names a source or a backbone.
        encoder: the backbone, shared with evaluation.
        options: the task's validated `Options`.
        spec: the description of the data.
        progress: the fraction of training that is done, in [0, 1], before the current step.
    """

    name: ClassVar[str]
    paper: ClassVar[str] = ""
    family: ClassVar[str] = ""
    modality: ClassVar[str] = "image"
    recipe: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    needs: ClassVar[tuple[str, ...]] = ()
    prerequisites: ClassVar[str] = ""
    passes: ClassVar[float] = 0
    input_note: ClassVar[str] = ""
    any_size: ClassVar[bool] = False
    expected_failures: ClassVar[Mapping[str, str]] = {}

    class Options(TaskOptions):
        """No options; a task with options defines its own class of this name."""

    encoder: Encoder
    progress: float = 0.0

    def __init__(self, encoder: Encoder, options: Any, spec: Any) -> None:
        super().__init__()
        self.encoder = encoder
        self.options = options
        self.spec = spec

    @classmethod
    def recipe_for(cls, options: Any) -> Mapping[str, Mapping[str, Any]]:
        """Return the recipe with these options: `recipe`, unless a task's depends on them.

        Args:
            options: the task's validated `Options`.
        """
        return cls.recipe

    @abstractmethod
    def views(self, batch: Tree, rng: Rng) -> tuple[Tree, ...]:
        """Augment a raw batch on its device and return what `loss` takes: tensors, or batches.

        Draw all randomness of a step here, from `rng`: the same seed then gives the same views, and
        several processes see what one process with the joint batch would see.
        """

    @abstractmethod
    def loss(self, views: tuple[Tree, ...]) -> Losses:
        """Return the loss of the views; deterministic except for the network's dropout."""

    def forward(self, views: tuple[Tree, ...]) -> Losses:
        """Return `loss` of the views."""
        return self.loss(views)

    def before_training(self, batches: Iterator[tuple[Tree, ...]]) -> None:
        """Prepare a new run with one pass over the train split; called once, before the first step.

        It is for what the first epoch needs to know of all samples, such as their clusters. Without an
        override nothing is read. It runs without gradient, in training mode, and counts in a budget in
        minutes; a resumed run does not repeat it. A run that is stopped within begins it again.

        Args:
            batches: what `loss` takes, for each batch of the first epoch, of this process. All
                processes have equally many, so that each may be gathered.
        """

    def before_step(self, progress: float) -> None:
        """Prepare a step: note the progress, which `loss` may read; called before each step's views.

        It also clears what a step whose gradient overflowed in fp16 has noted in queues and centres
        (`ssl_zoo.nn.DeferredUpdate`), as `after_step` is not called then. Override it for what a
        schedule sets, and to clear notes of your own. Begin with ``super().before_step(...)``.

        Args:
            progress: the fraction of training that is done, in [0, 1).
        """
        self.progress = progress
        for module in self.modules():
            if isinstance(module, DeferredUpdate):
                module.clear()

    def after_step(self, progress: float) -> None:
        """Update teachers, queues and centres; called after each real optimiser step.

        Args:
            progress: the fraction of training that is done, in [0, 1]; it ends at 1 with a budget in
                steps, and near 1 with a budget in minutes.
        """

    @property
    def exported_encoder(self) -> Encoder:
        """The encoder that is evaluated, fine-tuned, averaged and exported.

        It is the trained one, unless a task overrides this with its teacher, as DINO does.
        """
        return self.encoder

    @property
    def chance_loss(self) -> float | None:
        """The loss of a network that has learnt nothing, such as log 4 of four classes; None if unknown.

        A run whose loss stays there warns at its end.
        """
        return None

    def features(self, x: Tree) -> Tensor:
        """Return the features [B, D] that evaluation and `embed` use; pooled ones unless overridden."""
        features: Tensor = self.exported_encoder(x)
        return features

    def lr_scale(self, parameter: str) -> float:
        """Return the factor on the learning rate of a parameter, by its name; e.g. for a critic."""
        return 1.0

    def lr_constant(self, parameter: str) -> bool:
        """Return whether the rate of a parameter stays at its peak all along; e.g. of a predictor."""
        return False

    def compared(self, x: Tree) -> Tensor | None:
        """Return the embeddings [B, E] by whose cosine the task tells which views are of one sample.

        Pictures of a trained task show with them which views it finds most alike. None: it asks
        something else, as by default.

        Args:
            x: a prepared batch, or a column of `gallery` that is a batch.
        """
        return None

    def gallery(self, views: tuple[Tree, ...]) -> dict[str, Any]:
        """Return the columns of a picture of `views` by caption.

        A column is a prepared batch, or one of another type, which `Spec.show` draws, or a list of texts
        or pictures, one for each sample. By default, every view that is a batch of images is a column.
        """
        images = [v for v in views if isinstance(v, Tensor) and v.ndim == 4]
        return {f"view {i}": v for i, v in enumerate(images, 1)}

    def reconstructions(self, views: tuple[Tree, ...]) -> dict[str, Any]:
        """Return further columns that need a trained network, as `gallery` does; none by default."""
        return {}
