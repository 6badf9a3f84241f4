"""Building the data, the encoder and the task of a configuration or a run."""

from __future__ import annotations

import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from ssl_zoo.backbones.build import create_encoder
from ssl_zoo.backbones.gradient_cache import cache_gradients
from ssl_zoo.backbones.inputs import input_spec
from ssl_zoo.config.schema import DataConfig, RunConfig
from ssl_zoo.data import DataSet, load
from ssl_zoo.data.summary import DataSummary
from ssl_zoo.errors import Unsuitable, UserError
from ssl_zoo.notices import Notice, hold_back_notices
from ssl_zoo.plugins.registry import registry
from ssl_zoo.runs.agreement import check_settings, data_difference
from ssl_zoo.runs.backbone import read_backbone
from ssl_zoo.runs.checkpoints import StateDict, state_dict_errors
from ssl_zoo.runs.run import Run
from ssl_zoo.runtime.defaults import seeded
from ssl_zoo.runtime.device import Device
from ssl_zoo.spec import Spec
from ssl_zoo.task import Task

log = logging.getLogger("ssl_zoo.data")

MIN_CLASS_SIZE = 2
"""Classes of fewer labelled samples on average are probably no classes."""

_DATA = Notice(
    "data",
    "The samples found: how many are trained on, held out and evaluated on, their classes, exact "
    "copies, and the files and folders that are not used.",
    "--data, data.holdout, data.groups, data.labels",
    at_once=True,
)


def build_data(
    config: RunConfig, device: torch.device, data: DataSet | None = None, *, fitted: bool = True
) -> DataSet:
    """Load the data of a configuration, for its task and its network.

    Args:
        config: the configuration.
        device: the device whose memory holds the samples, if they fit.
        data: the data of the configuration, if they are loaded already.
        fitted: as for `load_data`.

    Raises:
        UserError: there is no such source.
        Unsuitable: the data do not fit the task.
    """
    cls, name = registry.load_task(config.task.name), config.task.name
    if data is None:
        data = load_data(config.data, device, cls.modality, fitted=fitted)
    else:
        data = data.with_canvas(config.data.canvas)  # that of the run, which goes on
    if data.spec.modality != cls.modality:
        raise Unsuitable(
            f"data.source: task {name!r} takes {cls.modality} data, "
            f"but {config.data.source_text!r} has {data.spec.modality} data"
        )
    if "labels" in cls.needs and (data.bank.labels is None or len(data.bank.labels.unique()) < 2):
        problem = data.no_accuracy
        raise UserError(f"data.source: task {name!r} learns from labels, and {data.name} {problem}")
    data = _as_trained_on(data, cls)
    spec = input_spec(data.spec, config.backbone)
    return replace(data, spec=replace(spec, samples=len(data.train)))


def _as_trained_on(data: DataSet, cls: type[Task]) -> DataSet:
    """Return data with what a task trains on as train split: the labelled samples if it needs labels."""
    return replace(data, train=data.bank) if "labels" in cls.needs else data


def load_data(
    config: DataConfig, device: torch.device, modality: str = "image", *, fitted: bool = True
) -> DataSet:
    """Load the data of a configuration, from a source of a plugin or of the core.

    Args:
        config: the ``data`` section.
        device: the device whose memory holds the samples, if they fit.
        modality: the kind of data that is wanted, which decides how a file or folder is opened.
        fitted: whether anything is fitted to the data, as the line about them says.

    Raises:
        UserError: there is no such source.
    """
    with hold_back_notices():  # the other notices about the data follow the summary
        data = load(config, device, registry.collect("ssl_zoo_register_sources"), modality)
        summary = DataSummary.of(data)
        _DATA(summary.line(fitted), data=asdict(summary))
    number = sum(n > 0 for n in summary.classes.values())
    if number > max(1, len(data.bank) / MIN_CLASS_SIZE):
        log.warning(
            "%s: %d classes for %d labelled %s: if these are not classes, leave the labels out with "
            "--set data.labels=none", data.name, number, len(data.bank), summary.noun,
        )  # fmt: skip
    return data


def build_task(config: RunConfig, spec: Spec, *, restored: bool = False) -> Task:
    """Build the task with a new network.

    Args:
        config: the configuration; its seed and the source of its weights alone determine the weights.
        spec: the description of the samples.
        restored: whether a checkpoint will replace all weights, so that their source is not read.

    Raises:
        UserError: there is no such backbone for such data, or its weights do not fit.
    """
    cls = registry.load_task(config.task.name)
    with seeded(config.train.seed):
        backbone = config.backbone.untrained() if restored else config.backbone
        encoder = create_encoder(backbone, spec, cls.any_size)
        if config.train.cached_gradients:
            cache_gradients(encoder, config.train.part_size)
        task = cls(encoder, config.task.options(cls.Options), spec)
        if config.train.grad_checkpointing:  # not before, as tasks try the encoder in eval mode
            encoder.checkpoint_gradients()
        return task


def restore_task(
    run: Run, spec: Spec, data: DataSet | None = None, snapshot: Path | None = None
) -> Task:
    """Build the task of a run with the weights of its checkpoint, on the CPU, in evaluation mode.

    Args:
        run: the run.
        spec: the description of the data; the number of its samples is that of the run.
        data: the run's own data, where it is evaluated on these: a warning tells if they have changed.
        snapshot: a file of the run's snapshots, whose weights the exported encoder has then; None for
            those of the checkpoint.

    Raises:
        UserError: the run has no checkpoint that fits, or its task, backbone or data were edited.
    """
    state = run.checkpoints.load()
    config = run.config()
    if data is not None:
        _warn_of_other_samples(state, config, data)
    check_settings(run, state, config, ignored=("train.",))  # which evaluation does not use
    spec = replace(spec, samples=state.get("samples", spec.samples))  # those of the run, as banks have
    task = build_task(config, spec, restored=True)
    with state_dict_errors(run.checkpoints.file):
        task.load_state_dict(state["task"])
        if state["ema"] is not None:
            task.exported_encoder.load_state_dict(state["ema"])
    if snapshot is not None:
        with state_dict_errors(snapshot):
            task.exported_encoder.exported_network.load_state_dict(read_backbone(snapshot)[2])
    return task.eval()


def _warn_of_other_samples(state: StateDict, config: RunConfig, data: DataSet) -> None:
    """Warn if data are not those that a checkpoint was trained and evaluated on."""
    data = _as_trained_on(data, registry.load_task(config.task.name))
    if (difference := data_difference(state, config, data)) is None:
        return
    if data.facts.held_out:
        log.warning(
            "%s: %s; samples that are held out now may have been trained on, and accuracies too high",
            data.name, difference,
        )  # fmt: skip
    else:
        log.warning("%s: %s; what is measured is not of the run's samples", data.name, difference)


_CHOSEN = ("precision", "channels_last", "threads", "compile")
"""The settings of `train` that the device decides."""


def record_choices(config: RunConfig, data: DataSet, device: Device) -> RunConfig:
    """Return the configuration with the settings chosen here, so that a resumed run keeps them."""
    computing = {name: getattr(device, name) for name in _CHOSEN}
    storage: dict[str, Any] = {}
    if config.data.cache is None:
        storage["resident"] = "always" if data.train.resident else "never"
    if data.train.canvas is not None:
        storage["canvas"] = data.train.canvas.side
    return config.model_copy(
        update={
            "train": config.train.model_copy(update=computing),
            "data": config.data.model_copy(update=storage),
        }
    )
