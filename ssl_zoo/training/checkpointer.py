"""The metrics and the checkpoints that a run writes while it trains."""

from __future__ import annotations

import contextlib
import json
import os
import time
from types import TracebackType

from ssl_zoo import distributed
from ssl_zoo.runs.run import Run
from ssl_zoo.runtime.files import open_no_follow, write_errors
from ssl_zoo.training.trainer import Trainer


class Checkpointer:
    """A writer of a run's metrics and checkpoints; a context manager that holds the metrics file open.

    Only the first process writes, and the others what they hold of sharded tensors; but each must call
    `save` alike.

    Args:
        trainer: the trainer whose state is saved.
        run: the run directory.

    Raises:
        Unwritable: the metrics file cannot be opened.
    """

    def __init__(self, trainer: Trainer, run: Run) -> None:
        self.trainer = trainer
        self.run = run
        self._saved = time.monotonic()
        self._metrics = None
        if distributed.rank() == 0:
            with write_errors(run.metrics_file):
                self._metrics = open_no_follow(run.metrics_file, "a")

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._metrics is not None:
            with contextlib.suppress(OSError):  # a failed write was reported already
                self._metrics.close()

    @property
    def due(self) -> bool:
        """True if the last checkpoint is older than ``train.checkpoint_seconds``."""
        return time.monotonic() - self._saved >= self.trainer.config.train.checkpoint_seconds

    def log(self, metrics: dict[str, float]) -> None:
        """Append a line to the metrics, then notify the observers.

        Raises:
            Unwritable: the line cannot be written.
        """
        if self._metrics is None:
            return
        with write_errors(self.run.metrics_file):
            self._metrics.write(json.dumps(metrics) + "\n")
            self._metrics.flush()
        self.trainer.notify("ssl_zoo_step_logged", run=self.run, step=self.trainer.step, metrics=metrics)

    def save(self) -> None:
        """Write a checkpoint, with the length of the metrics that belong to it, in all processes.

        Raises:
            NotFinite: the last step or a weight is not finite; the last checkpoint stays.
            Unwritable: the checkpoint cannot be written; the last one stays.
        """
        self.trainer.confirm()  # in every process
        self.trainer.check_weights()
        logged = 0
        if self._metrics is not None:
            with write_errors(self.run.metrics_file):
                os.fsync(self._metrics.fileno())
            logged = self._metrics.tell()
        checkpoints = self.run.checkpoints
        checkpoints.save({**self.trainer.state_dict(), "metrics_bytes": logged})
        if self._metrics is not None:
            self.trainer.notify(
                "ssl_zoo_checkpoint_saved",
                run=self.run,
                step=self.trainer.step,
                path=checkpoints.file,
            )
        self._saved = time.monotonic()
