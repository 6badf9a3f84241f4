"""How long a run is, counted in epochs, images or minutes, and how far it has got."""

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
        steps_per_epoch: optimiser steps in a pass over the data; what is left over is dropped.
        steps: optimiser steps of the whole run; None where minutes count.
        seconds: the time for the whole run; None where steps count.
    """

    step_images: int
    steps_per_epoch: int
    steps: int | None
    seconds: float | None

    @classmethod
    def of(cls, config: TrainConfig, samples: int, processes: int = 1) -> Budget:
        """The budget of a configuration on a train split of so many samples.

        Raises:
            UserError: a step takes more samples than there are, or a batch cannot be shared evenly.
        """
        step_images = config.batch_size * config.accumulate
        per_epoch = samples // step_images
        if not per_epoch:
            times = f" × {config.accumulate} accumulated" if config.accumulate > 1 else ""
            fitting = max(2, processes, samples // (4 * config.accumulate)) // processes * processes
            fits = fitting * config.accumulate <= samples
            mend = f"choose --batch-size {fitting} or less" if fits else "it takes more samples"
            raise UserError(
                f"train.batch_size: a batch of {config.batch_size}{times} is larger than the train "
                f"split of {samples} samples; {mend}"
            )
        if config.batch_size % processes:
            fitting = max(1, config.batch_size // processes) * processes
            raise UserError(
                f"train.batch_size: a batch of {config.batch_size} cannot be shared evenly by "
                f"{processes} processes; choose --batch-size {fitting}"
            )
        if config.minutes is not None:
            return cls(step_images, per_epoch, None, 60 * config.minutes)
        if config.images is not None:
            return cls(step_images, per_epoch, math.ceil(config.images / step_images), None)
        assert config.epochs is not None  # TrainConfig's default
        return cls(step_images, per_epoch, max(1, round(config.epochs * per_epoch)), None)

    def progress(self, steps: int, seconds: float) -> float:
        """The share in [0, 1] that is done after so many steps and seconds of training."""
        if self.steps is not None:
            return min(1.0, steps / self.steps)
        assert self.seconds is not None
        return min(1.0, seconds / self.seconds)
