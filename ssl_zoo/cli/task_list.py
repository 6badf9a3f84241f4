"""The list of tasks, and the options of one, in the terminal or as JSON."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Literal, get_args, get_origin

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from ssl_zoo.cli.console import add_row, out, print_json, say
from ssl_zoo.plugins.families import OTHER_FAMILY, family_order
from ssl_zoo.text import docstring_summary

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from ssl_zoo.plugins.info import TaskInfo
    from ssl_zoo.task import Task


def print_tasks(entries: Iterable[TaskInfo], json: bool) -> None:
    """Print the tasks by family, as a table or JSON.

    The data that a task takes, and its distribution, are shown only where the tasks differ in them.
    """
    entries = list(entries)
    if json:
        print_json([asdict(entry) for entry in entries])
    elif not entries:
        say("There are no tasks: no installed distribution provides any.")
    else:
        columns: dict[str, Callable[[TaskInfo], str]] = {
            "task": lambda entry: entry.name,
            "what it does": _summary_passes_and_needs,
            "paper": lambda entry: _authors_and_year(entry.paper),
        }
        if len({entry.modality for entry in entries}) > 1:
            columns["data"] = lambda entry: entry.modality
        columns = {name: text for name, text in columns.items() if any(map(text, entries))}
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        for name in columns:
            table.add_column(
                name, no_wrap=name in ("task", "data"), max_width=18 if name == "paper" else None
            )
        for family in sorted({entry.family for entry in entries}, key=family_order):
            table.add_row(f"[bold]{escape(family or OTHER_FAMILY)}[/]")
            for entry in (entry for entry in entries if entry.family == family):
                name, *others = (text(entry) for text in columns.values())
                add_row(table, f"  {name}", *others)
            table.add_section()
        out.print(table)
        _say_origins(entries)
        say("ssl-zoo tasks NAME shows a task's options and its paper")


def _summary_passes_and_needs(entry: TaskInfo) -> str:
    """Return what a task does, and in brackets its passes for each sample and what it needs."""
    needs = ", ".join(_needs(entry.needs, entry.prerequisites))
    facts = [_passes(entry.passes) if entry.passes else "", f"needs {needs}" if needs else ""]
    bracket = "; ".join(filter(None, facts))
    return f"{entry.summary} ({bracket})" if bracket else entry.summary


def _needs(needs: Iterable[str], prerequisites: str) -> list[str]:
    """Return in words what a task needs of data, backbone and batch."""
    words = {"index": "numbered samples"}
    return [*(words.get(need, need) for need in needs), *filter(None, [prerequisites])]


def _passes(n: float) -> str:
    return f"{n:g} {'pass' if n == 1 else 'passes'}"


def _say_origins(entries: Iterable[TaskInfo]) -> None:
    """Print which tasks are from other distributions than the most, if any are."""
    origins: dict[str, list[str]] = {}
    for entry in entries:
        origins.setdefault(f"{entry.distribution} {entry.version}", []).append(entry.name)
    first, *others = sorted(origins.items(), key=lambda item: -len(item[1]))
    for origin, names in others:
        say(f"from {origin}: {', '.join(names)}")
    if others:
        say(f"all others are from {first[0]}")


def _authors_and_year(paper: str) -> str:
    """Return the start of a reference up to the last year before its title, else all of it."""
    match = re.match(r".*?\b\d{4}(?:, \d{4})*\b", paper)
    return match[0] if match else paper


def print_task(name: str, cls: type[Task], json: bool) -> None:
    """Print the options of a task with their defaults and ranges, its paper and its recipe."""
    recipe_of = cls.recipe_for(cls.Options.model_construct())  # with all defaults
    recipe = {section: dict(values) for section, values in recipe_of.items()}
    if json:
        options = cls.Options.model_json_schema()
        names = ("paper", "family", "modality", "needs", "prerequisites", "passes", "input_note")
        facts = {"name": name, **{fact: getattr(cls, fact) for fact in names}}
        print_json({**facts, "recipe": recipe, "options": options})
        return
    say(f"{name}: {(cls.__doc__ or '').strip().partition(chr(10))[0]}")
    if cls.paper:
        say(cls.paper)
    needs = " and ".join(_needs(cls.needs, cls.prerequisites))
    say(f"takes {cls.modality} data" + (f", and needs {needs}" if needs else ""))
    if cls.input_note:
        say(f"its network takes {cls.input_note}")
    if cls.passes:
        say(f"{_passes(cls.passes)} through encoders, a teacher's included, for each sample")
    if cls.Options.model_fields:
        table = Table("option", "default", "description", "range")
        for option, field in cls.Options.model_fields.items():
            default = "required" if field.is_required() else _yaml(field.default)
            add_row(table, option, default, field.description or "", _range(field))
        say("options, --set task.OPTION=VALUE")
        out.print(table)
    if recipe:
        say("recipe, overridden by --set SECTION.KEY=VALUE")
        for section, values in recipe.items():
            for key, value in values.items():
                say(f"  {section}.{key} {_yaml(value)}")


def print_transforms() -> None:
    """Print the transforms that ``task.views`` takes, as the YAML of their defaults."""
    from ssl_zoo.views.named import named_transforms, parameters

    for name, cls in named_transforms().items():
        defaults = {key: field.default for key, field in parameters(name).model_fields.items()}
        say(f"# {docstring_summary(cls.__doc__).replace('`', '')}")
        say(f"- {name}: {_yaml(defaults)}")
    say("# A crop has the scale and the flip of the task, unless they are given.")


def _yaml(value: object) -> str:
    """Return a value as YAML, as ``--set`` reads it."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_yaml, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_yaml(item)}' for key, item in value.items())}}}"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _range(field: FieldInfo) -> str:
    """Return the declared limits or choices of an option."""
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    limits = [
        f"{sign} {limit}"
        for part in field.metadata
        for key, sign in signs.items()
        if (limit := getattr(part, key, None)) is not None
    ]
    if get_origin(field.annotation) is Literal:
        limits.append(" or ".join(map(_yaml, get_args(field.annotation))))
    return ", ".join(limits)
