"""Child processes end together, and the first failure gives the exit code."""

from __future__ import annotations

import os
import signal
import sys
import time
from threading import Event

import pytest

from ssl_zoo.runtime import children
from ssl_zoo.runtime.children import Children


def started(*programs: str) -> Children:
    """Start one Python process for each program."""
    group = Children()
    for program in programs:
        group.start([sys.executable, "-c", program], os.environ)
    return group


SLEEP = "import time; time.sleep(60)"


def test_processes_that_succeed_give_zero() -> None:
    assert started("pass", "pass").wait() == 0


@pytest.mark.parametrize(
    ("program", "code"),
    [("raise SystemExit(7)", 7), ("import os; os.kill(os.getpid(), 9)", 137)],
    ids=["an exit code", "a signal"],
)
def test_a_failure_gives_the_code_and_ends_the_others(
    program: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "GRACE", 0.2)
    begin = time.monotonic()
    assert started(SLEEP, program).wait() == code
    assert time.monotonic() - begin < 30


def test_signals_reach_all_processes() -> None:
    group = started(SLEEP, SLEEP)
    group.send_signal(signal.SIGTERM)
    assert group.wait() == 128 + signal.SIGTERM


def test_an_event_asks_processes_to_end() -> None:
    stop = Event()
    stop.set()
    assert started(SLEEP).wait(stop) == 128 + signal.SIGTERM
