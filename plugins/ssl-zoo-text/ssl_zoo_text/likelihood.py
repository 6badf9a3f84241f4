"""The protocol `likelihood`: how well a language model predicts the test split, in bits per byte."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ssl_zoo import Task
from ssl_zoo.evaluation import Metric, Protocol, Subject
from ssl_zoo_text.spec import Text


def no_scores(subject: Subject) -> str:
    """Return why a subject has no bits per byte: no language model, or tokens that are not bytes.

    A task with masked tokens has a pseudo-likelihood alone, which is not comparable, and is left out.
    """
    task, data = subject.module, subject.data
    if not isinstance(task, Task):
        return f"{subject.name} is a network without a head; evaluate a run of gpt"
    if not hasattr(task, "likelihood"):
        return f"{task.name} gives none; train a language model, such as gpt"
    if data.spec.tables.num_bytes is None:  # type: ignore[attr-defined]
        return f"tokens of {data.name} spell no bytes; train with data.options.tokenizer=bpe"
    return ""


def measure(subject: Subject) -> Mapping[str, float]:
    """Return the bits per byte of the test split, or of the train split where there is none."""
    task: Any = subject.module
    data = subject.data

    def of_batch(batch: Text) -> Tensor:
        with subject.device.autocast():
            sums: Tensor = task.likelihood(data.spec.prepare(batch))
            return sums

    values = subject.extract(data.train if data.test is None else data.test, None, of_batch)
    nats, spelled = values.double().sum(0).tolist()
    return {"bits-per-byte": nats / (math.log(2) * spelled)}


LIKELIHOOD = Protocol(
    measure,
    {
        "bits-per-byte": Metric(
            "bits/byte",
            "cross entropy of the tokens of the test split, without [CLS] and [SEP] around each "
            "passage, over ln 2 and the bytes that they spell",
            better="lower",
            digits=3,
        )
    },
    labels=False,
    modality="text",
    standard=True,
    no_scores=no_scores,
)
