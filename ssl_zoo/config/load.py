"""Merge a file, flags and ``--set`` into one configuration; each layer overrides those before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from ssl_zoo.config.errors import SettingError, setting_error
from ssl_zoo.config.hints import is_none
from ssl_zoo.config.layers import (
    Layer,
    SettingsSource,
    merge_layers,
    read_layer,
    read_layers,
    recipe_layer,
    take_back_nulls,
    takes,
    unreplaced_layer,
)
from ssl_zoo.config.plain import plain_value
from ssl_zoo.config.pretrained import as_trained
from ssl_zoo.config.schema import (
    SECTION_MODELS,
    SECTIONS,
    DataConfig,
    EncoderConfig,
    RunConfig,
    TaskConfig,
)
from ssl_zoo.config.shipped import shipped_configs
from ssl_zoo.config.weights import check_network, network_settings, weights_are_gone
from ssl_zoo.config.yaml import PlainDumper, parse_yaml, read_yaml
from ssl_zoo.errors import UserError
from ssl_zoo.notices import Notice
from ssl_zoo.plugins.registry import registry
from ssl_zoo.sizes import format_size, parse_size
from ssl_zoo.text import locate_error, shorten_repr

SIZE = Notice(
    "image-size-of-weights",
    "A network that starts from weights of ssl-zoo takes images of the size that these were trained on.",
    "--image-size",
)
Model = TypeVar("Model", bound=BaseModel)


def load_config(
    file: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    sets: Sequence[str] = (),
    *,
    flags: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
    base: Sequence[SettingsSource] = (),
    complete: bool = False,
) -> RunConfig:
    """Merge settings: defaults, the recipe of the task, base, file, overrides, settings, sets.

    For some tasks on bundled data the recipe is that of the data, a file of ``configs/data``, in place
    of the paper's budget and optimiser, which are for many more samples.

    The value null is none where a setting can be none; otherwise it takes back what earlier layers have
    set, so that the recipe's value or the default holds.

    A budget, or a source of weights, replaces one of another kind in an earlier layer. Weights of
    ssl-zoo (``backbone.weights``) bring the settings of their network and of its samples, such as the
    size of images or a tokenizer, which replace those of the recipe.

    Args:
        file: YAML with the sections task, data, backbone and train.
        overrides: values by dotted path, such as ``{"train.epochs": 10}``; None changes nothing.
        sets: texts of the form ``path=value``, the value in YAML.
        flags: names of overrides in error messages, such as ``{"train.epochs": "--epochs"}``.
        settings: values by dotted path, as `parse_sets` returns them; None is null.
        base: settings that the file overrides; later ones override earlier ones.
        complete: whether they are an existing run's, whose file of weights may be gone by now.

    Raises:
        UserError: a setting is wrong; the message names its origin, its path and the reason.
    """
    layers = read_layers(file, overrides, settings, sets, flags, base)
    name, origin = _task_name(layers)
    try:
        cls = registry.load_task(name)
    except UserError as error:
        raise SettingError("", str(error), origin) from error
    take_back_nulls(layers, {**SECTION_MODELS, "task": cls.Options})
    network = None if complete else _network(layers, cls.modality)
    named = layers if network is None else [network, *layers]
    given = merge_layers(named)
    options = _validate(cls.Options, _option_values(given), "task", given.origins)
    recipe_source = SettingsSource(cls.recipe_for(options), f"the recipe of task {name!r}")
    recipe = recipe_layer(recipe_source, named)
    of_data = _data_recipe(name, recipe, named)
    recipe.values = {s: values for s, values in recipe.values.items() if s not in of_data.values}
    merged = merge_layers([recipe, of_data, *named])
    sections = _sections(merged, network, complete)
    sections["task"] = _task(name, cls.Options, _option_values(merged), merged.origins)
    sections["provenance"] = merged.values.get("provenance", {})
    return RunConfig(**sections)


def parse_sets(sets: Sequence[str]) -> dict[str, Any]:
    """Return the values of texts of the form ``path=value``, by path.

    Raises:
        UserError: a text does not have this form, or its value is not valid YAML.
    """
    values = {}
    for text in sets:
        path, equals, value = text.partition("=")
        if not equals:
            raise SettingError("", "must have the form name=value", text)
        values[path.strip()] = parse_yaml(value, text)
    return values


def load_encoder_config(
    overrides: Mapping[str, Any] | None = None,
    sets: Sequence[str] = (),
    *,
    flags: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
    base: Sequence[SettingsSource] = (),
    recipe: SettingsSource | None = None,
) -> EncoderConfig:
    """Merge settings like `load_config`, but without a task, to evaluate a network without training.

    Args:
        overrides: as for `load_config`, as are `sets`, `flags`, `settings` and `base`.
        sets: likewise.
        flags: likewise.
        settings: likewise.
        base: likewise.
        recipe: the data and the backbone that tasks compared have in common in their recipes.

    Raises:
        UserError: a setting is wrong, or belongs to a task.
    """
    layers = read_layers(None, overrides, settings, sets, flags, base)
    take_back_nulls(layers, SECTION_MODELS)
    network = _network(layers)
    named = layers if network is None else [network, *layers]
    merged = merge_layers([*([] if recipe is None else [recipe_layer(recipe, named)]), *named])
    for section in ("task", "provenance"):
        for name in merged.values.get(section, {}):
            raise SettingError(
                f"{section}.{name}",
                "there is no task here; leave it out",
                merged.origins[section, name],
            )
    return EncoderConfig(**_sections(merged, network))


def _network(layers: Sequence[Layer], modality: str | None = None) -> Layer | None:
    """Return the settings of the network that the weights in the layers belong to, if ssl-zoo's.

    Those of its samples are among them if they are of the modality, or if none is given. Weights that
    are gone are no error where the network is named: building it reports them.

    Raises:
        SettingError: the weights cannot be read.
    """
    merged = merge_layers(layers)
    given = merged.values.get("backbone", {})
    path = given.get("weights")
    if not isinstance(path, str) or ("name" in given and weights_are_gone(path)):
        return None
    settings = network_settings(path, merged.origins["backbone", "weights"], modality)
    return None if settings is None else read_layer(settings, path)


def _data_recipe(task: str, recipe_of_task: Layer, layers: Sequence[Layer]) -> Layer:
    """Return what suits a task on the data of the layers; nothing, unless these are bundled."""
    data = merge_layers([recipe_of_task, *layers]).values.get("data", {})
    source = data.get("source", DataConfig().source)
    file = shipped_configs().get(f"data/{source}")
    recipe = {} if file is None else read_yaml(file)
    if task not in recipe.get("tasks", ()):
        return Layer()
    own = recipe.get("overrides", {}).get(task, {})
    sections = {**own, "train": {**recipe["train"], **own.get("train", {})}}
    return unreplaced_layer(SettingsSource(sections, f"the recipe of the data {source!r}"), layers)


def _sections(merged: Layer, network: Layer | None, complete: bool = False) -> dict[str, Any]:
    if network is not None:
        _complete(merged, network)
    sections: dict[str, Any] = {
        section: _validate(model, merged.values.get(section, {}), section, merged.origins)
        for section, model in SECTION_MODELS.items()
        if section != "task"
    }
    if network is not None:
        size = sections["data"].image_size
        check_network(sections["backbone"], size, network.values["backbone"], merged.origins)
    elif not complete:
        both = as_trained(sections["backbone"], sections["data"])
        sections["backbone"], sections["data"] = both
    return sections


def _complete(merged: Layer, network: Layer) -> None:
    """Take what later layers leave open (null) from the settings of the network; say the image size."""
    for section, values in network.values.items():
        for name, value in values.items():
            if merged.values[section].get(name) is None:
                merged.put(section, name, value, network.origins[section, name])
    source = merged.origins.get(("data", "image_size"))
    if source == network.origins.get(("data", "image_size")) is not None:
        size = format_size(parse_size(merged.values["data"]["image_size"]))
        SIZE(f"images of {size} pixels, as {source} was trained on (--image-size changes it)")


def dump_config(config: RunConfig) -> str:
    """Return the configuration as YAML that `load_config` reads."""
    values = config.model_dump(mode="json")
    dumped: str = yaml.dump(
        {section: values[section] for section in SECTIONS},
        Dumper=PlainDumper,
        sort_keys=False,
        allow_unicode=True,
        width=100,
    )
    return dumped


def _task_name(layers: Sequence[Layer]) -> tuple[str, str]:
    """Return the task's name and the origin of this setting."""
    for layer in reversed(layers):
        if "name" in layer.values.get("task", {}):
            name, origin = layer.values["task"]["name"], layer.origins["task", "name"]
            if not isinstance(name, str):
                raise SettingError("task.name", f"must be a name, not {shorten_repr(name)}", origin)
            return name, origin
    known = ", ".join(registry.tasks()) or "none is installed"
    raise SettingError("task.name", f"is required (--task NAME); there are: {known}")


def _option_values(layer: Layer) -> dict[str, Any]:
    """Return the settings of a task without its name."""
    return {key: value for key, value in layer.values.get("task", {}).items() if key != "name"}


# ---- validation


def _task(
    name: str,
    model: type[BaseModel],
    values: dict[str, Any],
    origins: Mapping[tuple[str, str], str],
) -> TaskConfig:
    """Return the section of a task with all its options, as they are read again from a run's file."""
    options = _validate(model, values, "task", origins)
    origin = f"the defaults of task {name!r}"
    try:
        plain = {
            key: plain_value(value, f"task.{key}", origin)
            for key, value in options.model_dump(mode="json").items()
        }
    except ValueError as error:
        raise SettingError("", f"cannot be written to a file: {error}", origin) from error
    # pydantic does not validate defaults; a run with a wrong one could not be read again.
    sources = {("task", key): origin for key in plain} | dict(origins)
    return TaskConfig.of(name, plain, _validate(model, plain, "task", sources))


def _validate(
    model: type[Model],
    values: dict[str, Any],
    section: str,
    origins: Mapping[tuple[str, str], str],
) -> Model:
    for name, value in values.items():
        info = model.model_fields.get(name)
        if info is not None and (reason := _misread(value, info.annotation)):
            origin = origins.get((section, name), "")
            raise SettingError(f"{section}.{name}", reason, origin)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise setting_error(error, model, values, section, origins) from error
    except Exception as error:  # from a plugin's validator
        raise SettingError(section, f"cannot be validated: {locate_error(error)}") from error


def _misread(value: Any, annotation: Any) -> str:
    """Return why a value is not what pydantic would take it for, "" if it is."""
    if isinstance(value, bool) and not takes(bool, annotation):  # pydantic: 0 or 1
        takes_text = str in (annotation, *get_args(annotation))
        hint = "; put a text such as yes or off in double quotes" if takes_text else ""
        return f"must not be {str(value).lower()}{hint}"
    if is_none(value) and annotation == (str | None):  # pydantic: text
        return f"is the text {value!r}; write null for no value"
    return ""
