"""`ssl-zoo check --loss`: sound losses of any library pass, and broken ones are caught."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from ssl_zoo.testing import CheckFailed, check_loss, loss_checks
from ssl_zoo.testing.catalogue import LOSS_CHECKS
from tests.conftest import Call
from tests.core import broken_losses as losses

MODULE = "tests.core.broken_losses"


def notes(loss: Callable[..., Any], **more: Any) -> dict[str, str]:
    """Return what failed, by check, of all but the check of two processes."""
    checks = [c for c in loss_checks(loss, **more) if c.name != "two_processes_are_one"]
    return {result.check.name: result.note for c in checks if (result := c.outcome()).bad}


@pytest.mark.parametrize(
    ("loss", "inputs", "form"),
    [
        (losses.sound, None, "BxD, BxD"),
        (losses.OfAList, None, "[BxD, BxD]"),
        (losses.to_prototypes, "BxD, 16xD", "BxD, 16xD"),
        (losses.of_named_views, "{local: 2xBxD, large: 2xBxD}", "{local: 2xBxD, large: 2xBxD}"),
    ],
)
def test_a_sound_loss_passes_however_it_is_called(
    loss: Callable[..., Any], inputs: str | None, form: str
) -> None:
    results = check_loss(loss, inputs=inputs)
    assert [result.check.name for result in results] == list(LOSS_CHECKS)
    assert f"for inputs ({form})" in results[0].note
    assert ("guessed" in results[0].note) == (inputs is None)


@pytest.mark.parametrize(
    ("loss", "check", "message"),
    [
        (losses.a_vector, "can_be_called", r"returns \[32\] instead of a scalar; .* by --inputs"),
        (
            losses.partly_detached,
            "gradient_is_that_of_finite_differences",
            r"not that of finite differences: input 1 off by .* %; is a part .* detached",
        ),
        (losses.doubled, "gradient_is_that_of_finite_differences", "input 1 2 of it, input 2 2 of it"),
        (losses.in_half, "is_precise_in_bf16", r"the loss is off by .*: compute it in float32"),
        (losses.spread, "is_finite_where_embeddings_coincide", "the loss is inf"),
        (losses.drawn, "draws_no_random_numbers", "with one seed of torch and .* with another"),
        (losses.Moving, "changes_nothing_that_it_reads", "then .*: the call moves centre.centre"),
    ],
)
def test_a_broken_loss_is_caught_by_its_check(
    loss: Callable[..., Any], check: str, message: str
) -> None:
    found = notes(loss)
    assert re.search(message, found.pop(check, "it passes")), found
    assert all(name.startswith("is_precise_in") for name in found), found


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (losses.Local, r"in two; the gradient .*; try --set gather_distributed=true"),
        (losses.reduced_without_gradient, r"^the gradient is not the joint batch's \(0.5 of it\)$"),
    ],
)
def test_a_loss_that_two_processes_change_is_caught(loss: Callable[..., Any], message: str) -> None:
    with pytest.raises(CheckFailed, match="fails 1 of 10 checks") as caught:
        check_loss(loss)
    (line,) = str(caught.value).splitlines()[1:]
    assert re.search(message, line.partition("two_processes_are_one: ")[2]), line


def test_the_command_prints_a_line_for_each_check_and_takes_arguments_by_set(call: Call) -> None:
    arguments = ["check", "--loss", f"{MODULE}:Local", "--set", "gather_distributed=true"]
    code, out, err = call(*arguments)
    assert code == 0, out + err
    assert [line.split()[1].rstrip(":") for line in out.splitlines()[:-1]] == list(LOSS_CHECKS)
    expect = ["--expect", "changes_nothing_that_it_reads=a centre", "--json"]
    code, out, _ = call("check", "--loss", f"{MODULE}:Moving", *expect)
    states = {entry["check"]: entry["state"] for entry in json.loads(out)["checks"]}
    assert states["changes_nothing_that_it_reads"] == "expected"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "check: give either the name of a task or --loss MODULE:NAME"),
        (["simclr", "--loss", f"{MODULE}:sound"], "either the name of a task or --loss"),
        (["simclr", "--inputs", "BxD"], "--inputs: needs --loss"),
        (["--loss", f"{MODULE}:sound", "--image-size", "9"], "--image-size: cannot be combined with"),
        (["--loss", "sound"], "must have the form module:name"),
        (["--loss", "no.such:loss"], "cannot import it: No module named 'no'"),
        (["--loss", f"{MODULE}:soud"], "has no class or function 'soud'. Did you mean 'sound'?"),
        (["--loss", f"{MODULE}:Needy"], "cannot be built: .*'width'; give its arguments by --set"),
        (["--loss", f"{MODULE}:sound", "--inputs", "B*D"], "'B.D' is no shape, such as BxD"),
        (["--loss", f"{MODULE}:sound", "--expect", "x=y"], "there is no check 'x'. There are: can_be"),
    ],
)
def test_what_is_no_loss_is_one_line_and_code_2(call: Call, arguments: list[str], message: str) -> None:
    code, out, err = call("check", *arguments)
    assert (code, out) == (2, "")
    assert re.search(message, err), err
    assert len(err.strip().splitlines()) == 1
