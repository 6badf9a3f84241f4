"""The cells of a comparison: one row and one seed each, and what is done for it."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError

from ssl_zoo.comparison.config import RAW, Comparison
from ssl_zoo.config.schema import DataConfig, EncoderConfig, RunConfig
from ssl_zoo.data import DataSet
from ssl_zoo.errors import Interrupted, SslZooError, Unsuitable, Unwritable, UserError
from ssl_zoo.evaluation import Subject, score, supported_protocols
from ssl_zoo.evaluation.scoring import PRETRAINED, UNTRAINED, of_encoder
from ssl_zoo.plugins.registry import registry
from ssl_zoo.plugins.validation import PLUGIN_ERRORS
from ssl_zoo.runs.build import load_data
from ssl_zoo.runs.run import Run
from ssl_zoo.runtime.device import Device
from ssl_zoo.runtime.files import file_lock, write_atomic
from ssl_zoo.text import error_line, locate_error
from ssl_zoo.training import Reporter, train

Status = Literal["waiting", "unfinished", "failed", "done"]


@lru_cache(maxsize=1)
def _data(config_json: str, device: str) -> DataSet:
    """The data of the last cell, which is that of the next one too."""
    return load_data(DataConfig.model_validate_json(config_json), torch.device(device))


def shared_data(config: EncoderConfig, device: Device) -> DataSet:
    """The data of a configuration, loaded once for all cells that are worked on in this process."""
    return _data(config.data.model_dump_json(), str(device.device))


@dataclass(frozen=True)
class Cell(ABC):
    """One row and one seed of a comparison.

    Attributes:
        comparison: what it belongs to.
        row: the name of its row.
        seed: its seed; None for what does not depend on any.
        path: its folder, in which a run lies, or `results.json` alone.
        baseline: whether it is one: not trained, or a task that learns from labels.
    """

    comparison: Comparison
    row: str
    seed: int | None
    path: Path
    baseline: bool = True

    @property
    def name(self) -> str:
        """What it is called, as its folder is."""
        return self.path.name

    @property
    @abstractmethod
    def config(self) -> EncoderConfig:
        """What it is made with."""

    @abstractmethod
    def made_with(self) -> EncoderConfig | None:
        """What lies in its folder was made with, None if there is nothing."""

    @abstractmethod
    def subject(self, data: DataSet, device: Device, reporter: Reporter | None) -> Subject | str:
        """What is to be evaluated, trained if need be; or why that makes no sense with such data."""

    def check(self) -> None:
        """Make sure that what lies in its folder belongs to this comparison.

        Raises:
            UserError: it was made with other settings.
        """
        try:
            there, wanted = self.made_with(), self.config
        except UserError:  # its task is broken or gone, which its row will say
            return
        if there is None:
            return
        old, new = result_affecting_settings(there), result_affecting_settings(wanted)
        for path, value in new.items():
            if old.get(path) != value:
                raise UserError(
                    f"{self.path} was made with {path}={old.get(path)}, not {value}; "
                    "choose another --out, or remove it"
                )

    def run(self, reporter: Reporter | None = None) -> None:
        """Do what is left to do, and note how it went; a failure is noted and not raised.

        What another process is at is waited for.

        Raises:
            Interrupted: a signal asked to stop.
            Unwritable: the disk takes no more, of this cell or of another.
        """
        with self._alone():
            if self.status == "done":
                return
            self._failure_file.unlink(missing_ok=True)
            start = time.monotonic()
            try:
                config = self.config
                device = Device.choose(config.train)
                data = shared_data(config, device)
                with device.computing():
                    subject = self.subject(data, device, reporter)
                    if isinstance(subject, str):
                        self._note(self.missing(), left_out=subject)
                    else:
                        self._judge(subject)
            except (Interrupted, Unwritable):
                raise
            except PLUGIN_ERRORS as error:
                self.fail(_reason(error))
            self._note([], seconds=time.monotonic() - start)

    def _judge(self, subject: Subject) -> None:
        """Evaluate by the protocols that are missing; one that fails costs no other its figures."""
        can = supported_protocols(self.missing(), subject.data)
        for name in self.missing():
            if name in can:
                try:
                    Run(self.path).add_scores({subject.name: score(subject, [name])})
                except Unwritable:
                    raise
                except PLUGIN_ERRORS as error:
                    self.fail(f"{name}: {_reason(error)}")
                    continue
            self._note([name], unlabelled=[] if name in can else [name])

    def _note(
        self, protocols: list[str], seconds: float = 0.0, unlabelled: Sequence[str] = (), **facts: Any
    ) -> None:
        """Note protocols that are done, time that was spent, and those that need labels."""
        before = self.results().get("cell", {})
        cell = {
            "row": self.row,
            "seed": self.seed,
            "protocols": [*before.get("protocols", ()), *protocols],
            "unlabelled": [*before.get("unlabelled", ()), *unlabelled],
            "seconds": round(before.get("seconds", 0.0) + seconds, 1),
        }
        Run(self.path).write_results({"cell": cell, **facts})

    def fail(self, reason: str) -> None:
        """Note that it failed, and why."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomic(self._failure_file, json.dumps({"failed": reason}).encode())

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Within, no other process works on it; one that does is waited for."""
        self.path.mkdir(parents=True, exist_ok=True)
        with file_lock(Run(self.path).cell_lock_file):
            yield

    @property
    def status(self) -> Status:
        """How far it has got, by what lies in its folder."""
        if not self.missing():
            return "done"
        if self._failure_file.is_file():
            return "failed"
        return "unfinished" if self.path.is_dir() else "waiting"

    def missing(self) -> list[str]:
        """The protocols that it has not been evaluated by."""
        known = self.results().get("cell", {}).get("protocols", ())
        return [name for name in self.comparison.protocols if name not in known]

    def results(self) -> dict[str, Any]:
        """What is known of it so far."""
        return Run(self.path).results()

    def failure(self) -> str | None:
        """Why it failed, None if it did not, or is done by now."""
        return Run(self.path).failure() if self.missing() else None

    @property
    def _failure_file(self) -> Path:
        return Run(self.path).failure_file


class TrainedCell(Cell):
    """A task that is trained, then evaluated."""

    @property
    def config(self) -> RunConfig:
        """The configuration of its run."""
        assert self.seed is not None
        return self.comparison.run_config(self.row, self.seed)

    def made_with(self) -> RunConfig | None:
        """The configuration of the run in its folder, None if there is none."""
        run = Run(self.path)
        return run.config() if run.config_file.is_file() else None

    def subject(self, data: DataSet, device: Device, reporter: Reporter | None) -> Subject | str:
        """Its features at the end of the budget, until which it is trained, or goes on."""
        if self.baseline and data.bank.labels is None:
            return f"it learns from labels, and {data.name} has none"
        config, run = self.config, Run(self.path)
        if not run.results().get("steps"):
            started = run.config_file.is_file()
            try:
                train(
                    None if started else config,
                    out=None if started else self.path,
                    resume=self.path if started else None,
                    reporter=reporter,
                    protocol=(),
                    with_baselines=False,
                    data=data,
                )
            except Unsuitable as reason:
                if self.comparison.tasks != "all":
                    raise
                return str(reason)
        task = device.place(run.load_task(data.spec))
        return Subject.of_task(task, data, device, seed=config.train.seed)


class EvaluatedCell(Cell):
    """A baseline that is not trained."""

    @property
    def config(self) -> EncoderConfig:
        """What all runs have in common."""
        return self.comparison.encoder_config(self.seed or 0)

    def made_with(self) -> EncoderConfig | None:
        """The configuration beside the results in its folder."""
        made = self.results().get("config")
        try:
            return None if made is None else EncoderConfig.model_validate(made)
        except ValidationError as error:
            raise UserError(f"{self.path} was made by another version; remove it") from error

    def _write(self, device: Device, **facts: Any) -> None:
        config = self.config.model_dump(mode="json")
        Run(self.path).write_results({"device": str(device.device), "config": config, **facts})


class UntrainedCell(EvaluatedCell):
    """The network before training."""

    def subject(self, data: DataSet, device: Device, reporter: Reporter | None) -> Subject | str:
        """The pooled features of the network as its seed makes it."""
        subject = of_encoder(self.config, data, device, self.row)
        assert subject.encoder is not None
        self._write(device, parameters=sum(p.numel() for p in subject.encoder.parameters()))
        return subject


class RawCell(EvaluatedCell):
    """The raw input."""

    def subject(self, data: DataSet, device: Device, reporter: Reporter | None) -> Subject | str:
        """The raw input as features."""
        self._write(device)
        subject = Subject.raw(data, device)
        return f"the raw input of {data.name} makes no sense as features" if subject is None else subject


def _reason(error: BaseException) -> str:
    """Why something failed, in one line."""
    return (
        error_line(error)
        if isinstance(error, SslZooError)
        else registry.describe_error(error) or locate_error(error)
    )


def result_affecting_settings(config: EncoderConfig) -> dict[str, Any]:
    """All settings that decide a run's figures, by dotted path."""
    sections = config.model_dump(exclude={"provenance"})
    sections["backbone"] = config.backbone.resolve().model_dump()  # a preset equals its spelled-out form
    chosen_here = {"train.precision", "train.channels_last", "train.threads", "train.tune"}
    chosen_here |= {"train.device", "data.resident", "data.workers", "data.root", "data.cache"}
    chosen_here |= {"train.checkpoint_seconds", "train.log_every", "train.observers"}
    flat = {f"{s}.{name}": value for s, values in sections.items() for name, value in values.items()}
    return {path: value for path, value in flat.items() if path not in chosen_here}


def cells(comparison: Comparison, out: Path) -> list[Cell]:
    """All cells in the order in which they are worked on: each row once, then the next seed."""
    return list(_cells(comparison, out))


def _cells(comparison: Comparison, out: Path) -> Iterator[Cell]:
    names, supervised = comparison.names(), comparison.supervised()
    if comparison.has_baseline(RAW):
        yield RawCell(comparison, RAW, None, out / RAW)
    for seed in range(comparison.seeds):
        if comparison.has_baseline(UNTRAINED):
            row = PRETRAINED if comparison.encoder_config(0).backbone.pretrained else UNTRAINED
            yield UntrainedCell(comparison, row, seed, out / f"{row}-{seed}")
        for name in (*names, *supervised):
            yield TrainedCell(comparison, name, seed, out / f"{name}-{seed}", name in supervised)
