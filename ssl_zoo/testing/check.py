"""A check of a plugin, its result, and lists of checks for programs and for pytest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import torch

from ssl_zoo import tree
from ssl_zoo.errors import SslZooError
from ssl_zoo.plugins.validation import PLUGIN_ERRORS
from ssl_zoo.runtime.defaults import torch_defaults
from ssl_zoo.text import did_you_mean, docstring_summary, error_line, locate_error
from ssl_zoo.tree import Tree

CheckFunction = Callable[[Any], str | None]
"""Takes a case; raises `CheckFailed` if it fails; returns a measurement to report, if any."""
Status = Literal["passed", "failed", "expected", "unexpected", "skipped"]
Test = TypeVar("Test", bound=Callable[..., Any])

_PREFIX = "check_"


class CheckFailed(AssertionError):
    """Raised when a plugin fails a check; the message says why, in one line."""


class CheckSkipped(Exception):
    """Raised when a check does not apply or cannot run; the message says why."""


def require(condition: bool, message: str) -> None:
    """Raise `CheckFailed` with the message unless the condition holds."""
    if not condition:
        raise CheckFailed(message)


def same(a: Tree, b: Tree) -> bool:
    """Return whether two batches are equal to the bit, in shape and type, too."""
    pairs = list(zip(tree.leaves(a), tree.leaves(b), strict=True))
    return all(x.shape == y.shape and x.dtype == y.dtype and torch.equal(x, y) for x, y in pairs)


def listed(names: Sequence[str], limit: int = 4) -> str:
    """Join at most `limit` names for a message."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def by_name(functions: Iterable[CheckFunction]) -> dict[str, CheckFunction]:
    """Return functions by their names without ``check_``."""
    return {public_name(function.__name__): function for function in functions}


def public_name(name: str) -> str:
    """Return the name of a check as users see it, from the name with or without ``check_``."""
    return name.removeprefix(_PREFIX)


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
    """A check of one plugin. Call it: it raises if the plugin fails the check.

    Attributes:
        function: what is called with the case, see `ssl_zoo.testing.catalogue`.
        case: the task or the source, with what it is checked on.
        expected: the reason why it is expected to fail, or None if it is not.
    """

    function: CheckFunction = field(repr=False)
    case: Any = field(repr=False)
    expected: str | None = None

    @property
    def name(self) -> str:
        """The name in `ssl_zoo.testing.catalogue`, without ``check_``."""
        return public_name(self.function.__name__)

    def __str__(self) -> str:
        return self.name

    def __call__(self) -> str | None:
        """Run the check and return a measurement to report, if any.

        Raises:
            CheckFailed: the plugin fails it.
            CheckSkipped: it does not apply to the plugin, or cannot run here.
            Exception: any exception of the plugin itself.
        """
        with torch_defaults(), _one_thread():
            return self.function(self.case)

    @property
    def title(self) -> str:
        """A sentence that describes the behaviour of a correct plugin."""
        claim = docstring_summary(self.function.__doc__).removeprefix("Check that ")
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
        """True if the plugin, or its list of expected failures, must be corrected."""
        return self.status in ("failed", "unexpected")


def make_checks(
    functions: Mapping[str, CheckFunction], case: Any, expected_failures: Mapping[str, str] | None
) -> list[Check]:
    """Return checks of a case, without running them.

    Args:
        functions: the functions by name.
        case: the case.
        expected_failures: by the name of a check, the reason why the case rightly fails it.

    Raises:
        ValueError: an expected failure names no check, or has no reason.
    """
    expected = {public_name(name): reason for name, reason in (expected_failures or {}).items()}
    for name, reason in expected.items():
        if name not in functions:
            known = did_you_mean(name, functions) or f" There are: {', '.join(functions)}"
            raise ValueError(f"expected_failures: there is no check {name!r}.{known}")
        if not reason.strip():
            raise ValueError(f"expected_failures: {name} needs a reason")
    return [Check(function, case, expected.get(name)) for name, function in functions.items()]


def require_passed(subject: str, results: Sequence[CheckResult]) -> None:
    """Raise unless all results are good.

    Args:
        subject: what was checked, such as "task 'simclr'".
        results: the results.

    Raises:
        CheckFailed: one is bad; the message has a line for each.
    """
    if failed := [result for result in results if result.bad]:
        lines = "\n".join(f"  {result.check.name}: {result.note}" for result in failed)
        raise CheckFailed(f"{subject} fails {len(failed)} of {len(results)} checks\n{lines}")


def parametrize(checks: Iterable[Check]) -> Callable[[Test], Test]:
    """Parametrise a pytest function over checks, as its argument ``check``."""
    import pytest

    def parameter(check: Check) -> Any:
        marks = [pytest.mark.xfail(reason=check.expected, strict=True)] if check.expected else []
        check = _PytestCheck(check.function, check.case, check.expected)
        return pytest.param(check, id=check.name, marks=marks)

    decorator: Callable[[Test], Test] = pytest.mark.parametrize("check", list(map(parameter, checks)))
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
