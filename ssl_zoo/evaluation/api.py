"""Evaluating a finished run, a backbone in a file, or any timm model."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ssl_zoo import distributed
from ssl_zoo.config.effects import report_untrained
from ssl_zoo.config.errors import SettingError
from ssl_zoo.config.layers import SettingsSource
from ssl_zoo.config.load import load_encoder_config
from ssl_zoo.config.schema import BackboneConfig, DataConfig, EncoderConfig, RunConfig
from ssl_zoo.config.source_names import plain_source
from ssl_zoo.config.weights import TIMM, read_header
from ssl_zoo.data import DataSet
from ssl_zoo.errors import Unwritable, UserError
from ssl_zoo.evaluation.classifier import CLASSIFIER_FILE, KeptClassifier, fingerprint
from ssl_zoo.evaluation.protocol import Scores, known_protocols, protocols, standard_protocols
from ssl_zoo.evaluation.reading import Gain, measure_gains, standard_correctness, write_gains
from ssl_zoo.evaluation.scoring import (
    UNTRAINED,
    baselines,
    of_encoder,
    report_no_scores,
    score,
    scored_protocols,
)
from ssl_zoo.evaluation.subject import Subject
from ssl_zoo.notices import Notice
from ssl_zoo.runs.backbone import read_spec
from ssl_zoo.runs.build import build_data, load_data, restore_task
from ssl_zoo.runs.records import file_exists
from ssl_zoo.runs.run import Run
from ssl_zoo.runtime.defaults import torch_defaults
from ssl_zoo.runtime.device import Device
from ssl_zoo.runtime.files import check_output_file
from ssl_zoo.spec import Spec
from ssl_zoo.task import Task
from ssl_zoo.text import shorten_repr

log = logging.getLogger("ssl_zoo.evaluation")

REPLACED = Notice(
    "replaced-classifier",
    "eval --keep replaces the classifier of other data in the run.",
    "copy classifier.safetensors first; predict --classifier takes the copy",
)
PRECISION = Notice(
    "evaluation-precision",
    "A network that is not a run's is evaluated in the fastest precision, which can change its scores.",
    "--precision fp32",
)
_MACHINE = ("train.device", "train.precision", "train.channels_last", "train.eval_batch_size")


class Evaluation(dict[str, Scores]):
    """The scores of each row by metric.

    Attributes:
        kept: whether the scores are in the `results.json` of a run.
        classifier: the file of the classifier, if it was to be kept.
        gains: how much more accurate a run is than the best of its baselines, by metric.
        noun: the plural noun for samples.
    """

    kept: bool = False
    classifier: Path | None = None
    gains: Sequence[Gain] = ()
    noun: str = "samples"


@torch_defaults()
def evaluate(
    subject: str | Path,
    protocol: Iterable[str] | None = None,
    with_baselines: bool = True,
    data: str | Sequence[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    keep: bool = False,
) -> Evaluation:
    """Evaluate a finished run, a backbone, or any timm model; add a run's scores to its `results.json`.

    Where these cannot be written, as in a folder that is read-only, a warning says so. Processes that
    torchrun has started evaluate together.

    Args:
        subject: a run directory, a file of its ``snapshots``, a ``backbone.safetensors`` alone, or
            ``timm:NAME``. A snapshot is scored as the run is, but its scores are not added.
        protocol: the names of the protocols; None for the standard ones, kNN, linear and health, and
            what a plugin adds for data such as the run's.
        with_baselines: whether to evaluate the raw input and the untrained network too.
        data: for a run, a labelled data set to transfer to, in place of its own; otherwise the data set
            (default: the digits). Several folders, globs and lists of files make one data set.
        settings: for a run, settings of the machine (``train.device``, ``train.precision``,
            ``train.eval_batch_size``) and, with `data`, of the section data; otherwise any setting of
            the sections data, backbone and train, by dotted path.
        keep: for a run, whether to keep the classifier of the first protocol that has one, such as
            ``linear``, in the run's `classifier.safetensors`, for `ssl_zoo.predict`.

    Returns:
        The scores of each row by metric; the rows are the run's task, the file or the model (with its
        file of weights, or "untrained"), then baselines. The attribute ``kept`` tells whether they
        were added to a run's results, ``classifier`` where a classifier is kept.

    Raises:
        UserError: `subject` is not a run or has no checkpoint, a protocol needs labels that the data
            lacks, or settings are wrong.
    """
    names = None if protocol is None else list(protocols(protocol))
    source = None if data is None else plain_source(data)
    settings = dict(settings or {})
    with distributed.processes(_device(subject, settings)):
        return _evaluate(subject, names, with_baselines, source, settings, keep)


def _device(subject: str | Path, settings: Mapping[str, Any]) -> str:
    """Return the name of the device, which decides how several processes communicate."""
    run = Run.of_snapshot(subject) or Run(subject)
    own = run.config().train.device if file_exists(run.config_file) else "auto"
    return str(settings.get("train.device") or own)


def _evaluate(
    subject: str | Path,
    names: list[str] | None,
    with_baselines: bool,
    data: str | list[str] | None,
    settings: dict[str, Any],
    keep: bool,
) -> Evaluation:
    """Evaluate as `evaluate` does, in the processes that have joined."""
    if keep and (str(subject).startswith(TIMM) or file_exists(Path(subject))):
        raise UserError(f"--keep: {subject} is not a run, so there is no place for a classifier")
    if str(subject).startswith(TIMM):
        values = {"backbone.name": str(subject)[len(TIMM) :], "data.source": data}
        return _evaluate_network(load_encoder_config(values, settings=settings), names, with_baselines)
    if (of_snapshot := Run.of_snapshot(subject)) is not None:
        return _evaluate_run(of_snapshot, names, with_baselines, data, settings, snapshot=Path(subject))
    if file_exists(Path(subject)):
        return _evaluate_file(str(subject), data, settings, names, with_baselines)
    run = Run.open(subject)
    keeper = _keeper(run, names or standard_protocols(), data) if keep else None
    return _evaluate_run(run, names, with_baselines, data, settings, keeper)


def _evaluate_file(
    file: str,
    data: str | list[str] | None,
    settings: dict[str, Any],
    names: list[str] | None,
    with_baselines: bool,
) -> Evaluation:
    """Evaluate the backbone in a file of ssl-zoo, on samples as it was trained on."""
    header = read_header(file)
    if "backbone" not in header:
        raise UserError(
            f"{file}: ssl-zoo did not write it, so its network must be named: "
            f"ssl-zoo eval {TIMM}NAME --from {file}"
        )
    spec = read_spec(file) if "spec" in header else None
    base = [] if spec is None else [SettingsSource({"data": spec.data_settings()}, file)]
    values = {"backbone.weights": file, "data.source": data}
    config = load_encoder_config(values, settings=settings, base=base)
    return _evaluate_network(config, names, with_baselines, file, spec)


def _evaluate_network(
    config: EncoderConfig,
    names: list[str] | None,
    with_baselines: bool,
    row: str | None = None,
    spec: Spec | None = None,
) -> Evaluation:
    """Evaluate a network before training, and the baselines: the raw input, and random weights.

    Args:
        config: the network and the data.
        names: the names of the protocols; None for the standard ones.
        with_baselines: whether to evaluate the raw input, and the network with random weights if it
            starts trained.
        row: the name of the network's row; None for that of a timm model.
        spec: the samples that the network was trained on; None for the images of the data.
    """
    report_untrained(config)
    backbone = config.backbone
    if not backbone.starts_trained:
        log.warning(
            "%s is evaluated with random weights; --pretrained or --from FILE gives it trained ones",
            f"{TIMM}{backbone.name}",
        )
    device = Device.choose(config.train)
    if config.train.precision == "auto" and device.precision != "fp32":
        PRECISION(f"features are computed in {device.precision}; --precision fp32 is exact, and slower")
    if spec is None:
        samples = load_data(config.data, device.device)
    else:
        samples = load_adopted(config.data, spec, device)
    named = names is not None
    if names is None:
        names = standard_protocols(samples.spec.modality)
    for name, protocol in protocols(names).items():
        protocol.check(samples, name)
    with device.computing():
        subjects = [of_encoder(config, samples, device, row or _row(backbone))]
        if named:
            report_no_scores(subjects[0], names)
        if with_baselines and (raw := Subject.raw(samples, device)) is not None:
            subjects.append(raw)
        if with_baselines and backbone.starts_trained:
            untrained = config.model_copy(update={"backbone": backbone.untrained()})
            subjects.append(of_encoder(untrained, samples, device, UNTRAINED))
        names = scored_protocols(names, subjects[0])
        return Evaluation({s.name: score(s, names) for s in subjects})


def _row(backbone: BackboneConfig) -> str:
    """Return the name of a timm model's row, which tells whose weights it has."""
    if backbone.pretrained:
        return f"{TIMM}{backbone.name}"
    return f"{TIMM}{backbone.name} ({backbone.weights or 'untrained'})"


def load_adopted(config: DataConfig, spec: Spec, device: Device, *, fitted: bool = True) -> DataSet:
    """Load data as a network that was trained on other samples takes them.

    Args:
        config: the section ``data``, with the `data_settings` of the other samples.
        spec: the description of the samples that the network was trained on.
        device: the device whose memory holds the samples, if they fit.
        fitted: whether anything is fitted to the samples.

    Raises:
        UserError: there is no such data, or the network cannot take it.
    """
    try:
        samples = load_data(config, device.device, spec.modality, fitted=fitted)
    except SettingError as error:
        if not error.path.startswith("data.options"):
            raise
        raise UserError(
            f"--data {config.source_text}: the network takes {spec.noun} that are read with "
            f"data.options={shorten_repr(config.options)}: {error.reason}"
        ) from error
    try:
        return replace(samples, spec=spec.adopt(samples.spec))
    except UserError as error:
        raise UserError(f"--data {config.source_text}: {error}") from error


def _keeper(run: Run, names: list[str], data: str | list[str] | None) -> str:
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
            new = run.config().data.source_text if data is None else _text(data)
            old = KeptClassifier.load(file).data
            if old != new:
                REPLACED(
                    f"{file}: the classifier of {old} will be replaced by that of {new}; copy it to "
                    "keep both, for predict --classifier FILE"
                )
    return keeper


def _text(data: str | list[str]) -> str:
    """Return a source as a text."""
    return DataConfig(source=data).source_text


def open_for_evaluation(
    run: Run, data: str | list[str] | None, settings: Mapping[str, Any], *, fitted: bool = True
) -> tuple[RunConfig, DataSet, Device]:
    """Return the configuration of a run, samples as its network takes them, and the device.

    Args:
        run: the run.
        data: the source of the samples; None for the run's own.
        settings: settings of the machine, and of the section data for another source, by dotted path.
        fitted: whether anything is fitted to the samples.

    Raises:
        UserError: there is no such data, it does not fit, or a setting cannot be changed.
    """
    config = run.config()
    spec = run.spec() if data not in (None, config.data.source) else None
    determined = {} if spec is None else {"data": spec.data_settings()}
    for path in settings:
        of_other = spec is not None and path.startswith("data.") and path not in _paths(determined)
        if path not in _MACHINE and not of_other:
            raise UserError(
                f"{path}: cannot be changed for an existing run ({run.path}); give only --data and "
                f"{', '.join(_MACHINE)}"
            )
    base = [SettingsSource(determined, str(run.path))]
    changed = load_encoder_config({"data.source": data}, settings=settings, base=base)
    names_set = [path.partition(".")[2] for path in settings if path in _MACHINE]
    machine = {name: getattr(changed.train, name) for name in names_set}
    device = Device.choose(config.train.model_copy(update=machine))
    if spec is None:
        return config, build_data(run.with_inputs(config), device.device, fitted=fitted), device
    return config, load_adopted(changed.data, spec, device, fitted=fitted), device


def _paths(settings: Mapping[str, Any], start: str = "") -> Iterator[str]:
    """Yield the dotted path of each value of nested settings."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _paths(value, f"{start}{name}.")
        else:
            yield f"{start}{name}"


def _evaluate_run(
    run: Run,
    names: list[str] | None,
    with_baselines: bool,
    data: str | list[str] | None,
    settings: Mapping[str, Any],
    keeper: str | None = None,
    snapshot: Path | None = None,
) -> Evaluation:
    config, samples, device = open_for_evaluation(run, data, settings)
    named = names is not None
    if names is None:
        names = standard_protocols(samples.spec.modality)
    for name, protocol in protocols(names).items():
        protocol.check(samples, name)
    on = None if data in (None, config.data.source) else _text(data)  # other data than its own
    with device.computing():
        task = device.place(restore_task(run, samples.spec, samples if on is None else None, snapshot))
        subject = Subject.of_task(task, samples, device, seed=config.train.seed)
        if named:
            report_no_scores(subject, names)
        row = config.task.name if snapshot is None else f"{config.task.name} ({snapshot.stem})"
        rows = Evaluation({row: score(subject, names)})
        if keeper is not None:
            rows.classifier = run.path / CLASSIFIER_FILE
            source = config.data.source_text if data is None else _text(data)
            scores = rows[config.task.name]
            kept = _classifier(keeper, subject, task, source, scores)
            with distributed.failing_together():
                if distributed.rank() == 0:
                    kept.save(rows.classifier)
        if with_baselines:
            known = replace(samples, spec=task.spec)  # with the number of samples trained on
            others = baselines(config, known, device)
            shared = scored_protocols(names, subject)
            rows |= {s.name: score(s, shared) for s in others}
            correct = {s.name: standard_correctness(s, names) for s in others}
            rows.gains = measure_gains(standard_correctness(subject, names), correct)
            rows.noun = samples.spec.noun
    if snapshot is not None:
        return rows
    try:
        run.add_scores(rows, on=on)
        if rows.gains and on is None:
            run.write_results({"gains": write_gains(rows.gains)})
        rows.kept = True
    except Unwritable as error:
        log.warning("the scores are not kept in %s: %s", run.results_file, error)
    return rows


def _classifier(name: str, subject: Subject, task: Task, source: str, scores: Scores) -> KeptClassifier:
    """Return the classifier of a protocol, with the facts about it."""
    protocol, data = known_protocols()[name], subject.data
    assert protocol.classifier is not None
    with distributed.alone():
        classifier = protocol.classifier(subject)
    classes = range(len(classifier.bias)) if data.classes is None else data.classes
    return KeptClassifier(
        classifier,
        classes=tuple(map(str, classes))[: len(classifier.bias)],
        data=source,
        protocol=name,
        scores={metric: scores[metric] for metric in protocol.metrics if metric in scores},
        spec=json.loads(data.spec.to_header()),
        weights=fingerprint(task),
    )
