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
    """Return why a subject has no bits per byte: no language model, tokens that are not bytes, no test.

    A task with masked tokens has a pseudo-likelihood alone, which is not comparable, and is left out.
    The raw input, whose features are counts of tokens, stands for a unigram model.
    """
    task, data = subject.module, subject.data
    spec: Any = data.spec
    if isinstance(task, Task):
        if not hasattr(task, "likelihood"):
            return f"{task.name} gives none; train a language model, such as gpt"
    elif subject.encoder is not None:
        return f"{subject.name} is a network without a head; evaluate a run of gpt"
    elif not spec.counts:
        return f"how often the tokens of {data.name} occur is unknown; evaluate a run"
    if spec.tables.num_bytes is None:
        return f"tokens of {data.name} spell no bytes; train with data.options.tokenizer=bpe"
    if data.test is None:
        return f"{data.name} has no text that was not trained on; raise data.holdout"
    return ""


def measure(subject: Subject) -> Mapping[str, float]:
    """Return the bits per byte of the test split."""
    task: Any = subject.module
    spec: Any = subject.data.spec
    likelihood = spec.unigram_likelihood if subject.encoder is None else task.likelihood

    def of_batch(batch: Text) -> Tensor:
        with subject.device.autocast():
            sums: Tensor = likelihood(spec.prepare(batch))
            return sums

    assert subject.data.test is not None
    values = subject.extract(subject.data.test, None, of_batch)
    nats, spelled = values.double().sum(0).tolist()
    return {"bits-per-byte": nats / (math.log(2) * spelled)}


LIKELIHOOD = Protocol(
    measure,
    {
        "bits-per-byte": Metric(
            "bits/byte",
            "cross entropy of the tokens of the test split, at most data.options.passages / 4 "
            "passages, without [CLS] and [SEP] around each, over ln 2 and the bytes that they spell; of "
            "the bag of words, that of a unigram model: frequencies in the train split, one added to "
            "each count",
            better="lower",
            digits=3,
        )
    },
    labels=False,
    modality="text",
    standard=True,
    no_scores=no_scores,
)
