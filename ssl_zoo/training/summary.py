"""A summary of a run, for the observers that show its progress."""

from __future__ import annotations

from dataclasses import dataclass

from ssl_zoo.training.optimizer import describe_learning_rate
from ssl_zoo.training.trainer import Trainer


@dataclass(frozen=True)
class RunSummary:
    """A summary of a run as it begins or is resumed.

    Attributes:
        task: the task's name.
        data: the data set's name.
        samples: the number of samples in the train split.
        noun: the plural noun for samples, such as "images".
        backbone: the backbone's name.
        parameters: the number of the encoder's parameters.
        device: the device, precision, memory format and threads, such as "cpu, fp32, channels last, 2
            threads".
        budget: the length of the run, such as "1,100 steps of 128 images".
        step_samples: samples in an optimiser step, over all processes.
        steps: optimiser steps of the whole run; None where the budget is in minutes.
        minutes: the time for the whole run; None where the budget is in steps.
        learning_rate: the peak learning rate and its origin, such as "0.15 = 0.3 · 128/256".
        progress: the share of the budget that is done, in [0, 1]; more than 0 for a resumed run.
    """

    task: str
    data: str
    samples: int
    noun: str
    backbone: str
    parameters: int
    device: str
    budget: str
    step_samples: int
    steps: int | None
    minutes: float | None
    learning_rate: str
    progress: float

    @classmethod
    def of(cls, trainer: Trainer) -> RunSummary:
        """Summarise the run of a trainer."""
        config, budget = trainer.config, trainer.budget
        return cls(
            task=config.task.name,
            data=trainer.data.name,
            samples=len(trainer.data.train),
            noun=trainer.data.spec.noun,
            backbone=config.backbone.name,
            parameters=sum(p.numel() for p in trainer.task.exported_encoder.parameters()),
            device=str(trainer.device),
            budget=budget.describe(trainer.data.spec.noun),
            step_samples=budget.step_samples,
            steps=budget.steps,
            minutes=config.train.minutes,
            learning_rate=describe_learning_rate(config.train, budget.step_samples),
            progress=trainer.progress,
        )
