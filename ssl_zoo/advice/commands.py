"""The commands that follow from advice, whole, so that they can be pasted."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from shlex import join
from typing import Any

from ssl_zoo.advice.verdict import Verdict
from ssl_zoo.comparison import Cell, Sweep
from ssl_zoo.comparison.cells import UntrainedCell
from ssl_zoo.config.schema import DataConfig
from ssl_zoo.config.weights import BACKBONE_FILE
from ssl_zoo.config.yaml import parse_yaml
from ssl_zoo.data import DataSet
from ssl_zoo.errors import UserError
from ssl_zoo.evaluation.scoring import of_encoder
from ssl_zoo.notices import silence
from ssl_zoo.plugins.registry import registry
from ssl_zoo.runs.backbone import write_backbone
from ssl_zoo.runs.records import file_exists
from ssl_zoo.runtime.device import Device
from ssl_zoo.sizes import parse_size, write_size

LABELLED = "LABELLED"
"""Stands for labelled samples, which the user must add."""
_FLAGS = {
    "data.image_size": "--image-size",
    "backbone.name": "--backbone",
    "backbone.weights": "--from",
    "train.batch_size": "--batch-size",
    "train.device": "--device",
    "train.precision": "--precision",
    "train.seed": "--seed",
}
"""The flags of settings that `advise` has flags for; the others are given with ``--set``."""


def next_commands(
    sweep: Sweep, request: Mapping[str, Any], verdict: Verdict, data: DataSet, device: Device
) -> list[tuple[str, str]]:
    """Return what to do next, as commands with a remark on each.

    A frozen network that is to be used is written into the folder of its row, so that the commands that
    use it need no settings of the network.

    Args:
        sweep: the comparison, which is done.
        request: what was asked for, as in `AdviceRecord.request`.
        verdict: the verdict.
        data: the data.
        device: where the network is built.
    """
    if verdict.row is None:
        asked = {**request, "labels": [*request["labels"], LABELLED]}
        return [(_repeat(asked, request["minutes"]), "with labels")]
    cell = next(cell for cell in sweep.cells if cell.row == verdict.row)
    longer = 4 * request["minutes"]
    if verdict.decision == "train":
        config = ["--config", f"{cell.path}/config.yaml", "--minutes", f"{longer:g}"]
        return [
            (_command("train", *config), "train it for longer"),
            (_export(str(cell.path)), "or take it as it is"),
        ]
    commands = _use(cell, sweep.config.data, request["settings"], data, device)
    if verdict.decision == "cannot be told" or not commands:
        commands.append((_repeat(request, longer), "the same with more time, or more labels"))
    return commands


def _command(name: str, *words: str) -> str:
    return join(["ssl-zoo", *registry.arguments(), name, *words])


def _export(weights: str) -> str:
    return _command("export", weights, "--to", BACKBONE_FILE)


def _repeat(request: Mapping[str, Any], minutes: float) -> str:
    """Return the command of a request with other minutes."""
    settings = dict(request["settings"])
    source = settings.pop("data.source", [])
    words = [] if request["file"] is None else ["--config", request["file"]]
    for option, values in (
        ("--data", [source] if isinstance(source, str) else source),
        ("--labels", request["labels"]),
    ):
        words += [word for value in values for word in (option, value)]
    for option in ("tasks", "frozen"):
        if request.get(option):
            words += [f"--{option}", ",".join(request[option])]
    return _command("advise", *words, *_options(settings), "--minutes", f"{minutes:g}")


def _options(settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield the options of `advise` that give settings, by dotted path."""
    for path, value in settings.items():
        if path == "backbone.pretrained":
            yield "--pretrained" if value else "--no-pretrained"
        elif path in _FLAGS and value is not None:
            yield from (
                _FLAGS[path],
                write_size(parse_size(value)) if path == "data.image_size" else str(value),
            )
        else:
            yield from _set(path, value)


def _set(path: str, value: Any) -> tuple[str, str]:
    """Return the option that gives any setting; JSON is YAML too."""
    try:
        plain = isinstance(value, str) and parse_yaml(value, path) == value
    except UserError:
        plain = False
    return "--set", f"{path}={value if plain else json.dumps(value, ensure_ascii=False)}"


def _use(
    cell: Cell, config: DataConfig, settings: Mapping[str, Any], data: DataSet, device: Device
) -> list[tuple[str, str]]:
    """Return how to use a network as it is; nothing if it is untrained, or no network."""
    frozen = isinstance(cell, UntrainedCell) and cell.pretrained
    weights = _write_frozen(cell, data, device) if frozen else None
    if weights is None:
        return []
    sources = [word for source in config.sources for word in ("--data", source)]
    changed = dict(_changed(config, data.spec.data_settings()))
    own = [word for path, value in changed.items() for word in _set(path, value)]
    on = list(_options({k: v for k, v in settings.items() if k == "train.device"}))
    use = [str(weights), *sources, *own, *on]
    commands = [
        (_command("embed", *use, "-o", "features.npz"), "its features of your data"),
        (_export(str(weights)), "or the network, for use without ssl-zoo"),
    ]
    if data.labelled:
        exact = _options({k: v for k, v in settings.items() if k == "train.precision"})
        commands.append((_command("eval", *use, *exact), "its scores beside those of the baselines"))
    return commands


def _changed(config: DataConfig, determined: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the settings of a section data that differ from the defaults, by dotted path.

    Args:
        config: the section.
        determined: what the network determines, as `Spec.data_settings`; this is left out.
    """
    default, values = DataConfig().model_dump(mode="json"), config.model_dump(mode="json")
    fixed = {*determined, "source"} - {"options"}
    for name, value in values.items():
        if name == "options":
            known = determined.get("options", {})
            yield from ((f"data.options.{k}", v) for k, v in value.items() if k not in known)
        elif name not in fixed and value != default[name]:
            yield f"data.{name}", value


def _write_frozen(cell: Cell, data: DataSet, device: Device) -> Path | None:
    """Write the network of a row, with its weights and the samples as it was fed with them.

    Returns:
        The file; None if the weights can no longer be had.
    """
    file = cell.path / BACKBONE_FILE
    if file_exists(file):
        return file
    try:
        with silence():
            subject = of_encoder(cell.config, data, device, cell.row)
    except UserError:
        return None
    assert subject.encoder is not None
    write_backbone(file, subject.encoder, cell.config.backbone, subject.data.spec)
    return file
