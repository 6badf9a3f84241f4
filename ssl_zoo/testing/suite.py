"""The suite of a task: its checks, run one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from ssl_zoo.config.load import load_config, parse_sets
from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo.errors import UserError
from ssl_zoo.plugins.registry import registry
from ssl_zoo.runtime.defaults import torch_defaults
from ssl_zoo.task import Task
from ssl_zoo.testing.case import Case
from ssl_zoo.testing.catalogue import CHECKS
from ssl_zoo.testing.check import Check, CheckResult, Test, make_checks, parametrize, require_passed
from ssl_zoo.testing.check_data import CheckData, SourceData
from ssl_zoo.testing.rank_server import server


@torch_defaults()
def task_checks(
    task: type[Task],
    *,
    options: Mapping[str, Any] | None = None,
    backbone: Mapping[str, Any] | BackboneConfig | None = None,
    data: Sequence[CheckData] | None = None,
    expected_failures: Mapping[str, str] | None = None,
) -> list[Check]:
    """Return all checks of a task, without running them.

    Args:
        task: the class.
        options: the task's options that differ from the defaults; smaller networks are quicker.
        backbone: the ``backbone`` section of a configuration; None for that of the task's recipe, or
            a tiny ResNet if it has none.
        data: the data to check on, as `CheckData`; None for images of several kinds, or for the
            source in the recipe of a task of another modality.
        expected_failures: by the name of a check, the reason why the task rightly fails it, beside those
            that its class names.

    Raises:
        ValueError: an expected failure names no check, or has no reason.
    """
    expected = {**task.expected_failures, **(expected_failures or {})}
    return make_checks(CHECKS, Case.of(task, options, backbone, data), expected)


@torch_defaults()
def checks_of(
    name: str,
    settings: Mapping[str, Any] | None = None,
    sets: Sequence[str] = (),
    expected_failures: Mapping[str, str] | None = None,
    **arguments: Any,
) -> list[Check]:
    """Return all checks of an installed task, with the settings of a run.

    If they name a data source, the task is checked on its samples instead of synthetic ones.

    Args:
        name: the task's name.
        settings: values by dotted path, as in `ssl_zoo.load_config`.
        sets: texts of the form ``path=value``, likewise.
        expected_failures: by the name of a check, the reason why the task rightly fails it.
        arguments: further arguments of `ssl_zoo.load_config`.

    Raises:
        UserError: there is no such task, or a setting is wrong.
    """
    task = registry.load_task(name)
    paths = {*(settings or {}), *parse_sets(sets)}
    config = load_config(None, {**(settings or {}), "task.name": name}, sets, **arguments)
    backbone = config.backbone if any(path.startswith("backbone.") for path in paths) else None
    source = None
    if "data.source" in paths:
        source = [SourceData(config.data, config.backbone, task.modality, task.any_size)]
        _ = source[0].spec  # raises here if it cannot be loaded, which is no fault of the task
    try:
        return task_checks(
            task,
            options=config.task.option_values(),
            backbone=backbone,
            data=source,
            expected_failures=expected_failures,
        )
    except ValueError as error:
        raise UserError(str(error)) from error


def run_checks(checks: Iterable[Check]) -> Iterator[CheckResult]:
    """Run the checks one after the other and yield their results."""
    checks = list(checks)
    if any(check.name == "two_processes_are_one" for check in checks):
        server.start()  # it loads while the other checks run
    for check in checks:
        yield check.outcome()


def check_task(task: type[Task], **arguments: Any) -> list[CheckResult]:
    """Run all checks of a task.

    Args:
        task: the class.
        arguments: the further arguments of `task_checks`.

    Returns:
        The result of each check, including those that were skipped or expected to fail.

    Raises:
        CheckFailed: the task fails a check; the message has a line for each.
    """
    results = list(run_checks(task_checks(task, **arguments)))
    require_passed(f"task {task.name!r}", results)
    return results


def parametrize_with_checks(task: type[Task], **arguments: Any) -> Callable[[Test], Test]:
    """Parametrise a pytest function over the checks of a task, as its argument ``check``.

    Args:
        task: the class.
        arguments: the further arguments of `task_checks`. An expected failure that passes fails the
            test, so that the list stays current.

    For example:

        @parametrize_with_checks(Colour, options={"width": 32})
        def test_conformance(check: Check) -> None:
            check()
    """
    return parametrize(task_checks(task, **arguments))
