"""The exceptions of ssl-zoo.

::

    SslZooError            exit code 1: something failed
    ├── UserError          exit code 2: the input was wrong
    │   └── Unsuitable     a task does not fit the data or the backbone
    ├── Unwritable         a file cannot be written
    ├── LostProcess        another process of the run has ended
    │   └── FailedElsewhere    with an error that is known: exit code of that
    └── Interrupted        exit code 128 + signal: a signal stopped the work

The text of each is one line with the place, the problem and the solution.
"""

from __future__ import annotations

from pathlib import Path


class SslZooError(Exception):
    """A failure. The command line prints it as one line and exits with 1.

    Attributes:
        exit_code: the exit code of the command line.
    """

    exit_code = 1


def add_note(error: BaseException, note: str) -> None:
    """Add a note to an error, as `BaseException.add_note` of Python 3.11 does; messages end with it."""
    vars(error).setdefault("__notes__", []).append(note)


def notes(error: BaseException) -> tuple[str, ...]:
    """Return the notes of an error."""
    return tuple(vars(error).get("__notes__", ()))


class UserError(SslZooError):
    """A mistake in the input. The command line prints it as one line and exits with 2."""

    exit_code = 2


class Unsuitable(UserError):
    """A task that does not fit the data or the backbone, as a transformer's does not fit a ResNet.

    Raised where a task is built. A comparison of all tasks leaves the task out and reports why.
    """


class Unwritable(SslZooError):
    """A file that cannot be written: the disk is full, read-only, or gone.

    Args:
        problem: the failed operation, such as "cannot write FILE".
        path: the file.
        reason: the reason that the operating system gave.
        resume: the command that continues the work, if any.

    Attributes:
        problem: the argument.
        path: the argument.
        reason: the argument.
    """

    def __init__(self, problem: str, *, path: Path, reason: str, resume: str | None = None) -> None:
        message = f"{problem}: {reason}"
        super().__init__(
            message if resume is None else f"{message}; fix this, then resume with: {resume}"
        )
        self.problem = problem
        self.path = path
        self.reason = reason

    def with_resume(self, resume: str) -> Unwritable:
        """Return the same error with the command that continues the work."""
        error = Unwritable(self.problem, path=self.path, reason=self.reason, resume=resume)
        for note in notes(self):
            add_note(error, note)
        return error


class LostProcess(SslZooError):
    """The end of another process of the run, whose own error is the cause."""


class FailedElsewhere(LostProcess):
    """A failure of another process of the run.

    Args:
        message: the message of its error.
        exit_code: the exit code of its error.

    Attributes:
        exit_code: the argument.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Interrupted(SslZooError):
    """A run that a signal stopped, after its state was saved.

    Args:
        signal_number: the signal.
        resume: the command that continues the work.

    Attributes:
        signal_number: the signal.
        resume: the command that continues the work.
        exit_code: 128 + the signal.
    """

    def __init__(self, signal_number: int, resume: str) -> None:
        super().__init__(f"stopped and saved; resume with: {resume}")
        self.signal_number = signal_number
        self.resume = resume
        self.exit_code = 128 + signal_number
