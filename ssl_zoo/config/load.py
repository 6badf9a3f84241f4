"""From a file, flags and ``--set`` to a configuration: each layer overrides the ones before it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from ssl_zoo.config.errors import SettingError, describe_validation_error, field_names, origin_prefix
from ssl_zoo.config.schema import (
    BUDGETS,
    SECTION_MODELS,
    SECTIONS,
    SETTING_PATHS,
    EncoderConfig,
    RunConfig,
    TaskConfig,
)
from ssl_zoo.config.yaml import PlainDumper, parse_yaml, read_yaml
from ssl_zoo.errors import UserError
from ssl_zoo.plugins.registry import registry
from ssl_zoo.text import did_you_mean, locate_error, shorten_repr

_RECIPES = {"data": "source", "backbone": "name", "train": None}
"""The sections of a recipe, and the field that, given by a user, makes the section meaningless."""
_DEEPEST = 20
_LARGEST = 2**63 - 1
Sections = dict[str, dict[str, Any]]


@dataclass
class _Layer:
    """Settings of one precedence, by section and field, and where each field comes from."""

    values: Sections = field(default_factory=dict)
    origins: dict[tuple[str, str], str] = field(default_factory=dict)

    def put(self, section: str, name: str, value: Any, origin: str) -> None:
        """Set a field; a dictionary is merged into the one that is there."""
        target = self.values.setdefault(section, {})
        target[name] = _merged(target.get(name), value)
        self.origins[section, name] = origin


@dataclass(frozen=True)
class Given:
    """Settings that come neither from a run's own file nor from flags.

    Attributes:
        sections: by section the settings, as a file holds them.
        origin: what errors call them.
    """

    sections: Mapping[str, Any]
    origin: str


def load_config(
    file: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    sets: Sequence[str] = (),
    *,
    flags: Mapping[str, str] | None = None,
    base: Sequence[Given] = (),
) -> RunConfig:
    """Fill the configuration: defaults, then the task's recipe, base, file, overrides, sets.

    A budget replaces one of another kind in a layer before it.

    Args:
        file: YAML with the sections task, data, backbone and train.
        overrides: values by dotted path, such as ``{"train.epochs": 10}``; None leaves a field alone.
        sets: texts of the form ``path=value``, the value in YAML.
        flags: what errors call an override, such as ``{"train.epochs": "--epochs"}``.
        base: settings that the file overrides, the later ones the earlier.

    Raises:
        UserError: anything about them is wrong; it names the place, the path and the reason.
    """
    layers = _layers(file, overrides, sets, flags, base)
    name, origin = _task_name(layers)
    try:
        cls = registry.load_task(name)
    except UserError as error:
        raise SettingError(f"{origin_prefix(origin)}{error}") from error
    merged = _merge([_recipe(name, cls.recipe, layers), *layers])
    options = {key: value for key, value in merged.values.get("task", {}).items() if key != "name"}
    sections = _sections(merged)
    sections["task"] = TaskConfig(name=name, **_options(name, cls.Options, options, merged.origins))
    sections["provenance"] = merged.values.get("provenance", {})
    return RunConfig(**sections)


def parse_sets(sets: Sequence[str]) -> dict[str, Any]:
    """Texts of the form ``path=value`` as values by path.

    Raises:
        UserError: one has not this form, or its value is no YAML.
    """
    found = {}
    for text in sets:
        path, equals, value = text.partition("=")
        if not equals:
            raise SettingError(f"{text}: must have the form name=value")
        found[path.strip()] = parse_yaml(value, text)
    return found


def load_encoder_config(
    overrides: Mapping[str, Any] | None = None,
    sets: Sequence[str] = (),
    *,
    flags: Mapping[str, str] | None = None,
    base: Sequence[Given] = (),
) -> EncoderConfig:
    """The same without a task, for a network that is evaluated as it is.

    Raises:
        UserError: anything about them is wrong, or they have settings of a task.
    """
    merged = _merge(_layers(None, overrides, sets, flags, base))
    for section in ("task", "provenance"):
        for name in merged.values.get(section, {}):
            prefix = origin_prefix(merged.origins[section, name])
            raise SettingError(f"{prefix}{section}.{name}: there is no task here; leave it out")
    return EncoderConfig(**_sections(merged))


def _layers(
    file: str | Path | None,
    overrides: Mapping[str, Any] | None,
    sets: Sequence[str],
    flags: Mapping[str, str] | None,
    base: Sequence[Given],
) -> list[_Layer]:
    layers = [_layer(given.sections, given.origin) for given in base]
    if file is not None:
        layers.append(_layer(read_yaml(file), f"--config {file}"))
    return [*layers, _overrides(overrides or {}, flags or {}), _sets(sets)]


def _sections(merged: _Layer) -> dict[str, Any]:
    return {
        section: _validate(model, merged.values.get(section, {}), section, merged.origins)
        for section, model in SECTION_MODELS.items()
        if section != "task"
    }


def dump_config(config: RunConfig) -> str:
    """The configuration as YAML that `load_config` reads."""
    values = config.model_dump(mode="json")
    dumped: str = yaml.dump(
        {section: values[section] for section in SECTIONS},
        Dumper=PlainDumper,
        sort_keys=False,
        allow_unicode=True,
        width=100,
    )
    return dumped


# ---- reading a layer


def _layer(sections: Mapping[str, Any], origin: str) -> _Layer:
    layer = _Layer()
    for section, values in sections.items():
        _check_section(section, origin)
        if values is not None and not isinstance(values, Mapping):
            hint = f", such as {section}.name" if "name" in field_names(section) else ""
            raise SettingError(
                f"{origin}: {section}: must hold settings{hint}, not {shorten_repr(values)}"
            )
        for name, value in (values or {}).items():
            layer.put(section, str(name), _plain(value, f"{origin}: {section}.{name}"), origin)
    return layer


def _overrides(overrides: Mapping[str, Any], flags: Mapping[str, str]) -> _Layer:
    layer = _Layer()
    for path, value in overrides.items():
        if value is not None:
            _put(layer, path, value, flags.get(path, ""))
    return layer


def _sets(sets: Sequence[str]) -> _Layer:
    layer = _Layer()
    for text in sets:
        origin = f"--set {text}" if len(text) <= 80 else f"--set {text[:77]}..."
        path, equals, value = text.partition("=")
        if not equals:
            raise SettingError(f"{origin}: must have the form section.name=value")
        _put(layer, path.strip(), parse_yaml(value, origin), origin)
    return layer


def _put(layer: _Layer, path: str, value: Any, origin: str) -> None:
    """Set what a dotted path names; what lies deeper than a field is a dictionary in it."""
    section, *rest = path.split(".")
    _check_section(section, origin)
    if not rest or not all(rest):
        raise SettingError(f"{origin_prefix(origin)}{path}: must have the form {section}.name")
    for part in reversed(rest[1:]):
        value = {part: value}
    layer.put(section, rest[0], _plain(value, f"{origin_prefix(origin)}{section}.{rest[0]}"), origin)


def _check_section(section: str, origin: str) -> None:
    if section not in SECTIONS:
        near = f" Did you mean {SETTING_PATHS[section]!r}?" if section in SETTING_PATHS else ""
        hint = did_you_mean(section, SECTIONS) or near or f" There are: {', '.join(SECTIONS)}"
        raise SettingError(f"{origin_prefix(origin)}there is no section {section!r}.{hint}")


def _plain(value: Any, what: str, depth: int = 0) -> Any:
    """A value made of what YAML can write again: text, finite numbers, lists, dictionaries of text.

    Raises:
        SettingError: it holds something else.
    """
    if depth > _DEEPEST:
        raise SettingError(f"{what}: is nested too deeply")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, os.PathLike | str):
        return str(value)
    if isinstance(value, int | float):
        if isinstance(value, int) and abs(value) > _LARGEST:
            raise SettingError(f"{what}: is too large a number")
        if not math.isfinite(value):
            raise SettingError(f"{what}: must be a finite number, not {shorten_repr(value)}")
        return int(value) if isinstance(value, int) else float(value)
    if isinstance(value, list | tuple):
        return [_plain(item, f"{what}.{i}", depth + 1) for i, item in enumerate(value)]
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise SettingError(f"{what}: has a key that is no text: {shorten_repr(key)}")
        return {str(key): _plain(item, f"{what}.{key}", depth + 1) for key, item in value.items()}
    raise SettingError(f"{what}: cannot be of type {type(value).__name__}: {shorten_repr(value)}")


# ---- putting layers together


def _recipe(name: str, recipe: Mapping[str, Any], layers: Sequence[_Layer]) -> _Layer:
    """A task's recipe, without its source or backbone where a layer names another one."""
    origin = f"the recipe of task {name!r}"
    for section in recipe:
        if section not in _RECIPES:
            hint = did_you_mean(str(section), _RECIPES) or f" There are: {', '.join(_RECIPES)}"
            raise SettingError(f"{origin}: there is no section {section!r} in a recipe.{hint}")
    named = {s for s, field in _RECIPES.items() for layer in layers if field in layer.values.get(s, {})}
    return _layer(
        {section: values for section, values in recipe.items() if section not in named}, origin
    )


def _task_name(layers: Sequence[_Layer]) -> tuple[str, str]:
    """The task's name, and where it comes from."""
    for layer in reversed(layers):
        if "name" in layer.values.get("task", {}):
            name, origin = layer.values["task"]["name"], layer.origins["task", "name"]
            if not isinstance(name, str):
                raise SettingError(
                    f"{origin_prefix(origin)}task.name: must be a name, not {shorten_repr(name)}"
                )
            return name, origin
    known = ", ".join(registry.tasks()) or "none is installed"
    raise SettingError(f"task.name: which task? Give --task NAME; there are: {known}")


def _merge(layers: Sequence[_Layer]) -> _Layer:
    """The last value of each field, and where it comes from."""
    merged = _Layer()
    for layer in layers:
        if any(layer.values.get("train", {}).get(budget) is not None for budget in BUDGETS):
            for budget in BUDGETS:
                merged.values.get("train", {}).pop(budget, None)
        for section, values in layer.values.items():
            for name, value in values.items():
                merged.put(section, name, value, layer.origins[section, name])
    return merged


def _merged(old: Any, new: Any) -> Any:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    return {**old, **{key: _merged(old.get(key), value) for key, value in new.items()}}


# ---- validation


def _options(
    name: str,
    model: type[BaseModel],
    values: dict[str, Any],
    origins: Mapping[tuple[str, str], str],
) -> dict[str, Any]:
    """All the options of a task, as plain values."""
    options = _validate(model, values, "task", origins)
    origin = f"the defaults of task {name!r}"
    try:
        plain = {key: _plain(value, f"{origin}: task.{key}")
                 for key, value in options.model_dump(mode="json").items()}  # fmt: skip
    except ValueError as error:
        raise SettingError(f"{origin} cannot be written to a file: {error}") from error
    # Defaults are not validated as they are taken; a run with a bad one could not be read back.
    _validate(model, plain, "task", {("task", key): origin for key in plain} | dict(origins))
    return plain


def _validate(
    model: type[BaseModel],
    values: dict[str, Any],
    section: str,
    origins: Mapping[tuple[str, str], str],
) -> BaseModel:
    for name, value in values.items():
        info = model.model_fields.get(name)
        if isinstance(value, bool) and info is not None and not _takes_bool(info.annotation):
            prefix = origin_prefix(origins.get((section, name), ""))  # pydantic would read it as 0 or 1
            raise SettingError(f"{prefix}{section}.{name}: must not be {str(value).lower()}")
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise SettingError(describe_validation_error(error, model, values, section, origins)) from error
    except Exception as error:  # a validator of a plugin's
        raise SettingError(f"{section}: cannot be validated: {locate_error(error)}") from error


def _takes_bool(annotation: Any) -> bool:
    if annotation in (bool, Any, object) or isinstance(annotation, bool):
        return True
    return any(map(_takes_bool, get_args(annotation)))
