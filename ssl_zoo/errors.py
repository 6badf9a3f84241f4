"""The errors that a user can mend: one line that says what was wrong, where, and what to do."""

from __future__ import annotations


class SslZooError(Exception):
    """Something failed while working. The command line prints it as one line and exits with 1."""

    exit_code = 1


class UserError(SslZooError):
    """The input was wrong. The command line prints it as one line and exits with 2."""

    exit_code = 2


class Unsuitable(UserError):
    """A task cannot do with this data or this backbone, as a transformer's task cannot with a ResNet.

    Raised where a task is built. A comparison of all tasks leaves it out, and says so.
    """


class Unwritable(SslZooError):
    """A file cannot be written: the disk is full, read-only, or gone.

    Attributes:
        what: which file, and why.
    """

    def __init__(self, what: str, go_on: str | None = None) -> None:
        super().__init__(what if go_on is None else f"{what}; mend that, and go on with: {go_on}")
        self.what = what


class Interrupted(SslZooError):
    """A signal asked a run to stop; it has saved what it had. The exit code is 128 + the signal."""

    def __init__(self, signal_number: int, go_on: str) -> None:
        super().__init__(f"stopped, and saved; go on with: {go_on}")
        self.signal_number = signal_number
        self.exit_code = 128 + signal_number
