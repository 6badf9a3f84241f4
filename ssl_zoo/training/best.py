"""The best evaluation during training by one figure, and when to stop for lack of gain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ssl_zoo.config.errors import SettingError
from ssl_zoo.config.schema import TrainConfig
from ssl_zoo.data import DataSet
from ssl_zoo.evaluation import known_protocols
from ssl_zoo.text import did_you_mean

WITH_LABELS, WITHOUT_LABELS = "knn", "rankme"
"""The figures that ``train.keep_best=auto`` chooses between."""


class BestEvaluation:
    """The best evaluation so far by a figure, and the number of evaluations since.

    The state is part of a checkpoint, so that a resumed run stops where an undisturbed one does.

    Attributes:
        figure: the metric; None if none is followed.
        protocol: the name of the protocol that measures it.
        value: its best value; None before the first evaluation.
        step: the step of that evaluation.
        without_gain: the number of evaluations since.
    """

    def __init__(
        self, figure: str | None = None, protocol: str = "", sign: int = 1, patience: int | None = None
    ) -> None:
        self.figure, self.protocol = figure, protocol
        self._sign, self._patience = sign, patience
        self.value: float | None = None
        self.step = self.without_gain = 0

    @classmethod
    def of(cls, config: TrainConfig, data: DataSet) -> BestEvaluation:
        """Return what a configuration asks for on these data.

        Raises:
            SettingError: there is no such figure, it has no better and worse, or the data do not allow
                it.
        """
        name = config.keep_best
        if name is None and config.patience is None:
            return cls()
        if name in (None, "auto"):
            name = WITH_LABELS if data.labelled else WITHOUT_LABELS
        found = {
            m: (p, metric)
            for p, known in known_protocols().items()
            for m, metric in known.metrics.items()
        }
        directions = {m: metric.within_run or metric.better for m, (_, metric) in found.items()}
        usable = [metric for metric, direction in directions.items() if direction is not None]
        if name not in usable:
            problem = "has no better and worse" if name in found else "is no figure of a protocol"
            raise SettingError(
                "train.keep_best",
                f"{name!r} {problem}.{did_you_mean(str(name), usable)} There are: {', '.join(usable)}",
            )
        protocol, _ = found[name]
        if reason := known_protocols()[protocol].unsupported(data):
            raise SettingError(
                "train.keep_best",
                f"{name} cannot be measured, as {data.name} {reason}; choose {WITHOUT_LABELS}, which "
                "needs no labels",
            )
        return cls(name, protocol, 1 if directions[name] == "higher" else -1, config.patience)

    def add(self, value: float, step: int) -> bool:
        """Add an evaluation, and return whether it is better than all before it.

        Args:
            value: the figure.
            step: the optimiser steps done.
        """
        if self.value is None or self._sign * (value - self.value) > 0:
            self.value, self.step, self.without_gain = value, step, 0
            return True
        self.without_gain += 1
        return False

    @property
    def exhausted(self) -> bool:
        """True if ``train.patience`` evaluations have brought no gain."""
        return self._patience is not None and self.without_gain >= self._patience

    def renew_patience(self) -> None:
        """Count evaluations without gain anew, as for a budget that was changed."""
        self.without_gain = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the state, for a checkpoint."""
        names = ("figure", "value", "step", "without_gain")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state; that of another figure, or of an older version, is of no use."""
        if state.get("figure") == self.figure and self.figure is not None:
            self.value, self.step = state["value"], state["step"]
            self.without_gain = state["without_gain"]
