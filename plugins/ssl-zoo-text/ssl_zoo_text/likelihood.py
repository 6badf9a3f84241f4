"""The protocol `likelihood`: how well a language model predicts held-out text, in bits per byte."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_zoo import Task
from ssl_zoo.evaluation import Metric, Protocol, Subject
from ssl_zoo_text.spec import Text, TextSpec
from ssl_zoo_text.tokenizer import SPECIALS


def no_scores(subject: Subject) -> str:
    """Return why a subject has no bits per byte: no language model, no bytes, or nothing held out.

    A task with masked tokens has a pseudo-likelihood alone, which is not comparable, and is left out.
    """
    task, data = subject.module, subject.data
    if not isinstance(task, Task):
        return f"{subject.name} is a network without a head; evaluate a run of gpt"
    if not hasattr(task, "likelihood"):
        return f"{task.name} gives none; train a language model, such as gpt"
    if data.spec.tables.num_bytes is None:  # type: ignore[attr-defined]
        return f"tokens of {data.name} spell no bytes; train with data.options.tokenizer=bpe"
    if data.test is None:
        return f"nothing of {data.name} is held out; set data.holdout"
    return ""


def unigram_nats(x: Text, spec: TextSpec) -> Tensor:
    """Return for each text the nats of its tokens by their frequency alone, [B].

    The frequency is that in the train split, with one added to the count of each ordinary token, so that
    those that did not occur there are possible (Laplace's rule of succession).
    """
    counts = torch.ones(spec.vocabulary, dtype=torch.float64)
    counts[: len(SPECIALS)] = 0
    counts += torch.tensor(spec.counts or (0,))
    nats = F.pad((counts.sum() / counts[len(SPECIALS) :]).log(), (len(SPECIALS), 0))
    return nats.float().to(x.ids.device)[x.ids].sum(1)


def measure(subject: Subject) -> Mapping[str, float]:
    """Return the bits per byte of a language model on the test split, and those of a unigram model."""
    task: Any = subject.module
    data, spec = subject.data, subject.data.spec
    assert data.test is not None
    assert isinstance(spec, TextSpec)

    def of_batch(batch: Text) -> Tensor:
        x = spec.prepare(batch)
        with subject.device.autocast():
            sums: Tensor = task.likelihood(x)
        return torch.cat([sums, unigram_nats(x, spec)[:, None]], 1)

    nats, spelled, unigram = subject.extract(data.test, None, of_batch).double().sum(0).tolist()
    bits = math.log(2) * spelled
    return {"bits-per-byte": nats / bits, "unigram-bits-per-byte": unigram / bits}


LIKELIHOOD = Protocol(
    measure,
    {
        "bits-per-byte": Metric(
            "bits/byte",
            "cross entropy of the tokens of the held-out passages, without [CLS] and [SEP] around each, "
            "over ln 2 and the bytes that they spell",
            better="lower",
            digits=3,
        ),
        "unigram-bits-per-byte": Metric(
            "unigram bits/byte",
            "the same of a model that knows only how often each token occurs in the train split, where "
            "each counts once more",
            better=None,
            digits=3,
        ),
    },
    labels=False,
    modality="text",
    standard=True,
    no_scores=no_scores,
)
