"""Parameters that get no gradient in some steps, as where several processes average gradients.

Where there are any, `DistributedDataParallel` must search the graph for them in each step, as processes
would wait for each other's gradients for ever. Where there are none, the search is left out.
"""

from __future__ import annotations

import copy
import math

import torch
from torch.nn.parallel import DistributedDataParallel

from ssl_zoo import distributed
from ssl_zoo.data import Split
from ssl_zoo.errors import SslZooError
from ssl_zoo.notices import Notice, silence
from ssl_zoo.plugins.validation import PLUGIN_ERRORS
from ssl_zoo.runtime.device import Device
from ssl_zoo.task import Task
from ssl_zoo.text import error_line
from ssl_zoo.training.batch import Batch
from ssl_zoo.views import Rng

SAMPLES = 2
"""The number of samples of the trial, the smallest batch with which batch norms can train."""
ENDS = (0.0, math.nextafter(1.0, 0.0))
"""The progress at which it is tried, as a schedule may freeze parameters at first or at last."""
MAX_SHOWN_NAMES = 3
"""The number of parameters that an error names."""

_SEARCH = Notice(
    "unused-parameters",
    "In several processes, a task whose gradients cannot be tried with two samples is searched for "
    "unused parameters in each step, which is always right but takes a little time.",
    "train.find_unused_parameters=false",
)


def may_be_unused(task: Task, split: Split, device: Device) -> bool:
    """Return whether steps may leave parameters without a gradient, in any process.

    A copy of the task is tried with a few samples at both ends of the schedules. The answer is yes too
    where a batch may have no targets, as one whose losses have a weight, and where the trial fails. All
    processes must call this, before batch norms are synchronised; each tries by itself, so that none
    waits for one whose trial fails.
    """
    try:
        numbers = torch.arange(min(SAMPLES, len(split)))
        batch = Batch.of(split.batch(numbers), numbers, task, split)
        with torch.random.fork_rng(device.forked), distributed.alone(), silence():
            found = _try(copy.deepcopy(task).train(), batch, device)
    except PLUGIN_ERRORS as error:
        found = True
        _SEARCH(
            f"each step searches for unused parameters, as a trial with {SAMPLES} samples failed "
            f"({error_line(error)}); train.find_unused_parameters=false if there are none"
        )
    return bool(distributed.all_reduce_max(found)[0])


def _try(task: Task, batch: Batch, device: Device) -> bool:
    """Return whether parameters of a task get no gradient at one of the ends; changes the task."""
    parameters = [p for p in task.parameters() if p.requires_grad]  # those that are averaged
    for progress in ENDS:
        task.zero_grad(set_to_none=True)
        task.before_step(progress)
        views = batch.views(task, Rng(0, device.device), device)
        with device.autocast():
            losses = task(views)
        losses.total.backward()
        if losses.weight is not None or any(p.grad is None for p in parameters):
            return True
    return False


def check_averaged(model: DistributedDataParallel, task: Task, step: int) -> None:
    """Raise if a backward pass has not averaged all gradients over the processes.

    Otherwise processes would go on with different weights. A process that waits for the gradients of
    the one that raises ends with it.

    Args:
        model: the task as it is called, wrapped for several processes.
        task: the task itself.
        step: the number of the step, from 1.

    Raises:
        SslZooError: parameters were unused, and are not searched for.
    """
    if model.find_unused_parameters:
        return
    try:
        model._check_reducer_finalized()
    except RuntimeError as error:
        names = [n for n, p in task.named_parameters() if p.requires_grad and p.grad is None]
        shown = ", ".join(names[:MAX_SHOWN_NAMES]) + ", …" * (len(names) > MAX_SHOWN_NAMES)
        raise SslZooError(
            f"train.find_unused_parameters: {shown or 'parameters'} got no gradient in step {step}, "
            "in one process or all; add --set train.find_unused_parameters=true"
        ) from error
