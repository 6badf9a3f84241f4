"""The place of a data set's samples: in memory, in a cache, or in their files."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from ssl_zoo import distributed
from ssl_zoo.config.paths import user_path
from ssl_zoo.config.schema import DataConfig
from ssl_zoo.data.splits import Split
from ssl_zoo.errors import UserError
from ssl_zoo.notices import Notice

MEMORY_SHARE = 0.25
"""The share of the free memory that decoded images may take."""
MAX_RESIDENT_IMAGES = 200_000
"""Splits of more images are not decoded in advance, as that would take minutes."""

_ON_DISK = Notice(
    "on-disk",
    f"Images that would take more than {MEMORY_SHARE:.0%} of the free memory, or more than "
    f"{MAX_RESIDENT_IMAGES:,} of them, are not decoded in advance.",
    "data.resident, data.cache",
)


def place_splits(
    splits: dict[str, Split],
    name: str,
    config: DataConfig,
    device: torch.device,
    noun: str = "images",
    cacheable: bool = True,
) -> dict[str, Split]:
    """Load splits into the device's memory if they fit there together; otherwise leave them on disk.

    Args:
        splits: the splits by name.
        name: the name of the data given by the user.
        config: the ``data`` section, with ``resident`` and ``cache``.
        device: the device.
        noun: the plural noun for samples in messages.
        cacheable: whether ``data.cache`` can keep them decoded, for messages.

    Raises:
        UserError: they must be in memory and do not fit, or there can be no cache.
    """
    cached = config.cache is not None
    files = [split for split in splits.values() if not split.resident]
    if config.cache is not None:
        folder = user_path("data.cache", config.cache)
        splits = {key: split.cached(f"{name} {key}", folder) for key, split in splits.items()}
    free = free_memory(device) / distributed.world_size()
    needed = sum(split.nbytes for split in files)
    quick = cached or all(len(split) <= MAX_RESIDENT_IMAGES for split in files)
    fits = quick and needed <= MEMORY_SHARE * free
    (too_large,) = distributed.all_reduce_max(not fits)  # all processes decide alike
    if config.resident == "never" or (too_large and (cached or config.resident == "auto")):
        if config.resident == "auto" and files:
            _ON_DISK(
                f"{name}: {noun} are decoded at each use, as they would take {needed / 1e6:,.0f} MB of "
                f"{free / 1e6:,.0f} MB free memory"
                + ("; data.cache keeps them decoded on disk" if cacheable else "")
            )
        return splits
    if needed > free and not cached:
        raise UserError(
            f"data.resident: the decoded {noun} need {needed / 1e6:,.0f} MB, and "
            f"{free / 1e6:,.0f} MB of memory are free; choose auto"
            + (", or use data.cache" if cacheable else "")
        )
    return {key: split if split.resident else split.to(device) for key, split in splits.items()}


def free_memory(device: torch.device) -> int:
    """Return the free memory of a device in bytes, at most the limit of a container."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = 4 * 2**30
    if Path("/proc/meminfo").exists():
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(n.split()[1]) * 1024 for n in lines if n.startswith("MemAvailable:"))
    elif hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")
    allowed = limit.read_text().strip() if limit.exists() else "max"
    return free if allowed == "max" else min(free, int(allowed))
