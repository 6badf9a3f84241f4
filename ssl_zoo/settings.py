"""From a file, flags and ``--set`` to a configuration: each layer overrides the ones before it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from ssl_zoo.config import BUDGETS, RunConfig, TaskConfig
from ssl_zoo.errors import UserError, did_you_mean
from ssl_zoo.plugins import load_task, tasks

_SECTIONS = tuple(RunConfig.model_fields)


@dataclass
class _Layer:
    """Settings from one place, by section and field."""

    origin: str
    values: dict[str, dict[str, Any]]


class _Loader(yaml.SafeLoader):
    """YAML without tags that make objects, which reads 1e-3 as a number, as YAML 1.2 does."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def load_config(
    file: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    sets: Sequence[str] = (),
) -> RunConfig:
    """Fill the configuration: defaults, then the task's recipe, the file, the overrides, the sets.

    Args:
        file: YAML with the sections task, data, backbone and train.
        overrides: values by dotted path, such as ``{"train.epochs": 10}``.
        sets: texts of the form ``path=value``, the value in YAML.

    Raises:
        UserError: anything about them is wrong; it names the place, the path and the reason.
    """
    layers = [
        *([_read(Path(file))] if file is not None else []),
        _Layer("", _nested(overrides or {}, "")),
        *(_parse_set(text) for text in sets),
    ]
    name = _task_name(layers)
    cls = load_task(name)
    layers.insert(0, _Layer(f"recipe of {name}", {"train": dict(cls.recipe)}))
    merged, origins = _merge(layers)
    options = {k: v for k, v in merged.get("task", {}).items() if k != "name"}
    valid = _validate(cls.Options, options, "task", origins).model_dump()
    sections: dict[str, Any] = {"task": TaskConfig(name=name, **valid)}
    for section, field in RunConfig.model_fields.items():
        model = field.annotation
        if section == "provenance":
            sections[section] = merged.get(section, {})
        elif section != "task" and isinstance(model, type) and issubclass(model, BaseModel):
            sections[section] = _validate(model, merged.get(section, {}), section, origins)
    return RunConfig(**sections)


def dump_config(config: RunConfig) -> str:
    """The configuration as YAML that `load_config` reads."""
    dumped: str = yaml.safe_dump(
        config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100
    )
    return dumped


def _parse(text: str, origin: str) -> Any:
    """Read YAML, with any fault in one line."""
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{origin}{line}: is not valid YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError, TypeError) as error:
        reason = (str(error) or "nested too deeply").splitlines()[0]
        raise UserError(f"{origin}: is not valid YAML: {reason}") from error


def _read(file: Path) -> _Layer:
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"--config {file}: is no text in UTF-8") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--config {file}: cannot be read: {reason}") from error
    origin = f"--config {file}"
    given = _parse(text, origin)
    if given is None:
        given = {}
    if not isinstance(given, dict):
        raise UserError(
            f"{origin}: must hold the sections {', '.join(_SECTIONS[:-1])}, not a {type(given).__name__}"
        )
    layer = _Layer(origin, {})
    for section, values in given.items():
        _check_section(str(section), origin)
        if values is not None and not isinstance(values, dict):
            raise UserError(f"{origin}: {section}: must hold settings, not {_shown(values)}")
        layer.values[str(section)] = {str(k): v for k, v in (values or {}).items()}
    return layer


def _parse_set(text: str) -> _Layer:
    origin = f"--set {text}"
    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        raise UserError(f"{origin}: must have the form section.name=value")
    return _Layer("--set", _nested({path.strip(): _parse(value, origin)}, "--set"))


def _nested(flat: Mapping[str, Any], origin: str) -> dict[str, dict[str, Any]]:
    """Dotted paths to sections; what lies deeper than a field is a dictionary in it."""
    values: dict[str, dict[str, Any]] = {}
    for path, value in flat.items():
        section, *rest = path.split(".")
        _check_section(section, origin)
        if not rest or not all(rest):
            raise UserError(f"{_prefix(origin)}{path}: must have the form {section}.name")
        for part in reversed(rest[1:]):
            value = {part: value}
        values.setdefault(section, {})[rest[0]] = value
    return values


def _check_section(section: str, origin: str) -> None:
    if section not in _SECTIONS:
        raise UserError(
            f"{_prefix(origin)}{section}: is no section.{did_you_mean(section, _SECTIONS)} "
            f"There are: {', '.join(_SECTIONS[:-1])}"
        )


def _task_name(layers: Sequence[_Layer]) -> str:
    names = [layer.values["task"]["name"] for layer in layers if "name" in layer.values.get("task", {})]
    if not names:
        known = ", ".join(tasks()) or "none is installed"
        raise UserError(f"task.name: which task? Give --task NAME; there are: {known}")
    if not isinstance(names[-1], str):
        raise UserError(f"task.name: must be a name, not {_shown(names[-1])}")
    return names[-1]


def _merge(
    layers: Sequence[_Layer],
) -> tuple[dict[str, dict[str, Any]], dict[tuple[str, str], str]]:
    """The last value of each field, and where it comes from."""
    merged: dict[str, dict[str, Any]] = {}
    origins: dict[tuple[str, str], str] = {}
    for layer in layers:
        for section, values in layer.values.items():
            target = merged.setdefault(section, {})
            if section == "train" and any(values.get(b) is not None for b in BUDGETS):
                # A budget replaces an earlier one of another kind.
                for budget in BUDGETS:
                    target.pop(budget, None)
            for field, value in values.items():
                old = target.get(field)
                both = isinstance(old, dict) and isinstance(value, dict)
                target[field] = {**old, **value} if both and old is not None else value
                origins[section, field] = layer.origin
    return merged, origins


def _validate(
    model: type[BaseModel],
    values: dict[str, Any],
    section: str,
    origins: Mapping[tuple[str, str], str],
) -> BaseModel:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        path = [str(part) for part in first["loc"]]
        field = path[0] if path else next((f for f in BUDGETS if f in values), "")
        prefix = _prefix(origins.get((section, field), ""))
        where = ".".join([section, *path])
        if first["type"] == "extra_forbidden":
            known = [*model.model_fields, *(["name"] if section == "task" else [])]
            hint = did_you_mean(field, known) or f" There are: {', '.join(known)}"
            raise UserError(f"{prefix}{where}: there is no such setting.{hint}") from error
        reason = first["msg"].removeprefix("Value error, ")
        shown = "" if not path else f", not {_shown(first['input'])}"
        raise UserError(f"{prefix}{where}: {reason[:1].lower()}{reason[1:]}{shown}") from error


def _prefix(origin: str) -> str:
    return f"{origin}: " if origin else ""


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
