"""Signals that ask a process to stop: recorded until a safe moment, or handled at once."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)
)
"""Ctrl-C, the system's request to end, and a scheduler's early notice of it (Slurm's
``--signal=USR1@120``); Windows has no SIGUSR1."""


@contextmanager
def handle_stop_signals(handler: Callable[[int], None]) -> Iterator[None]:
    """Temporarily call `handler` with the number of a stop signal, instead of ending the process.

    Only the main thread receives signals; in another thread this does nothing.
    """
    try:
        previous = {number: signal.signal(number, lambda n, _: handler(n)) for number in STOP_SIGNALS}
    except ValueError:  # not the main thread
        previous = {}
    try:
        yield
    finally:
        for number, old in previous.items():
            signal.signal(number, signal.SIG_DFL if old is None else old)  # None: not set by Python


class StopRequest:
    """A record of stop signals.

    Attributes:
        number: the last signal, 0 if none came.
    """

    number = 0


@contextmanager
def record_stop_signals() -> Iterator[StopRequest]:
    """Temporarily record stop signals, for code that checks for them between steps."""
    request = StopRequest()

    def record(number: int) -> None:
        request.number = number

    with handle_stop_signals(record):
        yield request


@contextmanager
def interrupt_on_signal(resume: str) -> Iterator[None]:
    """Temporarily let a stop signal interrupt the work at once.

    Args:
        resume: the command that resumes the work.

    Raises:
        Interrupted: a signal came.
    """
    from ssl_zoo.errors import Interrupted  # here, as the command line imports this module first of all

    request = StopRequest()

    def interrupt(number: int) -> None:
        request.number = number
        raise KeyboardInterrupt  # not an Exception, so that no plugin is blamed for it

    try:
        with handle_stop_signals(interrupt):
            yield
    except KeyboardInterrupt as error:
        raise Interrupted(request.number or signal.SIGINT, resume) from error
    if request.number:  # Python drops an exception that is raised while it frees an object
        raise Interrupted(request.number, resume)
