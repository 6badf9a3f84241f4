"""``ssl-zoo embed``: the features of every sample of a data set, as a file for other programs."""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ssl_zoo.config.layers import SettingsSource
from ssl_zoo.config.load import load_encoder_config
from ssl_zoo.config.schema import DataConfig, TrainConfig
from ssl_zoo.config.source_names import plain_source
from ssl_zoo.data import DataSet, Split
from ssl_zoo.data.sample_files import SkippedSamples
from ssl_zoo.errors import UserError
from ssl_zoo.evaluation import Subject
from ssl_zoo.evaluation.api import load_adopted
from ssl_zoo.notices import Notice
from ssl_zoo.runs.backbone import load_encoder, read_spec
from ssl_zoo.runs.build import restore_task
from ssl_zoo.runs.run import Run
from ssl_zoo.runtime.defaults import torch_defaults
from ssl_zoo.runtime.device import Device
from ssl_zoo.runtime.files import check_output_file, write_atomic
from ssl_zoo.spec import Spec
from ssl_zoo.text import printable
from ssl_zoo.tools.rows import UNKNOWN, Rows, compute_rows, pool_parts
from ssl_zoo.tree import Tree

FORMATS = {".npz": (), ".parquet": ("pyarrow",)}
"""The modules that each format needs, by suffix."""
POOLED = Notice(
    "pooled-features",
    "Without the checkpoint of its run, a backbone is embedded by its pooled features, though its task "
    "may define others for evaluation.",
    "give the run directory with its checkpoint",
)


@dataclass(frozen=True)
class Embedded:
    """The result of `embed`.

    Attributes:
        file: the file that was written.
        samples: the number of rows of each split.
        width: D, the number of features of a sample, or of a place.
        skipped: the samples without a row, which cannot be read or are excluded, with the reason.
        grid: the places of a sample, such as (7, 7), with `dense`; () without.
    """

    file: str
    samples: dict[str, int]
    width: int
    skipped: SkippedSamples
    grid: tuple[int, ...] = ()


@torch_defaults()
def embed(
    run: str | Path,
    data: str | Sequence[str] | None,
    to: str | Path,
    device: str | None = None,
    batch_size: int | None = None,
    settings: Mapping[str, Any] | None = None,
    dense: bool = False,
    pool: bool = False,
) -> Embedded:
    """Write the features of every sample of a data set, from a run's backbone, with the labels.

    The features are those that the run's task gives evaluation, in full precision: those of
    `load_backbone`, unless the task defines its own. Images of another size or with other channels than
    the run's are converted. The rows are those of the train split, the test split, and the bank where
    it differs from the train split; the files of a folder are sorted by name. Files that cannot be read
    have no row.

    - ``.npz``: the arrays ``features`` [N, D], ``split`` [N] and ``name`` [N]; ``label`` [N] where there
      are labels, -1 for an unlabelled sample; ``classes`` where classes have names; ``group`` [N]
      where samples are parts, the name of the document, the recording or whatever each is a part of.
    - ``.parquet``: the columns ``name``, ``split``, ``label`` and ``class``, null where unknown,
      ``group`` as above, and ``features``, lists of D numbers.

    A ``name`` is a file's path relative to the folder, or to that of a list; its path where there are
    several sources. In a data set without files it is the index in the split, or
    ``SOURCE SPLIT[INDEX]`` where images are decoded one by one.

    Args:
        run: a run directory, or a file of its ``snapshots``; or a `backbone.safetensors`, if `data` is
            given, for pooled features.
        data: a folder or a data set's name, or several folders, globs and lists of files; None for the
            run's own data.
        to: the file to write; an existing one is replaced.
        device: the device to compute on; None for the best one.
        batch_size: the number of samples at a time; None to follow training and memory.
        settings: settings of the section data by dotted path, such as ``data.options.length``.
        dense: whether to write the features of each place, the encoder's unpooled feature map, so that
            ``features`` is [N, d, h, w]; only into ``.npz``, and held in memory.
        pool: whether all samples of a group, such as a document or a recording that was cut into them,
            have one row, the mean of theirs in the same split, instead of one for each.

    Raises:
        UserError: there is no backbone at `run`, no such data, it is of another modality, or `to`
            cannot be written or has an unknown format. With `dense`, samples have places of padding;
            with `pool`, they are not parts of anything.
        SslZooError: a feature is not a finite number, or writing fails.
    """
    to = Path(to)
    suffix = check_output_file("-o", to, FORMATS)
    if dense and suffix != ".npz":
        raise UserError(f"-o {to}: --dense needs arrays of several axes; choose a name with .npz")
    if dense and pool:
        raise UserError("--pool: there is no mean of places of several samples; leave --dense out")
    spec = read_spec(run)
    section = _section(run, spec, None if data is None else plain_source(data), settings or {})
    target = Device.choose(_computing(run, device, batch_size))
    samples = load_adopted(section, spec, target, fitted=False)
    subject = _subject(Path(run), samples, target)
    compute = _places(subject) if dense else subject.extract
    rows, skipped = compute_rows(samples, section.sources, compute)
    rows = pool_parts(rows) if pool else rows
    classes = None if samples.classes is None else [printable(name) for name in samples.classes]
    write_atomic(to, _npz(rows, classes) if suffix == ".npz" else _parquet(rows, classes))
    return Embedded(
        file=str(to),
        samples=rows.per_split(),
        width=rows.values.shape[1],
        grid=rows.values.shape[2:],
        skipped=skipped,
    )


def _section(
    run: str | Path, spec: Spec, data: str | list[str] | None, settings: Mapping[str, Any]
) -> DataConfig:
    """Return the section ``data`` of the samples to embed, as the network takes them.

    Raises:
        UserError: a setting is of another section, or the network determines it.
    """
    for path in settings:
        if not path.startswith("data.") or path == "data.source":
            raise UserError(f"{path}: embed takes settings of the section data alone; leave it out")
    own = {} if data is not None else _run_of(run).config().data.model_dump()
    determined = spec.data_settings()
    base = [SettingsSource({"data": values}, str(run)) for values in (own, determined)]
    return load_encoder_config({"data.source": data}, settings=settings, base=base).data


def _run_of(path: str | Path) -> Run:
    """Return the run in a directory, or that of a snapshot.

    Raises:
        UserError: there is none.
    """
    return Run.of_snapshot(path) or Run.open(path)


def _subject(run: Path, samples: DataSet, device: Device) -> Subject:
    """Return the features of a run's task, or of its backbone alone where there is no checkpoint."""
    if (of_snapshot := Run.of_snapshot(run)) is not None:
        task = restore_task(of_snapshot, samples.spec, snapshot=run)
        return Subject.of_task(device.place(task), samples, device)
    if run.is_dir() and Run(run).checkpoints:
        return Subject.of_task(device.place(restore_task(Run(run), samples.spec)), samples, device)
    POOLED(f"{run}: embedded by the backbone's pooled features, as there is no checkpoint of its task")
    return Subject.of_encoder(device.place(load_encoder(run)[0]), samples, device, "")


def _places(subject: Subject) -> Callable[[Split], Tensor]:
    """Return the function from a split to the features of places [N, d, h, w]."""
    encoder, device, spec = subject.encoder, subject.device, subject.data.spec
    assert encoder is not None

    def feature_map(batch: Tree) -> Tensor:
        x = device.to_format(spec.prepare(batch))
        with device.autocast():
            if encoder.valid(x) is not None:
                raise UserError(f"--dense: {spec.noun} have places of padding; leave --dense out")
            return encoder.feature_map(x)

    return lambda split: subject.extract(split, function=feature_map)


def _computing(run: str | Path, device: str | None, batch_size: int | None) -> TrainConfig:
    """Return how to compute: in full precision, with the batches of the run where they are known."""
    train = TrainConfig()
    with contextlib.suppress(UserError):  # without the run's configuration, or its task's plugin
        train = _run_of(run).config().train
    names = ("batch_size", "cached_gradients", "part_size", "eval_batch_size")
    values: dict[str, Any] = {name: getattr(train, name) for name in names}
    if batch_size is not None:
        values["eval_batch_size"] = batch_size
    return TrainConfig(device=device or "auto", precision="fp32", **values)


def _npz(rows: Rows, classes: Sequence[str] | None) -> bytes:
    columns = {name: values for name, values in vars(rows).items() if values is not None}
    arrays: dict[str, Any] = {"features": columns.pop("values"), **columns}
    if (rows.label == UNKNOWN).all():
        del arrays["label"]
    if classes is not None:
        arrays["classes"] = np.array(classes)
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def _parquet(rows: Rows, classes: Sequence[str] | None) -> bytes:
    arrow, parquet = map(importlib.import_module, ("pyarrow", "pyarrow.parquet"))
    known = rows.label != UNKNOWN
    named = [classes[i] if classes and i != UNKNOWN else None for i in rows.label]
    groups = {} if rows.group is None else {"group": rows.group.tolist()}
    table = arrow.table(
        {
            "name": rows.name.tolist(),
            "split": rows.split.tolist(),
            "label": arrow.array(rows.label, mask=~known),
            "class": arrow.array(named, arrow.string()),
            **groups,
            "features": arrow.FixedSizeListArray.from_arrays(
                arrow.array(rows.values.reshape(-1)), rows.values.shape[1]
            ),
        }
    )
    file = io.BytesIO()
    parquet.write_table(table, file)
    return file.getvalue()
