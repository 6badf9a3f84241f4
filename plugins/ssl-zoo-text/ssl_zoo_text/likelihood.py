"""The protocol `likelihood`: how well a language model predicts the test split, in bits per byte."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from ssl_zoo import Notice, Task
from ssl_zoo.evaluation import Metric, Protocol, Subject
from ssl_zoo_text.spec import Text

NO_LIKELIHOOD = Notice(
    "text-no-likelihood",
    "Tasks that are no language models, and tokens that are not bytes, have no bits per byte.",
    "train gpt, with data.options.tokenizer=bpe",
)


def measure(subject: Subject) -> Mapping[str, float]:
    """Return the bits per byte of the test split under a task that has a `likelihood`; else nothing.

    The train split is taken where there is no test split. A task with masked tokens has a
    pseudo-likelihood alone, which is not comparable, and is left out; so are tokens that are not bytes.
    """
    task, data = subject.module, subject.data
    likelihood = getattr(task, "likelihood", None)
    if not isinstance(task, Task):
        return {}  # a network without a head
    if likelihood is None:
        NO_LIKELIHOOD(f"likelihood: {task.name} gives none; train a language model, such as gpt")
        return {}
    if data.spec.tables.num_bytes is None:  # type: ignore[attr-defined]
        NO_LIKELIHOOD(
            f"likelihood: tokens of {data.name} spell no bytes; train with data.options.tokenizer=bpe"
        )
        return {}

    def of_batch(batch: Text) -> Tensor:
        with subject.device.autocast():
            sums: Tensor = likelihood(data.spec.prepare(batch))
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
)
