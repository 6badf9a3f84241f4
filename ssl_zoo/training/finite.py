"""The check that the loss and the gradient of each step are finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ssl_zoo.config.schema import RunConfig
from ssl_zoo.errors import SslZooError
from ssl_zoo.runtime.device import Device
from ssl_zoo.training.batch import Batch

MIN_LOSS_SCALE = 2.0**-8
"""In fp16 the loss is scaled so that its gradient fits; give up once the scale falls below this."""


class NotFinite(SslZooError):
    """A loss, a gradient or a weight that is not finite.

    Args:
        message: the line for the user.
        step: the number of the step, from 1.
        batches: the batches of the step whose loss or gradient it is; none for a weight.
    """

    def __init__(self, message: str, step: int, batches: Sequence[Batch] = ()) -> None:
        super().__init__(message)
        self.step = step
        self.batches = batches


class _Unread(NamedTuple):
    """The losses and the norm of the gradient of a step, on their way to the CPU."""

    step: int
    values: Tensor
    wait: Callable[[], None]
    batches: Sequence[Batch]


class FiniteCheck:
    """The check that the losses and the gradient of each step are finite.

    Reading a value from a GPU waits until the GPU has computed it, and meanwhile nothing new is queued
    for it. There the values are read during the next step, when they have arrived. A fused optimiser is
    told on the device to change no weight in a step that is not finite, as with a scaler of losses;
    `Task.after_step` is called all the same.

    Attributes:
        later: whether the values are read during the next step. It is so on CUDA, unless the optimiser
            has no fused step that could rest.
    """

    def __init__(self, config: RunConfig, device: Device, optimizer: torch.optim.Optimizer) -> None:
        """Build the check of an optimiser's steps.

        Args:
            config: the configuration.
            device: where the steps are computed.
            optimizer: the optimiser.
        """
        self._config = config
        self._device = device
        self._optimizer = optimizer
        self._unread: _Unread | None = None
        self.later = device.device.type == "cuda" and hasattr(optimizer, "_step_supports_amp_scaling")

    def check(
        self, step: int, losses: Sequence[Tensor], grad_norm: Tensor, batches: Sequence[Batch]
    ) -> None:
        """Raise unless the values are finite, before the optimiser's step; or keep them for later.

        Args:
            step: the number of the step, from 1.
            losses: the loss of each batch of the step.
            grad_norm: the norm of its gradient.
            batches: the batches, for the error.

        Raises:
            NotFinite: a loss or the gradient is not finite. All processes raise it at the same step, as
                the gradient is averaged over them.
        """
        values = torch.stack([*(loss.float() for loss in losses), grad_norm.float()]).detach()
        if self.later:
            # The name by which torch's scaler of losses, too, tells a fused step to rest.
            self._optimizer.found_inf = (~values.isfinite().all()).float()  # type: ignore[attr-defined]
            values = values.to("cpu", non_blocking=True)
        self._unread = _Unread(step, values, self._device.mark(), batches)
        if not self.later:
            self.confirm()

    def confirm(self) -> None:
        """Raise unless the values of the last step are finite; waits for that step alone.

        Raises:
            NotFinite: one is not.
        """
        if self._unread is None:
            return
        (step, values, wait, batches), self._unread = self._unread, None
        wait()
        if not values.isfinite().all():
            *losses, norm = values.tolist()
            bad = [loss for loss in losses if not math.isfinite(loss)]
            quantity, value = ("loss", bad[0]) if bad else ("gradient", norm)
            raise self.error(quantity, value, step, batches)

    def error(self, quantity: str, value: float, step: int, batches: Sequence[Batch] = ()) -> NotFinite:
        """Return the error that names a quantity which is not finite, and what to do."""
        advice = "" if self._device.precision == "fp32" else ", or try --precision fp32"
        message = f"{self._config.task.name}: the {quantity} is {value} at step {step}"
        return NotFinite(f"{message}; lower the learning rate (--lr){advice}", step, batches)
