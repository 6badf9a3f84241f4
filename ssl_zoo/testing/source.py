"""The suite of a data source."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ssl_zoo.config.load import load_encoder_config
from ssl_zoo.config.schema import DataConfig
from ssl_zoo.data import Source
from ssl_zoo.errors import UserError
from ssl_zoo.plugins.validation import PLUGIN_ERRORS
from ssl_zoo.runtime.defaults import torch_defaults
from ssl_zoo.testing.catalogue import SOURCE_CHECKS
from ssl_zoo.testing.check import Check, CheckResult, Test, make_checks, parametrize, require_passed
from ssl_zoo.testing.source_case import SourceCase, SourceFunction
from ssl_zoo.testing.suite import run_checks


@torch_defaults()
def source_checks(
    source: str | Source | SourceFunction,
    config: DataConfig | Mapping[str, Any] | None = None,
    *,
    expected_failures: Mapping[str, str] | None = None,
) -> list[Check]:
    """Return all checks of a source, without running them.

    Args:
        source: what ``data.source`` may be, such as ``NAME`` or ``NAME:REST``; or a `Source`, or a
            function that a plugin registers as one.
        config: the ``data`` section, None for its defaults. Its ``source`` is what a source that is not
            given by name finds there, such as ``NAME:REST``.
        expected_failures: by the name of a check, the reason why the source rightly fails it.

    Raises:
        ValueError: an expected failure names no check, or has no reason.
    """
    return make_checks(SOURCE_CHECKS, SourceCase.of(source, config), expected_failures)


@torch_defaults()
def source_checks_of(
    name: str,
    settings: Mapping[str, Any] | None = None,
    sets: Sequence[str] = (),
    expected_failures: Mapping[str, str] | None = None,
    *,
    flags: Mapping[str, str] | None = None,
) -> list[Check]:
    """Return all checks of a source that can be opened, with the settings of a run.

    Args:
        name: what ``data.source`` may be.
        settings: values by dotted path, as in `ssl_zoo.load_config`.
        sets: texts of the form ``path=value``, likewise.
        expected_failures: by the name of a check, the reason why the source rightly fails it.
        flags: the names of settings in error messages.

    Raises:
        UserError: there is no such source, it cannot be read, or a setting is wrong.
    """
    config = load_encoder_config({**(settings or {}), "data.source": name}, sets, flags=flags)
    try:
        checks = source_checks(name, config.data, expected_failures=expected_failures)
    except ValueError as error:
        raise UserError(str(error)) from error
    case: SourceCase = checks[0].case
    case.choose()
    try:
        _ = case.opened
    except UserError:  # no fault of the source, such as a file that is not there
        raise
    except PLUGIN_ERRORS:
        pass  # a check reports it
    return checks


def check_source(
    source: str | Source | SourceFunction, *args: Any, **arguments: Any
) -> list[CheckResult]:
    """Run all checks of a source.

    Args:
        source: the source, as for `source_checks`.
        args: the further arguments of `source_checks`.
        arguments: likewise, by name.

    Returns:
        The result of each check, including those that were skipped or expected to fail.

    Raises:
        CheckFailed: the source fails a check; the message has a line for each.
    """
    checks = source_checks(source, *args, **arguments)
    results = list(run_checks(checks))
    require_passed(f"source {checks[0].case.config.source_text!r}", results)
    return results


def parametrize_with_source_checks(
    source: str | Source | SourceFunction, *args: Any, **arguments: Any
) -> Callable[[Test], Test]:
    """Parametrise a pytest function over the checks of a source, as its argument ``check``.

    Args:
        source: the source, as for `source_checks`.
        args: the further arguments of `source_checks`.
        arguments: likewise, by name. An expected failure that passes fails the test.

    For example:

        @parametrize_with_source_checks(stripes)
        def test_conformance(check: Check) -> None:
            check()
    """
    return parametrize(source_checks(source, *args, **arguments))
