"""SimCSE: the conformance suite, and that dropout alone makes the views."""

from __future__ import annotations

import math
from typing import Any

import torch
from helpers import CASE
from ssl_zoo_text.simcse import SimCSE
from torch import nn

from ssl_zoo.testing import Case, Check, parametrize_with_checks

STILL = {"views_vary": "dropout makes the views; nothing is drawn in `views`"}


@parametrize_with_checks(SimCSE, expected_failures=STILL, **CASE)
def test_conformance(check: Check) -> None:
    check()


def test_two_passes_differ_by_dropout_and_features_do_not() -> None:
    case = Case.of(SimCSE, **CASE)
    task: Any = case.build()
    assert {m.p for m in task.encoder.modules() if isinstance(m, nn.Dropout)} == {0.1}
    (x,) = case.views(task, 16)
    assert 0.3 < float(task((x,)).logs["similarity"]) < 0.9999
    task.eval()
    torch.testing.assert_close(task.features(x), task.features(x))
    losses = task((x,))
    assert float(losses.logs["similarity"]) > 1 - 1e-5
    assert losses.total.item() < math.log(16) + 0.1
