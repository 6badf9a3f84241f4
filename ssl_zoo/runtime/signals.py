"""Signals that ask a process to stop: noted, where it can stop in order, or obeyed at once."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ssl_zoo.errors import Interrupted

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Ctrl-C, the end that a system announces, and the notice that a scheduler gives ahead of it
(Slurm's ``--signal=USR1@120``)."""


@contextmanager
def handled(handler: Callable[[int], None]) -> Iterator[None]:
    """Within, a stopping signal calls the handler with its number, instead of ending the process.

    Signals come to the main thread alone; in another this does nothing.
    """
    try:
        old = {number: signal.signal(number, lambda n, _: handler(n)) for number in STOPPING}
    except ValueError:  # not the main thread
        old = {}
    try:
        yield
    finally:
        for number, before in old.items():
            signal.signal(number, signal.SIG_DFL if before is None else before)  # None: not Python's


class Noted:
    """What came: `number` is the last signal's, 0 if none did."""

    number = 0


@contextmanager
def noted() -> Iterator[Noted]:
    """Within, stopping signals are noted, for who asks at moments that suit."""
    came = Noted()

    def note(number: int) -> None:
        came.number = number

    with handled(note):
        yield came


@contextmanager
def obeyed(go_on: str) -> Iterator[None]:
    """Within, a stopping signal ends the work wherever it finds it.

    Args:
        go_on: the command that goes on with the work.

    Raises:
        Interrupted: one came.
    """
    came = Noted()

    def stop(number: int) -> None:
        came.number = number
        raise KeyboardInterrupt  # which nobody takes for a failure of theirs

    try:
        with handled(stop):
            yield
    except KeyboardInterrupt as error:
        raise Interrupted(came.number or signal.SIGINT, go_on) from error
    if came.number:  # where Python drops what is raised, as while it frees an object
        raise Interrupted(came.number, go_on)
