"""The directory of a run: its files, and reading them."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from ssl_zoo import distributed
from ssl_zoo.config.layers import SettingsSource
from ssl_zoo.config.load import dump_config, load_config
from ssl_zoo.config.schema import RunConfig
from ssl_zoo.config.weights import BACKBONE_FILE
from ssl_zoo.config.yaml import read_yaml
from ssl_zoo.errors import Unwritable, UserError
from ssl_zoo.runs.backbone import read_spec
from ssl_zoo.runs.checkpoints import Checkpoints
from ssl_zoo.runs.provenance import provenance
from ssl_zoo.runs.records import (
    MetricsLine,
    ResultsRecord,
    file_exists,
    read_lines,
    read_record,
)
from ssl_zoo.runtime.files import file_lock, write_atomic
from ssl_zoo.spec import Spec

_LEFT_BEHIND = {".lock", ".cell.lock", ".results.lock", "failed.json", "results.json"}
"""Files that a run of a comparison leaves before it begins; a folder with only these is free."""

SNAPSHOTS = "snapshots"
"""The folder of a run with its backbone as it was during training."""
BEST_FILE = "best.safetensors"
"""The snapshot of the best evaluation during training."""

RUNS = Path("runs")
"""The default folder of runs."""


class Run:
    """A directory with everything about one run.

    Attributes:
        path: the directory.
        config_file: the resolved configuration, and under `provenance` the versions and the command.
        metrics_file: one JSON object per line: step, epoch, samples, seconds, loss, and the task's own.
        checkpoints: the state from which training resumes.
        backbone_file: the weights under timm's names; the header describes how to build the model.
        snapshots: the folder of the backbone as it was during training, in files like `backbone_file`.
        results_file: the evaluation of the finished run.
        inputs: the folder of `Spec.kept_files`, if there are any.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config_file = self.path / "config.yaml"
        self.metrics_file = self.path / "metrics.jsonl"
        self.checkpoints = Checkpoints(self.path)
        self.backbone_file = self.path / BACKBONE_FILE
        self.snapshots = self.path / SNAPSHOTS
        self.results_file = self.path / "results.json"
        self.inputs = self.path / "inputs"

    @classmethod
    def create(cls, path: str | Path | None, config: RunConfig) -> Run:
        """Make a new run directory and write its configuration.

        Args:
            path: the directory; None for a folder under ``runs/`` named by task, data and time.
            config: the resolved configuration.

        Raises:
            UserError: `path` exists and is not empty, or it cannot be made.
        """
        run = cls.make(path, config)
        with run.lock():
            run.begin(config)
        return run

    @classmethod
    def make(cls, path: str | Path | None, config: RunConfig) -> Run:
        """Make the directory of a new run; it must be locked before anything is written into it.

        Raises:
            UserError: `path` exists and is not empty, or it cannot be made.
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

    def begin(self, config: RunConfig, spec: Spec | None = None) -> None:
        """Write the configuration of a new run; its directory must exist and be locked.

        Args:
            config: the configuration.
            spec: the description of its data, whose `Spec.kept_files` are written too.

        Raises:
            UserError: the directory is not empty, or cannot be written into.
        """
        self.check_free()
        config = config.model_copy(update={"provenance": provenance(config.task.name)})
        kept = {} if spec is None else spec.kept_files()
        try:
            for name, content in kept.items():
                self.inputs.mkdir(exist_ok=True)
                write_atomic(self.inputs / name, content)
            write_atomic(self.config_file, dump_config(config).encode())
        except (OSError, Unwritable) as error:
            self.discard()
            raise UserError(f"--out {self.path}: {error}") from error

    def update(self, config: RunConfig, change: str) -> None:
        """Write a changed configuration, and the change into its provenance.

        Raises:
            Unwritable: the file cannot be written.
        """
        changes = [*config.provenance.get("changes", ()), change]
        config = config.model_copy(update={"provenance": {**config.provenance, "changes": changes}})
        write_atomic(self.config_file, dump_config(config).encode())

    def check_free(self) -> None:
        """Check that a new run can be made here.

        Raises:
            UserError: the path exists and is not empty.
        """
        try:
            taken = self.path.exists()
            if self.path.is_dir():
                names = {file.name for file in self.path.iterdir() if file.suffix != ".part"}
                taken = bool(names - _LEFT_BEHIND)
        except OSError as error:
            raise UserError(f"--out {self.path}: cannot be read: {error.strerror}") from error
        if taken:
            hint = f", or resume it: --resume {self.path}" if self.config_file.is_file() else ""
            raise UserError(f"--out {self.path}: exists and is not empty; choose another folder{hint}")

    def with_inputs(self, config: RunConfig) -> RunConfig:
        """Return a configuration of the run that reads its data with the files that the run keeps."""
        if not self.inputs.is_dir():
            return config
        kept = {file.stem: str(file) for file in sorted(self.inputs.iterdir())}
        data = config.data.model_copy(update={"options": {**config.data.options, **kept}})
        return config.model_copy(update={"data": data})

    def discard(self) -> None:
        """Remove the files of a new run that has made no step, and the folder unless it has others."""
        with contextlib.suppress(OSError):  # the user has put a file into it, or the disk is gone
            for file in (self.config_file, self.metrics_file, self.path / ".lock"):
                file.unlink(missing_ok=True)
            for entry in list(self.path.iterdir()):  # the folders of observers
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
            self.path.rmdir()
            if self.path.parent == RUNS:
                RUNS.rmdir()

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Open an existing run directory.

        Raises:
            UserError: there is no run at `path`.
        """
        run = cls(path)
        if not file_exists(run.config_file):
            raise UserError(f"{run.path} is not a run: it has no {run.config_file.name}")
        return run

    @classmethod
    def of_snapshot(cls, file: str | Path) -> Run | None:
        """Return the run that has a file among its snapshots; None for another path."""
        path = Path(file)
        run = cls(path.parent.parent)
        inside = path.parent.name == SNAPSHOTS and file_exists(path) and file_exists(run.config_file)
        return run if inside and run.checkpoints else None

    def config(self, settings: Mapping[str, Any] | None = None) -> RunConfig:
        """Read the configuration of the run.

        Args:
            settings: changes by dotted path; None for none.

        Raises:
            UserError: it cannot be read, a newer version wrote it, or its task is not installed.
        """
        file = str(self.config_file)
        try:
            sections = read_yaml(file)
            self._check_version(sections)
            base = [SettingsSource(sections, file)]
            return load_config(settings=settings, base=base, complete=True)
        except UserError as error:
            message = str(error).removeprefix("--config ")
            if message.startswith((file, str(self.path))):
                raise UserError(message) from error
            raise UserError(f"{file}: {message}") from error

    def _check_version(self, sections: Mapping[str, Any]) -> None:
        """Raise unless this version of ssl-zoo, or an older one, wrote the configuration.

        Raises:
            UserError: a newer version wrote it.
        """
        installed = metadata.version("ssl-zoo")
        try:
            version = str(sections["provenance"]["versions"]["ssl-zoo"])
        except (LookupError, TypeError):  # the file is incomplete, which loading it reports
            return
        if _release(version) > _release(installed):
            raise UserError(
                f"{self.path} was made by ssl-zoo {version}, which is newer than {installed} here; "
                "upgrade: pip install -U ssl-zoo"
            )

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold an exclusive lock on the run.

        Raises:
            UserError: another process trains it.
            Unwritable: the directory cannot be locked.
        """
        try:
            with file_lock(self.path / ".lock", wait=False):
                yield
        except BlockingIOError:
            raise UserError(f"{self.path}: another process is training this run") from None

    def write_results(self, results: Mapping[str, Any]) -> None:
        """Add to the results of the run; of several processes only the first does."""
        with self._changing_results() as merged:
            merged.update(results)

    def add_scores(self, rows: Mapping[str, Mapping[str, float]], on: str | None = None) -> None:
        """Add scores to the results of the run; of several processes only the first does.

        Args:
            rows: the scores by metric, for each row (the task, the baselines).
            on: the data set of the scores; None for the run's own.
        """
        with self._changing_results() as results:
            parent = results if on is None else results.setdefault("transfer", {})
            scores = parent.setdefault("scores" if on is None else on, {})
            for row, values in rows.items():
                scores[row] = {**scores.get(row, {}), **values}

    @contextlib.contextmanager
    def _changing_results(self) -> Iterator[dict[str, Any]]:
        """Hold a lock on the results, yield them to be changed, and write them at the end."""
        if distributed.rank() > 0:
            yield {}
            return
        with file_lock(self.path / ".results.lock"):
            results = self.results()
            yield results
            write_atomic(self.results_file, (json.dumps(results, indent=2) + "\n").encode())

    def results(self) -> dict[str, Any]:
        """Read the results of the run, empty before it has ended.

        Raises:
            UserError: the file is broken.
        """
        hint = "remove it and resume the run or the comparison, which evaluates again"
        return read_record(self.results_file, ResultsRecord, hint) or {}

    def metrics(self) -> list[dict[str, float]]:
        """Read the logged lines in order, without a last line that is still being written.

        Raises:
            UserError: the file is broken.
        """
        return read_lines(self.metrics_file, MetricsLine, "remove the line, or the file")

    def spec(self) -> Spec:
        """Read the description of the samples that the run was trained on.

        Raises:
            UserError: the run has not ended, or the plugin of its modality is missing.
        """
        return read_spec(self.path)


def _release(version: str) -> tuple[int, ...]:
    """Return the numbers at the start of a version."""
    return tuple(map(int, re.findall(r"\d{1,9}", version.partition("+")[0])[:3]))


def new_run_folder(config: RunConfig) -> Path:
    """Make a new folder under ``runs/``, named by task, data and time."""
    source = re.sub(r"[^\w.-]+", "-", config.data.source_name, flags=re.ASCII)[:60].strip("-") or "data"
    first = RUNS / f"{config.task.name}-{source}-{datetime.now():%Y%m%d-%H%M%S}"
    for number in itertools.count(1):
        folder = first if number == 1 else first.with_name(f"{first.name}-{number}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder
    raise AssertionError("unreachable")
