"""Signals that ask a process to stop: noted, where it can stop in order, or obeyed at once."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ssl_zoo.errors import Interrupted

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Ctrl-C, the end that a system announces, and the notice that a scheduler gives ahead of it
(Slurm's ``--signal=USR1@120``)."""


@contextmanager
def handle_stop_signals(handler: Callable[[int], None]) -> Iterator[None]:
    """Within, a stopping signal calls the handler with its number, instead of ending the process.

    Signals come to the main thread alone; in another this does nothing.
    """
    try:
        old = {number: signal.signal(number, lambda n, _: handler(n)) for number in STOP_SIGNALS}
    except ValueError:  # not the main thread
        old = {}
    try:
        yield
    finally:
        for number, before in old.items():
            signal.signal(number, signal.SIG_DFL if before is None else before)  # None: not Python's


class StopRequest:
    """What came: `number` is the last signal's, 0 if none did."""

    number = 0


@contextmanager
def record_stop_signals() -> Iterator[StopRequest]:
    """Within, stopping signals are noted, for who asks at moments that suit."""
    came = StopRequest()

    def note(number: int) -> None:
        came.number = number

    with handle_stop_signals(note):
        yield came


@contextmanager
def interrupt_on_signal(go_on: str) -> Iterator[None]:
    """Within, a stopping signal ends the work wherever it finds it.

    Args:
        go_on: the command that goes on with the work.

    Raises:
        Interrupted: one came.
    """
    came = StopRequest()

    def stop(number: int) -> None:
        came.number = number
        raise KeyboardInterrupt  # which nobody takes for a failure of theirs

    try:
        with handle_stop_signals(stop):
            yield
    except KeyboardInterrupt as error:
        raise Interrupted(came.number or signal.SIGINT, go_on) from error
    if came.number:  # where Python drops what is raised, as while it frees an object
        raise Interrupted(came.number, go_on)
