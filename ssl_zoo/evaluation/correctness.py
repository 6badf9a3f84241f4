"""The samples that classifiers get right, which a comparison keeps beside scores, to pair its rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ssl_zoo.errors import UserError
from ssl_zoo.runtime.files import write_atomic
from ssl_zoo.text import error_reason

SUFFIX = ".correct.safetensors"
"""The end of the name of a file with the correctness of one protocol's classifiers."""


@dataclass(frozen=True)
class Correctness:
    """The samples of the test split whose class classifiers predict, for each draw of labels.

    Attributes:
        correct: whether they do, bool [R, M], for R draws of labels and M samples.
        share: the share of all labels that each draw has, in (0, 1]; 1 for all labels, which are one
            draw.
    """

    correct: Tensor
    share: float = 1.0

    @classmethod
    def of(cls, predicted: Tensor, labels: Tensor) -> Correctness:
        """Return the correctness of one classifier that knows all labels.

        Args:
            predicted: the predicted classes, int64 [M].
            labels: the classes, int64 [M].
        """
        return cls((predicted == labels)[None].cpu())

    @property
    def accuracy(self) -> float:
        """The mean accuracy over the draws, in percent."""
        return 100 * float(self.correct.double().mean())


def write_correctness(folder: Path, protocol: str, metrics: Mapping[str, Correctness]) -> None:
    """Write the correctness of a protocol's classifiers into a folder, by metric.

    Raises:
        Unwritable: it cannot be written.
    """
    tensors = {name: c.correct.to(torch.uint8).contiguous() for name, c in metrics.items()}
    shares = json.dumps({name: c.share for name, c in metrics.items()})
    write_atomic(folder / f"{protocol}{SUFFIX}", save(tensors, {"shares": shares}))


def read_correctness(folder: Path) -> dict[str, Correctness]:
    """Return the correctness by metric that a folder holds, of all protocols.

    Raises:
        UserError: a file of it is broken.
    """
    found = {}
    for file in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            with safe_open(file, "pt") as opened:
                shares = json.loads((opened.metadata() or {}).get("shares", "{}"))
                for name in opened.keys():  # noqa: SIM118 - not a dictionary
                    found[name] = Correctness(opened.get_tensor(name).bool(), float(shares[name]))
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            reason = error_reason(error)
            raise UserError(f"{file} cannot be read: {reason}; remove the folder, and repeat") from error
    return found
