"""The errors that a user can mend: one line that says what was wrong, where, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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


def tame(text: str) -> str:
    """Text of which a terminal takes nothing for a command: all but what it shows is escaped."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'a' or 'b'?`` for the known names nearest to `name`, or nothing.

    The text starts with a space, so that it can be appended to a sentence as it is.
    """
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its type where it says nothing."""
    return (str(error) or type(error).__name__).splitlines()[0]


class Interrupted(SslZooError):
    """A signal asked a run to stop; it has saved what it had. The exit code is 128 + the signal."""

    def __init__(self, signal_number: int, go_on: str) -> None:
        super().__init__(f"stopped, and saved; go on with: {go_on}")
        self.signal_number = signal_number
        self.exit_code = 128 + signal_number
