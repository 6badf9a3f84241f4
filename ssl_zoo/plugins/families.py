"""The families of tasks: their order in lists and tables, and a filter of tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from ssl_zoo.errors import UserError
from ssl_zoo.plugins.info import TaskInfo
from ssl_zoo.text import did_you_mean

BASELINE_FAMILY = "baseline"
"""The family of tasks that others are compared with; it stands last."""
OTHER_FAMILY = "other"
"""The heading of tasks that name no family, in lists and tables."""


def family_order(family: str) -> tuple[int, str]:
    """Return the key that sorts families: by name, then tasks without a family, then baselines."""
    return (2 if family == BASELINE_FAMILY else 1 if not family else 0), family


def filter_tasks(
    tasks: Mapping[str, TaskInfo], name: str | None = None, families: Sequence[str] = ()
) -> list[TaskInfo]:
    """Return the tasks whose name and family match patterns such as ``*clr*``.

    Args:
        tasks: the tasks by name.
        name: the pattern of the name; None for all.
        families: the patterns of the family, of which one must match; none for all.

    Raises:
        UserError: no task matches.
    """
    known = {task.family or OTHER_FAMILY for task in tasks.values()}
    for pattern in families:
        if not any(fnmatchcase(family, pattern) for family in known):
            listed = ", ".join(sorted(known, key=family_order))
            raise UserError(
                f"--family: no task has the family {pattern!r}.{did_you_mean(pattern, known)} "
                f"There are: {listed}"
            )
    found = [
        task
        for task in tasks.values()
        if name is None or fnmatchcase(task.name, name)
        if not families or any(fnmatchcase(task.family or OTHER_FAMILY, p) for p in families)
    ]
    if name is not None and not found:
        within = f" in --family {','.join(families)}" if families else ""
        raise UserError(f"no task matches {name!r}{within}; ssl-zoo tasks lists all")
    return found
