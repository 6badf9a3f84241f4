"""The machine in plain words, for records of results."""

from __future__ import annotations

import os

import torch

from ssl_zoo import distributed
from ssl_zoo.runtime.device import Device, cpu_capabilities
from ssl_zoo.text import quantity

_BF16 = {"amx_bf16": "AMX-BF16", "avx512_bf16": "AVX512-BF16"}
"""By torch's name of each CPU capability for bf16, fastest first, the name to show."""


def cores() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe_machine(device: Device) -> str:
    """Return what training computes on, such as "2 CPU cores, AVX512-BF16" or "NVIDIA H100"."""
    kind, processes = device.device.type, distributed.world_size()
    if kind != "cpu":
        name = torch.cuda.get_device_name(device.device) if kind == "cuda" else kind.upper()
        return f"{processes} × {name}" if processes > 1 else name
    used, known = device.threads * processes, cpu_capabilities()
    part = f"{used} of " if used < cores() else ""
    instructions = [name for capability, name in _BF16.items() if known.get(capability)]
    return f"{part}{quantity(cores(), 'CPU cores')}, " + (
        instructions[0] if instructions else torch.backends.cpu.get_cpu_capability()
    )
