"""The shares of samples that the processes of a run evaluate; a single process has all of them.

A share is a run of whole batches, so that each batch has the shape, and by torch's promise the features
to the last bit, that it has in one process. Shares follow each other in the order of ranks, so that
gathered rows are in the order of the samples. Every function here must be called by all processes.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from ssl_zoo import distributed


def rows(number: int, batch_size: int) -> slice:
    """Return the rows of `number` samples that are this process's share.

    Args:
        number: the number of samples.
        batch_size: the number of samples in a batch, the same in all processes.

    Returns:
        Batches after each other, of which the shares have equal numbers or numbers that differ by one;
        none where there are fewer batches than processes.
    """
    batches, rank = -(-number // batch_size), distributed.rank()
    first, end = (i * batches // distributed.world_size() * batch_size for i in (rank, rank + 1))
    return slice(first, min(end, number))


def place(x: Tensor) -> tuple[int, int]:
    """Return the number of rows before this process's share [n, ...], and of those of all shares."""
    sizes = distributed.exchange(len(x))
    return sum(sizes[: distributed.rank()]), sum(sizes)


def gather(x: Tensor) -> Tensor:
    """Return the rows [N, ...] of all shares [n, ...], in order and without gradient."""
    if distributed.world_size() == 1:
        return x
    sizes = distributed.exchange(len(x))
    padded = _sendable(x.new_zeros(max(sizes), *x.shape[1:]))
    padded[: len(x)] = x
    shares = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(shares, padded)
    return torch.cat([share[:size] for share, size in zip(shares, sizes, strict=True)]).to(x.device)


def total(x: Tensor) -> Tensor:
    """Return the sum of a tensor over processes, without gradient and alike to the last bit in all."""
    if distributed.world_size() == 1:
        return x
    summed = _sendable(x.clone())
    dist.all_reduce(summed)
    return summed.to(x.device)


def of_first(x: Tensor) -> Tensor:
    """Return the tensor of the first process; in all of them it has the same shape."""
    if distributed.world_size() == 1:
        return x
    sent = _sendable(x.clone())
    dist.broadcast(sent, 0)
    return sent.to(x.device)


def _sendable(x: Tensor) -> Tensor:
    """Return a tensor on a device from which the processes can send it; NCCL sends from GPUs alone."""
    return x.cuda() if dist.get_backend() == "nccl" else x
