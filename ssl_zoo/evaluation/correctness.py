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
        groups: the group of each sample, int64 [M] in 0..G-1, such as the file that a tile is cut from;
            None where each sample is one of its own.
    """

    correct: Tensor
    share: float = 1.0
    groups: Tensor | None = None

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

    @property
    def number_of_groups(self) -> int | None:
        """The number of groups; None where each sample is one of its own."""
        return None if self.groups is None else int(self.groups.max()) + 1

    @property
    def units(self) -> float:
        """The number of independent samples: of groups where there are any, fewer if sizes differ much.

        That of groups is the effective one of Kish (1965): the square of the number of samples, divided
        by the sum of the squared sizes of the groups.
        """
        samples = self.correct.shape[1]
        return (
            samples if self.groups is None else samples**2 / float(self.groups.bincount().square().sum())
        )


def write_correctness(folder: Path, protocol: str, metrics: Mapping[str, Correctness]) -> None:
    """Write the correctness of a protocol's classifiers into a folder, by metric.

    Raises:
        Unwritable: it cannot be written.
    """
    tensors = {name: c.correct.to(torch.uint8).contiguous() for name, c in metrics.items()}
    header = {"shares": json.dumps({name: c.share for name, c in metrics.items()})}
    groups = {name: c.groups.tolist() for name, c in metrics.items() if c.groups is not None}
    if groups:
        header["groups"] = json.dumps(groups)
    write_atomic(folder / f"{protocol}{SUFFIX}", save(tensors, header))


def read_correctness(folder: Path) -> dict[str, Correctness]:
    """Return the correctness by metric that a folder holds, of all protocols.

    Raises:
        UserError: a file of it is broken.
    """
    found = {}
    for file in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            with safe_open(file, "pt") as opened:
                header = opened.metadata() or {}
                shares, of = (json.loads(header.get(part, "{}")) for part in ("shares", "groups"))
                for name in opened.keys():  # noqa: SIM118 - not a dictionary
                    groups = torch.tensor(of[name], dtype=torch.long) if name in of else None
                    correct = opened.get_tensor(name).bool()
                    found[name] = Correctness(correct, float(shares[name]), groups)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            reason = error_reason(error)
            raise UserError(f"{file} cannot be read: {reason}; remove the folder, and repeat") from error
    return found
