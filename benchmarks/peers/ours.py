"""ssl-zoo: `Trainer` as ``ssl-zoo train`` runs it.

It makes the views of the whole batch at once on the device, takes the precision that follows from the
hardware and channels last, and passes both views through the network at once, so that it normalises a
batch of both together.
"""

from __future__ import annotations

from collections.abc import Iterator

from ssl_zoo.config.schema import RunConfig
from ssl_zoo.training import Trainer

from .setting import Setting

NAME = "ssl-zoo"


class SslZoo:
    """ssl-zoo's own trainer."""

    def __init__(self, setting: Setting, config: RunConfig) -> None:
        self.trainer = Trainer(config, setting.data, setting.device)
        self.trainer.task.train()
        self.encoder = self.trainer.task.encoder
        self.steps = self.trainer.budget.steps or 0  # of a budget in minutes not known
        self.ahead = 0
        self._endless = self._batches()

    def _batches(self) -> Iterator[None]:
        while True:
            for batches in self.trainer.epoch_batches():
                losses = self.trainer.train_step(batches)
                if self.trainer.step % self.trainer.config.train.log_every == 0:
                    self.trainer.metrics(losses)
                yield

    def step(self) -> None:
        """Make one optimiser step, with the handling of losses in `ssl_zoo.train`."""
        next(self._endless)

    def close(self) -> None:
        """Do nothing, as it has no workers."""
