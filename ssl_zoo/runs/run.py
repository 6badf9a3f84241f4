"""A run directory: what is in it, and how it is read back."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from safetensors.torch import save as safetensors_bytes

from ssl_zoo.backbones.timm_encoder import TimmEncoder
from ssl_zoo.config.load import dump_config, load_config
from ssl_zoo.config.schema import BackboneConfig, RunConfig
from ssl_zoo.config.yaml import read_yaml
from ssl_zoo.errors import Unwritable, UserError
from ssl_zoo.runs.backbone import BACKBONE_FILE, read_backbone
from ssl_zoo.runs.build import build_task
from ssl_zoo.runs.checkpoints import Checkpoints, state_dict_errors
from ssl_zoo.runs.provenance import provenance
from ssl_zoo.runs.records import (
    MetricsLine,
    ResultsRecord,
    file_exists,
    read_lines,
    read_record,
)
from ssl_zoo.runtime.files import file_lock, write_atomic
from ssl_zoo.spec import ImageSpec, Spec
from ssl_zoo.task import Encoder, Task

_LEFT_BEHIND = {".lock", ".cell.lock", ".results.lock", "failed.json", "results.json"}
"""Files that do not make a folder taken: what a run of a comparison that never began leaves."""

RUNS = Path("runs")
"""Where runs are that are given no place of their own."""


class Run:
    """A directory with everything about one run.

    Attributes:
        path: the directory.
        config_file: the resolved configuration, and under `provenance` what it was made with.
        metrics_file: one JSON object a line: step, epoch, images, seconds, loss, what the task logs.
        checkpoints: everything needed to go on.
        backbone_file: the weights, as timm names them, and in the header how to build the model.
        results_file: the evaluation of the finished run.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config_file = self.path / "config.yaml"
        self.metrics_file = self.path / "metrics.jsonl"
        self.checkpoints = Checkpoints(self.path)
        self.backbone_file = self.path / BACKBONE_FILE
        self.results_file = self.path / "results.json"

    @classmethod
    def create(cls, path: str | Path | None, config: RunConfig) -> Run:
        """Make a new run directory and write its configuration.

        Args:
            path: where; None makes a folder under ``runs/`` named by task, data and time.
            config: the resolved configuration.

        Raises:
            UserError: there is a run, or something else, at `path` already, or it cannot be made.
        """
        run = cls.make(path, config)
        with run.lock():
            run.begin(config)
        return run

    @classmethod
    def make(cls, path: str | Path | None, config: RunConfig) -> Run:
        """Make the directory of a new run, which is to be locked before anything is written into it.

        Raises:
            UserError: there is a run, or something else, at `path` already, or it cannot be made.
        """
        if path is not None:
            cls(path).check_free()
        run = cls(RUNS if path is None else path)
        try:
            if path is None:
                run = cls(new_run_folder(config))
            run.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--out {run.path}: cannot be made: {error.strerror}") from error
        return run

    def begin(self, config: RunConfig) -> None:
        """Write the configuration of a new run, whose directory is made and locked.

        Raises:
            UserError: there is a run, or something else, already, or it cannot be written.
        """
        self.check_free()
        config = config.model_copy(update={"provenance": provenance(config)})
        try:
            write_atomic(self.config_file, dump_config(config).encode())
        except Unwritable as error:
            self.discard()
            raise UserError(f"--out {self.path}: {error}") from error

    def check_free(self) -> None:
        """Make sure that a new run can be made here.

        Raises:
            UserError: there is a run, or something else.
        """
        try:
            taken = self.path.exists()
            if self.path.is_dir():
                names = {file.name for file in self.path.iterdir() if file.suffix != ".part"}
                taken = bool(names - _LEFT_BEHIND)
        except OSError as error:
            raise UserError(f"--out {self.path}: cannot be read: {error.strerror}") from error
        if taken:
            go_on = f", or go on with it: --resume {self.path}" if self.config_file.is_file() else ""
            raise UserError(f"--out {self.path}: exists and is not empty; choose another folder{go_on}")

    def discard(self) -> None:
        """Remove a new run that has made no step, observers' folders too, and its own if it is empty."""
        with contextlib.suppress(OSError):  # something of the user's is in it, or the disk is gone
            for file in (self.config_file, self.metrics_file, self.path / ".lock"):
                file.unlink(missing_ok=True)
            for entry in list(self.path.iterdir()):  # there was none when the run was made
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
            self.path.rmdir()
            if self.path.parent == RUNS:
                RUNS.rmdir()

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Open an existing run directory.

        Raises:
            UserError: there is none at `path`.
        """
        run = cls(path)
        if not file_exists(run.config_file):
            raise UserError(f"{run.path} is not a run: it has no {run.config_file.name}")
        return run

    def config(self) -> RunConfig:
        """The configuration that the run was made with.

        Raises:
            UserError: it cannot be read, a newer version made it, or its task is not installed.
        """
        self._check_version()
        try:
            return load_config(self.config_file)
        except UserError as error:
            said, file = str(error).removeprefix("--config "), str(self.config_file)
            raise UserError(said if said.startswith(file) else f"{file}: {said}") from error

    def _check_version(self) -> None:
        here = there = metadata.version("ssl-zoo")
        # A broken file is reported where it is read.
        with contextlib.suppress(UserError, LookupError, TypeError):
            there = str(read_yaml(self.config_file)["provenance"]["versions"]["ssl-zoo"])
        if _release(there) > _release(here):
            raise UserError(
                f"{self.path} was made by ssl-zoo {there}, which is newer than {here} here; "
                "upgrade: pip install -U ssl-zoo"
            )

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Within, no other process trains this run.

        Raises:
            UserError: one does.
            Unwritable: there can be no lock here.
        """
        try:
            with file_lock(self.path / ".lock", wait=False):
                yield
        except BlockingIOError:
            raise UserError(f"{self.path}: another process is training this run") from None

    def write_results(self, results: Mapping[str, Any]) -> None:
        """Add to the run's results."""
        with self._changing_results() as merged:
            merged.update(results)

    def add_scores(self, rows: Mapping[str, Mapping[str, float]], on: str | None = None) -> None:
        """Add to the scores of each row (the task, the baselines) among the run's results.

        Args:
            rows: the scores by metric, by row.
            on: the other data that they are of; None for the run's own.
        """
        with self._changing_results() as results:
            place = results if on is None else results.setdefault("transfer", {})
            scores = place.setdefault("scores" if on is None else on, {})
            for row, its in rows.items():
                scores[row] = {**scores.get(row, {}), **its}

    @contextlib.contextmanager
    def _changing_results(self) -> Iterator[dict[str, Any]]:
        """Within, the results may be changed, by one process at a time; they are written at the end."""
        with file_lock(self.path / ".results.lock"):
            results = self.results()
            yield results
            write_atomic(self.results_file, (json.dumps(results, indent=2) + "\n").encode())

    def results(self) -> dict[str, Any]:
        """The run's results so far, empty before it has ended.

        Raises:
            UserError: the file is broken.
        """
        mend = "remove it, and go on with the run or the comparison, which evaluates again"
        return read_record(self.results_file, ResultsRecord, mend) or {}

    def metrics(self) -> list[dict[str, float]]:
        """What was logged, in order, without a last line that is still being written.

        Raises:
            UserError: the file is broken.
        """
        return read_lines(self.metrics_file, MetricsLine, "remove the line, or the file")

    def write_backbone(self, encoder: Encoder, config: BackboneConfig, spec: Spec) -> None:
        """Save the backbone's weights, with all that `load_backbone` needs to build it again."""
        weights = encoder.model if isinstance(encoder, TimmEncoder) else encoder
        state = {k: v.detach().cpu().contiguous() for k, v in weights.state_dict().items()}
        header = {"backbone": config.model_dump_json(), "modality": spec.modality}
        if isinstance(spec, ImageSpec):
            header["spec"] = json.dumps(asdict(spec))
        write_atomic(self.backbone_file, safetensors_bytes(state, header))

    def spec(self) -> ImageSpec:
        """What the images look like that the run was trained on.

        Raises:
            UserError: the run has not ended, or it is not of images.
        """
        return read_backbone(self.path)[1]

    def load_task(self, spec: Spec) -> Task:
        """The run's task as its checkpoint has it, on the CPU, in evaluation mode.

        Raises:
            UserError: the run has no checkpoint that fits.
        """
        state = self.checkpoints.load()
        config = self.config()
        # All weights come from the checkpoint; timm's need not be fetched.
        backbone = config.backbone.model_copy(update={"pretrained": False})
        task = build_task(config.model_copy(update={"backbone": backbone}), spec)
        with state_dict_errors(self.checkpoints.file):
            task.load_state_dict(state["task"])
            if state["ema"] is not None:
                task.encoder.load_state_dict(state["ema"])
        return task.eval()


def _release(version: str) -> tuple[int, ...]:
    """The numbers that a version begins with."""
    return tuple(map(int, re.findall(r"\d{1,9}", version.partition("+")[0])[:3]))


def new_run_folder(config: RunConfig) -> Path:
    """Make a folder under ``runs/`` that no other run has, named by task, data and time."""
    name = Path(config.data.source).name
    source = re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII)[:60].strip("-") or "data"
    first = RUNS / f"{config.task.name}-{source}-{datetime.now():%Y%m%d-%H%M%S}"
    for number in itertools.count(1):
        folder = first if number == 1 else first.with_name(f"{first.name}-{number}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder
    raise AssertionError("unreachable")
