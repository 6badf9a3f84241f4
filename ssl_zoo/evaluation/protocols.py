"""What is evaluated: a finished run, and what it must be compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from ssl_zoo.data import DataSet
from ssl_zoo.device import Device
from ssl_zoo.errors import UserError, did_you_mean
from ssl_zoo.evaluation.features import Features, extract_features
from ssl_zoo.evaluation.knn import knn_accuracy
from ssl_zoo.evaluation.linear import linear_accuracy
from ssl_zoo.plugins import collect
from ssl_zoo.run import Run, build_data, build_task
from ssl_zoo.spec import Spec
from ssl_zoo.task import Task

Protocol = Callable[[Features], float]
"""Frozen features to a percentage."""

PROTOCOLS: Mapping[str, Protocol] = {"knn": knn_accuracy, "linear": linear_accuracy}
"""The protocols that the core brings; plugins add theirs."""


def protocols(names: Iterable[str]) -> dict[str, Protocol]:
    """The protocols of these names.

    Raises:
        UserError: there is none of that name.
    """
    known = {**PROTOCOLS, **collect("ssl_zoo_register_protocols")}
    for name in names:
        if name not in known:
            raise UserError(
                f"--protocol: no protocol {name!r}.{did_you_mean(name, known)} "
                f"There are: {', '.join(sorted(known))}"
            )
    return {name: known[name] for name in names}


def task_features(task: Task, spec: Spec, device: Device) -> Callable[[Tensor], Tensor]:
    """The task's frozen features as a function of raw batches."""

    def function(batch: Tensor) -> Tensor:
        with device.autocast():
            return task.features(device.to_format(spec.prepare(batch)))

    return function


@contextmanager
def evaluating(task: Task) -> Iterator[None]:
    """Within, the task is in evaluation mode and keeps no gradients; after, as it was before."""
    modes = [(module, module.training) for module in task.modules()]
    task.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def rehearse(task: Task, data: DataSet, device: Device) -> None:
    """Compute the features of a few samples, so that what cannot work is known before training."""
    few = data.train.batch(torch.arange(min(2, len(data.train)))).to(device.device)
    with evaluating(task):
        task_features(task, data.spec, device)(few)


def score(
    task: Task, data: DataSet, device: Device, names: Iterable[str] = ("knn",)
) -> dict[str, float] | None:
    """Evaluate a task's features as they are now, in percent; None where the data has no labels."""
    chosen = protocols(names)
    with evaluating(task):
        features = extract_features(task_features(task, data.spec, device), data, device.device)
    return None if features is None else {name: p(features) for name, p in chosen.items()}


def baselines(
    untrained: Task,
    data: DataSet,
    device: Device,
    names: Iterable[str] = ("knn",),
    pretrained: bool = False,
) -> dict[str, dict[str, float]]:
    """What learnt features must beat: the raw input, and the network before training.

    Args:
        untrained: the task with its initial weights, on the device.
        data: the data.
        device: where and how to compute.
        names: which protocols.
        pretrained: whether its weights are not random, and the row is called so.

    Returns:
        For each baseline its scores; empty where the data has no labels.
    """
    chosen = protocols(names)
    rows = {}
    if data.spec.raw_name is not None:
        raw = extract_features(data.spec.raw, data, device.device)
        if raw is not None:
            rows[data.spec.raw_name] = {name: p(raw) for name, p in chosen.items()}
    initial = score(untrained, data, device, names)
    name = "pretrained" if pretrained else "random-init"
    return rows if initial is None else {**rows, name: initial}


def evaluate(
    run: str | Path,
    protocol: Iterable[str] = ("knn", "linear"),
    with_baselines: bool = True,
    device: str | None = None,
) -> dict[str, dict[str, float]]:
    """Evaluate a run's frozen features, and write the figures into its `results.json`.

    Args:
        run: a run directory.
        protocol: names of protocols.
        with_baselines: whether to evaluate the raw input and the untrained network too.
        device: where to compute; None for the device that the run was trained on.

    Returns:
        For each row (the task's name, then baselines) its scores in percent, by protocol.

    Raises:
        UserError: `run` is no run, has no checkpoint, or its data has no labels.
    """
    opened = Run.open(run)
    config = opened.config()
    names = list(protocol)
    protocols(names)
    settings = config.train if device is None else config.train.model_copy(update={"device": device})
    chosen = Device.choose(settings)
    data = build_data(config, chosen.device)
    scores = score(chosen.place(opened.load_task(data)), data, chosen, names)
    if scores is None:
        raise UserError(
            f"{config.data.source} has no labels, which --protocol {','.join(names)} needs; "
            "`ssl_zoo.load_backbone` gives the backbone for data of your own"
        )
    rows = {config.task.name: scores}
    if with_baselines:
        untrained = chosen.place(build_task(config, data.spec))
        rows |= baselines(untrained, data, chosen, names, config.backbone.pretrained)
    opened.add_scores(rows)
    return rows
