"""Scoring representations by protocols, and the baselines that learnt features must beat."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace

from ssl_zoo.backbones.build import build_encoder
from ssl_zoo.backbones.inputs import input_spec
from ssl_zoo.config.schema import EncoderConfig, RunConfig
from ssl_zoo.data import DataSet
from ssl_zoo.errors import UserError
from ssl_zoo.evaluation.protocol import protocols
from ssl_zoo.evaluation.subject import Subject
from ssl_zoo.notices import Notice
from ssl_zoo.runs.build import build_task
from ssl_zoo.runtime.device import Device

_NO_SCORES = Notice(
    "no-scores",
    "A protocol that is named has no scores of networks that it does not suit.",
    "another task, other data, or another protocol",
)

log = logging.getLogger("ssl_zoo.evaluation")

UNTRAINED, PRETRAINED = "random-init", "pretrained"
"""The names of the network before training, by its initial weights."""
ONLINE_EVAL_SIZES = (10_000, 2_000)
"""The maximum number of samples of the bank and of the test split in an evaluation during training."""


def score(subject: Subject, names: Iterable[str]) -> dict[str, float]:
    """Evaluate a representation by protocols.

    Raises:
        UserError: there is no such protocol, or one needs labels that the data lacks.
        SslZooError: a feature is not a finite number.
    """
    scores: dict[str, float] = {}
    for protocol in protocols(names).values():
        scores |= protocol(subject)
    return scores


def report_no_scores(subject: Subject, names: Iterable[str]) -> None:
    """Give a notice for each protocol, named by the user, that can have no scores of a subject."""
    for name, protocol in protocols(names).items():
        if reason := protocol.no_scores(subject):
            _NO_SCORES(f"{name}: {reason}")


def scored_protocols(names: Iterable[str], subject: Subject) -> list[str]:
    """Return the named protocols that have scores of a subject, with which baselines are compared."""
    return [name for name, protocol in protocols(names).items() if not protocol.no_scores(subject)]


def unsupported_protocols(names: Iterable[str], data: DataSet) -> dict[str, str]:
    """Return the named protocols that the data does not support, with the reason for each."""
    return {name: reason for name, p in protocols(names).items() if (reason := p.unsupported(data))}


def baselines(config: RunConfig, data: DataSet, device: Device) -> list[Subject]:
    """Return the baselines of a run that learnt features must beat.

    These are the raw input, and the network as it was before the first step. Where its pretrained
    weights can no longer be had, a warning says so and it is left out.
    """
    subjects = [Subject.raw(data, device)]
    name = PRETRAINED if config.backbone.starts_trained else UNTRAINED
    try:
        untrained = device.place(build_task(config, data.spec))
    except UserError as error:
        if not config.backbone.starts_trained:
            raise
        log.warning("the row %r is left out: %s", name, error)
    else:
        subjects.append(Subject.of_task(untrained, data, device, name, seed=config.train.seed))
    return [subject for subject in subjects if subject is not None]


def of_encoder(config: EncoderConfig, data: DataSet, device: Device, name: str) -> Subject:
    """Return the subject of the pooled features of a network before training, fed as it was trained."""
    data = replace(data, spec=input_spec(data.spec, config.backbone))
    encoder = device.place(build_encoder(config.backbone, data.spec, config.train.seed))
    return Subject.of_encoder(encoder, data, device, name, seed=config.train.seed)
