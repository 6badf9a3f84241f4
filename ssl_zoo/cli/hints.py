"""Hints at the right form of a wrong argument; heavy modules are imported where there is one."""

from __future__ import annotations

import itertools
import os
import re
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ssl_zoo.cli.options import NAMES_METAVAR
from ssl_zoo.errors import SslZooError, UserError
from ssl_zoo.text import did_you_mean

if TYPE_CHECKING:
    from ssl_zoo.cli.arguments import Given

OTHER_NAMES = {
    "arch": "--backbone",
    "bs": "--batch-size",
    "dataset": "--data",
    "gpu": "--device",
    "gpus": "--devices",
    "learning_rate": "--lr",
    "log_dir": "--out",
    "model": "--backbone",
    "name": "--task",
    "num_gpus": "--devices",
    "num_workers": "--set data.workers",
    "output": "--out",
    "output_dir": "--out",
    "wd": "--set train.weight_decay",
}
"""Options of other programs, and what they are called here."""

_RUNS = ("run", "runs", "subject", "folder")
"""Names of the parameters that take the folders of runs."""
_SETTING = re.compile(r"(task|data|backbone|train)\.\w[\w.]*=.*", re.DOTALL)


class Hints:
    """Hints for the arguments that were given to a command.

    Args:
        command: the command.
        given: its arguments.
    """

    def __init__(self, command: Any, given: Sequence[Given]) -> None:
        self.command = command
        self.given = given
        self.options = {name for parameter in command.params for name in parameter.opts}

    def of_error(self, error: Exception) -> str:
        """Return a hint for an error of typer, "" if there is none; it starts with a space."""
        message = getattr(error, "message", "")
        if message.startswith("No such option"):
            return self._unknown_option(getattr(error, "option_name", ""))
        if "unexpected extra argument" in message:
            return next(filter(None, map(self._word, range(len(self.given)))), "")
        parameter = getattr(error, "param", None)
        values = [g.value for g in self.given if parameter is not None and g.parameter is parameter]
        return _number_hint(values[-1], parameter, message) if values else ""

    def check_runs(self) -> None:
        """Check that words given in place of runs are not meant otherwise.

        Raises:
            UserError: they are; the message says what to write.
        """
        if any(parameter.name in _RUNS for parameter in self.command.params):
            for number, (_, option, word) in enumerate(self.given):
                if not option and not os.path.lexists(word) and (hint := self._word(number)):
                    raise UserError(f"{word}: there is no such run.{hint}")

    def _unknown_option(self, option: str) -> str:
        from ssl_zoo.config.schema import SETTING_PATHS

        name = option.lstrip("-").replace("-", "_")
        value = self._value_of(option)
        if "." in name:
            right = f"--set {name}"
        elif name in OTHER_NAMES:
            right = OTHER_NAMES[name]
        elif name in SETTING_PATHS:
            right = f"--set {SETTING_PATHS[name]}"
        else:
            right = f"--set task.{name}" if name in self._task_options() else ""
        if right == "--device" and value.isdigit():
            value = f"cuda:{value}"
        if right.partition(" ")[0] not in self.options:
            return ""
        if right.startswith("--set"):
            return f" Did you mean {right}={shlex.quote(value or 'VALUE')}?"
        return f" Did you mean {right}{' ' * bool(value)}{shlex.quote(value) if value else ''}?"

    def _value_of(self, option: str) -> str:
        """Return the value of an unknown option: after an equals sign, or the next word."""
        for g, following in zip(self.given, [*self.given[1:], None], strict=True):
            if g.option == option:
                return g.value or (following.value if following and not following.option else "")
        return ""

    def _task_options(self) -> Sequence[str]:
        """Return the names of the options of the task in ``--task``, none if it cannot be loaded."""
        from ssl_zoo.plugins.registry import registry

        for g in self.given:
            if g.option == "--task":
                try:
                    return list(registry.load_task(g.value).Options.model_fields)
                except SslZooError:
                    return []
        return []

    def _word(self, number: int) -> str:
        """Return a hint for the positional argument with this number, "" if there is none."""
        _, option, word = self.given[number]
        if option:
            return ""
        start = number
        while start and not self.given[start - 1].option:
            start -= 1
        words = [g.value for g in itertools.takewhile(lambda g: not g.option, self.given[start:])]
        before = self.given[start - 1] if start else None
        if before is not None and before.option == "--set" and (hint := _set_hint(before.value, words)):
            return hint
        if _SETTING.fullmatch(word):
            return f" Did you mean --set {shlex.quote(word)}?"
        if before is not None and _takes_names(before.parameter) and "/" not in word:
            names = ",".join(text.strip(",") for text in (before.value, *words))
            form = f"{before.option} {shlex.quote(names)}"
            return f" {before.option} takes names separated by commas: {form}"
        if "--task" in self.options:
            return task_hint(word, "--task")
        if "--tasks" in self.options and (hint := task_hint(",".join(words), "--tasks")):
            return hint
        return _run_of_task(word) if any(p.name in _RUNS for p in self.command.params) else ""


def _takes_names(parameter: Any) -> bool:
    return getattr(parameter, "metavar", None) == NAMES_METAVAR


def _number_hint(text: str, parameter: Any, message: str) -> str:
    from ssl_zoo.config.hints import number_hint

    if "integer" not in message and "number" not in message:
        return ""
    right = number_hint(text, whole="integer" in message)
    return f" Did you mean {parameter.opts[0]} {right}?" if right else ""


def _set_hint(text: str, words: Sequence[str]) -> str:
    """Return the right form of a ``--set`` whose value was split by the shell, "" if it was not."""
    from ssl_zoo.config.hints import set_option

    path, equals, value = text.partition("=")
    if not equals and words[0] != "=":
        return f" Did you mean {set_option(path.rstrip(':'), words[0])}?"
    if not equals or not value:
        words = [word for word in words if word != "="]
        return f" Did you mean {set_option(path, words[0])}?" if words else ""
    if value.count("[") > value.count("]") or value.count("{") > value.count("}"):
        return f" Quote a value with spaces: {set_option(path, ' '.join((value, *words)))}"
    return ""


def task_hint(names: str, option: str) -> str:
    """Return ``Did you mean OPTION NAMES?`` if the names are tasks, or a task's name misspelt."""
    from ssl_zoo.plugins.registry import registry

    known = registry.tasks()
    if all(name in known for name in names.split(",")):
        return f" Did you mean {option} {names}?"
    return did_you_mean(names, known).replace("mean '", f"mean {option} '").replace("'", "")


def _run_of_task(word: str) -> str:
    """Return a hint at the newest run of a task where its name was given in place of a run."""
    from ssl_zoo.plugins.registry import registry
    from ssl_zoo.runs.run import RUNS

    if word not in registry.tasks():
        return ""
    runs = sorted(RUNS.glob(f"{word}-*"), key=lambda folder: folder.stat().st_mtime)
    if not runs:
        return f" {word} is a task; train it first: ssl-zoo train --task {word}"
    return f" {word} is a task; its newest run here: {runs[-1]}"
