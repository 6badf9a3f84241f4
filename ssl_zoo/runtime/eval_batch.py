"""The number of samples that pass through a network at once in evaluation, which follows memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ssl_zoo import tree
from ssl_zoo.errors import SslZooError
from ssl_zoo.notices import Notice
from ssl_zoo.tree import Tree

MAX_SAMPLES = 512
"""The default number of small samples, and the maximum of the default for others."""
MAX_SMALL_BYTES = 2**22
"""Samples are small if `MAX_SAMPLES` of them take at most this many bytes: 52×52 pixels in colour.

For these the number does not follow from training, so that results do not depend on its batches."""

_OUT_OF_MEMORY = (
    *("out of memory", "can't allocate memory", "not enough memory", "bad_alloc"),
    *("ALLOC_FAILED", "could not create a memory object"),
)
"""Parts of the messages of the RuntimeErrors of allocators that have no class of their own."""

SMALLER_BATCH = Notice(
    "smaller-evaluation-batch",
    "Evaluation and embedding take half as many samples at a time, until they fit into memory.",
    "--batch-size of eval, embed and predict, or train.eval_batch_size",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, on an accelerator or in the CPU's allocator."""
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(part in str(error) for part in _OUT_OF_MEMORY)


class EvalBatch:
    """The number of samples in a batch of evaluation; once memory has run out, it stays smaller.

    Args:
        setting: the number that the user chose; None to follow training.
        training: the number of samples that a training step passes through the network at once.
        limit: the maximum number, whatever the setting.
    """

    def __init__(
        self, setting: int | None = None, training: int = MAX_SAMPLES, limit: int | None = None
    ) -> None:
        self._setting, self._training, self._fits = setting, training, limit

    def capped(self, limit: int) -> EvalBatch:
        """Return the batch for samples of another kind, of which there are at most `limit` at a time."""
        return EvalBatch(self._setting, self._training, limit)

    @property
    def limit(self) -> int | None:
        """The maximum number of samples that fit into memory; None unless it has run out."""
        return self._fits

    def halve(self, number: int) -> None:
        """Take at most half of `number` samples from now on, as so many do not fit into memory."""
        self._fits = number // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def size(self, sample_bytes: float) -> int:
        """Return the number of samples in a batch.

        By default it is `MAX_SAMPLES` of small samples. Of larger ones it is the number that training
        passes through the network at once, but at most `MAX_SAMPLES`.

        Args:
            sample_bytes: the size of a raw sample.
        """
        small = MAX_SAMPLES * sample_bytes <= MAX_SMALL_BYTES
        default = MAX_SAMPLES if small else min(MAX_SAMPLES, self._training)
        size = default if self._setting is None else self._setting
        return size if self._fits is None else min(size, self._fits)

    def apply(self, function: Callable[[Tree], Tensor], batch: Tree) -> Tensor:
        """Apply a function to a batch [B, ...]; where memory runs out, to halves of it, and so on.

        Args:
            function: maps n samples [n, ...] to n results [n, ...], each from its own sample.
            batch: the samples.

        Returns:
            The results [B, ...].

        Raises:
            SslZooError: there is not enough memory for one sample.
        """
        results: list[Tensor] = []
        done, too_many = 0, 0
        while done < tree.size(batch):
            part = tree.rows(batch, slice(done, None if self._fits is None else done + self._fits))
            number = tree.size(part)
            try:
                results.append(function(part))
                done += number
                continue
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if number == 1:
                    raise SslZooError(
                        "evaluation is out of memory with 1 sample at a time; use --device cpu, or a "
                        "machine with more memory"
                    ) from error
            # Outside of the handler the frames that hold memory are gone.
            too_many = max(too_many, number)
            self.halve(number)
        if too_many:
            SMALLER_BATCH(
                f"evaluation takes {self._fits} samples at a time, as {too_many} do not fit into "
                f"memory; --batch-size or train.eval_batch_size={self._fits} avoids the attempt"
            )
        return results[0] if len(results) == 1 else torch.cat(results)
