"""Arguments: their order, what is given several times, and hints for those that are wrong."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from typer.core import TyperCommand, TyperGroup

from ssl_zoo.notices import Notice
from ssl_zoo.text import one_line

REPEATED = Notice(
    "repeated-option",
    "Of an option, or of a setting in --set, that is given several times the last value counts.",
    "give it once",
)
GLOBAL_FLAGS = ("--debug", "--quiet")
_PLUGIN_OPTIONS = ("--plugin", "--no-plugin")
_COMPLETION_OPTIONS = ("--install-completion", "--show-completion")


def prepare(arguments: list[str]) -> list[str]:
    """Return the arguments without ``--debug`` and ``--quiet``, those about plugins first."""
    first: list[str] = []
    others: list[str] = []
    remaining = iter(arguments)
    for argument in remaining:
        if argument in _PLUGIN_OPTIONS:
            first += [argument, *itertools.islice(remaining, 1)]
        elif argument.startswith(tuple(f"{option}=" for option in _PLUGIN_OPTIONS)):
            first.append(argument)
        elif argument not in GLOBAL_FLAGS:
            others.append(argument)
    if len(others) > 1 and others[0] in _COMPLETION_OPTIONS:
        # Typer's switch between detecting the shell and taking its name.
        os.environ["_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION"] = "1"
    return first + others


class Given(NamedTuple):
    """An option with its value, or a positional argument, as it was given.

    Attributes:
        parameter: the command's parameter; None for a positional argument and an unknown option.
        option: the option's name as it was given; "" for a positional argument.
        value: the text of the value; "" for a flag.
    """

    parameter: Any
    option: str
    value: str


def tokenize(arguments: Iterable[str], parameters: Iterable[Any]) -> Iterator[Given]:
    """Yield the options with their values, and the positional arguments, in their order."""
    by_name = {name: p for p in parameters for name in (*p.opts, *p.secondary_opts)}
    remaining = iter(arguments)
    for argument in remaining:
        name, equals, value = argument.partition("=")
        parameter = by_name.get(name) if name.startswith("-") else None
        if argument == "--":
            yield from (Given(None, "", word) for word in remaining)
        elif not argument.startswith("-") or argument == "-":
            yield Given(None, "", argument)
        elif equals or parameter is None or parameter.is_flag:
            yield Given(parameter, name, value)
        else:
            yield Given(parameter, name, next(remaining, ""))


class Command(TyperCommand):
    """A command that says what to write instead of a wrong argument."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; add a hint to an error."""
        from ssl_zoo.cli.hints import Hints

        given = list(tokenize(args, self.params))
        hints = Hints(self, given)
        try:
            rest = super().parse_args(ctx, args)
        except Exception as error:
            _append(error, hints.of_error(error))
            raise
        hints.check_runs()
        _notice_repeated(given)
        return rest


class Group(TyperGroup):
    """The program; it says what to write instead of a wrong command."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command; add a hint to an error."""
        try:
            return super().resolve_command(ctx, args)
        except Exception as error:
            from ssl_zoo.cli.hints import task_hint

            _append(error, task_hint(args[0], "ssl-zoo train --task"))
            raise

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the options before the command; add a hint to an error."""
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            option = getattr(error, "option_name", None)
            names = [name for name, command in self.commands.items() if _has(command, option)]
            if names:
                _append(error, f" It belongs after the command: ssl-zoo {names[0]} {option}")
            raise


def _has(command: Any, option: str | None) -> bool:
    return any(option in parameter.opts for parameter in command.params)


def _append(error: Exception, hint: str) -> None:
    """Append a hint to the message of an error of typer, in place of typer's own suggestions."""
    if hint and hasattr(error, "message"):
        error.message = f"{error.message.rstrip('.')}.{hint}"
        if hasattr(error, "possibilities"):
            error.possibilities = None


def _notice_repeated(given: list[Given]) -> None:
    single = [g for g in given if g.parameter is not None and not g.parameter.multiple]
    values: dict[str, list[str]] = {}
    for g in single:
        if not g.parameter.is_flag or g.parameter.secondary_opts:
            values.setdefault(g.parameter.opts[0], []).append(f"{g.option} {g.value}".strip())
    for g in given:
        if g.option == "--set":
            path = g.value.partition("=")[0].strip()
            values.setdefault(f"--set {path}", []).append(f"--set {g.value}")
    for name, texts in values.items():
        if len(texts) > 1:
            last = one_line(texts[-1], 80)
            REPEATED(f"{one_line(name, 80)} is given {len(texts)} times; the last one counts: {last}")
