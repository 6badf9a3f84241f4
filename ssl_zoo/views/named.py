"""Transforms by name, with validated parameters: augmentations that are composed in a configuration."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from functools import cache
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic_core import InitErrorDetails, PydanticCustomError

from ssl_zoo.text import did_you_mean, shorten_repr
from ssl_zoo.views.random import Normalise
from ssl_zoo.views.transform import RandomTransform

Step = dict[str, dict[str, Any]]
"""A transform: its name, and the parameters that are not left at their defaults."""
Steps = tuple[Step, ...]
"""Transforms that are applied one after another."""
FILLED_IN = ("size", "spec")
"""The parameters that a task gives: the size of the result, and the description of the images."""


@cache
def named_transforms() -> dict[str, type[RandomTransform[Any]]]:
    """Return the transforms of `ssl_zoo.views` by name, such as ``gaussian_blur`` for `GaussianBlur`.

    Normalisation is not among them, as tasks end with it anyway.
    """
    from ssl_zoo import views

    members: list[Any] = [getattr(views, name) for name in views.__all__]
    classes = [cls for cls in members if isinstance(cls, type) and issubclass(cls, RandomTransform)]
    return {
        re.sub(r"(?<=[a-z])(?=[A-Z])", "_", cls.__name__).lower(): cls
        for cls in classes
        if cls is not Normalise and dataclasses.is_dataclass(cls)
    }


@cache
def parameters(name: str) -> type[BaseModel]:
    """Return the model of the parameters of a transform, without those that are `FILLED_IN`."""
    cls = named_transforms()[name]
    types = get_type_hints(cls, include_extras=True)
    fields: dict[str, Any] = {
        field.name: (types[field.name], ... if field.default is dataclasses.MISSING else field.default)
        for field in _fields(cls)
        if not _is_filled_in(field)
    }
    config = ConfigDict(extra="forbid", allow_inf_nan=False)
    return create_model(cls.__name__, __config__=config, **fields)


def parse_views(value: Any) -> Steps | tuple[Steps, ...] | None:
    """Validate transforms as a configuration has them.

        parse_views(["random_quarter_turn", {"gaussian_blur": {"p": 0.5}}])

    Args:
        value: a list of names, and of mappings from a name to parameters; or a list of such lists,
            one for each view; or None.

    Raises:
        ValidationError: there is no such transform or parameter, or a parameter has a wrong value.
    """
    if value is None:
        return None
    if not isinstance(value, list | tuple):
        raise ValueError("must be a list of transforms, such as [random_resized_crop, gaussian_blur]")
    if value and all(isinstance(item, list | tuple) for item in value):
        return tuple(_steps(steps, (i,)) for i, steps in enumerate(value))
    return _steps(value, ())


def named_in(views: Steps | tuple[Steps, ...] | None) -> set[str]:
    """Return the names of the transforms in validated `views`."""
    steps = [step for part in views or () for step in (part if isinstance(part, tuple) else (part,))]
    return {name for step in steps for name in step}


def build_transform(name: str, given: dict[str, Any], **filled_in: Any) -> RandomTransform[Any]:
    """Return the transform of a step.

    Args:
        name: its name.
        given: the parameters that differ from its defaults.
        filled_in: a value for each of `FILLED_IN`.
    """
    cls = named_transforms()[name]
    taken = [field.name for field in _fields(cls) if _is_filled_in(field)]
    return cls(**{key: filled_in[key] for key in taken}, **given)


def _fields(cls: Any) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(cls)


def _is_filled_in(field: dataclasses.Field[Any]) -> bool:
    return field.name in FILLED_IN and field.default is dataclasses.MISSING


def _steps(steps: Sequence[Any], location: tuple[int, ...]) -> Steps:
    return tuple(_step(step, (*location, i)) for i, step in enumerate(steps))


def _step(step: Any, location: tuple[int, ...]) -> Step:
    """Return a transform with its validated parameters.

    Raises:
        ValidationError: it is wrong; the error has the location in the list.
    """
    if isinstance(step, str):
        step = {step: None}
    if not isinstance(step, dict) or len(step) != 1:
        reason = "must be the name of a transform, or {name: {parameter: value}}"
        raise _error("transform", f"{reason}, not {shorten_repr(step)}", location, step)
    ((name, given),) = step.items()
    if name not in named_transforms():
        known = ", ".join(named_transforms())
        hint = did_you_mean(str(name), named_transforms()) or f" There are: {known}"
        reason = f"there is no transform {shorten_repr(name)}.{hint}"
        raise _error("transform", reason, (*location, name), name)
    if not isinstance(given, dict | None):
        reason = f"must be {{parameter: value}}, not {shorten_repr(given)}"
        raise _error("transform", reason, (*location, name), given)
    model = parameters(name)
    try:
        return {name: model.model_validate(given or {}).model_dump(exclude_unset=True)}
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = (*location, name, *first["loc"])
        if first["type"] != "extra_forbidden":
            raise _error(first["type"], first["msg"], where, first["input"]) from error
        wrong = str(first["loc"][-1])
        hint = did_you_mean(wrong, model.model_fields) or f" There are: {', '.join(model.model_fields)}"
        raise _error("transform", f"{name} has no parameter {wrong!r}.{hint}", where, wrong) from error


def _error(kind: Any, message: str, location: tuple[int | str, ...], value: Any) -> ValidationError:
    reason = PydanticCustomError(kind, "{message}", {"message": message})
    details = InitErrorDetails(type=reason, loc=location, input=value)
    return ValidationError.from_exception_data("views", [details])
