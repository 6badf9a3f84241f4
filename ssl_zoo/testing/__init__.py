"""The conformance suite: checks of the contract that every task must fulfil.

`check_task` runs all checks, `parametrize_with_checks` makes each a pytest test, and
``ssl-zoo check NAME`` runs them in the terminal. `ssl_zoo.testing.catalogue` lists them.
"""

from ssl_zoo.testing.case import Case
from ssl_zoo.testing.check import Check, CheckFailed, CheckResult, CheckSkipped
from ssl_zoo.testing.check_data import CheckData, SourceData, SyntheticImages
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
    "SourceData",
    "SyntheticImages",
    "check_task",
    "checks_of",
    "parametrize_with_checks",
    "run_checks",
    "task_checks",
]
