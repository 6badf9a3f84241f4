"""The device, the precision and the threads with which a network computes."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_zoo import distributed, tree
from ssl_zoo.config.schema import TrainConfig
from ssl_zoo.errors import UserError
from ssl_zoo.runtime.eval_batch import EvalBatch
from ssl_zoo.text import error_line, quantity
from ssl_zoo.tree import Tree

M = TypeVar("M", bound=nn.Module)

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_CLEAR_REFS, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def can_compile() -> bool:
    """Return whether there is a C++ compiler, without which `torch.compile` does not work."""
    return any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "clang++", "cl"))


@dataclass(frozen=True)
class Device:
    """A device, the precision of networks on it and their memory format.

    Attributes:
        device: the device.
        precision: fp32, bf16 or fp16.
        channels_last: whether images are in the memory format channels last.
        threads: the number of CPU threads.
        deterministic: whether torch refuses nondeterministic operations.
        compile: whether `torch.compile` is applied to the task in training.
        eval_batch: the number of samples that pass through a network at once in evaluation.
    """

    device: torch.device
    precision: str
    channels_last: bool
    threads: int = field(default_factory=torch.get_num_threads)
    deterministic: bool = False
    compile: bool = False
    eval_batch: EvalBatch = field(default_factory=EvalBatch, compare=False, repr=False)

    @classmethod
    def choose(cls, config: TrainConfig) -> Device:
        """Return the device of a configuration, with defaults for this hardware.

        The defaults are the best accelerator, of which each of several processes has one of its own,
        else the CPU; bf16 where the hardware supports it, else fp16 on CUDA, else fp32; channels last;
        torch's number of threads.

        Raises:
            UserError: there is no such device, or it does not support the precision.
        """
        name = config.device
        if name == "auto":
            mps = torch.backends.mps.is_available()
            cuda = torch.cuda.is_available()
            name = f"cuda:{torch.cuda.current_device()}" if cuda else "mps" if mps else "cpu"
        try:
            device = torch.device(name)
            torch.ones(1, device=device).tolist()
        except (RuntimeError, AssertionError) as error:
            raise UserError(
                f"train.device: {name!r} cannot be used here: {error_line(error)}; "
                "choose --device cpu or auto"
            ) from error
        if config.compile is True and not can_compile():
            raise UserError(
                "train.compile: there is no C++ compiler here; install one (g++), or set it to false"
            )
        explicit = config.precision != "auto"
        chosen = cls(
            device,
            config.precision if explicit else _best_precision(device),
            config.channels_last is not False,
            config.threads or torch.get_num_threads(),
            config.deterministic,
            config.compile is True,
            EvalBatch(config.eval_batch_size, _samples_at_once(config)),
        )
        if not explicit:
            return chosen
        try:
            chosen._try()
        except RuntimeError as error:
            raise UserError(
                f"train.precision: {device} does not compute in {config.precision}: "
                f"{error_line(error)}; choose --precision fp32 or auto"
            ) from error
        return chosen

    def __str__(self) -> str:
        order = "last" if self.channels_last else "first"
        threads = f", {quantity(self.threads, 'threads')}" if self.device.type == "cpu" else ""
        compiled = ", compiled" if self.compile else ""
        return f"{self.device}, {self.precision}, channels {order}{threads}{compiled}"

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """Temporarily set the threads and deterministic algorithms, and fork torch's random state.

        The global random generators are restored at the end.
        """
        threads = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            algorithms = _deterministic() if self.deterministic else contextlib.nullcontext()
            with algorithms, torch.random.fork_rng(self.forked), _retain_freed_memory():
                yield
        finally:
            torch.set_num_threads(threads)

    def synchronise(self) -> None:
        """Wait until the device has finished its work, so that a clock can be read."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()

    def mark(self) -> Callable[[], None]:
        """Return a function that waits until the device has done what it was given by now."""
        if self.device.type != "cuda":
            return lambda: None  # reading a value waits by itself
        event = torch.cuda.Event()
        event.record()
        return event.synchronize

    def _try(self) -> None:
        """Compute a convolution and a matrix product with gradients once, to see whether it works."""
        weight = torch.ones(1, 1, 3, 3, device=self.device, requires_grad=True)
        with self.autocast():
            y = F.conv2d(torch.ones(1, 1, 4, 4, device=self.device), weight).flatten(1)
            loss = (y @ y.T).float().sum()
        loss.backward()

    @property
    def forked(self) -> list[torch.device]:
        """The devices whose generators `torch.random.fork_rng` restores, beside the CPU's."""
        return [self.device] if self.device.type == "cuda" else []

    def autocast(self) -> AbstractContextManager[None]:
        """Return the autocast context in which networks are called."""
        return torch.autocast(
            self.device.type, _DTYPES[self.precision], enabled=self.precision != "fp32"
        )

    def reset_peak_memory(self) -> None:
        """Restart the measurement of `peak_memory`."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        elif _CLEAR_REFS.exists():
            with contextlib.suppress(OSError):  # a container may not allow it
                _CLEAR_REFS.write_text("5")

    def peak_memory(self) -> int | None:
        """Return the maximum of bytes in use since `reset_peak_memory`, None where it is unknown.

        On CUDA this counts tensors; on Linux's CPUs the process's resident set, with libraries.
        """
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        if self.device.type != "cpu" or not _STATUS.exists():
            return None
        lines = _STATUS.read_text().splitlines()
        return next((int(n.split()[1]) * 1024 for n in lines if n.startswith("VmHWM:")), None)

    def to_format(self, batch: Tree) -> Tree:
        """Return a batch of images in the memory format of the network, other batches unchanged."""

        def convert(x: Tensor) -> Tensor:
            if self.channels_last and x.ndim == 4 and x.is_floating_point():
                return x.contiguous(memory_format=torch.channels_last)
            return x

        return tree.map_leaves(convert, batch)

    def place(self, module: M) -> M:
        """Move a module to the device and into the memory format, in place."""
        module.to(self.device)
        if self.channels_last:
            for parameter in module.parameters():
                if parameter.ndim == 4:
                    parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        return module


@contextlib.contextmanager
def _deterministic() -> Iterator[None]:
    """Temporarily let torch refuse nondeterministic operations."""
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # required by cuBLAS
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)


@contextlib.contextmanager
def _retain_freed_memory() -> Iterator[None]:
    """Temporarily keep the memory that one step frees for the next step.

    By default the C library returns a large block to the system at once, which then provides new memory
    page by page, filled with zeros. This can take longer than the computation of a step on a CPU.
    """
    libc: Any = ctypes.CDLL(None) if sys.platform == "linux" else None
    # Only glibc has mallopt, and old versions accept at most 32 MiB.
    if not hasattr(libc, "mallopt") or not any(
        libc.mallopt(_M_MMAP_THRESHOLD, n) for n in (2**30, 2**25)
    ):
        yield
        return
    libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        # The maxima of glibc's dynamic rule, which the first setting switches off.
        libc.mallopt(_M_MMAP_THRESHOLD, 2**25)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**26)
        libc.malloc_trim(0)


def _samples_at_once(config: TrainConfig) -> int:
    """Return the number of samples that training passes through the network at once in a process."""
    samples = max(1, config.batch_size // distributed.world_size())
    return min(samples, config.part_size) if config.cached_gradients else samples


def cpu_capabilities() -> Mapping[str, Any]:
    """Return what the CPU can do, by torch's names such as "avx512_bf16"; empty for an old torch."""
    return torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}


def cpu_has_bf16() -> bool:
    """Return whether the CPU multiplies bfloat16 itself; others emulate it many times as slowly."""
    known = cpu_capabilities()
    return bool(known.get("amx_bf16") or known.get("avx512_bf16"))


def _best_precision(device: torch.device) -> str:
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device.type == "cpu":
        return "bf16" if cpu_has_bf16() else "fp32"
    return "fp32"
