"""A loss under test: how it is built, what it is called with, and its value and gradients."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssl_zoo.config.yaml import parse_yaml
from ssl_zoo.errors import UserError
from ssl_zoo.plugins.validation import PLUGIN_ERRORS
from ssl_zoo.runtime.defaults import seeded
from ssl_zoo.testing.check import CheckFailed, CheckSkipped
from ssl_zoo.text import did_you_mean, error_reason

Loss = Callable[..., Any]

SIZES = {"B": 32, "D": 8}
"""The number of samples in the joint batch, and the width of an embedding."""
FORMS = ("BxD, BxD", "[BxD, BxD]", "BxD", "[BxD, BxD], [BxD, BxD]")
"""The inputs that are tried, in this order, where none are given."""

_SHAPE = re.compile(r"(B|D|\d+)(x(B|D|\d+))*")


@dataclass(frozen=True)
class Input:
    """A tensor that a loss takes.

    Attributes:
        shape: its axes, each a number or one of `SIZES`, such as ``("B", "D")``.
        label: its place among the arguments, for messages.
    """

    shape: tuple[str, ...]
    label: str


@dataclass(frozen=True)
class LossCase:
    """A test case: a loss that need not be ours, with the inputs that it takes.

    Attributes:
        loss: a class whose instances are called, such as a module; or a function.
        arguments: of the class's constructor, or further ones of the function.
        inputs: the shapes of its inputs, as `check_loss` takes them; None for the first of `FORMS` with
            which it returns a scalar.
    """

    loss: Loss
    arguments: Mapping[str, Any]
    inputs: str | None = None

    def build(self, dtype: torch.dtype = torch.float64) -> Loss:
        """Return the loss, new, with parameters and buffers of this type that follow from a seed."""
        if not inspect.isclass(self.loss):
            return partial(self.loss, **self.arguments)
        with seeded(0):
            loss: Any = self.loss(**self.arguments)
        built: Loss = loss.to(dtype) if isinstance(loss, nn.Module) else loss
        return built

    @cached_property
    def found(self) -> str:
        """The inputs that it takes.

        Raises:
            CheckFailed: it returns no scalar with a gradient.
        """
        reasons = []
        for form in FORMS if self.inputs is None else [self.inputs]:
            try:
                value = self.value(self.build(), self._tensors(form), form=form)
                if value.requires_grad:
                    return form
                reasons.append(f"({form}): it has no gradient")
            except PLUGIN_ERRORS as error:
                reasons.append(f"({form}): {error_reason(error)}")
        hint = "; say what it takes by --inputs" if self.inputs is None else ""
        raise CheckFailed(f"it cannot be called with {'; '.join(reasons)}{hint}")

    @property
    def form(self) -> str:
        """The inputs that it takes, for the checks that call it.

        Raises:
            CheckSkipped: it cannot be called, which `check_can_be_called` reports.
        """
        try:
            return self.found
        except CheckFailed as error:
            raise CheckSkipped("not run: the loss cannot be called") from error

    @property
    def described(self) -> list[Input]:
        """The tensors of the inputs, in order."""
        return _inputs(parse_inputs(self.form))

    def tensors(self, rank: int = 0, world: int = 1) -> list[Tensor]:
        """Return a process's inputs, in float64; those of one shape are alike, as views are."""
        return [
            x if axis is None else x.tensor_split(world, axis)[rank]
            for x, axis in zip(self._tensors(self.form), self.batch_axes, strict=True)
        ]

    @property
    def batch_axes(self) -> list[int | None]:
        """The axis of each input that counts samples; None if it has none, as prototypes."""
        return [x.shape.index("B") if "B" in x.shape else None for x in self.described]

    def _tensors(self, form: str) -> list[Tensor]:
        tensors = []
        for i, x in enumerate(_inputs(parse_inputs(form))):
            shape = [SIZES.get(axis) or int(axis) for axis in x.shape]
            common, own = (torch.Generator().manual_seed(seed) for seed in (0, i + 1))
            z = torch.randn(shape, generator=common, dtype=torch.float64)
            tensors.append(z + 0.7 * torch.randn(shape, generator=own, dtype=torch.float64))
        return tensors

    def value(
        self, loss: Loss, tensors: Sequence[Tensor], seed: int = 0, form: str | None = None
    ) -> Tensor:
        """Return the loss of inputs, a scalar; their gradients are recorded.

        Args:
            loss: a loss that was built.
            tensors: the inputs.
            seed: of the random numbers that it may draw.
            form: the inputs' shapes; None for those that were found.

        Raises:
            CheckFailed: it does not return a tensor with one element.
        """
        rest = iter([x.requires_grad_() for x in tensors])
        filled = _filled(parse_inputs(self.form if form is None else form), rest)
        with seeded(seed):
            value = loss(**filled) if isinstance(filled, dict) else loss(*filled)
        value = getattr(value, "total", value)  # of Losses
        if not isinstance(value, Tensor) or value.numel() != 1:
            shape = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise CheckFailed(f"it returns {shape} instead of a scalar")
        return value.reshape(())

    def gradients(self, loss: Loss, tensors: Sequence[Tensor], seed: int = 0) -> tuple[Tensor, Tensor]:
        """Return the loss and all its gradients, those of the inputs' elements first, as [N]."""
        tensors = [x.detach().clone() for x in tensors]
        value = self.value(loss, tensors, seed)
        parameters = list(loss.parameters()) if isinstance(loss, nn.Module) else []
        leaves = [*tensors, *(p for p in parameters if p.requires_grad)]
        found = torch.autograd.grad(value, leaves, allow_unused=True)
        pairs = zip(found, leaves, strict=True)
        flat = [(torch.zeros_like(x) if g is None else g).flatten() for g, x in pairs]
        return value.detach(), torch.cat([g.double() for g in flat])

    def state(self, loss: Loss) -> dict[str, Tensor]:
        """Return a copy of the parameters and buffers of a loss that is a module."""
        if not isinstance(loss, nn.Module):
            return {}
        tensors = (*loss.named_parameters(), *loss.named_buffers())  # those that are not saved too
        return {name: x.detach().clone() for name, x in tensors}


def load_loss(target: str) -> Loss:
    """Return what ``module:name`` names; modules in the current folder are found too.

    Raises:
        UserError: there is no such module or name, or it cannot be called.
    """
    module_name, colon, name = target.partition(":")
    if not colon or not module_name or not name:
        raise UserError(f"--loss {target}: must have the form module:name, such as lightly.loss:DCLLoss")
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except PLUGIN_ERRORS as error:
        raise UserError(f"--loss {target}: cannot import it: {error_reason(error)}") from error
    loss: Loss | None = getattr(module, name, None)
    if not callable(loss):
        hint = did_you_mean(name, vars(module))
        raise UserError(f"--loss {target}: {module_name} has no class or function {name!r}.{hint}")
    return loss


def parse_inputs(form: str) -> Any:
    """Return the shapes in a text, as a list of positional or a dictionary of named arguments.

    Raises:
        UserError: the text has another form.
    """
    origin = f"--inputs {form}"
    parsed = parse_yaml(form if form.lstrip().startswith("{") else f"[{form}]", origin)
    for shape in _shapes(parsed):
        if not isinstance(shape, str) or not _SHAPE.fullmatch(shape):
            raise UserError(f"{origin}: {shape!r} is no shape, such as BxD, 2xBxD or 16xD")
    return parsed


def _shapes(parsed: Any) -> list[Any]:
    """Return the leaves of nested lists and dictionaries."""
    if isinstance(parsed, dict):
        parsed = list(parsed.values())
    return [x for part in parsed for x in _shapes(part)] if isinstance(parsed, list) else [parsed]


def _inputs(parsed: Any, label: str = "") -> list[Input]:
    """Return the tensors of shapes, in order."""
    if isinstance(parsed, str):
        return [Input(tuple(parsed.split("x")), label)]
    named = parsed.items() if isinstance(parsed, dict) else enumerate(parsed, 1)
    return [
        x for key, part in named for x in _inputs(part, f"{label}[{key}]" if label else f"input {key}")
    ]


def _filled(parsed: Any, tensors: Iterator[Tensor]) -> Any:
    """Return shapes with the next tensor in the place of each."""
    if isinstance(parsed, dict):
        return {name: _filled(part, tensors) for name, part in parsed.items()}
    return [_filled(x, tensors) for x in parsed] if isinstance(parsed, list) else next(tensors)
