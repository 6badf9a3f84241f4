"""The cells of a comparison: one row and one seed each, and the work that each needs."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
from pydantic import ValidationError

from ssl_zoo.backbones.inputs import input_spec
from ssl_zoo.comparison.cell_folder import CellFolder, refuse_changed_settings
from ssl_zoo.comparison.config import Comparison
from ssl_zoo.comparison.networks import (
    backbone_label,
    frozen_backbone,
    own_backbone,
)
from ssl_zoo.config.schema import BackboneConfig, DataConfig, EncoderConfig, RunConfig
from ssl_zoo.data import DataSet
from ssl_zoo.errors import Interrupted, SslZooError, Unsuitable, Unwritable, UserError
from ssl_zoo.evaluation import Subject, known_protocols, score, unsupported_protocols
from ssl_zoo.evaluation.correctness import write_correctness
from ssl_zoo.evaluation.scoring import of_encoder
from ssl_zoo.plugins.families import BASELINE_FAMILY
from ssl_zoo.plugins.registry import registry
from ssl_zoo.plugins.specs import spec_class
from ssl_zoo.plugins.validation import PLUGIN_ERRORS
from ssl_zoo.runs.build import load_data, restore_task
from ssl_zoo.runs.provenance import provenance
from ssl_zoo.runtime.device import Device
from ssl_zoo.runtime.machine import describe_machine
from ssl_zoo.task import Task
from ssl_zoo.text import error_line, locate_error
from ssl_zoo.training import train

Status = Literal["waiting", "unfinished", "failed", "done"]


@lru_cache(maxsize=1)
def _load_data(config_json: str, device: str, modality: str) -> DataSet:
    return load_data(DataConfig.model_validate_json(config_json), torch.device(device), modality)


def shared_data(config: EncoderConfig, device: Device, modality: str = Task.modality) -> DataSet:
    """Return the data of a configuration, loaded once for all cells in this process."""
    return _load_data(config.data.model_dump_json(), str(device.device), modality)


class LeftOut(Exception):
    """A cell makes no sense with this data or this backbone; the message is the reason."""


@dataclass(frozen=True)
class Cell(ABC):
    """One row and one seed of a comparison.

    Attributes:
        comparison: the comparison.
        row: the name of the row; that of the raw input is `RAW`.
        seed: the seed; None for a baseline that does not depend on one.
        path: the folder.
        baseline: whether it is a baseline: not trained, or a task that learns from labels.
    """

    comparison: Comparison
    row: str
    seed: int | None
    path: Path
    baseline: bool = True

    @cached_property
    def folder(self) -> CellFolder:
        """The folder with its files."""
        return CellFolder(self.path)

    @property
    def name(self) -> str:
        """The name of the cell and of its folder."""
        return self.path.name

    @property
    def title(self) -> str:
        """The name of the row in tables."""
        return self.row

    @property
    def family(self) -> str:
        """The family of methods by which tables group the row; "" if it is unknown."""
        return BASELINE_FAMILY

    @property
    def own_backbone(self) -> str | None:
        """The name of its backbone if it is not the comparison's; otherwise None."""
        return None

    def provenance(self) -> Mapping[str, Any]:
        """Return the versions and the revision that the results were made with, if they are known."""
        recorded: Mapping[str, Any] = self.results().get("provenance", {})
        return recorded

    @property
    @abstractmethod
    def config(self) -> EncoderConfig:
        """The configuration, resolved once.

        Raises:
            UserError: it is invalid, or its task cannot be loaded.
        """

    @abstractmethod
    def existing_config(self) -> EncoderConfig | None:
        """Return the configuration that the results in the folder were made with; None if empty.

        Raises:
            UserError: it cannot be read.
        """

    @abstractmethod
    def subject(self, data: DataSet, device: Device) -> Subject:
        """Return the subject to evaluate, trained first if needed.

        Raises:
            LeftOut: the cell makes no sense with this data or this backbone.
        """

    def check(self) -> None:
        """Check that the content of the folder belongs to this comparison.

        Raises:
            UserError: it was made with other settings.
        """
        try:
            existing, current = self.existing_config(), self.config
        except UserError:  # its task is broken or gone, which its row will show
            return
        if existing is None:
            return
        refuse_changed_settings(self.path, existing, current, "--out")

    def run(self) -> None:
        """Do the remaining work and record the outcome; a failure is recorded, not raised.

        Wait first for any other process that works on the cell.

        Raises:
            Interrupted: a signal asked to stop.
            Unwritable: the disk is full or read-only, which would fail the other cells too.
        """
        with self.folder.cell_lock():
            if self.status == "done":
                return
            self.folder.failure_file.unlink(missing_ok=True)
            start = time.monotonic()
            try:
                device = Device.choose(self.config.train)
                data = shared_data(self.config, device, self.comparison.modality)
                with device.computing():
                    self._evaluate(self.subject(data, device))
            except LeftOut as reason:
                self._record(self.missing_protocols(), left_out=str(reason))
            except (Interrupted, Unwritable):
                raise
            except PLUGIN_ERRORS as error:
                self.folder.record_failure(_failure_reason(error))
            self._record([], seconds=time.monotonic() - start)

    def _evaluate(self, subject: Subject) -> None:
        """Evaluate by the missing protocols; a protocol that fails does not stop the others."""
        unsupported = unsupported_protocols(self.missing_protocols(), subject.data)
        for name in self.missing_protocols():
            if name not in unsupported:
                try:
                    scores = score(subject, [name])
                    self._keep_correctness(name, subject)
                    self.folder.add_scores({subject.name: scores})
                except Unwritable:
                    raise
                except PLUGIN_ERRORS as error:
                    self.folder.record_failure(f"{name}: {_failure_reason(error)}")
                    continue
            self._record([name], unsupported={n: r for n, r in unsupported.items() if n == name})

    def _keep_correctness(self, name: str, subject: Subject) -> None:
        """Write which samples are classified correctly, by which rows are compared in pairs."""
        if correctness := known_protocols()[name].correctness_of(subject):
            write_correctness(self.path, name, correctness)

    def _record(
        self,
        protocols: list[str],
        seconds: float = 0.0,
        unsupported: Mapping[str, str] = MappingProxyType({}),
        **facts: Any,
    ) -> None:
        """Add to the results: finished protocols, time spent, protocols left out with the reason."""
        before = self.results().get("cell", {})
        cell = {
            "row": self.row,
            "seed": self.seed,
            "protocols": [*before.get("protocols", ()), *protocols],
            "unsupported": {**before.get("unsupported", {}), **unsupported},
            "seconds": round(before.get("seconds", 0.0) + seconds, 1),
        }
        self.folder.write_results({"cell": cell, **facts})

    @property
    def status(self) -> Status:
        """The progress of the cell, read from its folder."""
        if not self.missing_protocols():
            return "done"
        if self.folder.failure_file.is_file():
            return "failed"
        return "unfinished" if self.path.is_dir() else "waiting"

    def missing_protocols(self) -> list[str]:
        """Return the protocols that the cell has not been evaluated by."""
        done = self.results().get("cell", {}).get("protocols", ())
        return [name for name in self.comparison.protocols if name not in done]

    def results(self) -> dict[str, Any]:
        """Return the results so far."""
        return self.folder.results()

    def failure(self) -> str | None:
        """Return why the cell failed; None if it did not, or if it is done by now."""
        return self.folder.failure() if self.missing_protocols() else None


class TrainedCell(Cell):
    """A task to train and evaluate."""

    @cached_property
    def config(self) -> RunConfig:
        """The configuration of its run, resolved once."""
        assert self.seed is not None
        return self.comparison.run_config(self.row, self.seed)

    @property
    def family(self) -> str:
        """The family of the task; "" if it names none, or cannot be loaded."""
        try:
            return registry.load_task(self.comparison.task_of(self.row)).family
        except UserError:
            return ""

    @property
    def own_backbone(self) -> str | None:
        """The name of its backbone if it is not the comparison's; otherwise None."""
        own = own_backbone(self.comparison, self.row)
        return None if own is None else backbone_label(self.comparison, own)

    def provenance(self) -> Mapping[str, Any]:
        """Return the versions and the revision of the run, if they can still be read."""
        try:
            config = self.existing_config()
        except UserError:  # its task may be gone
            return {}
        return {} if config is None else config.provenance

    def existing_config(self) -> RunConfig | None:
        """Return the configuration of the run in the folder; None if there is no run."""
        return self.folder.config() if self.folder.config_file.is_file() else None

    def subject(self, data: DataSet, device: Device) -> Subject:
        """Return the features of the task, trained to the end of the budget first."""
        if self.baseline and data.bank.labels is None:
            raise LeftOut(f"it learns from labels, and {data.name} has none")
        if not self.results().get("steps"):
            started = self.folder.config_file.is_file()
            try:
                train(
                    None if started else self.config,
                    out=None if started else self.path,
                    resume=self.path if started else None,
                    protocol=(),
                    with_baselines=False,
                    data=data,
                )
            except Unsuitable as reason:
                asked_for = self.comparison.baselines if self.baseline else self.comparison.tasks
                if asked_for != "all":
                    raise
                raise LeftOut(str(reason)) from reason
        data = replace(data, spec=input_spec(data.spec, self.config.backbone))
        task = device.place(restore_task(self.folder, data.spec, data))
        return Subject.of_task(task, data, device, self.row, seed=self.config.train.seed)


class EvaluatedCell(Cell):
    """A baseline that is not trained."""

    @cached_property
    def config(self) -> EncoderConfig:
        """The configuration that all cells have in common, resolved once."""
        return self.comparison.encoder_config(self.seed or 0)

    def existing_config(self) -> EncoderConfig | None:
        """Return the configuration among the results in the folder; None if there is none."""
        values = self.results().get("config")
        try:
            return None if values is None else EncoderConfig.model_validate(values)
        except ValidationError as error:
            raise UserError(f"{self.path} was made by another version; remove it") from error

    def _record_config(self, device: Device, **facts: Any) -> None:
        config = self.config.model_dump(mode="json")
        made = {"machine": describe_machine(device), "provenance": provenance()}
        self.folder.write_results({"device": str(device.device), "config": config, **made, **facts})


@dataclass(frozen=True)
class UntrainedCell(EvaluatedCell):
    """The network before training: with the weights that training starts from, or at random.

    Attributes:
        own: the network, if it is that of single tasks and not the comparison's; otherwise None.
        pretrained: whether it has the weights that training starts from.
        frozen: the source of a further trained network, which takes the place of both; otherwise None.
    """

    own: BackboneConfig | None = None
    pretrained: bool = False
    frozen: str | None = None

    @property
    def own_backbone(self) -> str | None:
        """The name of its backbone if it is not the comparison's; otherwise None."""
        own = self.own if self.frozen is None else self.config.backbone
        return None if own is None else backbone_label(self.comparison, own)

    @cached_property
    def config(self) -> EncoderConfig:
        """The configuration that all cells have in common, without trained weights for a random row."""
        config = super().config
        if self.frozen is not None:
            made = self.existing_config()  # its file may be gone since
            backbone = frozen_backbone(self.comparison, self.frozen) if made is None else made.backbone
        else:
            backbone = config.backbone if self.own is None else self.own
            backbone = backbone if self.pretrained else backbone.untrained()
        return config.model_copy(update={"backbone": backbone})

    def subject(self, data: DataSet, device: Device) -> Subject:
        """Return the pooled features of the network with its initial weights."""
        subject = of_encoder(self.config, data, device, self.row)
        assert subject.encoder is not None
        parameters = sum(p.numel() for p in subject.encoder.parameters())
        self._record_config(device, parameters=parameters)
        return subject


class RawCell(EvaluatedCell):
    """The raw input."""

    @property
    def title(self) -> str:
        """The name of the raw input of such data, such as "pixels"."""
        spec = spec_class(self.comparison.modality)
        named = None if spec is None else spec.raw_name
        return named or next(iter(self.results().get("scores", {})), self.row)

    def subject(self, data: DataSet, device: Device) -> Subject:
        """Return the raw input as features."""
        self._record_config(device)
        subject = Subject.raw(data, device)
        if subject is None:
            raise LeftOut(f"the raw input of {data.name} makes no sense as features")
        return subject


def _failure_reason(error: BaseException) -> str:
    if isinstance(error, SslZooError):
        return error_line(error)
    return registry.describe_error(error) or locate_error(error)
