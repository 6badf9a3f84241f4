"""The length of a run, in epochs, samples or minutes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from ssl_zoo.config.errors import SettingError
from ssl_zoo.config.schema import BUDGETS, TrainConfig
from ssl_zoo.errors import UserError
from ssl_zoo.text import quantity

_OLD_FIELDS = {"step_images": "step_samples"}
"""The fields of `Budget` that older versions named otherwise."""


@dataclass(frozen=True)
class Budget:
    """The length of a run, and the place of its schedules in it.

    All schedules follow the progress, which rises from 0 to 1 over the run. If the budget of a resumed
    run is changed, what is left of the schedules is stretched over what is left of the budget.

    Attributes:
        step_samples: samples in an optimiser step, over all processes.
        steps_per_epoch: optimiser steps in a pass over the data; a last, smaller batch is dropped.
        steps: optimiser steps of the whole run; None where minutes count.
        seconds: the time for the whole run; None where steps count.
        changed_at: the steps, or seconds, that were done when the budget was changed; 0 if it was not.
        progress_then: the progress at `changed_at`.
        schedule: whether the learning rate follows its schedule for the first time, follows it again
            over a budget added to a finished run, or stays where its schedule has ended.
        warmup_of: the steps of the run of which ``train.warmup`` is a share; None if unknown.
    """

    step_samples: int
    steps_per_epoch: int
    steps: int | None
    seconds: float | None
    changed_at: float = 0.0
    progress_then: float = 0.0
    schedule: Literal["first", "again", "ended"] = "first"
    warmup_of: int | None = None

    @classmethod
    def of(cls, config: TrainConfig, samples: int, processes: int = 1) -> Budget:
        """Return the budget of a configuration on a train split of `samples` samples.

        Raises:
            UserError: a step takes more samples than there are, or the processes cannot share a batch
                evenly.
        """
        step_samples = config.batch_size * config.accumulate
        per_epoch = samples // step_samples
        if not per_epoch:
            times = f" × {config.accumulate} accumulated" if config.accumulate > 1 else ""
            smaller = max(2, processes, samples // (4 * config.accumulate)) // processes * processes
            fits = smaller * config.accumulate <= samples
            hint = f"choose --batch-size {smaller} or less" if fits else "add samples"
            raise UserError(
                f"train.batch_size: a batch of {config.batch_size}{times} is larger than the train "
                f"split of {samples} samples; {hint}"
            )
        if config.batch_size % processes:
            divisible = max(1, config.batch_size // processes) * processes
            raise UserError(
                f"train.batch_size: a batch of {config.batch_size} cannot be shared evenly by "
                f"{processes} processes; choose --batch-size {divisible}"
            )
        if config.minutes is not None:
            return cls(step_samples, per_epoch, None, 60 * config.minutes)
        if config.samples is not None:
            steps = math.ceil(config.samples / step_samples)
        else:
            assert config.epochs is not None  # TrainConfig's default
            steps = max(1, round(config.epochs * per_epoch))
        return cls(step_samples, per_epoch, steps, None, warmup_of=steps)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Budget:
        """Return the budget in a checkpoint, in which older versions name a field otherwise."""
        return cls(**{_OLD_FIELDS.get(name, name): value for name, value in state.items()})

    def describe(self, noun: str) -> str:
        """Return the length in words, such as "1,100 steps of 128 images".

        Args:
            noun: the plural noun for samples.
        """
        step = quantity(self.step_samples, noun)
        if self.steps is not None:
            return f"{self.steps:,} steps of {step}"
        assert self.seconds is not None
        return f"{self.seconds / 60:g} minutes in steps of {step}"

    def progress(self, steps: int, seconds: float) -> float:
        """Return the progress, in [0, 1], after `steps` in `seconds` of training."""
        done, total = self._used(steps, seconds)
        if done >= total:
            return 1.0
        since = (done - self.changed_at) / (total - self.changed_at)
        return min(1.0, self.progress_then + (1 - self.progress_then) * since)

    def _used(self, steps: int, seconds: float) -> tuple[float, float]:
        """Return how much is done, and of how much, in the unit of the budget."""
        if self.steps is not None:
            return steps, self.steps
        assert self.seconds is not None
        return seconds, self.seconds

    def check_reachable(self, config: TrainConfig, steps: int, seconds: float) -> None:
        """Raise if more is done already than the budget of a configuration.

        Args:
            config: the configuration of this budget.
            steps: the steps done.
            seconds: the time they took.

        Raises:
            SettingError: it is.
        """
        done, total = self._used(steps, seconds)
        if done <= total:
            return
        name = next(name for name in BUDGETS if getattr(config, name) is not None)
        unit = {
            "epochs": 1 / self.steps_per_epoch,
            "samples": self.step_samples,
            "minutes": 1 / 60,
        }[name]
        in_steps = [f" ({n:,} steps)" if self.steps is not None else "" for n in (done, total)]
        raise SettingError(
            f"train.{name}",
            f"the run has done {done * unit:,.4g} {name}{in_steps[0]} already, and its new length is "
            f"{getattr(config, name):,g} {name}{in_steps[1]}; choose more",
        )

    def same_length(self, other: Budget) -> bool:
        """Return whether another budget is as long."""
        return (self.steps, self.seconds) == (other.steps, other.seconds)

    def extended(self, to: Budget, steps: int, seconds: float, *, ends_at_zero: bool) -> Budget:
        """Return a longer or shorter budget in which the schedules go on from where they are.

        What is left of them is stretched over what is left of the new budget. In a run that is finished
        they begin anew; only a rate that has not ended near 0 stays where it is.

        Args:
            to: the new length, as the budget of a new run.
            steps: the steps done.
            seconds: the time they took.
            ends_at_zero: whether the learning rate ends near 0.
        """
        done, _ = to._used(steps, seconds)
        progress = self.progress(steps, seconds)
        if progress < 1:
            return replace(
                to,
                changed_at=done,
                progress_then=progress,
                schedule=self.schedule,
                warmup_of=self.warmup_of,
            )
        return replace(
            to,
            changed_at=done,
            schedule="again" if ends_at_zero else "ended",
            warmup_of=None if to.steps is None else to.steps - steps,
        )
