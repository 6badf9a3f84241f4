"""The contents of rows of Parquet files."""

from __future__ import annotations

import io
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from ssl_zoo.data.lanes.contents import Contents
from ssl_zoo.data.lanes.order import LANES, LaneOrder, PartOrder
from ssl_zoo.data.lanes.sample import MIN_PARTS, sample_of_parts
from ssl_zoo.data.read_ahead import PREFETCHED_BATCHES
from ssl_zoo.data.row_groups.files import ParquetReader, Unreachable
from ssl_zoo.data.row_groups.held import HeldGroups
from ssl_zoo.data.row_groups.hub import DataFiles
from ssl_zoo.data.row_groups.index import RowGroupIndex
from ssl_zoo.data.row_groups.options import HubOptions
from ssl_zoo.data.splits import Pass
from ssl_zoo.errors import SslZooError

READ_AHEAD = PREFETCHED_BATCHES + 1
"""The number of batches that are asked for and not yet decoded."""
SPARE_ROWS = 512
"""The number of rows whose row groups stay in memory after use; evaluation fetches as many ahead."""
MAX_FOOTERS = 64
"""The number of footers that are in memory."""


class RowGroupContents(Contents):
    """The images in rows of Parquet files, by number; a row group is a part.

    Args:
        files: the files.
        index: where in them each row group is.
        options: the options of the source.
        reader: reads files.
    """

    def __init__(
        self, files: DataFiles, index: RowGroupIndex, options: HubOptions, reader: ParquetReader
    ) -> None:
        super().__init__(index.counts)
        self.files, self.index, self.options, self._reader = files, index, options, reader
        spare = math.ceil(SPARE_ROWS * len(self.counts) / int(self.counts.sum()))
        self._held: HeldGroups[Any] = HeldGroups(self._fetch, max(spare, MIN_PARTS))
        self._footer = lru_cache(MAX_FOOTERS)(index.footer)
        begins = self.ends - self.counts
        parts_before = torch.searchsorted(index.files, index.files)  # the first part of each file
        self._rows = begins - begins[parts_before]  # where each part begins in its file, [P]

    def name(self, number: int) -> str:
        """Return the name of a sample: that of its file and its row there, from 0 on."""
        part, row = self._place(number)
        return f"{self._url(part)}:{int(self._rows[part]) + row}"

    def file(self, number: int) -> Path:
        """Return the file of a sample as a path."""
        return Path(self._url(self.part(number)))

    def open(self, number: int) -> IO[bytes]:
        """Return the image of a sample, as a file.

        Raises:
            SslZooError: its row group cannot be read, or the row has no image.
        """
        part, row = self._place(number)
        content = self._held.get(part)[row].as_py()
        if content is None:
            raise SslZooError("the row has no image, or only the path of one outside of the file")
        return io.BytesIO(content)

    def batches(self, counts: Tensor, part: Pass) -> Iterator[Tensor]:
        """Yield the indices [B] of each of a process's batches in a pass, as `PartOrder` says.

        The row groups of a lane's block are held meanwhile, and those of its next block are fetched.
        """
        lanes = LaneOrder.number_of_lanes(part, self.max_lanes)
        order, owner = PartOrder(counts, part.seed, lanes, self.options.shuffle), object()
        try:
            for number, indices in enumerate(order.batches(part), part.first):
                first = max(part.first, number - READ_AHEAD)
                self._held.hold(owner, order.parts(part, first, number))
                yield indices
        finally:
            self._held.end(owner)

    @contextmanager
    def fetch_ahead(
        self, chunks: Iterable[Tensor], numbers: Tensor | None, prefetch: int
    ) -> Iterator[Iterator[Tensor]]:
        """Provide the indices [B] of batches, of which the row groups are fetched together.

        Those of the batches that are read ahead are held, but no more than stay in memory after use.
        """
        owner, parts = object(), deque[list[int]](maxlen=prefetch + 1)

        def generate() -> Iterator[Tensor]:
            for chunk in chunks:
                of_chunk = chunk if numbers is None else numbers[chunk]
                parts.append(self.parts(of_chunk).tolist())
                needed = dict.fromkeys(itertools.chain.from_iterable(parts))
                self._held.hold(owner, [*itertools.islice(needed, self._held.spare)])
                yield chunk

        try:
            yield generate()
        finally:
            self._held.end(owner)

    @property
    def max_lanes(self) -> int:
        """The maximum number of lanes for which memory has room for two blocks each; divides `LANES`."""
        sizes = self.index.nbytes
        block = self.options.shuffle * int(sizes.sum()) / int(self.counts.sum()) + int(sizes.max())
        room = self.options.memory_gb * 1e9 / (2 * block)
        return max(n for n in range(1, LANES + 1) if LANES % n == 0 and n <= max(room, 1))

    def sample(self, counts: Tensor, limit: int, labels: Tensor | None = None) -> Tensor:
        """Return the rising indices of at most `limit` samples, as `sample_of_parts` draws them."""
        return sample_of_parts(counts, limit, labels)

    def signature(self, numbers: Tensor) -> bytes:
        """Return the sizes of the row groups of samples with these numbers [M]."""
        parts = self.parts(numbers).unique_consecutive()
        return self.index.nbytes[parts].numpy().tobytes()

    def _place(self, number: int) -> tuple[int, int]:
        """Return the part of a sample, and its row there."""
        part = self.part(number)
        return part, number - int(self.ends[part] - self.counts[part])

    def _url(self, part: int) -> str:
        return self.files.urls[int(self.index.files[part])]

    def _fetch(self, part: int, wanted: Callable[[], bool]) -> Any:
        """Return the images of a part, as Arrow's array of bytes, while it is wanted.

        Raises:
            LostData: its file cannot be read.
            Damaged: the row group is no valid Parquet.
        """
        from pyarrow import parquet  # type: ignore[import-untyped]

        group = int(self.index.groups[part])
        footer = self._footer(int(self.index.files[part]))

        def read(opened: Any) -> Any:
            file = parquet.ParquetFile(opened, metadata=footer)
            return file.read_row_group(group, [self.index.content], use_threads=False).column(0)

        try:
            column = self._reader.read(self._url(part), read, group, wanted)
        except Unreachable as error:
            raise Unreachable(f"{error}; then resume the run with --resume") from error
        return column if column.type.num_fields == 0 else _field(column)


def _field(column: Any) -> Any:
    """Return the only field of a column of structures, null where these are."""
    from pyarrow import compute

    return compute.struct_field(column, [0])
