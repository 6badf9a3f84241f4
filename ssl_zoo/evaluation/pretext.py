"""The protocol `pretext`: the loss of a task on samples that it was not trained on."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor

from ssl_zoo import tree
from ssl_zoo.evaluation.features import extract
from ssl_zoo.evaluation.protocol import Metric, Protocol
from ssl_zoo.evaluation.subject import Subject
from ssl_zoo.task import Task
from ssl_zoo.tree import Tree
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
    """
    device, split, task = subject.device, subject.data.test, subject.module
    assert isinstance(task, Task)
    assert split is not None
    task = copy.deepcopy(task).eval()
    task.before_step(1.0)
    rng = Rng(derive_seed(subject.seed, "pretext"), device.device)

    def shares(batch: Tree) -> Tensor:
        """Return the weighted loss of a batch and its weight, divided among its samples, [B, 2]."""
        views, number = task.views(batch, rng), tree.size(batch)
        with device.autocast():
            losses = task(tuple(device.to_format(view) for view in views))
        total = losses.total.float()
        weight = torch.full_like(total, number) if losses.weight is None else losses.weight.float()
        total = total.where(weight > 0, 0.0)  # a mean over no targets is not a number
        return torch.stack([total * weight, weight]).div(number).expand(number, 2)

    numbers = split.sample(max(BATCH, len(split) // BATCH * BATCH))
    order = torch.randperm(len(numbers), generator=torch.Generator().manual_seed(subject.seed))
    rows = extract(shares, split, device.device, numbers[order], device.eval_batch.capped(BATCH))
    total, weight = rows.double().sum(0).tolist()
    return {"pretext-loss": total / weight} if weight else {}


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
