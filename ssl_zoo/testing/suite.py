"""The suite: run checks, collect their results, and compare them with the expected failures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import torch

from ssl_zoo.config.load import load_config, parse_sets
from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo.errors import SslZooError, UserError
from ssl_zoo.plugins.registry import registry
from ssl_zoo.plugins.validation import PLUGIN_ERRORS
from ssl_zoo.runtime.defaults import torch_defaults
from ssl_zoo.task import Task
from ssl_zoo.testing.case import Case, CheckFailed, CheckSkipped
from ssl_zoo.testing.catalogue import CHECKS, public_name, skip_reason
from ssl_zoo.testing.check_data import CheckData, SourceData
from ssl_zoo.testing.processes import check_two_processes_are_one
from ssl_zoo.testing.rank_server import server
from ssl_zoo.text import did_you_mean, docstring_summary, error_line, locate_error

Status = Literal["passed", "failed", "expected", "unexpected", "skipped"]
Test = TypeVar("Test", bound=Callable[..., Any])


@contextmanager
def _one_thread() -> Iterator[None]:
    """Temporarily compute on one thread: with networks so small, more threads only wait."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Check:
    """A check of one task. Call it: it raises if the task fails the check.

    Attributes:
        name: the name in `ssl_zoo.testing.catalogue`, without ``check_``.
        case: the task, with the data that it is checked on.
        expected: the reason why it is expected to fail, or None if it is not.
    """

    name: str
    case: Case = field(repr=False)
    expected: str | None = None

    def __call__(self) -> str | None:
        """Run the check and return a measurement to report, if any.

        Raises:
            CheckFailed: the task fails it.
            CheckSkipped: it does not apply to the task, or cannot run here.
            Exception: any exception of the task itself.
        """
        function = CHECKS[self.name]
        reason = skip_reason(function, self.case)
        if reason is not None:
            raise CheckSkipped(reason)
        with torch_defaults(), _one_thread():
            return function(self.case)

    @property
    def title(self) -> str:
        """A sentence that describes the behaviour of a correct task."""
        claim = docstring_summary(CHECKS[self.name].__doc__).removeprefix("Check that ")
        return claim[:1].upper() + claim[1:]

    def outcome(self) -> CheckResult:
        """Run the check and return its result."""
        try:
            note = self()
        except CheckSkipped as reason:
            return CheckResult(self, "skipped", str(reason))
        except PLUGIN_ERRORS as error:
            known = isinstance(error, CheckFailed | SslZooError)
            message = error_line(error) if known else locate_error(error)
            if self.expected is not None:
                return CheckResult(self, "expected", f"{self.expected} ({message})")
            return CheckResult(self, "failed", message)
        if self.expected is not None:
            return CheckResult(self, "unexpected", "it passes; remove it from the expected failures")
        return CheckResult(self, "passed", note or "")


@dataclass(frozen=True)
class CheckResult:
    """The result of a check.

    Attributes:
        check: the check.
        status: passed, failed, expected (failed as expected), unexpected (passed, though expected to
            fail) or skipped.
        note: the reason of a failure or a skip, or a measurement.
    """

    check: Check
    status: Status
    note: str

    @property
    def bad(self) -> bool:
        """True if the task, or its list of expected failures, must be corrected."""
        return self.status in ("failed", "unexpected")


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
        expected_failures: by the name of a check, the reason why the task rightly fails it.

    Raises:
        ValueError: an expected failure names no check, or has no reason.
    """
    expected = {public_name(name): reason for name, reason in (expected_failures or {}).items()}
    for name, reason in expected.items():
        if name not in CHECKS:
            known = did_you_mean(name, CHECKS) or f" There are: {', '.join(CHECKS)}"
            raise ValueError(f"expected_failures: there is no check {name!r}.{known}")
        if not reason.strip():
            raise ValueError(f"expected_failures: {name} needs a reason")
    case = Case.of(task, options, backbone, data)
    return [Check(name, case, expected.get(name)) for name in CHECKS]


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
    if any(CHECKS[check.name] is check_two_processes_are_one for check in checks):
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
    if failed := [result for result in results if result.bad]:
        lines = "\n".join(f"  {result.check.name}: {result.note}" for result in failed)
        raise CheckFailed(f"task {task.name!r} fails {len(failed)} of {len(results)} checks\n{lines}")
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
    import pytest

    def parameter(check: Check) -> Any:
        marks = [pytest.mark.xfail(reason=check.expected, strict=True)] if check.expected else []
        return pytest.param(
            _PytestCheck(check.name, check.case, check.expected), id=check.name, marks=marks
        )

    decorator: Callable[[Test], Test] = pytest.mark.parametrize(
        "check", [parameter(check) for check in task_checks(task, **arguments)]
    )
    return decorator


class _PytestCheck(Check):
    """A check that skips its pytest test where it raises `CheckSkipped`."""

    def __call__(self) -> str | None:
        """Run the check, as `Check` does."""
        import pytest

        try:
            return super().__call__()
        except CheckSkipped as reason:
            pytest.skip(str(reason))
