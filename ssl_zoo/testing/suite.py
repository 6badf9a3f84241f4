"""The suite: checks by name, what came of each, and those that are expected to fail."""

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
from ssl_zoo.task import Task
from ssl_zoo.testing.case import Case, CheckFailed, CheckSkipped
from ssl_zoo.testing.setting import Setting, Source
from ssl_zoo.text import did_you_mean, error_line, locate_error

Status = Literal["passed", "failed", "expected", "unexpected", "skipped"]
Test = TypeVar("Test", bound=Callable[..., Any])
Promise = Callable[[Case], str | None]
"""Raises if a task does not keep it; returns what is worth reporting."""

PROMISES: dict[str, Promise] = {}
"""All that is checked, by name, in the order of checking."""


def promise(function: Promise) -> Promise:
    """Add a function to the suite under its own name; its docstring says what is promised."""
    PROMISES[function.__name__] = function
    return function


@contextmanager
def _one_thread() -> Iterator[None]:
    """Within, torch computes on one thread: on networks so small others only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Check:
    """One promise of one task. Call it: it raises if the task does not keep the promise.

    Attributes:
        name: what it is called.
        case: the task, and what it is checked on.
        expected: why it is expected to fail, None if it is not.
    """

    name: str
    case: Case = field(repr=False)
    expected: str | None = None

    def __call__(self) -> str | None:
        """Check; returns what is worth reporting.

        Raises:
            CheckFailed: the promise is not kept.
            CheckSkipped: it cannot be checked here.
            Exception: whatever the task raises.
        """
        with _one_thread():
            return PROMISES[self.name](self.case)

    @property
    def title(self) -> str:
        """What is promised, in a sentence."""
        return (PROMISES[self.name].__doc__ or "").strip().partition("\n")[0]

    def outcome(self) -> CheckResult:
        """Check, and say what came of it."""
        try:
            note = self()
        except CheckSkipped as reason:
            return CheckResult(self, "skipped", str(reason))
        except PLUGIN_ERRORS as error:
            known = isinstance(error, CheckFailed | SslZooError)
            said = error_line(error) if known else locate_error(error)
            if self.expected is not None:
                return CheckResult(self, "expected", f"{self.expected} ({said})")
            return CheckResult(self, "failed", said)
        if self.expected is not None:
            return CheckResult(self, "unexpected", "it passes; take it from the expected failures")
        return CheckResult(self, "passed", note or "")


@dataclass(frozen=True)
class CheckResult:
    """What came of a check.

    Attributes:
        check: which one.
        state: passed, failed, expected (to fail, and did), unexpected (to pass, but did), skipped.
        note: why it failed or was skipped, or what was measured.
    """

    check: Check
    state: Status
    note: str

    @property
    def bad(self) -> bool:
        """Whether the task, or what is expected of it, must be mended."""
        return self.state in ("failed", "unexpected")


def task_checks(
    task: type[Task],
    *,
    options: Mapping[str, Any] | None = None,
    backbone: Mapping[str, Any] | BackboneConfig | None = None,
    settings: Sequence[Setting] | None = None,
    expected_failures: Mapping[str, str] | None = None,
) -> list[Check]:
    """All checks of a task, none of them made yet.

    Args:
        task: the class.
        options: the task's options, where they are not the defaults; small ones are quicker.
        backbone: the ``backbone`` section of a configuration; None for that of the task's recipe, or
            else a tiny ResNet.
        settings: what to check on, as `Setting`; None for images of several kinds, or for the
            source that the recipe of a task of another modality names.
        expected_failures: by the name of a check, why the task is right not to pass it.

    Raises:
        ValueError: there is no check of an expected failure's name, or it has no reason.
    """
    expected = dict(expected_failures or {})
    for name, reason in expected.items():
        if name not in PROMISES:
            known = did_you_mean(name, PROMISES) or f" There are: {', '.join(PROMISES)}"
            raise ValueError(f"expected_failures: there is no check {name!r}.{known}")
        if not reason.strip():
            raise ValueError(f"expected_failures: {name} needs a reason")
    case = Case.of(task, options, backbone, settings)
    return [Check(name, case, expected.get(name)) for name in PROMISES]


def checks_of(
    name: str,
    settings: Mapping[str, Any] | None = None,
    sets: Sequence[str] = (),
    expected_failures: Mapping[str, str] | None = None,
    **given: Any,
) -> list[Check]:
    """All checks of an installed task, with settings as a run has them.

    Where they name a data source, the task is checked on its samples rather than on made ones.

    Args:
        name: the task's name.
        settings: values by dotted path, as in `ssl_zoo.load_config`.
        sets: texts of the form ``path=value``, likewise.
        expected_failures: by the name of a check, why the task is right not to pass it.
        given: further arguments of `ssl_zoo.load_config`.

    Raises:
        UserError: there is no such task, or anything about the settings is wrong.
    """
    task = registry.load_task(name)
    paths = {*(settings or {}), *parse_sets(sets)}
    config = load_config(None, {**(settings or {}), "task.name": name}, sets, **given)
    backbone = config.backbone if any(path.startswith("backbone.") for path in paths) else None
    source = [Source(config.data, config.backbone)] if "data.source" in paths else None
    if source:
        _ = source[0].spec  # what cannot be loaded is no fault of the task
    try:
        return task_checks(
            task,
            options=config.task.option_values(),
            backbone=backbone,
            settings=source,
            expected_failures=expected_failures,
        )
    except ValueError as error:
        raise UserError(str(error)) from error


def run_checks(checks: Iterable[Check]) -> Iterator[CheckResult]:
    """Make the checks one after the other."""
    for check in checks:
        yield check.outcome()


def check_task(task: type[Task], **settings: Any) -> list[CheckResult]:
    """Check that a task keeps all promises.

    Args:
        task: the class.
        settings: as for `task_checks`.

    Returns:
        What came of each check, those that were skipped or expected to fail among them.

    Raises:
        CheckFailed: it does not keep one; the message has a line for each.
    """
    found = list(run_checks(task_checks(task, **settings)))
    if broken := [o for o in found if o.bad]:
        lines = "\n".join(f"  {o.check.name}: {o.note}" for o in broken)
        raise CheckFailed(f"task {task.name!r} fails {len(broken)} of {len(found)} checks\n{lines}")
    return found


def parametrize_with_checks(task: type[Task], **settings: Any) -> Callable[[Test], Test]:
    """Make a pytest function with a parameter ``check`` into one test for each check of a task.

    Args:
        task: the class.
        settings: as for `task_checks`. Those that are expected to fail are strict: one that passes
            is a failure, so that the list does not grow old.

    For example:

        @parametrize_with_checks(Colour, options={"width": 32})
        def test_conformance(check: Check) -> None:
            check()
    """
    import pytest

    def tested(check: Check) -> Any:
        strict = [pytest.mark.xfail(reason=check.expected, strict=True)] if check.expected else []
        return pytest.param(_Tested(check.name, check.case, check.expected), id=check.name, marks=strict)

    decorator: Callable[[Test], Test] = pytest.mark.parametrize(
        "check", [tested(check) for check in task_checks(task, **settings)]
    )
    return decorator


class _Tested(Check):
    """A check as a test: what cannot be checked here is skipped."""

    def __call__(self) -> str | None:
        import pytest

        try:
            return super().__call__()
        except CheckSkipped as reason:
            pytest.skip(str(reason))
