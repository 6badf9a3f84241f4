"""The length of a run, in epochs, images or minutes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ssl_zoo.config.schema import TrainConfig
from ssl_zoo.errors import UserError


@dataclass(frozen=True)
class Budget:
    """The length of a run.

    Attributes:
        step_images: images in an optimiser step, over all processes.
        steps_per_epoch: optimiser steps in a pass over the data; a last, smaller batch is dropped.
        steps: optimiser steps of the whole run; None where minutes count.
        seconds: the time for the whole run; None where steps count.
    """

    step_images: int
    steps_per_epoch: int
    steps: int | None
    seconds: float | None

    @classmethod
    def of(cls, config: TrainConfig, samples: int, processes: int = 1) -> Budget:
        """Return the budget of a configuration on a train split of `samples` samples.

        Raises:
            UserError: a step takes more samples than there are, or the processes cannot share a batch
                evenly.
        """
        step_images = config.batch_size * config.accumulate
        per_epoch = samples // step_images
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
            return cls(step_images, per_epoch, None, 60 * config.minutes)
        if config.images is not None:
            return cls(step_images, per_epoch, math.ceil(config.images / step_images), None)
        assert config.epochs is not None  # TrainConfig's default
        return cls(step_images, per_epoch, max(1, round(config.epochs * per_epoch)), None)

    def __str__(self) -> str:
        if self.steps is not None:
            return f"{self.steps:,} steps of {self.step_images:,} images"
        assert self.seconds is not None
        return f"{self.seconds / 60:g} minutes in steps of {self.step_images:,} images"

    def progress(self, steps: int, seconds: float) -> float:
        """Return the share of the budget, in [0, 1], that `steps` or `seconds` of training use up."""
        if self.steps is not None:
            return min(1.0, steps / self.steps)
        assert self.seconds is not None
        return min(1.0, seconds / self.seconds)
