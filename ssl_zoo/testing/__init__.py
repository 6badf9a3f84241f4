"""The conformance suite: what every task promises, checked on anybody's task.

`check_task` checks all of it, `parametrize_with_checks` makes a test of each check, and
``ssl-zoo check NAME`` does it in the terminal.
"""

# Importing them puts their checks into the suite, in this order.
from ssl_zoo.testing import definition, views, learning, state, processes  # noqa: F401, I001
from ssl_zoo.testing.case import Case, CheckFailed, CheckSkipped
from ssl_zoo.testing.setting import Images, Setting, Source
from ssl_zoo.testing.suite import (
    Check,
    CheckResult,
    check_task,
    checks_of,
    run_checks,
    parametrize_with_checks,
    task_checks,
)

__all__ = [
    "Case",
    "Check",
    "CheckFailed",
    "CheckResult",
    "CheckSkipped",
    "Images",
    "Setting",
    "Source",
    "check_task",
    "checks_of",
    "parametrize_with_checks",
    "run_checks",
    "task_checks",
]
