"""Reading ahead: threads prepare the next batches while the last one is in use."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from ssl_zoo import distributed
from ssl_zoo.config.schema import DataConfig
from ssl_zoo.runtime.machine import cores
from ssl_zoo.tree import Tree

C = TypeVar("C")


MAX_DEFAULT_THREADS = 32
"""The maximum number of decoding threads unless a number is set; each has an image in memory."""
PREFETCHED_BATCHES = 2
"""The number of batches that are read ahead unless a number is set."""


def decoding_threads(config: DataConfig) -> int:
    """Return the number of decoding threads: ``data.workers``, or one for each CPU core.

    The processes of one machine share its cores.
    """
    if config.workers is not None:
        return config.workers
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", distributed.world_size()))
    return min(max(1, cores() // processes), MAX_DEFAULT_THREADS)


def read_ahead(
    chunks: Iterable[C],
    begin: Callable[[ThreadPoolExecutor, C], Callable[[], Tree]],
    workers: int,
    prefetch: int,
) -> Generator[Tree]:
    """Yield a batch for each chunk, reading ahead in threads.

    Args:
        chunks: what tells which samples are in each batch, such as their indices.
        begin: starts to read a batch in the pool and returns a function that waits for it.
        workers: the number of threads.
        prefetch: the number of batches to read ahead.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="ssl-zoo-decode")
    pending: deque[Callable[[], Tree]] = deque()
    try:
        for chunk in chunks:
            pending.append(begin(pool, chunk))
            if len(pending) > prefetch:
                yield pending.popleft()()
        while pending:
            yield pending.popleft()()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
