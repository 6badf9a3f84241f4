"""The supervised baseline on text: the conformance suite, and its loss by counting."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from helpers import CASE
from ssl_zoo_text.supervised import SupervisedText

from ssl_zoo.testing import Case, Check, parametrize_with_checks


@parametrize_with_checks(SupervisedText, **CASE)
def test_conformance(check: Check) -> None:
    check()


def test_with_the_same_scores_for_all_classes_the_loss_is_ln_of_their_number() -> None:
    case = Case.of(SupervisedText, **CASE)
    task: Any = case.build()
    torch.nn.init.zeros_(task.head.weight)
    torch.nn.init.zeros_(task.head.bias)
    losses = task(case.views(task, 8))
    assert losses.total.item() == pytest.approx(math.log(task.spec.classes), rel=1e-6)
