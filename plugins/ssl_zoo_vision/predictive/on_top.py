"""The base of tasks on top of another one: they add a term to its loss, and leave all else to it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pydantic import ValidationInfo, field_validator
from torch import Tensor, nn

from ssl_zoo import Encoder, Field, ImageSpec, Losses, Rng, Task, TaskOptions, UserError, distributed
from ssl_zoo.nn import by_size
from ssl_zoo.plugins.registry import registry
from ssl_zoo.views import Drawn


class OnTopOptions(TaskOptions):
    """The options of a task on top of another one."""

    base: str = Field("simclr", description="the other task, which takes images without labels or index")
    base_options: dict[str, Any] = Field(
        {}, validate_default=True, description="options of that task, such as {temperature: 0.2}"
    )
    weight: float = Field(1.0, ge=0, description="weight λ of the term beside that task's loss")

    @field_validator("base")
    @classmethod
    def _passes_on_all_that_it_needs(cls, base: str) -> str:
        try:
            task = registry.load_task(base)
        except UserError as error:
            raise ValueError(str(error)) from error
        if task.modality != "image" or task.needs:
            needs = " and ".join(task.needs) or f"{task.modality} data"
            raise ValueError(f"task {base!r} needs {needs}, which cannot be passed on; choose another")
        return base

    @field_validator("base_options")
    @classmethod
    def _complete(cls, given: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        # With the defaults, so that a run keeps its settings where these change.
        base = info.data.get("base")
        return {} if base is None else _base(base, given)[1].model_dump(mode="json")


def _base(name: str, options: Mapping[str, Any]) -> tuple[type[Task], TaskOptions]:
    """Return a task and its validated options."""
    cls = registry.load_task(name)
    return cls, cls.Options.model_validate(dict(options))


class OnTop(Task):
    """A task that adds a term to the loss of another one with the same encoder.

    A subclass makes one view more (`extra`) and computes the term from it (`term`). Views, schedules,
    teachers, rates, the recipe, and what is evaluated and exported are the other task's.

    Attributes:
        base: the other task.
    """

    any_size = True  # which the base may ask for

    def __init__(self, encoder: Encoder, options: Any, spec: ImageSpec) -> None:
        super().__init__(encoder, options, spec)
        cls, own = _base(options.base, options.base_options)
        self.base: Task = cls(encoder, own, spec)

    @classmethod
    def recipe_for(cls, options: Any) -> Mapping[str, Mapping[str, Any]]:
        """Return the recipe of the base."""
        base, own = _base(options.base, options.base_options)
        return base.recipe_for(own)

    @abstractmethod
    def extra(self, batch: Tensor, drawn: Sequence[Drawn], rng: Rng) -> Tensor:
        """Return what `term` takes beside the base's views.

        Args:
            batch: the raw batch [B, C, h, w].
            drawn: the parameters of all transforms with which the base has made its views, in order.
            rng: the source of further random numbers.
        """

    @abstractmethod
    def term(self, views: tuple[Tensor, ...], extra: Tensor, outputs: Sequence[Tensor]) -> Losses:
        """Return the term, without its weight.

        Args:
            views: the base's views.
            extra: as `extra` has returned it.
            outputs: the pooled features that the base has computed of them, as for `pooled`.
        """

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """Return the base's views, the same as without this task, and the extra one."""
        recording, drawn = rng.recording()
        views = self.base.views(batch, recording)
        return *views, self.extra(batch, drawn, rng)

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        """Return the base's loss and λ times the term; what the base logs, and the term's parts."""
        *own, extra = views
        with _outputs_of(self.encoder, own[0].shape[1:]) as outputs:
            base = self.base.loss(tuple(own))
        term, total = self.term(tuple(own), extra, outputs), base.total
        if base.weight is not None:  # the term is a mean over images, which all count alike
            total = total * (base.weight / distributed.nonzero(distributed.mean(base.weight)))
        logs = {"base": base.total.detach(), **base.logs, **term.logs}
        return Losses(total + self.options.weight * term.total, logs)

    def before_training(self, batches: Iterator[tuple[Tensor, ...]]) -> None:
        """Let the base prepare a run."""
        self.base.before_training(views[:-1] for views in batches)

    def before_step(self, progress: float) -> None:
        """Prepare a step of the base too."""
        super().before_step(progress)
        self.base.before_step(progress)

    def after_step(self, progress: float) -> None:
        """Update the base's teachers, queues and centres."""
        self.base.after_step(progress)

    @property
    def exported_encoder(self) -> Encoder:
        """The encoder that the base exports."""
        return self.base.exported_encoder

    def features(self, x: Tensor) -> Tensor:
        """Return the base's features [B, D]."""
        return self.base.features(x)

    def lr_scale(self, parameter: str) -> float:
        """Return the base's factor on the rate of a parameter of it or of the encoder."""
        return self.base.lr_scale(parameter.removeprefix("base."))

    def lr_constant(self, parameter: str) -> bool:
        """Return whether the base keeps the rate of a parameter of it or of the encoder."""
        return self.base.lr_constant(parameter.removeprefix("base."))

    def compared(self, x: Tensor) -> Tensor | None:
        """Return the base's embeddings."""
        return self.base.compared(x)

    def gallery(self, views: tuple[Tensor, ...]) -> dict[str, Any]:
        """Return the base's columns."""
        return self.base.gallery(views[:-1])

    def reconstructions(self, views: tuple[Tensor, ...]) -> dict[str, Any]:
        """Return the base's columns."""
        return self.base.reconstructions(views[:-1])


@contextmanager
def _outputs_of(network: nn.Module, shape: torch.Size) -> Iterator[list[Tensor]]:
    """Collect a network's outputs for images of a shape [C, H, W], whose views need not pass again."""
    outputs: list[Tensor] = []

    def keep(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if inputs[0].shape[1:] == shape:  # not small crops, which come after large ones
            outputs.append(output)

    handle = network.register_forward_hook(keep)
    try:
        yield outputs
    finally:
        handle.remove()


def pooled(encoder: Encoder, views: Sequence[Tensor], outputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return the pooled features [B, D] of the first two views.

    Args:
        encoder: the encoder.
        views: batches [B, C, H, W], at least two.
        outputs: what it has computed of views already, in their order and with a gradient; views are
            encoded if it has not seen both, as in MoCo, or only their maps.
    """
    n = len(views[0])
    joint = torch.cat(list(outputs)) if outputs else None
    if joint is None or len(joint) < 2 * n:
        joint = torch.cat(by_size(encoder, views[:2]))
    return joint[:n], joint[n : 2 * n]
