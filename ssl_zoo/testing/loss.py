"""The suite of a loss, which need not be ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ssl_zoo.config.load import parse_sets
from ssl_zoo.errors import UserError
from ssl_zoo.plugins.validation import PLUGIN_ERRORS
from ssl_zoo.runtime.defaults import torch_defaults
from ssl_zoo.testing.catalogue import LOSS_CHECKS
from ssl_zoo.testing.check import Check, CheckResult, make_checks, require_passed
from ssl_zoo.testing.loss_case import Loss, LossCase, load_loss, parse_inputs
from ssl_zoo.testing.suite import run_checks
from ssl_zoo.text import error_reason


def loss_checks(
    loss: Loss,
    arguments: Mapping[str, Any] | None = None,
    *,
    inputs: str | None = None,
    expected_failures: Mapping[str, str] | None = None,
) -> list[Check]:
    """Return all checks of a loss, without running them.

    Args:
        loss: a class whose instances are called with embeddings and return a scalar, such as a module;
            or such a function.
        arguments: of the class's constructor; of a function, those beside the embeddings.
        inputs: the shapes of what it is called with, separated by commas, with B for the samples of a
            batch and D for the width of an embedding: ``BxD, BxD``, ``[BxD, BxD]`` for a list,
            ``{local: 2xBxD, large: 2xBxD}`` for named arguments. None for two embeddings, a list of two,
            one, or two lists of two: the first with which it returns a scalar.
        expected_failures: by the name of a check, the reason why the loss rightly fails it.

    Raises:
        ValueError: an expected failure names no check, or has no reason.
        UserError: `inputs` has another form.
    """
    if inputs is not None:
        parse_inputs(inputs)
    return make_checks(LOSS_CHECKS, LossCase(loss, dict(arguments or {}), inputs), expected_failures)


@torch_defaults()
def loss_checks_of(
    target: str,
    sets: Sequence[str] = (),
    inputs: str | None = None,
    expected_failures: Mapping[str, str] | None = None,
) -> list[Check]:
    """Return all checks of a loss that can be imported and built.

    Args:
        target: ``module:name`` of a class or a function.
        sets: its arguments, as texts of the form ``name=value``.
        inputs: the shapes of its inputs, as for `loss_checks`.
        expected_failures: by the name of a check, the reason why the loss rightly fails it.

    Raises:
        UserError: there is no such loss, or it does not take these arguments.
    """
    loss, arguments = load_loss(target), parse_sets(sets)
    try:
        checks = loss_checks(loss, arguments, inputs=inputs, expected_failures=expected_failures)
    except ValueError as error:
        raise UserError(str(error)) from error
    try:
        checks[0].case.build()
    except PLUGIN_ERRORS as error:
        raise UserError(
            f"--loss {target}: cannot be built: {error_reason(error)}; give its arguments by --set "
            "NAME=VALUE"
        ) from error
    return checks


def check_loss(loss: Loss, arguments: Mapping[str, Any] | None = None, **more: Any) -> list[CheckResult]:
    """Run all checks of a loss.

    For example:

        check_loss(lightly.loss.NTXentLoss, {"gather_distributed": True})

    Args:
        loss: a class or a function, as for `loss_checks`.
        arguments: likewise.
        more: the further arguments of `loss_checks`.

    Returns:
        The result of each check, including those that were skipped or expected to fail.

    Raises:
        CheckFailed: the loss fails a check; the message has a line for each.
    """
    results = list(run_checks(loss_checks(loss, arguments, **more)))
    require_passed(f"loss {getattr(loss, '__name__', loss)!r}", results)
    return results
