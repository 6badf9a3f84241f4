"""Checks of the name, the options and the recipe of a task."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from ssl_zoo.config.errors import first_error
from ssl_zoo.config.schema import BackboneConfig, DataConfig, TrainConfig
from ssl_zoo.plugins.validation import invalid_task_reason
from ssl_zoo.testing.case import Case
from ssl_zoo.testing.check import CheckFailed, require
from ssl_zoo.text import shorten_repr
from ssl_zoo.training.optimizer import create_optimizer

_NONSENSE: tuple[Any, ...] = ({"no": ["such", "value"]}, math.nan, -math.inf)
_ANYTHING = (Any, object, dict, list)


def check_describes_itself(case: Case) -> None:
    """Check that the task has a name, a docstring and valid options."""
    fault = invalid_task_reason(case.cls)
    require(fault is None, f"{case.cls.__qualname__} {fault}")
    require(bool((case.cls.__doc__ or "").strip()), "it has no docstring, which `ssl-zoo tasks` shows")


def check_options_round_trip(case: Case) -> None:
    """Check that options are the same after they are written to a file and read again."""
    options = case.cls.Options(**case.options)
    written = yaml.safe_load(yaml.safe_dump(options.model_dump(mode="json")))
    try:
        again = case.cls.Options(**written)
    except ValidationError as error:  # pydantic does not validate defaults
        name, reason = first_error(error, written)
        raise CheckFailed(f"option {name}: its own default is refused: {reason}") from error
    for name in case.cls.Options.model_fields:
        old, new = getattr(options, name), getattr(again, name)
        require(
            old == new,
            f"option {name}: {shorten_repr(old)} is {shorten_repr(new)} once written and read",
        )


def check_options_refuse_nonsense(case: Case) -> None:
    """Check that options refuse unknown names and meaningless values."""
    require_refuses_nonsense(case.cls.Options, case.options)


def require_refuses_nonsense(model: type[BaseModel], values: Mapping[str, Any]) -> None:
    """Raise `CheckFailed` if a model of options with these values takes a wrong one in their place."""
    require(
        not _takes(model, values, "no_such_option", 1), "an option that it does not have is accepted"
    )
    for name, info in model.model_fields.items():
        if _holds_anything(info.annotation):
            continue
        for value in _NONSENSE:
            refused = not _takes(model, values, name, value)
            require(refused, f"option {name} accepts {shorten_repr(value)}")


def _holds_anything(annotation: Any) -> bool:
    """Return whether a type is so wide that any value is valid."""
    return annotation in _ANYTHING or any(map(_holds_anything, (annotation.__origin__,)
        if hasattr(annotation, "__origin__") and annotation.__origin__ in _ANYTHING
        else get_args(annotation)))  # fmt: skip


def _takes(model: type[BaseModel], values: Mapping[str, Any], name: str, value: Any) -> bool:
    try:
        model(**{**values, name: value})
    except ValidationError:
        return False
    return True


def check_can_be_built(case: Case) -> None:
    """Check that the task can be built with a small network, and built again."""
    for _ in range(2):
        case.construct(case.data)


def check_recipe_is_valid(case: Case) -> None:
    """Check that the recipe has known settings and an optimiser of timm."""
    models: dict[str, type[BaseModel]] = {
        "data": DataConfig,
        "backbone": BackboneConfig,
        "train": TrainConfig,
    }
    recipe = case.recipe
    for section, values in recipe.items():
        require(section in models, f"the recipe has no section {section!r}: {', '.join(models)}")
        try:
            models[section].model_validate(values)
        except ValidationError as error:
            path, reason = first_error(error, values, list(models[section].model_fields))
            location = f"{section}.{path}".rstrip(".")
            require(False, f"the recipe's {location}: {reason}")
    create_optimizer(case.build(), TrainConfig(**recipe.get("train", {})), 256)
