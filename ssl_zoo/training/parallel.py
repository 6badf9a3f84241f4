"""How a task is spread over the processes of a run: not at all, as copies, or in shards."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ssl_zoo import distributed
from ssl_zoo.config.schema import RunConfig
from ssl_zoo.runs.shards import Like
from ssl_zoo.runtime.device import Device
from ssl_zoo.task import Losses, Task
from ssl_zoo.training.average import exchanged
from ssl_zoo.training.unused import check_averaged
from ssl_zoo.tree import Tree


class Parallel:
    """A task in a single process, and the base of tasks in several.

    Args:
        task: the task, on the device.
        average: the moving average of the exported encoder; None without one.
        device: where and how it computes.

    Attributes:
        model: the task as a step calls it: maps views to losses.
    """

    def __init__(self, task: Task, average: nn.Module | None, device: Device) -> None:
        self.task = task
        self.average = average
        self.model: Callable[[tuple[Tree, ...]], Losses] = (
            torch.compile(task) if device.compile else task
        )

    def before_training(self, batches: Iterator[tuple[Tree, ...]]) -> None:
        """Call the task's `before_training`."""
        self.task.before_training(batches)

    def local_gradients(self) -> AbstractContextManager[None]:
        """Temporarily keep gradients in this process; the last batch's backward averages them all."""
        return nullcontext()

    def refusals(self) -> AbstractContextManager[None]:
        """Raise what a task or an optimiser cannot do when spread so as an error of one line."""
        return nullcontext()

    def check_averaged(self, step: int) -> None:
        """Raise if the backward pass of a step has not averaged all gradients over the processes.

        Raises:
            SslZooError: it has not.
        """

    def clip(self, max_norm: float | None) -> Tensor:
        """Clip the norm of the gradient of all parameters, and return what it was before.

        Args:
            max_norm: the maximum norm; None to measure alone.
        """
        limit = math.inf if max_norm is None else max_norm
        norm = nn.utils.clip_grad_norm_(self.task.parameters(), limit)
        return distributed.whole(norm)

    def evaluated(self) -> AbstractContextManager[Task]:
        """Temporarily return the task with whole weights, the exported encoder's averaged.

        All processes must call it. It may be trained no further meanwhile.
        """
        return self._exchanged()

    @contextmanager
    def _exchanged(self) -> Iterator[Task]:
        with exchanged(self.task.exported_encoder, self.average):
            yield self.task

    def like(self, optimizer: torch.optim.Optimizer) -> Like | None:
        """Return which tensors of `Trainer.state_dict` are sharded; None if none is.

        Args:
            optimizer: the optimiser of the task's parameters.
        """
        return None


class Copies(Parallel):
    """A task whose copies in all processes average their gradients (`DistributedDataParallel`).

    Args:
        task: as for `Parallel`.
        average: as for `Parallel`.
        device: as for `Parallel`.
        find_unused: whether to search each step for parameters without a gradient.
    """

    def __init__(self, task: Task, average: nn.Module | None, device: Device, find_unused: bool) -> None:
        super().__init__(task, average, device)
        called: Any = self.model
        self._ddp = DistributedDataParallel(
            called,
            process_group=distributed.gradient_group(),
            broadcast_buffers=False,
            find_unused_parameters=find_unused,
        )
        self.model = self._ddp

    def local_gradients(self) -> AbstractContextManager[None]:
        """As in `Parallel`, by DDP's `no_sync`."""
        local: AbstractContextManager[None] = self._ddp.no_sync()
        return local

    def check_averaged(self, step: int) -> None:
        """As in `Parallel`, by DDP's reducer."""
        check_averaged(self._ddp, self.task, step)


def parallelise(
    task: Task, average: nn.Module | None, config: RunConfig, device: Device, find_unused: bool
) -> Parallel:
    """Spread a task over the processes of the run, as ``train.parallel`` says.

    Args:
        task: the task, on the device; its parameters are replaced where they are sharded.
        average: the moving average of the exported encoder, spread alike; None without one.
        config: the configuration.
        device: where and how to compute.
        find_unused: whether copies search each step for parameters without a gradient.

    Raises:
        SettingError: the task, or another setting, cannot be combined with shards.
    """
    if distributed.world_size() == 1:
        return Parallel(task, average, device)
    if config.train.parallel == "fsdp":
        from ssl_zoo.training.sharded import Shards  # not in every version of torch

        return Shards(task, average, config, device)
    return Copies(task, average, device, find_unused)
