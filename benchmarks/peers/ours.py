"""ssl-zoo: `Trainer` as ``ssl-zoo train`` runs it.

It makes the views of the whole batch at once on the device, takes the precision that follows from the
hardware and channels last, and passes both views through the network at once, so that it normalises a
batch of both together.
"""

from __future__ import annotations

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
        self._batches = self.trainer.endless_batches()

    def step(self) -> None:
        """Make one optimiser step, with the handling of losses in `ssl_zoo.train`."""
        losses = self.trainer.train_step(next(self._batches))
        if self.trainer.step % self.trainer.config.train.log_every == 0:
            self.trainer.metrics(losses)

    def close(self) -> None:
        """Stop reading ahead."""
        self._batches.close()
