"""The protocol `pretext`: the loss of a task on samples that it was not trained on."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping

import torch

from ssl_zoo import tree
from ssl_zoo.errors import SslZooError
from ssl_zoo.evaluation.protocol import Metric, Protocol
from ssl_zoo.evaluation.subject import Subject
from ssl_zoo.task import Task
from ssl_zoo.views import Rng, derive_seed

BATCH = 64
"""The number of samples in a batch, on which losses depend that compare samples."""


def no_scores(subject: Subject) -> str:
    """Return why a subject has no such loss: no task, one that needs more than samples, or no test."""
    task, data = subject.module, subject.data
    if not isinstance(task, Task):
        return f"{subject.name} is a network without a loss; evaluate a run"
    if task.needs:
        return f"{task.name} asks for more than samples ({', '.join(task.needs)}); evaluate another task"
    if data.test is None:
        return f"{data.name} has no samples that were not trained on; set data.holdout"
    return ""


def measure(subject: Subject) -> Mapping[str, float]:
    """Return the mean loss on the test split, of views that follow from the subject's seed.

    A copy of the task computes it, in eval mode and with the schedules of the end of training, so that
    queues, teachers and statistics stay as they are. Each batch counts by its `Losses.weight`. Where
    there is a full batch, samples that do not fill another are left out.

    Raises:
        SslZooError: the loss is not finite.
    """
    device, split, task = subject.device, subject.data.test, subject.module
    assert isinstance(task, Task)
    assert split is not None
    task = copy.deepcopy(task).eval()
    task.before_step(1.0)
    rng = Rng(derive_seed(subject.seed, "pretext"), device.device)
    numbers = split.sample(max(BATCH, len(split) // BATCH * BATCH))
    order = torch.randperm(len(numbers), generator=torch.Generator().manual_seed(subject.seed))
    total = weights = 0.0
    for batch in split.stream(numbers[order], BATCH):
        views = task.views(tree.move(batch, device.device), rng)
        with torch.no_grad(), device.autocast():
            losses = task(tuple(device.to_format(view) for view in views))
        weight = tree.size(batch) if losses.weight is None else float(losses.weight)
        if weight:  # a mean over no targets is not a number
            total += weight * float(losses.total)
            weights += weight
    if not math.isfinite(total):
        raise SslZooError(
            "the loss of the test split is not finite; the network has diverged: train it with a lower "
            "--lr, or evaluate with --precision fp32"
        )
    return {"pretext-loss": total / weights} if weights else {}


PRETEXT = Protocol(
    measure,
    {
        "pretext-loss": Metric(
            "pretext loss",
            "mean of the task's own loss on the test split, without dropout and with the schedules of "
            f"the end of training, in batches of {BATCH}; not comparable between tasks",
            None,
            3,
            within_run="lower",
        )
    },
    labels=False,
    no_scores=no_scores,
)
