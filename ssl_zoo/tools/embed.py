"""The features of every sample of a data set, as a file for other programs."""

from __future__ import annotations

import importlib
import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ssl_zoo.config.schema import DataConfig, TrainConfig
from ssl_zoo.data import DataSet, Split
from ssl_zoo.errors import UserError
from ssl_zoo.evaluation import extract
from ssl_zoo.runs.backbone import load_backbone
from ssl_zoo.runs.build import load_data
from ssl_zoo.runs.run import Run
from ssl_zoo.runtime.device import Device
from ssl_zoo.runtime.files import check_output_file, write_atomic
from ssl_zoo.spec import ImageSpec
from ssl_zoo.text import printable

FORMATS = {".npz": (), ".parquet": ("pyarrow",)}
"""The formats by suffix, and the modules that each needs."""

UNKNOWN = -1
"""The label of a sample that has none."""


@dataclass(frozen=True)
class Embedded:
    """What was written.

    Attributes:
        file: where.
        samples: the number of rows of each split.
        width: D, the number of features of a sample.
        skipped: the files that could not be read and have no row, with the reason.
    """

    file: str
    samples: dict[str, int]
    width: int
    skipped: dict[str, str]


def embed(run: str | Path, data: str | None, to: str | Path, device: str | None = None) -> Embedded:
    """Write the features of every sample of a data set, from a run's backbone, with the labels.

    The features are those of `load_backbone`, in full precision. Images of another size than the run's
    own, or of other channels, are fitted to the backbone. The rows are those of the train split, of the
    test split, and of the bank where its samples are not those trained on; within a split the files of
    a folder come in the order of their names. What cannot be read has no row.

    - ``.npz``: the arrays ``features`` [N, D], ``split`` [N] and ``name`` [N]; ``label`` [N] where there
      are labels, with -1 for a sample without; ``classes`` where these have names.
    - ``.parquet``: the columns ``name``, ``split``, ``label`` and ``class``, null where unknown, and
      ``features``, lists of D numbers.

    A ``name`` is a file's path below the folder; of a data set without files the number in its split,
    or ``SOURCE SPLIT[NUMBER]`` where images are decoded one by one.

    Args:
        run: a run directory; or its `backbone.safetensors`, if `data` is given.
        data: a folder or a data set's name; None for what the run was trained on.
        to: the file to write; one that is there is replaced.
        device: where to compute; None for the best that there is.

    Raises:
        UserError: there is no backbone at `run`, no such data or none of images, or `to` cannot be
            written, or not in this format.
        SslZooError: a feature is not a finite number, or writing fails.
    """
    to = Path(to)
    suffix = check_output_file("-o", to, FORMATS)
    model: Any = load_backbone(run)
    spec: ImageSpec = model.ssl_zoo_spec
    source = DataConfig(source=data) if data is not None else Run.open(run).config().data
    source = source.model_copy(update={"image_size": spec.size})
    place = Device.choose(TrainConfig(device=device or "auto", precision="fp32"))
    samples = load_data(source, place.device)
    if not isinstance(samples.spec, ImageSpec):
        raise UserError(f"--data {source.source}: is {samples.spec.modality} data, {run} takes images")
    place.place(model)

    def represent(batch: Tensor) -> Tensor:
        features: Tensor = model(place.to_format(spec.prepare(batch)))
        return features

    root = Path(source.source).expanduser()
    splits = _splits(samples)
    parts = {name: _rows(name, split, root, represent, place) for name, split in splits.items()}
    rows = Rows(*map(np.concatenate, zip(*parts.values(), strict=True)))
    classes = None if samples.classes is None else [printable(name) for name in samples.classes]
    write_atomic(to, _npz(rows, classes) if suffix == ".npz" else _parquet(rows, classes))
    return Embedded(
        file=str(to),
        samples={name: len(part.features) for name, part in parts.items()},
        width=rows.features.shape[1],
        skipped={file: why for split in splits.values() for file, why in split.skipped.items()},
    )


class Rows(NamedTuple):
    """What is written of N samples: the columns of a table."""

    features: NDArray[np.float32]
    label: NDArray[np.int64]
    split: NDArray[np.str_]
    name: NDArray[np.str_]


def _splits(data: DataSet) -> dict[str, Split]:
    splits = {"train": data.train}
    if data.test is not None:
        splits["test"] = data.test
    if data.bank is not data.train:
        splits["bank"] = data.bank
    return splits


def _rows(
    name: str, split: Split, root: Path, represent: Callable[[Tensor], Tensor], place: Device
) -> Rows:
    """The rows of a split, without those samples for which others stood in."""
    features = extract(represent, split, place.device).cpu().numpy()
    count = len(split)
    names = [str(number) for number in range(count)] if split.names is None else split.names
    kept = np.array([printable(file) not in split.skipped for file in names])
    label = np.full(count, UNKNOWN) if split.labels is None else split.labels.numpy()
    short = np.array([printable(_below(root, file)) for file in names])
    return Rows(features[kept], label[kept], np.full(kept.sum(), name), short[kept])


def _below(root: Path, file: str) -> str:
    """A file's path below a folder; any other name as it is."""
    return file.removeprefix(f"{root}{os.sep}")


def _npz(rows: Rows, classes: Sequence[str] | None) -> bytes:
    arrays: dict[str, Any] = rows._asdict()
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
    table = arrow.table(
        {
            "name": rows.name.tolist(),
            "split": rows.split.tolist(),
            "label": arrow.array(rows.label, mask=~known),
            "class": arrow.array(named, arrow.string()),
            "features": arrow.FixedSizeListArray.from_arrays(
                arrow.array(rows.features.reshape(-1)), rows.features.shape[1]
            ),
        }
    )
    file = io.BytesIO()
    parquet.write_table(table, file)
    return file.getvalue()
