"""Layers of settings: read from a file, flags and ``--set``, and merged by their precedence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from ssl_zoo.config.errors import SettingError, field_names
from ssl_zoo.config.hints import comment_in, form_hint
from ssl_zoo.config.plain import plain_value
from ssl_zoo.config.schema import BUDGETS, OLD_NAMES, SECTIONS, SETTING_PATHS
from ssl_zoo.config.yaml import parse_yaml, read_yaml
from ssl_zoo.text import did_you_mean, shorten_repr

RECIPE_SECTIONS = {"data": "source", "backbone": "name", "train": None}
"""The sections of a recipe, and the field that replaces the whole section if a user sets it."""
_ALTERNATIVES = {"train": BUDGETS, "backbone": ("pretrained", "weights")}
"""Settings of which one replaces the others of earlier layers, by section."""
_OF_ALTERNATIVES = {"train": (), "backbone": ("mean", "std", "interpolation")}
"""Settings that belong to one of those, and are replaced with it."""
Sections = dict[str, dict[str, Any]]


@dataclass
class Layer:
    """Settings of one precedence, and the origin of each.

    Attributes:
        values: the settings by section and field.
        origins: the origin of each in error messages, by section and field.
    """

    values: Sections = field(default_factory=dict)
    origins: dict[tuple[str, str], str] = field(default_factory=dict)

    def put(self, section: str, name: str, value: Any, origin: str) -> None:
        """Set a field; merge a dictionary into an existing one."""
        name, target = OLD_NAMES.get(section, {}).get(name, name), self.values.setdefault(section, {})
        target[name] = _merged(target.get(name), value)
        self.origins[section, name] = origin


@dataclass(frozen=True)
class SettingsSource:
    """Settings from another source, such as the file of a comparison.

    Attributes:
        sections: the settings by section, as in a file.
        origin: the name of the source in error messages.
    """

    sections: Mapping[str, Any]
    origin: str


def read_layers(
    file: str | Path | None,
    overrides: Mapping[str, Any] | None,
    settings: Mapping[str, Any] | None,
    sets: Sequence[str],
    flags: Mapping[str, str] | None,
    base: Sequence[SettingsSource],
) -> list[Layer]:
    """Return the layers of settings, the lowest precedence first.

    Args:
        file: YAML with settings by section; None for no file.
        overrides: values by dotted path; None changes nothing.
        settings: values by dotted path; None is null.
        sets: texts of the form ``path=value``, the value in YAML.
        flags: names of overrides in error messages, by dotted path.
        base: settings that the file overrides; later ones override earlier ones.

    Raises:
        UserError: the file cannot be read, or settings do not have the form of a section's.
    """
    layers = [read_layer(source.sections, source.origin) for source in base]
    if file is not None:
        layers.append(read_layer(read_yaml(file), f"--config {file}"))
    given = {path: value for path, value in (overrides or {}).items() if value is not None}
    return [*layers, _by_path(given, flags or {}), _by_path(settings or {}, {}), _sets(sets)]


def read_layer(sections: Mapping[str, Any], origin: str) -> Layer:
    """Return the settings of sections as one layer.

    Args:
        sections: the settings by section, as in a file.
        origin: their name in error messages.

    Raises:
        SettingError: there is no such section, or it holds something else than plain settings.
    """
    layer = Layer()
    for section, values in sections.items():
        _check_section(section, origin)
        if values is not None and not isinstance(values, Mapping):
            hint = f", such as {section}.name" if "name" in field_names(section) else ""
            raise SettingError(section, f"must hold settings{hint}, not {shorten_repr(values)}", origin)
        for name, value in (values or {}).items():
            layer.put(section, str(name), plain_value(value, f"{section}.{name}", origin), origin)
    return layer


def _by_path(values: Mapping[str, Any], flags: Mapping[str, str]) -> Layer:
    layer = Layer()
    for path, value in values.items():
        _put(layer, path, value, flags.get(path, ""))
    return layer


def _sets(sets: Sequence[str]) -> Layer:
    layer = Layer()
    for text in sets:
        origin = f"--set {text}" if len(text) <= 80 else f"--set {text[:77]}..."
        path, equals, value = text.partition("=")
        if not equals:
            reason = f"must have the form section.name=value{form_hint(text)}"
            raise SettingError("", reason, origin)
        if comment_in(value):
            reason = "what follows a # is a comment in YAML; put the value in double quotes"
            raise SettingError(path.strip(), reason, origin)
        if not value.strip():
            raise SettingError(path.strip(), "has no value; write null for none", origin)
        _put(layer, path.strip(), parse_yaml(value, origin), origin)
    return layer


def _put(layer: Layer, path: str, value: Any, origin: str) -> None:
    """Set the field at a dotted path; parts after the field become nested dictionaries."""
    section, *rest = path.split(".")
    _check_section(section, origin)
    if not rest or not all(rest):
        raise SettingError(path, f"must have the form {section}.name", origin)
    for part in reversed(rest[1:]):
        value = {part: value}
    layer.put(section, rest[0], plain_value(value, f"{section}.{rest[0]}", origin), origin)


def _check_section(section: str, origin: str) -> None:
    if section not in SECTIONS:
        path = f" Did you mean {SETTING_PATHS[section]!r}?" if section in SETTING_PATHS else ""
        hint = did_you_mean(section, SECTIONS) or path or f" There are: {', '.join(SECTIONS)}"
        raise SettingError("", f"there is no section {section!r}.{hint}", origin)


def take_back_nulls(layers: Sequence[Layer], models: Mapping[str, type[BaseModel]]) -> None:
    """Remove each setting that is null and cannot be none from its layer and from those before it."""
    for number, layer in enumerate(layers):
        for section, values in layer.values.items():
            fields = models[section].model_fields if section in models else {}
            nulls = [name for name, value in values.items() if value is None and name in fields]
            for name in nulls:
                if not takes(type(None), fields[name].annotation):
                    for earlier in layers[: number + 1]:
                        earlier.values.get(section, {}).pop(name, None)


def recipe_layer(recipe: SettingsSource, layers: Sequence[Layer]) -> Layer:
    """Return a recipe, without its data or backbone if a layer names another one.

    Raises:
        SettingError: a section is none of a recipe's.
    """
    for section in recipe.sections:
        if section not in RECIPE_SECTIONS:
            known = ", ".join(RECIPE_SECTIONS)
            hint = did_you_mean(str(section), RECIPE_SECTIONS) or f" There are: {known}"
            raise SettingError("", f"there is no section {section!r} in a recipe.{hint}", recipe.origin)
    return unreplaced_layer(recipe, layers)


def unreplaced_layer(recipe: SettingsSource, layers: Sequence[Layer]) -> Layer:
    """Return the settings of any section, without the data or backbone if a layer names another one."""
    replaced = {
        section
        for section, name in RECIPE_SECTIONS.items()
        for layer in layers
        if name in layer.values.get(section, {})
    }
    kept = {s: values for s, values in recipe.sections.items() if s not in replaced}
    return read_layer(kept, recipe.origin)


def merge_layers(layers: Sequence[Layer]) -> Layer:
    """Return the last value of each field with its origin."""
    merged = Layer()
    for layer in layers:
        for section, names in _ALTERNATIVES.items():
            if any(layer.values.get(section, {}).get(name) not in (None, False) for name in names):
                for name in (*names, *_OF_ALTERNATIVES[section]):
                    merged.values.get(section, {}).pop(name, None)
        for section, values in layer.values.items():
            for name, value in values.items():
                merged.put(section, name, value, layer.origins[section, name])
    return merged


def _merged(old: Any, new: Any) -> Any:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    return {**old, **{key: _merged(old.get(key), value) for key, value in new.items()}}


def takes(kind: type, annotation: Any) -> bool:
    """Return whether values of a type, bool or that of None, are among those of an annotation."""
    if annotation in (kind, Any, object) or isinstance(annotation, kind):
        return True
    return any(takes(kind, part) for part in get_args(annotation))
