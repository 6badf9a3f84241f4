"""Measures of memory: of an operation, from the tensors it makes; of a process, from the system."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

PROCESS = Path("/proc/self")
"""Linux's files about this process; other systems have none."""


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        made = [t for t in (out if isinstance(out, tuple) else (out,)) if isinstance(t, Tensor)]
        self.elements = max([self.elements, *(t.numel() for t in made)])
        return out


@dataclass(frozen=True)
class Held:
    """The resources that a process holds.

    Attributes:
        resident: bytes of memory.
        threads: threads, whoever started them.
        files: open files, pipes and sockets.
        objects: Python's containers that are still referred to.
    """

    resident: int
    threads: int
    files: int
    objects: int

    @classmethod
    def now(cls) -> Held:
        """Measure what this process holds, after collecting garbage."""
        gc.collect()
        lines = (PROCESS / "status").read_text().splitlines()
        resident = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
        threads, files = (sum(1 for _ in (PROCESS / part).iterdir()) for part in ("task", "fd"))
        return cls(1024 * resident, threads, files, len(gc.get_objects()))
