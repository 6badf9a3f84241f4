"""A classifier of frozen features that is kept in a run, to predict the classes of other data."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn

from ssl_zoo.errors import UserError
from ssl_zoo.runs.records import file_exists
from ssl_zoo.runtime.files import write_atomic

CLASSIFIER_FILE = "classifier.safetensors"
"""The file in a run's directory."""


@dataclass(frozen=True)
class Classifier:
    """A linear classifier of frozen features.

    Attributes:
        mean: [D], subtracted from the features.
        std: [D], by which the difference is divided.
        weight: [C, D], for C classes.
        bias: [C].
    """

    mean: Tensor
    std: Tensor
    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Return the probability [N, C] of each class, for features [N, D]."""
        logits = F.linear((features - self.mean) / self.std, self.weight, self.bias)
        return logits.softmax(1)

    def to(self, device: torch.device) -> Classifier:
        """Return the classifier on a device."""
        return Classifier(*(tensor.to(device) for tensor in vars(self).values()))


@dataclass(frozen=True)
class KeptClassifier:
    """A classifier with all that is needed to use it.

    Attributes:
        classifier: maps features to probabilities.
        classes: the name of each class; its number where the data has no names.
        data: the data whose labels it has learnt.
        protocol: the protocol that fitted it.
        scores: its scores on the test split of this data.
        spec: the description of the samples, as `ssl_zoo.spec.Spec.to_header` writes it.
        weights: the `fingerprint` of the task whose features it takes.
    """

    classifier: Classifier
    classes: tuple[str, ...]
    data: str
    protocol: str
    scores: Mapping[str, float]
    spec: Mapping[str, Any]
    weights: str

    def save(self, file: Path) -> None:
        """Write the classifier into a ``.safetensors`` file; its header has all but the tensors as JSON.

        Raises:
            Unwritable: the file cannot be written.
        """
        tensors = {name: t.detach().cpu().contiguous() for name, t in vars(self.classifier).items()}
        header = {name: json.dumps(value) for name, value in vars(self).items() if name != "classifier"}
        write_atomic(file, safetensors_bytes(tensors, header))

    @classmethod
    def load(cls, file: Path) -> KeptClassifier:
        """Read a classifier.

        Raises:
            UserError: there is none, or it cannot be read.
        """
        if not file_exists(file):
            run = shlex.quote(str(file.parent))
            raise UserError(
                f"{file} does not exist; make it with: ssl-zoo eval {run} --data LABELLED --keep"
            )
        try:
            with safe_open(file, "pt") as opened:
                header = {name: json.loads(text) for name, text in (opened.metadata() or {}).items()}
                classifier = Classifier(**{name: opened.get_tensor(name) for name in opened.keys()})  # noqa: SIM118
            return cls(classifier, **{**header, "classes": tuple(header["classes"])})
        except (OSError, SafetensorError, ValueError, TypeError, KeyError) as error:
            raise UserError(f"{file} is not a classifier of ssl-zoo: {error}") from error


def fingerprint(module: nn.Module) -> str:
    """Return a hash of the weights and buffers of a module."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
