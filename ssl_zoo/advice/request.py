"""From what a user asks to the settings of a comparison: data, tasks, the network and its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ssl_zoo.backbones.build import build_encoder
from ssl_zoo.comparison.comparability import SCRATCH
from ssl_zoo.comparison.config import Comparison
from ssl_zoo.comparison.load import load_comparison, with_tasks
from ssl_zoo.comparison.networks import frozen_backbone, frozen_networks
from ssl_zoo.comparison.selection import learns_from_labels, loadable
from ssl_zoo.config.presets import PRESETS
from ssl_zoo.config.schema import DataConfig
from ssl_zoo.config.shipped import shipped_configs
from ssl_zoo.config.source_names import plain_source
from ssl_zoo.config.yaml import read_yaml
from ssl_zoo.data import DataSet
from ssl_zoo.data.source import modality_of
from ssl_zoo.data.sources import known_sources
from ssl_zoo.errors import UserError
from ssl_zoo.evaluation.scoring import PRETRAINED
from ssl_zoo.notices import Notice
from ssl_zoo.plugins.registry import registry
from ssl_zoo.text import error_line, printable

PROTOCOLS = ["knn", "linear", "label-curve", "health"]
"""The protocols, the first of which is evaluated during training too."""
KNN_POINTS = 2
"""The number of evaluations during training."""
LABELLED_HOLDOUT = 0.5
"""The share of few labelled samples that is held out, as an accuracy needs samples of its own."""
MAX_BATCH, MIN_BATCH, MIN_STEPS_PER_PASS = 256, 8, 20
"""Batches are as large as leaves this many steps in a pass over the data, within these limits."""
HOLDOUT = Notice(
    "advise-holdout",
    "Of labelled samples, advise holds out half to evaluate on, unless they have a test split.",
    "--set data.holdout=0.2, or a test folder",
)
BATCH = Notice(
    "advise-batch",
    f"advise takes batches of at most {MAX_BATCH} samples, smaller ones for few samples.",
    "--batch-size",
)


def requested_comparison(
    file: str | Path | None,
    settings: Mapping[str, Any],
    labels: Sequence[str],
    tasks: Sequence[str] | None,
    frozen: Sequence[str] | None = None,
) -> Comparison:
    """Return the comparison of all rows that are wanted, whatever time they take.

    Without a file it is the shipped ``configs/advise/MODALITY.yaml`` or, where there is none, all tasks
    of the modality that need neither labels nor a pretrained teacher.

    Args:
        file: a YAML file like that of a comparison; None for the shipped one.
        settings: settings by dotted path, among them the data.
        labels: the sources of labelled samples, if these are others than the data.
        tasks: the names of the tasks; None for those of the file.
        frozen: further trained networks to score as they are; None for those of the file.

    Raises:
        UserError: a setting is invalid.
    """
    chosen = dict(settings)
    if labels:
        chosen["data.source"] = _joined(chosen.get("data.source", DataConfig().source), labels)
        chosen.setdefault("data.holdout", LABELLED_HOLDOUT)
    modality = _modality(chosen, tasks)
    shipped = shipped_configs().get(f"advise/{modality}") if file is None else None
    values: dict[str, Any] = {}
    if (source := file or shipped) is not None:
        values = read_yaml(source, "the settings of a comparison, such as tasks")
    named = chosen.keys() & {"backbone.name", "backbone.weights"}
    if shipped is not None and named:
        values.pop("backbone", None)
    if shipped is not None and (named or chosen.get("backbone.pretrained") is False):
        values.pop("frozen", None)
    name = chosen.get("backbone.name")
    if name is not None and name not in PRESETS and "backbone.weights" not in chosen:
        chosen.setdefault("backbone.pretrained", True)
    if tasks is not None:
        values = with_tasks(values, tasks)
    if frozen is not None:
        values["frozen"] = list(frozen)
    values.setdefault("tasks", _default_tasks(modality))
    values.setdefault("baselines", ["raw", "random-init"])
    values.setdefault("protocols", PROTOCOLS)
    values["train"] = {"knn_points": KNN_POINTS, **values.get("train", {})}
    values["seeds"] = 1
    values["set"] = {**values.get("set", {}), **chosen}
    comparison = load_comparison(None, values)
    if comparison.encoder_config(0).backbone.starts_trained and not comparison.scratch:
        comparison = comparison.model_copy(update={"scratch": comparison.task_names()})
    return comparison


def with_half_held_out(comparison: Comparison, data: DataSet) -> Comparison:
    """Return the comparison with half of the samples held out, if they have labels and no test split.

    A share that is set stays as it is.

    Args:
        comparison: the comparison.
        data: its data, loaded, of which less may be held out.
    """
    usual = comparison.encoder_config(0).data.holdout is None
    if not (usual and data.labelled and data.facts.held_out):
        return comparison
    return comparison.model_copy(update={"set": {**comparison.set, "data.holdout": LABELLED_HOLDOUT}})


def report_holdout(labels: Sequence[str], data: DataSet) -> None:
    """Give a notice that half of the labelled samples are held out, which nobody asked for.

    Args:
        labels: the sources of labelled samples; empty if these are in the data.
        data: the data, loaded.
    """
    listed = printable(", ".join(labels)) or data.name
    HOLDOUT(f"{LABELLED_HOLDOUT:.0%} of {listed} is held out to evaluate on, by class")


def _joined(data: str | Sequence[str], labels: Sequence[str]) -> str | list[str]:
    """Return the sources of samples without labels, marked as such, and with labels, as one."""
    known = known_sources(registry.collect("ssl_zoo_register_sources"))
    sources = []
    for source in [data] if isinstance(data, str) else data:
        marked = f"unlabelled:{source}"
        takes = any(of.takes(marked) for of in known.values()) and not source.startswith("unlabelled:")
        sources.append(marked if takes else source)
    return plain_source([*sources, *labels])


def _modality(settings: Mapping[str, Any], tasks: Sequence[str] | None) -> str:
    """Return the kind of data: that of the tasks, or of the data."""
    for name in tasks or ():
        return registry.load_task(name).modality
    known = known_sources(registry.collect("ssl_zoo_register_sources"))
    return modality_of(settings.get("data.source", DataConfig().source), known)


def _default_tasks(modality: str) -> list[str]:
    """Return the tasks of a modality that need neither labels nor a pretrained teacher.

    Raises:
        UserError: there is none.
    """
    classes = loadable(registry.tasks())
    names = [
        name
        for name, cls in classes.items()
        if cls.modality == modality and not learns_from_labels(cls) and not cls.prerequisites
    ]
    if not names:
        raise UserError(f"--tasks: no task on {modality} data is installed; install a plugin with one")
    return names


def with_batch_size(comparison: Comparison, samples: int, noun: str) -> Comparison:
    """Return the comparison with a batch size for the samples to train on, unless it has one."""
    if "batch_size" in comparison.train or "train.batch_size" in comparison.set:
        return comparison
    size = MAX_BATCH
    while size > MIN_BATCH and samples // size < MIN_STEPS_PER_PASS:
        size //= 2
    BATCH(f"batches of {size} {noun}, as there are {samples:,} to train on (--batch-size)")
    return comparison.model_copy(update={"train": {**comparison.train, "batch_size": size}})


def without_missing_weights(comparison: Comparison, data: DataSet) -> tuple[Comparison, list[str]]:
    """Return the comparison without pretrained weights that cannot be had, and what is unanswered then.

    The tasks start from random weights then, with the settings of their rows that do so anyway, or with
    their options alone, and without variants; of a network that nobody named, the default one takes the
    place. Of the further networks, those that cannot be had, or that cannot take the data, are left out.

    Raises:
        UserError: the network to start from cannot be built for other reasons.
    """
    comparison, unanswered = _without_missing_start(comparison, data)
    usable = list(comparison.frozen)
    for row, source in frozen_networks(comparison).items():
        try:
            build_encoder(frozen_backbone(comparison, source), data.spec, 0)
        except UserError as error:
            usable.remove(source)
            name = row.removeprefix(f"{PRETRAINED}-")
            unanswered.append(
                f"Whether {name} as it is suffices cannot be answered: {error_line(error)}"
            )
    return comparison.model_copy(update={"frozen": usable}), unanswered


def _without_missing_start(comparison: Comparison, data: DataSet) -> tuple[Comparison, list[str]]:
    """Return the comparison without pretrained weights to start from, if they cannot be had."""
    backbone = comparison.encoder_config(0).backbone
    if not backbone.starts_trained:
        return comparison, [] if comparison.frozen else [
            "Whether a pretrained network suffices cannot be answered: none is named; give one with "
            "--backbone NAME --pretrained, or a file of weights with --from FILE"
        ]
    try:
        build_encoder(backbone, data.spec, 0)
    except UserError as error:
        if not str(error).startswith("backbone.pretrained:"):
            raise
        chosen = {path: v for path, v in comparison.set.items() if path != "backbone.pretrained"}
        named = {"pretrained": False} if "backbone.name" in chosen else None
        section = {} if named is None else {**comparison.backbone, **named}
        given = comparison.overrides
        overrides = {
            task: given.get(f"{task}{SCRATCH}", {"task": given.get(task, {}).get("task", {})})
            for task in comparison.task_names()
        }
        changes = {
            "set": chosen,
            "backbone": section,
            "overrides": overrides,
            "scratch": [],
            "variants": {},
        }
        values = {**comparison.model_dump(exclude_unset=True), **changes}
        return load_comparison(None, values), [
            f"Whether {backbone.name} suffices, or is worth going on from, cannot be answered: its "
            "weights are not on this machine and could not be downloaded; give a file with --from FILE, "
            "or connect"
        ]
    return comparison, []
