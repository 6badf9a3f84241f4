"""What is evaluated: a finished run, and what it must be compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from torch import Tensor

from ssl_zoo.data import DataSet
from ssl_zoo.device import Device
from ssl_zoo.errors import UserError, did_you_mean
from ssl_zoo.evaluate.features import Features, extract_features
from ssl_zoo.evaluate.knn import knn_accuracy
from ssl_zoo.evaluate.linear import linear_accuracy
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


def score(
    task: Task, data: DataSet, device: Device, names: Iterable[str] = ("knn",)
) -> dict[str, float] | None:
    """Evaluate a task's features as they are now, in percent; None where the data has no labels."""
    chosen = protocols(names)
    training = task.training
    task.eval()
    features = extract_features(task_features(task, data.spec, device), data, device.device)
    task.train(training)
    return None if features is None else {name: p(features) for name, p in chosen.items()}


def baselines(
    untrained: Task, data: DataSet, device: Device, names: Iterable[str] = ("knn",)
) -> dict[str, dict[str, float]]:
    """What learnt features must beat: the raw input, and the network before training.

    Args:
        untrained: the task with its initial weights, on the device.
        data: the data.
        device: where and how to compute.
        names: which protocols.

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
    return rows if initial is None else {**rows, "random-init": initial}


def evaluate(
    run: str | Path, protocol: Iterable[str] = ("knn", "linear"), with_baselines: bool = True
) -> dict[str, dict[str, float]]:
    """Evaluate a run's frozen features, and write the figures into its `results.json`.

    Args:
        run: a run directory.
        protocol: names of protocols.
        with_baselines: whether to evaluate the raw input and the untrained network too.

    Returns:
        For each row (the task's name, then baselines) its scores in percent, by protocol.

    Raises:
        UserError: `run` is no run, has no checkpoint, or its data has no labels.
    """
    opened = Run.open(run)
    config = opened.config()
    names = list(protocol)
    protocols(names)
    device = Device.choose(config.train)
    data = build_data(config, device.device)
    scores = score(device.place(opened.load_task(data)), data, device, names)
    if scores is None:
        raise UserError(f"{config.data.source} has no labels, which {', '.join(names)} need")
    rows = {config.task.name: scores}
    if with_baselines:
        untrained = device.place(build_task(config, data.spec))
        rows |= baselines(untrained, data, device, names)
    opened.write_results({"scores": {**opened.results().get("scores", {}), **rows}})
    return rows
