"""Communication between the processes of a run; in a single process each function is the identity.

Losses are means over a process's own samples, and gradients are averaged over processes, so a loss
over gathered embeddings has the gradient of the joint batch. A loss that is a mean over targets whose
number differs between processes gives that number as its weight.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_nn
from timm.layers import SyncBatchNormAct
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.modules.batchnorm import _BatchNorm

from ssl_zoo.errors import LostProcess, UserError

TIMEOUT = timedelta(hours=6)
"""The time that processes wait for one that works alone, such as in the final evaluation."""

_alone = False


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() and not _alone else 0


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() and not _alone else 1


@contextmanager
def alone() -> Iterator[None]:
    """Temporarily compute as a run of this process only, without communication."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


@contextmanager
def processes(device: str = "cpu") -> Iterator[int]:
    """Join the other processes of the run, if there are any, and yield the local rank.

    They find each other by the variables that torch's elastic launcher sets.

    Args:
        device: the device that they compute on, which decides on the backend (NCCL or Gloo); auto for
            CUDA where it is available.

    Raises:
        UserError: this machine has fewer GPUs than processes.
        LostProcess: another process has ended meanwhile.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield int(os.environ.get("LOCAL_RANK", "0"))
        return
    local_rank = int(os.environ["LOCAL_RANK"])
    cuda = torch.cuda.is_available() and device.startswith(("auto", "cuda"))
    if cuda:
        if local_rank >= torch.cuda.device_count():
            raise UserError(f"--devices: this machine has only {torch.cuda.device_count()} GPUs")
        torch.cuda.set_device(local_rank)
    store, rank, size = next(rendezvous("env://", timeout=TIMEOUT))
    if os.environ.get("GROUP_WORLD_SIZE") == "1":
        # Torch's store outlives a restart, and has the addresses of the processes before it. Launchers
        # of several machines count restarts differently, and need a store for each.
        store = dist.PrefixStore(f"start-{os.environ['TORCHELASTIC_RESTART_COUNT']}", store)  # type: ignore[attr-defined]
    backend = "nccl" if cuda else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    try:
        yield local_rank
    except RuntimeError as error:
        if not _is_lost_connection(error):
            raise
        raise LostProcess("another process of the run has ended; its own error is the cause") from error
    finally:
        dist.destroy_process_group()


def _is_lost_connection(error: RuntimeError) -> bool:
    """Return whether an error says that a message to or from another process has failed."""
    # Gloo's errors have no class of their own, but begin with the file that raised them.
    return isinstance(error, dist.DistError) or "gloo/transport" in str(error)


def gradient_group() -> dist.ProcessGroup | None:
    """Return a group of all processes for averages of gradients alone; None for that of all else.

    A process that lacks a gradient then never takes the message of one that waits for it for that of a
    batch norm. With NCCL there is none, as two groups on a GPU can wait for each other.
    """
    if dist.get_backend() != "gloo":
        return None
    group = dist.new_group(timeout=TIMEOUT)
    assert isinstance(group, dist.ProcessGroup)
    return group


def barrier() -> None:
    """Wait for all processes."""
    if world_size() > 1:
        dist.barrier()


def all_reduce_max(*values: float) -> list[float]:
    """Return the maximum of each value over processes."""
    if world_size() == 1:
        return list(values)
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    joint = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(joint, dist.ReduceOp.MAX)
    return [float(v) for v in joint]


def broadcast_from_rank0(text: str) -> str:
    """Return the text of the process of rank 0, on all processes."""
    texts = [text]
    if world_size() > 1:
        dist.broadcast_object_list(texts)
    return texts[0]


def all_gather(x: Tensor) -> Tensor:
    """Gather rows [B, ...] to [world_size · B, ...] in the order of ranks, with gradient."""
    if world_size() == 1:
        return x
    gathered: tuple[Tensor, ...] = dist_nn.all_gather(x.contiguous())
    joint = torch.cat(gathered)
    if joint.requires_grad:
        # The backward of all_gather ignores the strides of a gradient.
        joint.register_hook(lambda gradient: gradient.contiguous())
    return joint


def sum(x: Tensor) -> Tensor:
    """Return the sum of a tensor over processes, with gradient.

    A loss that is computed from it, alike in all processes, has the gradient of the joint batch, once
    gradients are averaged over processes. So statistics of the joint batch need no gathering:

        n = len(z) * distributed.world_size()  # z [B, D] of this process
        z = z - distributed.sum(z.sum(0)) / n
        covariance = distributed.sum(z.T @ z) / (n - 1)  # [D, D], of the joint batch
    """
    if world_size() == 1:
        return x
    total: Tensor = dist_nn.all_reduce(x)
    return total


def local_rows(x: Tensor) -> Tensor:
    """Return this process's rows of a joint tensor, [world_size · B, ...] to [B, ...]."""
    return x.chunk(world_size())[rank()]


def mean(x: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the mean of a tensor over processes, without gradient.

    Args:
        x: the tensor.
        weight: the weight of this process, a scalar; None if all count alike.
    """
    if world_size() == 1:
        return x.detach()
    if weight is not None:
        return mean(x.detach() * weight) / nonzero(mean(weight))
    x = x.detach().clone()
    dist.all_reduce(x)
    return x / world_size()


def nonzero(weight: Tensor) -> Tensor:
    """Return a weight to divide by: 1 in place of 0, as where no batch has any target."""
    return torch.where(weight > 0, weight, torch.ones_like(weight))


class SyncBatchNorm(_BatchNorm):
    """A batch normalisation with statistics over all processes, on any device.

    PyTorch's own works on CUDA only. With this one, processes on CPUs compute the same as one process
    with the joint batch, whose shares may differ in size.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"expected at least 2 dimensions, got {input.ndim}")

    def forward(self, input: Tensor) -> Tensor:
        """Normalise [B, C, ...] to the same shape."""
        if not self.training or world_size() == 1:
            return self._activated(super().forward(input))
        over = [d for d in range(input.ndim) if d != 1]
        x = input.float()
        shares = sum(torch.cat([x.sum(over), x.new_tensor([x.numel() // x.shape[1]])]))
        count = shares[-1].detach()
        mean = shares[:-1] / count
        shape = [1, -1] + [1] * (input.ndim - 2)
        centred = x - mean.view(shape)
        var = sum(centred.pow(2).sum(over)) / count
        if self.running_mean is not None and self.running_var is not None:
            with torch.no_grad():
                if self.num_batches_tracked is not None:
                    self.num_batches_tracked.add_(1)
                momentum = self.momentum if self.momentum is not None else 0.1
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
                unbiased = var * (count / (count - 1))
                self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)
        out: Tensor = centred * (var + self.eps).rsqrt().view(shape)
        if self.weight is not None:
            out = out * self.weight.view(shape) + self.bias.view(shape)
        return self._activated(out.to(input.dtype))

    def _activated(self, x: Tensor) -> Tensor:
        """Apply the dropout and activation of a replaced timm BatchNormAct2d, if there are any."""
        for part in ("drop", "act"):
            if hasattr(self, part):
                x = getattr(self, part)(x)
        return x


def sync_batchnorm(module: nn.Module) -> nn.Module:
    """Replace every batch normalisation in `module` by one over all processes, and return it.

    A module with the attribute ``local_batchnorm = True`` keeps the statistics of its own process
    (MoCo's key encoder, whose statistics must differ from the query's).
    """
    if getattr(module, "local_batchnorm", False):
        return module
    if isinstance(module, _BatchNorm) and not isinstance(module, nn.SyncBatchNorm | SyncBatchNorm):
        return _synchronised(module)
    for name, child in module.named_children():
        setattr(module, name, sync_batchnorm(child))
    return module


def _synchronised(old: _BatchNorm) -> nn.Module:
    """Return a synchronised batch normalisation with the same parameters and buffers."""
    kind = SyncBatchNormAct if _on_cuda(old) else SyncBatchNorm
    new = kind(old.num_features, old.eps, old.momentum, old.affine, old.track_running_stats)
    new._parameters, new._buffers = old._parameters, old._buffers
    new.training = old.training
    for part in ("drop", "act"):
        if hasattr(old, part):
            setattr(new, part, getattr(old, part))
    return new


def _on_cuda(module: nn.Module) -> bool:
    return any(t.is_cuda for t in (*module.parameters(), *module.buffers()))
