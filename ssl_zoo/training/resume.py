"""Going on with a run: from its checkpoint, over the budget that it had or another one."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ssl_zoo import distributed
from ssl_zoo.config.effects import NO_EFFECT
from ssl_zoo.config.schema import RunConfig, current_path
from ssl_zoo.data import DataSet
from ssl_zoo.notices import Notice
from ssl_zoo.runs.agreement import check_data, resumed_config
from ssl_zoo.runs.checkpoints import StateDict, state_dict_errors
from ssl_zoo.runs.run import Run
from ssl_zoo.runtime.files import open_no_follow, write_errors
from ssl_zoo.training.budget import Budget
from ssl_zoo.training.optimizer import ends_near_zero, warmup_share
from ssl_zoo.training.trainer import Trainer

log = logging.getLogger("ssl_zoo.training")

CHANGED_BUDGET = Notice(
    "changed-budget",
    "If the budget of a run is changed, what is left of its schedules is stretched over what is left of "
    "the new budget; those of a finished run begin anew over the budget that is added, with a warm-up "
    "over at least a tenth of it, and 10 steps unless that is more than half of it; a rate that has not "
    "ended near 0, as a constant one, stays where it ended.",
    "`--replan` follows the schedules as if the new budget had been planned from the start",
)


class Resumption:
    """A run that goes on from its checkpoint, if it has one.

    Args:
        run: the run.
        settings: changes by dotted path: a budget, or settings that affect no result.
        replan: whether the schedules of a changed budget are those of a new run of that length.

    Attributes:
        config: the configuration, with the changes.

    Raises:
        UserError: another setting is changed, here or in the run's file.
    """

    def __init__(
        self, run: Run, settings: Mapping[str, Any] | None = None, replan: bool = False
    ) -> None:
        settings = {current_path(path): value for path, value in (settings or {}).items()}
        self.run = run
        self.replan = replan
        self.state: StateDict = run.checkpoints.load(whole=False) if run.checkpoints else {}
        self.config: RunConfig = _with_canvas(self.state, resumed_config(run, self.state, settings))
        self._changes = _changes(run.config(), self.config, settings)

    def check_data(self, data: DataSet) -> None:
        """Raise if the run was trained on other samples.

        Raises:
            UserError: it was.
        """
        check_data(self.run, self.state, self.config, data)

    def restore(self, trainer: Trainer) -> None:
        """Restore the trainer's state, cut the metrics back to it, and keep what was changed.

        Raises:
            UserError: the checkpoint does not fit, or has gone beyond a new budget.
            Unwritable: a file of the run cannot be written.
        """
        new, state = trainer.budget, self.state
        if state:
            if "budget" not in state:  # of an older version
                before = Budget.of(self.run.config().train, len(trainer.data.train))
                state["budget"] = asdict(before)
            with state_dict_errors(self.run.checkpoints.file):
                like = trainer.parallel.like(trainer.optimizer)
                trainer.load_state_dict(self.run.checkpoints.complete(state, like))
            if not new.same_length(trainer.budget):
                self._change_budget(trainer, new)
            elif self.replan:
                length = new.describe(trainer.data.spec.noun)
                NO_EFFECT(f"--replan has no effect: the length of the run stays {length}; change it too")
        if distributed.rank() == 0:
            self._cut_metrics()
        if self._changes:
            self._keep_changes(trainer)
        self.state = {}  # frees its memory

    def _change_budget(self, trainer: Trainer, new: Budget) -> None:
        """Change the budget of a trainer, and say what becomes of its learning rate."""
        trainer.follow_schedules()
        noun = trainer.data.spec.noun
        before, rate, config = trainer.budget, trainer.rate, trainer.config.train
        new.check_reachable(config, trainer.step, trainer.seconds)
        ends_at_zero = ends_near_zero(config)
        changed = before.extended(new, trainer.step, trainer.seconds, ends_at_zero=ends_at_zero)
        finished = trainer.progress >= 1
        trainer.follow(new if self.replan else changed)
        trainer.best.renew_patience()
        trainer.follow_schedules()
        if self.replan:
            rule = "the schedules jump to where a run planned so would be"
        elif not finished:
            rule = "what is left of the schedules is stretched over what is left of it (or --replan)"
        elif changed.schedule == "again":
            share = warmup_share(config, changed)
            number = changed.warmup_of
            length = (
                f"{share:.0%} of the added time" if number is None else f"{share * number:.0f} steps"
            )
            rule = (
                "the run was finished, so its schedules begin anew, with a warm-up over "
                f"{length} (or --replan)"
            )
        else:
            rule = "the run was finished, and its learning rate stays where it ended (or --replan)"
        CHANGED_BUDGET(
            f"budget: {new.describe(noun)} in place of {before.describe(noun)}, at step "
            f"{trainer.step:,}: {rule}; the learning rate goes from {rate:.3g} to {trainer.rate:.3g}"
        )

    def _keep_changes(self, trainer: Trainer) -> None:
        """Write the changes into the run's checkpoint, then into its file.

        If it is killed in between, the file is behind, which the next resumption notices.
        """
        if self.state:
            size = self.run.metrics_file.stat().st_size if self.run.metrics_file.exists() else 0
            self.run.checkpoints.save({**trainer.state_dict(), "metrics_bytes": size})
        if distributed.rank() == 0:
            self.run.update(trainer.config, f"{', '.join(self._changes)}, at step {trainer.step}")

    def _cut_metrics(self) -> None:
        """Remove lines that were logged after the checkpoint; they will be logged again."""
        file = self.run.metrics_file
        if not file.exists():
            return
        logged = self.state.get("metrics_bytes", 0)
        with write_errors(file), open_no_follow(file, "r+b") as opened:
            whole = opened.read(logged)
            opened.truncate(whole.rfind(b"\n") + 1)
        if len(whole) < logged:
            log.warning("%s: the last lines before the checkpoint are missing", file)


def _with_canvas(state: StateDict, config: RunConfig) -> RunConfig:
    """Return the configuration with the canvas that a checkpoint was trained with.

    Earlier versions trained on central squares.
    """
    if "settings" not in state:
        return config
    canvas = {"canvas": state["settings"].get("data.canvas", "square")}
    return config.model_copy(update={"data": config.data.model_copy(update=canvas)})


def _changes(before: RunConfig, after: RunConfig, settings: Mapping[str, Any]) -> list[str]:
    """Return what settings change, as texts such as "train.epochs: 100.0 → 200.0"."""
    changes = []
    for path in settings:
        section, name = path.split(".")
        old, new = (getattr(getattr(config, section), name) for config in (before, after))
        if old != new:
            changes.append(f"{path}: {old} → {new}")
    return changes
