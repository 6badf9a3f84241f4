"""Scoring a finished run, a timm model, and the baselines."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ssl_zoo.config.load import load_encoder_config
from ssl_zoo.config.schema import EncoderConfig, RunConfig
from ssl_zoo.config.weights import read_header
from ssl_zoo.data import DataSet
from ssl_zoo.errors import UserError
from ssl_zoo.evaluation.protocol import Scores, protocols
from ssl_zoo.evaluation.subject import Subject
from ssl_zoo.notices import Notice
from ssl_zoo.runs.backbone import read_backbone
from ssl_zoo.runs.build import build_data, build_encoder, build_task, load_data, restore_task
from ssl_zoo.runs.records import file_exists
from ssl_zoo.runs.run import Run
from ssl_zoo.runtime.device import Device
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Task

log = logging.getLogger("ssl_zoo.evaluation")

TIMM = "timm:"
"""The prefix of a timm model's name, to evaluate it in place of a run."""
UNTRAINED, PRETRAINED = "random-init", "pretrained"
"""The names of the network before training, by its initial weights."""
CHANNELS = Notice(
    "channels-converted",
    "Evaluated images have another number of channels than the network takes: gray is repeated, colours "
    "are averaged.",
    "give data with the channels of the training data",
)
ONLINE_EVAL_SIZES = (10_000, 2_000)
"""The maximum number of samples of the bank and of the test split in an evaluation during training."""
_MACHINE = ("train.device", "train.precision", "train.channels_last")


def score(subject: Subject, names: Iterable[str]) -> dict[str, float]:
    """Evaluate a representation by protocols.

    Raises:
        UserError: there is no such protocol, or one needs labels that the data lacks.
        SslZooError: a feature is not a finite number.
    """
    scores: dict[str, float] = {}
    for protocol in protocols(names).values():
        scores |= protocol(subject)
    return scores


def supported_protocols(names: Iterable[str], data: DataSet) -> list[str]:
    """Return the named protocols that the data supports; some need labels."""
    return [name for name, p in protocols(names).items() if data.labelled or not p.labels]


def baselines(
    untrained: Task | None,
    data: DataSet,
    device: Device,
    names: Iterable[str] = ("knn",),
    pretrained: bool = False,
) -> dict[str, Scores]:
    """Score the baselines that learnt features must beat: the raw input and the untrained network.

    Args:
        untrained: the task with its initial weights, on the device; None for the raw input alone.
        data: the data.
        device: where and how to compute.
        names: the names of the protocols.
        pretrained: whether the initial weights are pretrained, which names the row.

    Returns:
        The scores of each baseline.
    """
    names = list(names)
    name = PRETRAINED if pretrained else UNTRAINED
    subjects = [Subject.raw(data, device)]
    if untrained is not None:
        subjects.append(Subject.of_task(untrained, data, device, name))
    return {s.name: score(s, names) for s in subjects if s is not None}


def initial_baselines(
    config: RunConfig, data: DataSet, device: Device, names: Iterable[str]
) -> dict[str, Scores]:
    """Score the baselines of a run, as `baselines` does; the network as it was before the first step.

    Where its pretrained weights can no longer be had, a warning says so and its row is left out.

    Raises:
        UserError: a protocol needs labels that the data lacks.
    """
    try:
        untrained: Task | None = device.place(build_task(config, data.spec))
    except UserError as error:
        if not config.backbone.starts_trained:
            raise
        log.warning("the row %r is left out: %s", PRETRAINED, error)
        untrained = None
    return baselines(untrained, data, device, names, config.backbone.starts_trained)


def evaluate(
    subject: str | Path,
    protocol: Iterable[str] = ("knn", "linear"),
    with_baselines: bool = True,
    data: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Scores]:
    """Evaluate a finished run, a backbone, or any timm model; add a run's scores to its `results.json`.

    Args:
        subject: a run directory, its ``backbone.safetensors`` alone, or ``timm:NAME``.
        protocol: the names of the protocols.
        with_baselines: whether to evaluate the raw input and the untrained network too.
        data: for a run, a labelled data set to transfer to, in place of its own; otherwise the data set
            (default: the digits).
        settings: for a run, settings of the machine (``train.device``, ``train.precision``); otherwise
            any setting of the sections data, backbone and train, by dotted path.

    Returns:
        The scores of each row by metric; the rows are the run's task, the file or the model, then
        baselines.

    Raises:
        UserError: `subject` is not a run or has no checkpoint, a protocol needs labels that the data
            lacks, or settings are wrong.
    """
    names, settings = list(protocols(protocol)), dict(settings or {})
    if str(subject).startswith(TIMM):
        values = {"backbone.name": str(subject)[len(TIMM) :], "data.source": data, **settings}
        return _evaluate_network(load_encoder_config(values), names, with_baselines)
    if file_exists(Path(subject)):
        values = {"backbone.weights": str(subject), "data.source": data, **settings}
        return _evaluate_file(Path(subject), values, names, with_baselines)
    return _evaluate_run(Run.open(subject), names, with_baselines, data, settings)


def _evaluate_file(
    file: Path, settings: dict[str, Any], names: list[str], with_raw: bool
) -> dict[str, Scores]:
    """Evaluate the backbone in a file of ssl-zoo, on images as it was trained on."""
    header = read_header(file)
    if "backbone" not in header:
        raise UserError(
            f"{file}: ssl-zoo did not write it, so its network must be named: "
            f"ssl-zoo eval {TIMM}NAME --from {file}"
        )
    spec = read_backbone(file)[1] if "spec" in header else None
    if spec is not None:
        settings = {"data.image_size": spec.size, **settings}
        spec = replace(spec, size=settings["data.image_size"])
    return _evaluate_network(load_encoder_config(settings), names, with_raw, str(file), spec)


def _evaluate_network(
    config: EncoderConfig,
    names: list[str],
    with_raw: bool,
    row: str | None = None,
    spec: ImageSpec | None = None,
) -> dict[str, Scores]:
    """Evaluate a network before training, and the raw input.

    Args:
        config: the network and the data.
        names: the names of the protocols.
        with_raw: whether to evaluate the raw input.
        row: the name of the network's row; None for that of a timm model.
        spec: the images that the network was trained on; None for those of the data.
    """
    device = Device.choose(config.train)
    samples = load_data(config.data, device.device)
    if spec is not None:
        samples = _as_trained(samples, spec, config.data.source)
    with device.computing():
        subjects = [of_encoder(config, samples, device, row or f"{TIMM}{config.backbone.name}")]
        if with_raw and (raw := Subject.raw(samples, device)) is not None:
            subjects.append(raw)
        return {s.name: score(s, names) for s in subjects}


def _as_trained(samples: DataSet, spec: ImageSpec, source: str) -> DataSet:
    """Return data as a network trained on other images takes them.

    They are normalised as in training; only the meaning of a mirror image is the new data's.

    Raises:
        UserError: they are not images.
    """
    if not isinstance(samples.spec, ImageSpec):
        raise UserError(
            f"--data {source}: is {samples.spec.modality} data, but the network takes images"
        )
    if samples.spec.channels != spec.channels:
        CHANNELS(
            f"{source} has {samples.spec.channels} channels and the network takes {spec.channels}: "
            f"{'colours are averaged' if spec.channels == 1 else 'gray is repeated'}"
        )
    return replace(samples, spec=replace(spec, mirror=samples.spec.mirror))


def of_encoder(config: EncoderConfig, data: DataSet, device: Device, name: str) -> Subject:
    """Return the subject of the pooled features of a network before training."""
    encoder = device.place(build_encoder(config.backbone, data.spec, config.train.seed))
    return Subject.of_encoder(encoder, data, device, name, seed=config.train.seed)


def _evaluate_run(
    run: Run, names: list[str], with_baselines: bool, data: str | None, settings: Mapping[str, Any]
) -> dict[str, Scores]:
    config = run.config()
    other = data if data != config.data.source else None
    for path in settings:
        of_other = other is not None and path.startswith("data.") and path != "data.image_size"
        if path not in _MACHINE and not of_other:
            raise UserError(
                f"{path}: cannot be changed for an existing run ({run.path}); give only --data and "
                f"{', '.join(_MACHINE)}"
            )
    changed = load_encoder_config({"data.source": data, **settings})
    names_set = [path.partition(".")[2] for path in settings if path in _MACHINE]
    machine = {name: getattr(changed.train, name) for name in names_set}
    device = Device.choose(config.train.model_copy(update=machine))
    if other is None:
        samples = build_data(config, device.device)
    else:
        spec = run.spec()
        section = changed.data.model_copy(update={"image_size": spec.size})
        samples = _as_trained(load_data(section, device.device), spec, str(data))
    with device.computing():
        task = device.place(restore_task(run, samples.spec))
        subject = Subject.of_task(task, samples, device, seed=config.train.seed)
        rows: dict[str, Scores] = {config.task.name: score(subject, names)}
        if with_baselines:
            rows |= initial_baselines(config, samples, device, names)
    run.add_scores(rows, on=other)
    return rows
