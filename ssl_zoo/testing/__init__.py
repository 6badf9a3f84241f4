"""The conformance suites: checks of the contracts that every task, and every data source, must fulfil.

`check_task` runs all checks of a task, `parametrize_with_checks` makes each a pytest test, and
``ssl-zoo check NAME`` runs them in the terminal. `check_source`, `parametrize_with_source_checks` and
``ssl-zoo check-source NAME`` do so for a source; `check_loss` and ``ssl-zoo check --loss MODULE:NAME``
for a loss of any library. `ssl_zoo.testing.catalogue` lists the checks.
"""

from ssl_zoo.testing.case import Case
from ssl_zoo.testing.check import Check, CheckFailed, CheckResult, CheckSkipped
from ssl_zoo.testing.check_data import CheckData, SourceData, SyntheticImages
from ssl_zoo.testing.loss import check_loss, loss_checks, loss_checks_of
from ssl_zoo.testing.source import (
    check_source,
    parametrize_with_source_checks,
    source_checks,
    source_checks_of,
)
from ssl_zoo.testing.source_case import SourceCase
from ssl_zoo.testing.suite import (
    check_task,
    checks_of,
    parametrize_with_checks,
    run_checks,
    task_checks,
)

__all__ = [
    "Case",
    "Check",
    "CheckData",
    "CheckFailed",
    "CheckResult",
    "CheckSkipped",
    "SourceCase",
    "SourceData",
    "SyntheticImages",
    "check_loss",
    "check_source",
    "check_task",
    "checks_of",
    "loss_checks",
    "loss_checks_of",
    "parametrize_with_checks",
    "parametrize_with_source_checks",
    "run_checks",
    "source_checks",
    "source_checks_of",
    "task_checks",
]
