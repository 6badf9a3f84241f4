"""``ssl-zoo predict``: the classes of the samples of a data set, by a classifier that a run has kept."""

from __future__ import annotations

import csv
import importlib
import io
import logging
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ssl_zoo.config.schema import DataConfig
from ssl_zoo.config.source_names import plain_source
from ssl_zoo.data import Split
from ssl_zoo.data.sample_files import SkippedSamples
from ssl_zoo.errors import UserError
from ssl_zoo.evaluation import Subject
from ssl_zoo.evaluation.api import open_for_evaluation
from ssl_zoo.evaluation.classifier import CLASSIFIER_FILE, KeptClassifier, fingerprint
from ssl_zoo.runs.build import restore_task
from ssl_zoo.runs.run import Run
from ssl_zoo.runtime.files import check_output_file, write_atomic
from ssl_zoo.text import printable, quantity
from ssl_zoo.tools.rows import UNKNOWN, compute_rows

log = logging.getLogger("ssl_zoo.tools")

FORMATS = {".csv": (), ".parquet": ("pyarrow",)}
"""The modules that each format needs, by suffix."""


@dataclass(frozen=True)
class Predicted:
    """The result of `predict`.

    Attributes:
        file: the file that was written.
        samples: the number of rows.
        classes: the number of samples of each predicted class.
        accuracy: the percentage of correct predictions, where the samples have labels; else None. Of
            the data that the classifier was fitted to, the test split alone counts.
        judged: the number of samples that the accuracy is of.
        unlearnt: the number of labelled samples that do not count in it, as the classifier has not
            learnt their class, by class.
        skipped: the samples without a row, which cannot be read or are excluded, with the reason.
    """

    file: str
    samples: int
    classes: dict[str, int]
    accuracy: float | None
    judged: int
    unlearnt: dict[str, int]
    skipped: SkippedSamples


def predict(
    run: str | Path,
    data: str | Sequence[str] | None,
    to: str | Path,
    *,
    classifier: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Predicted:
    """Write the class of every sample of a data set, by a classifier that ``eval --keep`` kept in a run.

    The data needs no labels. A row has ``name`` and ``split`` as in `ssl_zoo.embed`; ``class``, the most
    probable class, and ``probability``, its probability; ``label``, the true class, where the data has
    labels; and ``p_CLASS``, the probability of each class.

    Args:
        run: a run directory.
        data: a folder or a data set's name, or several folders, globs and lists of files; None for the
            run's own data.
        to: the ``.csv`` or ``.parquet`` file to write; an existing one is replaced.
        classifier: the file of the classifier; None for the run's `classifier.safetensors`.
        settings: settings of the machine and of the data, as for `ssl_zoo.evaluate`.

    Raises:
        UserError: there is no run at `run`, no classifier, or one that was fitted to other weights;
            there is no such data; `to` cannot be written or has an unknown format.
        SslZooError: a feature is not a finite number, or writing fails.
    """
    to = Path(to)
    suffix = check_output_file("-o", to, FORMATS)
    opened, data = Run.open(run), None if data is None else plain_source(data)
    file = opened.path / CLASSIFIER_FILE if classifier is None else Path(classifier)
    kept = KeptClassifier.load(file)
    config, samples, device = open_for_evaluation(opened, data, settings or {}, fitted=False)
    with device.computing():
        task = device.place(restore_task(opened, samples.spec))
        if fingerprint(task) != kept.weights:
            raise UserError(
                f"{file} was fitted to other weights than {opened.path} has now; make it again with: "
                f"{shlex.join(['ssl-zoo', 'eval', str(opened.path), '--data', kept.data, '--keep'])}"
            )
        subject = Subject.of_task(task, samples, device)
        fitted = kept.classifier.to(device.device)

        def probabilities(batch: Tensor) -> Tensor:
            return fitted(subject.represent(batch).float())

        def compute(split: Split) -> Tensor:
            return subject.extract(split, function=probabilities)

        section = config.data if data is None else DataConfig(source=data)
        rows, skipped = compute_rows(samples, section.sources, compute)
    names = [printable(name) for name in kept.classes]
    best = rows.values.argmax(1)
    own = kept.classes if samples.classes is None else samples.classes
    known = {number: printable(name) for number, name in enumerate(own)}
    labels = [None if n == UNKNOWN else known.get(n, str(n)) for n in rows.label.tolist()]
    columns: dict[str, list[Any]] = {
        "name": rows.name.tolist(),
        "split": rows.split.tolist(),
        "class": [names[number] for number in best],
        "probability": rows.values.max(1).tolist(),
    }
    if any(label is not None for label in labels):
        columns["label"] = labels
    columns |= {f"p_{name}": rows.values[:, i].tolist() for i, name in enumerate(names)}
    write_atomic(to, _csv(columns) if suffix == ".csv" else _parquet(columns))
    judged, unlearnt = _judged(columns, names, fitted=_same(section.source_text, kept.data))
    return Predicted(
        file=str(to),
        samples=len(best),
        classes=dict(Counter(columns["class"]).most_common()),
        accuracy=100 * sum(judged) / len(judged) if judged else None,
        judged=len(judged),
        unlearnt=unlearnt,
        skipped=skipped,
    )


def _same(source: str, other: str) -> bool:
    """Return whether two names of data, or paths, are those of the same data."""
    if source == other:
        return True
    paths = [Path(name).expanduser() for name in (source, other)]
    return all(path.exists() for path in paths) and paths[0].samefile(paths[1])


def _judged(
    columns: Mapping[str, list[Any]], names: list[str], *, fitted: bool
) -> tuple[list[bool], dict[str, int]]:
    """Return whether each prediction is right, and the number of samples of each class not learnt.

    Args:
        columns: the columns of the table.
        names: the classes of the classifier.
        fitted: whether the classifier was fitted to this data, of which the test split alone counts.
    """
    rows = zip(columns.get("label", ()), columns["class"], columns["split"], strict=False)
    labelled = [row for row in rows if row[0] is not None and (row[2] == "test" or not fitted)]
    if unknown := Counter(label for label, _, _ in labelled if label not in names):
        classes = ", ".join(f"{name} {number:,}" for name, number in sorted(unknown.items()))
        log.warning(
            "%s of classes that the classifier has not learnt (%s): each gets a class that it has, and "
            "does not count in the accuracy; fit a classifier to data with these classes: eval --keep",
            quantity(unknown.total(), "samples"), classes,
        )  # fmt: skip
    judged = [label == predicted for label, predicted, _ in labelled if label in names]
    return judged, dict(sorted(unknown.items()))


def _csv(columns: Mapping[str, list[Any]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(columns)
    for row in zip(*columns.values(), strict=True):
        writer.writerow([f"{value:.6g}" if isinstance(value, float) else value for value in row])
    return text.getvalue().encode()


def _parquet(columns: Mapping[str, list[Any]]) -> bytes:
    arrow, parquet = map(importlib.import_module, ("pyarrow", "pyarrow.parquet"))
    file = io.BytesIO()
    parquet.write_table(arrow.table(dict(columns)), file)
    return file.getvalue()
