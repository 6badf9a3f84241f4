"""Documents as tokens: one array of small numbers, in memory or in a file, and the blocks in it."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ssl_zoo.data import Split
from ssl_zoo_text.spec import Text
from ssl_zoo_text.tokenizer import CLS, SEP, parse

IntArray: TypeAlias = NDArray[np.integer[Any]]
T = TypeVar("T")

CHARACTERS_AT_ONCE = 1_000_000
"""The tokenizer keeps some hundred bytes a token until its result is read, so it is given parts."""
_COUNTED_AT_ONCE = 2**20


@dataclass(frozen=True)
class Coded:
    """Documents as tokens, one after the other, each with [SEP] behind it.

    Attributes:
        ids: the ids of all, uint16 or int32 [n].
        ends: the number of ids up to the end of each document and its [SEP], int64 [documents].
        sentences: the number of ids of each sentence, int32 [sentences].
        last: the number of sentences up to the end of each document, int64 [documents].
    """

    ids: IntArray
    ends: IntArray
    sentences: IntArray
    last: IntArray

    def start(self, document: int) -> int:
        """Return the place of the first id of a document."""
        return int(self.ends[document - 1]) if document else 0

    def sentence_ends(self, document: int) -> list[int]:
        """Return the number of a document's ids up to the end of each of its sentences."""
        first = int(self.last[document - 1]) if document else 0
        ends: list[int] = np.cumsum(self.sentences[first : self.last[document]]).tolist()
        return ends

    def owners(self, places: Tensor) -> Tensor:
        """Return the document of each place of `ids`, int64."""
        return torch.searchsorted(torch.from_numpy(self.ends), places, right=True)


def encode(content: str, texts: Iterable[str], folder: Path | None = None) -> Coded:
    """Return texts as ids.

    Sentences are encoded by themselves, which is faster for long texts, each with the space before it.
    Their ids are those of the whole text where the tokenizer divides a text before spaces, as WordPiece
    and byte-level BPE do, and changes nothing at its beginning; one that adds a space there adds none to
    a space. The normalizers `Prepend` and `Strip` before byte-level BPE, for example, change each
    sentence. A passage within a document begins with its space, unlike the same text by itself.

    Args:
        content: the tokenizer as JSON.
        texts: the texts, at least one.
        folder: where to keep the ids in a file without a name, which is gone when the process ends;
            None for memory.

    Raises:
        OSError: the file cannot be written.
    """
    tokenizer = parse(content)
    dtype = np.uint16 if tokenizer.get_vocab_size() <= 2**16 else np.int32
    parts: list[IntArray] = []
    document_sizes: list[int] = []
    numbers: list[int] = []
    sentences: list[IntArray] = []
    with nullcontext() if folder is None else tempfile.TemporaryFile(dir=folder) as file:
        for batch in _batches(texts):
            split = [split_sentences(text) for text in batch]
            flat = [s for part in split for s in part]
            rows = iter(tokenizer.encode_batch_fast(flat, add_special_tokens=False))
            coded = [[next(rows).ids for _ in part] for part in split]
            sizes = [np.array([len(row) for row in part], np.int32) for part in coded]
            ids: IntArray = np.array([i for part in coded for row in (*part, [SEP]) for i in row], dtype)
            if file is None:
                parts.append(ids)
            else:
                file.write(ids.tobytes())
            document_sizes += [int(size.sum()) + 1 for size in sizes]
            numbers += map(len, sizes)
            sentences.append(np.concatenate(sizes))
        if file is not None:
            file.flush()
            parts = [np.memmap(file, dtype, "c")]
    whole = parts[0] if len(parts) == 1 else np.concatenate(parts)
    ends, last = (np.cumsum(n, dtype=np.int64) for n in (document_sizes, numbers))
    return Coded(whole, ends, np.concatenate(sentences), last)


def count(ids: IntArray, vocabulary: int) -> IntArray:
    """Return how often each token occurs, int64 [V]; without a copy of the ids as larger numbers."""
    starts = range(0, len(ids), _COUNTED_AT_ONCE)
    return sum(
        (np.bincount(ids[i : i + _COUNTED_AT_ONCE], minlength=vocabulary) for i in starts),
        np.zeros(vocabulary, np.int64),
    )


def split_sentences(text: str) -> list[str]:
    """Return the sentences of a text: they end with a full stop, question or exclamation mark.

    Closing quotes and brackets belong to the sentence. An abbreviation such as "Dr." ends one too. The
    white space between two sentences belongs to the second: joined they are the text.
    """
    return [s for s in re.split(r"(?<=[.?!])(?=\s)|(?<=[.?!][\"')\]])(?=\s)", text) if s]


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Yield texts in turn, together of some `CHARACTERS_AT_ONCE`."""
    batch: list[str] = []
    characters = 0
    for text in texts:
        batch.append(text)
        characters += len(text)
        if characters >= CHARACTERS_AT_ONCE:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


class Blocks(Split):
    """The blocks that a stream of ids is cut into, each [CLS] and `length` - 1 ids; the rest goes.

    They are read from the stream, which takes two bytes a token, or four of a large vocabulary.

    Args:
        rows: the ids, int16 of the same bits as uint16, or int32, [N, length - 1]; see `of`.
        labels: the class of each block, int64 [N], or None.
        skipped: the files that cannot be read, with the reason for each.
    """

    def __init__(
        self, rows: Tensor, labels: Tensor | None = None, skipped: Mapping[str, str] | None = None
    ) -> None:
        self.rows = rows
        self.labels = labels
        self.skipped = {} if skipped is None else skipped

    @classmethod
    def of(cls, stream: IntArray, length: int) -> Blocks:
        """Return the blocks of a stream, uint16 or int32 [n]."""
        number = len(stream) // (length - 1)
        body = stream[: number * (length - 1)].reshape(number, length - 1)
        return cls(torch.from_numpy(body.view(np.int16) if body.dtype == np.uint16 else body))

    @property
    def length(self) -> int:
        """The number of tokens of a block, with [CLS]."""
        return self.rows.shape[1] + 1

    @property
    def middles(self) -> Tensor:
        """The place in the stream of the middle id of each block, int64 [N]."""
        return torch.arange(len(self)) * (self.length - 1) + (self.length - 1) // 2

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: Tensor) -> Text:
        """Return the blocks with these indices, on the device of the rows."""
        rows = self.rows[indices.to(self.rows.device)].long()
        if self.rows.dtype == torch.int16:
            rows &= 0xFFFF
        ids = F.pad(rows, (1, 0), value=CLS)
        return Text(ids, ids.new_full((len(ids),), self.length))

    def to(self, device: torch.device) -> Blocks:
        """Return the same blocks in the memory of a device; a file stays one on a CPU."""
        return Blocks(self.rows.to(device), self.labels, self.skipped)


def digest(texts: Iterable[str]) -> bytes:
    """Return a hash of texts and their order."""
    state = blake2b(digest_size=16)
    for text in texts:
        content = text.encode("utf-8", "surrogatepass")
        state.update(len(content).to_bytes(8, "little") + content)
    return state.digest()


class Recent(Generic[T]):
    """The last two results of a computation by key, without what they were computed from."""

    def __init__(self) -> None:
        self._values: dict[tuple[Any, ...], T] = {}

    def get(self, key: tuple[Any, ...], make: Callable[[], T]) -> T:
        """Return the result of a key, which is computed unless it is one of the last two."""
        value = self._values.pop(key) if key in self._values else make()
        self._values = {**dict(list(self._values.items())[-1:]), key: value}
        return value
