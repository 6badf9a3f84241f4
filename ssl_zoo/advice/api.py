"""Advice on own data: a comparison under one budget of minutes that ends in a sentence."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ssl_zoo.advice.plan import Plan, Trial, make_plan
from ssl_zoo.advice.request import (
    report_holdout,
    requested_comparison,
    with_batch_size,
    with_half_held_out,
    without_missing_weights,
)
from ssl_zoo.advice.result import Advice, as_dict, describe, make_advice
from ssl_zoo.advice.trial import try_evaluation, try_features, try_training
from ssl_zoo.comparison import COMPARE_FILE, Sweep, open_sweep, run
from ssl_zoo.comparison.cells import TrainedCell, UntrainedCell, shared_data
from ssl_zoo.comparison.config import Comparison
from ssl_zoo.comparison.networks import frozen_networks
from ssl_zoo.comparison.rows import make_cells
from ssl_zoo.config.errors import SettingError
from ssl_zoo.data import DataSet
from ssl_zoo.errors import Interrupted, SslZooError, Unwritable, UserError
from ssl_zoo.plugins.registry import registry
from ssl_zoo.plugins.validation import PLUGIN_ERRORS
from ssl_zoo.runs.records import read_record
from ssl_zoo.runtime.defaults import torch_defaults
from ssl_zoo.runtime.device import Device
from ssl_zoo.runtime.files import write_atomic
from ssl_zoo.text import error_line, locate_error

ADVICE_FILE = "advice.json"
"""The name of the file with the request, the plan and, at the end, the verdict, in the folder."""
TRIAL_SHARE, MAX_TRIAL_SECONDS = 0.02, 10.0
"""The share of all minutes that the trial of a row takes, and its maximum."""
EVALUATION_SHARE = 0.5
"""The share of all minutes that the features of all rows may take."""


class AdviceRecord(BaseModel):
    """The content of `advice.json`.

    Attributes:
        request: what was asked for.
        plan: the plan.
        verdict: the verdict in words and figures; None before the end.
    """

    request: dict[str, Any]
    plan: Plan
    verdict: dict[str, Any] | None = None


class Advisor:
    """Advice in the making: the plan is made, and `run` follows it.

    Attributes:
        folder: the folder.
        plan: the plan.
        sweep: the comparison.
    """

    def __init__(self, folder: Path, record: AdviceRecord, sweep: Sweep) -> None:
        self.folder, self._record, self.sweep = folder, record, sweep
        self.plan = record.plan
        sweep.resume_command = [*registry.arguments(), "advise", "--resume", str(folder)]

    @torch_defaults()
    def run(self) -> Advice:
        """Do the remaining work and return the advice, which is also written into the folder.

        Raises:
            UserError: another process works in the folder, or the data is not available.
            Interrupted: a signal asked to stop.
        """
        run(self.sweep)
        device = Device.choose(self.sweep.config.train)
        data = shared_data(self.sweep.config, device, self.sweep.comparison.modality)
        advice = make_advice(self.sweep, self.plan, self._record.request, data, device)
        record = self._record.model_copy(update={"verdict": as_dict(advice)["verdict"]})
        _write(self.folder, record)
        return advice


@torch_defaults()
def open_advisor(
    file: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    *,
    labels: Sequence[str] = (),
    tasks: Sequence[str] | None = None,
    frozen: Sequence[str] | None = None,
    minutes: float = 60.0,
    out: str | Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> Advisor:
    """Load the data, try every row for some seconds, and plan the minutes; nothing is trained yet.

    Where the folder has a plan for the same request, this is taken up again.

    Args:
        file: a YAML file like that of a comparison; None for the shipped one for such data.
        settings: settings by dotted path, such as ``{"data.source": "photos/"}``.
        labels: folders or lists with labelled samples, if these are others than the data.
        tasks: the names of the tasks to try; None for those of the file.
        frozen: further trained networks to score as they are, as in `Comparison.frozen`; likewise.
        minutes: the minutes for all.
        out: the folder; None for one under ``runs/`` whose name follows from the request.
        progress: called with a line about what is being done; None for nothing.

    Raises:
        UserError: a setting is invalid, the data is not available, or the minutes are too few.
    """
    start = time.monotonic()
    if minutes <= 0:
        raise UserError(f"--minutes {minutes:g}: must be more than 0")
    request: dict[str, Any] = {
        "file": None if file is None else str(file),
        "settings": dict(settings or {}),
        "labels": list(labels),
        "tasks": None if tasks is None else list(tasks),
        "minutes": minutes,
    }
    if frozen is not None:
        request["frozen"] = list(frozen)
    comparison = requested_comparison(file, request["settings"], labels, tasks, frozen)
    folder = Path(out) if out is not None else _default_folder(comparison, request)
    if (record := _read(folder)) is not None:
        if record.request != request:
            old, new = (f"{json.dumps(r, ensure_ascii=False)}" for r in (record.request, request))
            raise UserError(
                f"--out {folder}: holds advice that was asked for with {old}, not {new}; choose another "
                f"folder, or go on with: ssl-zoo advise --resume {folder}"
            )
        return resume_advisor(folder)
    config = comparison.encoder_config(0)
    device = Device.choose(config.train)
    comparison, data = _load(comparison, device, labels, request["settings"])
    progress = progress or (lambda text: None)
    if config.backbone.starts_trained or comparison.frozen:
        progress("looking for pretrained weights")
    comparison, unanswered = without_missing_weights(comparison, data)
    comparison = with_batch_size(comparison, len(data.train), data.spec.noun)
    plan = _plan(comparison, data, device, minutes, start, progress)
    plan = plan.model_copy(update={"unanswered": [*unanswered, *plan.unanswered]})
    sweep = Sweep(_shortened(comparison, plan), folder)
    with sweep.lock():
        sweep.write()
        _write(folder, record := AdviceRecord(request=request, plan=plan))
    return Advisor(folder, record, sweep)


def resume_advisor(folder: str | Path) -> Advisor:
    """Take up the advice in a folder again.

    Raises:
        UserError: there is none.
    """
    folder = Path(folder)
    if (record := _read(folder)) is None:
        raise UserError(f"--resume {folder}: has no {ADVICE_FILE}; give the folder of ssl-zoo advise")
    return Advisor(folder, record, open_sweep(folder / COMPARE_FILE, folder))


def _load(
    comparison: Comparison, device: Device, labels: Sequence[str], settings: Mapping[str, Any]
) -> tuple[Comparison, DataSet]:
    """Return the data, of which half is held out unless a share is set, and the comparison with that.

    Args:
        comparison: the comparison.
        device: the device whose memory holds the samples, if they fit.
        labels: the sources of labelled samples; empty if these are in the data.
        settings: the settings that were asked for.
    """
    data = shared_data(comparison.encoder_config(0), device, comparison.modality)
    half = bool(labels and "data.holdout" not in settings and data.facts.held_out)
    changed = with_half_held_out(comparison, data)
    if changed is not comparison:
        try:
            data = shared_data(changed.encoder_config(0), device, comparison.modality)
            comparison, half = changed, True
        except SettingError as error:
            if error.path != "data.holdout":  # an index has decided it
                raise
    if half:
        report_holdout(labels, data)
    return comparison, data


def _read(folder: Path) -> AdviceRecord | None:
    record = read_record(folder / ADVICE_FILE, AdviceRecord, "choose another folder, or remove it")
    return None if record is None else AdviceRecord.model_validate(record)


def read_verdict(folder: Path) -> list[str]:
    """Return the sentences of the verdict in a folder; none before it is found, or in other folders.

    Raises:
        UserError: the file is broken.
    """
    record = _read(folder)
    return [] if record is None or record.verdict is None else list(record.verdict["sentences"])


def _write(folder: Path, record: AdviceRecord) -> None:
    write_atomic(folder / ADVICE_FILE, (record.model_dump_json(indent=1) + "\n").encode())


def _default_folder(comparison: Comparison, request: Mapping[str, Any]) -> Path:
    name = comparison.default_folder().name.replace("compare-", "advise-", 1).rpartition("-")[0]
    digest = sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:8]
    return Path("runs") / f"{name}-{digest}"


def _plan(
    comparison: Comparison, data: DataSet, device: Device, minutes: float, start: float,
    progress: Callable[[str], None],
) -> Plan:  # fmt: skip
    """Try an evaluation and each row that is trained, and return the plan.

    Raises:
        UserError: the minutes are too few, or no row can be trained.
    """
    cells = make_cells(comparison, Path())
    progress("trying an evaluation")
    limit = EVALUATION_SHARE * 60 * minutes / len(cells)
    config = comparison.encoder_config(0)
    evaluation = try_evaluation(config, data, device, comparison.protocols, limit)
    if not evaluation.measured:
        raise UserError(
            f"--minutes {minutes:g}: the features of one network take about "
            f"{evaluation.seconds / 60:.2g} minutes here, and there are {len(cells)} rows; give more "
            "minutes, fewer labelled samples, or a smaller network"
        )
    own: dict[str, float] = {}
    trials: dict[str, Trial] = {}
    broken: dict[str, str] = {}
    for cell in (cell for cell in cells if isinstance(cell, UntrainedCell) and cell.frozen is not None):
        progress(f"trying {cell.row}")
        seconds, reason = _try_frozen(cell, data, device, evaluation.seconds)
        if reason is None and seconds > limit:
            reason = (
                f"its features take about {seconds / 60:.2g} minutes, and a row may take "
                f"{limit / 60:.2g} of {minutes:g}"
            )
        if reason is None:
            own[cell.row] = seconds
        else:
            broken[cell.row] = reason
    refused: set[str] = set()  # by their settings, which their second rows share
    seconds = min(MAX_TRIAL_SECONDS, TRIAL_SHARE * 60 * minutes)
    for row in comparison.trained_rows():
        if comparison.is_scratch(row) and _same_task(comparison, row) in refused:
            broken[row] = broken[comparison.task_of(row)]
            continue
        progress(f"trying {row}")
        try:
            trials[row] = try_training(comparison.run_config(row, 0), data, device, seconds)
        except (Interrupted, Unwritable):
            raise
        except PLUGIN_ERRORS as error:
            if isinstance(error, UserError):
                refused.add(row)
            broken[row] = _reason(error)
    if broken and not trials:
        raise UserError(f"--tasks: none can be trained here; {'; '.join(broken.values())}")
    phrases = {
        cell.row: describe(cell)
        for cell in cells
        if (cell.row in trials if isinstance(cell, TrainedCell) else cell.row not in broken)
    }
    points = comparison.run_config(next(iter(trials)), 0).train.knn_points if trials else 0
    online = points * evaluation.first_seconds if data.labelled else 0.0
    spent = time.monotonic() - start
    plan = make_plan(minutes, spent, phrases, trials, evaluation.seconds, online, own)
    return plan.model_copy(update={"left_out": {**broken, **plan.left_out}})


def _try_frozen(
    cell: UntrainedCell, data: DataSet, device: Device, seconds: float
) -> tuple[float, str | None]:
    """Return the duration of the evaluation of a further network, or why there is none.

    Args:
        cell: the cell of the network.
        data: the data, loaded.
        device: where and how to compute.
        seconds: the duration of an evaluation of the common network, to which features are added.
    """
    try:
        return seconds + try_features(cell.config, data, device), None
    except (Interrupted, Unwritable):
        raise
    except PLUGIN_ERRORS as error:
        return seconds, _reason(error)


def _reason(error: BaseException) -> str:
    return error_line(error) if isinstance(error, SslZooError) else locate_error(error)


def _same_task(comparison: Comparison, row: str) -> str | None:
    """Return the task of a second row, if it has the same options and the same network."""
    task = comparison.task_of(row)
    sections = [comparison.overrides.get(name, {}) for name in (task, row)]
    own, second = ([of_row.get(name) for name in ("task", "backbone")] for of_row in sections)
    return task if own == second else None


def _shortened(comparison: Comparison, plan: Plan) -> Comparison:
    """Return the comparison of the rows of a plan, with the minutes of each."""
    if not plan.train_minutes:
        return comparison.model_copy(update={"untrained_only": True})
    rows = [planned.row for planned in plan.rows]
    scratch = [name for name in comparison.scratch if f"{name}-scratch" in rows]
    tasks = [name for name in comparison.task_names() if name in {*rows, *scratch}]
    given, overrides = comparison.variants, comparison.overrides
    variants = {row: task for row, task in given.items() if row in rows and task in tasks}
    kept = {name: own for name, own in overrides.items() if name in variants or name not in given}
    frozen = [source for row, source in frozen_networks(comparison).items() if row in rows]
    budget = {k: v for k, v in comparison.train.items() if k not in ("epochs", "samples")}
    train = {**budget, "minutes": plan.train_minutes}
    changes = {"tasks": tasks, "variants": variants, "overrides": kept, "scratch": scratch}
    changes |= {"frozen": frozen, "train": train}
    return comparison.model_copy(update=changes)
