"""Scoring a finished run, a timm model, and the baselines."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ssl_zoo.config.load import load_encoder_config
from ssl_zoo.config.schema import EncoderConfig, RunConfig
from ssl_zoo.data import DataSet
from ssl_zoo.errors import Unwritable, UserError
from ssl_zoo.evaluation.classifier import CLASSIFIER_FILE, KeptClassifier, fingerprint
from ssl_zoo.evaluation.protocol import Scores, known_protocols, protocols
from ssl_zoo.evaluation.subject import Subject
from ssl_zoo.notices import Notice
from ssl_zoo.runs.build import build_data, build_encoder, build_task, load_data, restore_task
from ssl_zoo.runs.run import Run
from ssl_zoo.runtime.device import Device
from ssl_zoo.runtime.files import check_output_file
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Task

log = logging.getLogger("ssl_zoo.evaluation")

TIMM = "timm:"
"""The prefix of a timm model's name, to evaluate it in place of a run."""
UNTRAINED, PRETRAINED = "random-init", "pretrained"
"""The names of the network before training, by its initial weights."""
ONLINE_EVAL_SIZES = (10_000, 2_000)
"""The maximum number of samples of the bank and of the test split in an evaluation during training."""
REPLACED = Notice(
    "replaced-classifier",
    "eval --keep replaces the classifier of other data in the run.",
    "copy classifier.safetensors first; predict --classifier takes the copy",
)
_MACHINE = ("train.device", "train.precision", "train.channels_last", "train.eval_batch_size")


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


class Evaluation(dict[str, Scores]):
    """The scores of each row by metric.

    Attributes:
        kept: whether the scores are in the `results.json` of a run.
        classifier: the file of the classifier, if it was to be kept.
    """

    kept: bool = False
    classifier: Path | None = None


def supported_protocols(names: Iterable[str], data: DataSet) -> list[str]:
    """Return the named protocols that the data supports; some need labels."""
    return [name for name, p in protocols(names).items() if data.labelled or not p.labels]


def baselines(
    untrained: Task,
    data: DataSet,
    device: Device,
    pretrained: bool = False,
) -> list[Subject]:
    """Return the baselines that learnt features must beat: the raw input and the untrained network.

    Args:
        untrained: the task with its initial weights, on the device.
        data: the data.
        device: where and how to compute.
        pretrained: whether the initial weights are pretrained, which names the row.
    """
    name = PRETRAINED if pretrained else UNTRAINED
    subjects = [Subject.raw(data, device), Subject.of_task(untrained, data, device, name)]
    return [subject for subject in subjects if subject is not None]


def evaluate(
    subject: str | Path,
    protocol: Iterable[str] = ("knn", "linear"),
    with_baselines: bool = True,
    data: str | None = None,
    settings: Mapping[str, Any] | None = None,
    keep: bool = False,
) -> Evaluation:
    """Evaluate a finished run, or any timm model; add a run's scores to its `results.json`.

    Where these cannot be written, as in a folder that is read-only, a warning says so.

    Args:
        subject: a run directory, or ``timm:NAME``.
        protocol: the names of the protocols.
        with_baselines: whether to evaluate the raw input and the untrained network too.
        data: for a run, a labelled data set to transfer to, in place of its own; for a timm model,
            the data set (default: the digits).
        settings: for a run, settings of the machine (``train.device``, ``train.precision``,
            ``train.eval_batch_size``); for a timm model, any setting of the sections data, backbone and
            train, by dotted path.
        keep: for a run, whether to keep the classifier of the first protocol that has one, such as
            ``linear``, in the run's `classifier.safetensors`, for `ssl_zoo.predict`.

    Returns:
        The scores of each row by metric; the rows are the run's task or the model, then baselines. The
            attribute ``kept`` tells whether they were added to a run's results, ``classifier`` where a
            classifier is kept.

    Raises:
        UserError: `subject` is not a run or has no checkpoint, a protocol needs labels that the data
            lacks, or settings are wrong.
    """
    names, settings = list(protocols(protocol)), dict(settings or {})
    if str(subject).startswith(TIMM):
        values = {"backbone.name": str(subject)[len(TIMM) :], "data.source": data, **settings}
        if keep:
            raise UserError(f"--keep: {subject} is not a run, so there is no place for a classifier")
        return _evaluate_timm(load_encoder_config(values), names, with_baselines)
    run = Run.open(subject)
    keeper = _keeper(run, names, data) if keep else None
    return _evaluate_run(run, names, with_baselines, data, settings, keeper)


def _evaluate_timm(config: EncoderConfig, names: list[str], with_raw: bool) -> Evaluation:
    device = Device.choose(config.train)
    samples = load_data(config.data, device.device)
    with device.computing():
        subjects = [of_encoder(config, samples, device, f"{TIMM}{config.backbone.name}")]
        if with_raw and (raw := Subject.raw(samples, device)) is not None:
            subjects.append(raw)
        return Evaluation({s.name: score(s, names) for s in subjects})


def of_encoder(config: EncoderConfig, data: DataSet, device: Device, name: str) -> Subject:
    """Return the subject of the pooled features of a network before training."""
    encoder = device.place(build_encoder(config.backbone, data.spec, config.train.seed))
    return Subject.of_encoder(encoder, data, device, name, seed=config.train.seed)


def _keeper(run: Run, names: list[str], data: str | None) -> str:
    """Return the first protocol whose classifier can be kept in a run.

    Raises:
        UserError: there is none, or the run cannot be written.
    """
    file = run.path / CLASSIFIER_FILE
    check_output_file("--keep", file, {file.suffix: ()})
    keeper = next((name for name, p in protocols(names).items() if p.classifier is not None), None)
    if keeper is None:
        raise UserError(
            f"--keep: --protocol {','.join(names)} has no classifier to keep; add linear to it"
        )
    if file.is_file():
        with suppress(UserError):  # a file that cannot be read is no loss
            old, new = KeptClassifier.load(file).data, data or run.config().data.source
            if old != new:
                REPLACED(
                    f"{file}: the classifier of {old} will be replaced by that of {new}; copy it to "
                    "keep both, for predict --classifier FILE"
                )
    return keeper


def open_for_evaluation(
    run: Run, data: str | None, settings: Mapping[str, Any]
) -> tuple[RunConfig, DataSet, Device]:
    """Return the configuration of a run, samples as its network takes them, and the device.

    Args:
        run: the run.
        data: the source of the samples; None for the run's own.
        settings: settings of the machine, and of the section data for another source, by dotted path.

    Raises:
        UserError: there is no such data, it does not fit, or a setting cannot be changed.
    """
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
        return config, build_data(config, device.device), device
    spec = run.spec()
    section = changed.data.model_copy(update={"image_size": spec.size})
    samples = load_data(section, device.device)
    if not isinstance(samples.spec, ImageSpec):
        raise UserError(f"--data {data}: is {samples.spec.modality} data, but {run.path} takes images")
    # Normalised as in training; only the meaning of a mirror image is the new data's.
    return config, replace(samples, spec=replace(spec, mirror=samples.spec.mirror)), device


def _evaluate_run(
    run: Run,
    names: list[str],
    with_baselines: bool,
    data: str | None,
    settings: Mapping[str, Any],
    keeper: str | None,
) -> Evaluation:
    config, samples, device = open_for_evaluation(run, data, settings)
    with device.computing():
        task = device.place(restore_task(run, samples.spec))
        subject = Subject.of_task(task, samples, device, seed=config.train.seed)
        rows = Evaluation({config.task.name: score(subject, names)})
        if keeper is not None:
            rows.classifier = run.path / CLASSIFIER_FILE
            source = config.data.source if data is None else data
            scores = rows[config.task.name]
            _classifier(keeper, subject, task, source, scores).save(rows.classifier)
        if with_baselines:
            untrained = device.place(build_task(config, samples.spec))
            subjects = baselines(untrained, samples, device, config.backbone.pretrained)
            rows |= {s.name: score(s, names) for s in subjects}
    try:
        run.add_scores(rows, on=data if data != config.data.source else None)
        rows.kept = True
    except Unwritable as error:
        log.warning("the scores are not kept in %s: %s", run.results_file, error)
    return rows


def _classifier(name: str, subject: Subject, task: Task, source: str, scores: Scores) -> KeptClassifier:
    """Return the classifier of a protocol, with the facts about it."""
    protocol, data = known_protocols()[name], subject.data
    assert protocol.classifier is not None
    classifier = protocol.classifier(subject)
    classes = range(len(classifier.bias)) if data.classes is None else data.classes
    return KeptClassifier(
        classifier,
        classes=tuple(map(str, classes))[: len(classifier.bias)],
        data=source,
        protocol=name,
        scores={metric: scores[metric] for metric in protocol.metrics if metric in scores},
        spec=asdict(data.spec),
        weights=fingerprint(task),
    )
