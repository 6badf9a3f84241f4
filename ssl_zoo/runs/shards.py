"""The sharded tensors of a checkpoint: written by all processes, read in any other number of them.

`torch.distributed.checkpoint` writes them as safetensors files, one for each process, from which it
reads any slice of any tensor. Nothing in them is code. What is not sharded, and the checksums of these
files, stand in the checkpoint itself, see `ssl_zoo.runs.checkpoints`.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ssl_zoo import distributed
from ssl_zoo.errors import UserError
from ssl_zoo.runtime.files import flush_folder, write_errors
from ssl_zoo.text import error_line

StatePath = tuple[Any, ...]
"""The keys by which a tensor is found in a state."""

Like = Callable[[StatePath], Tensor | None]
"""Returns the sharded tensor that the one at a path is like; None for one that is not sharded."""

_PART = 1 << 24
"""The bytes that are read at a time for a checksum."""


def tensors_of(state: Any, path: StatePath = ()) -> Iterator[tuple[StatePath, Tensor]]:
    """Yield the tensors of nested dictionaries and lists, with their paths."""
    if isinstance(state, Tensor):
        yield path, state
    elif isinstance(state, Mapping | list | tuple):
        items = state.items() if isinstance(state, Mapping) else enumerate(state)
        for key, value in items:
            yield from tensors_of(value, (*path, key))


def map_tensors(function: Callable[[StatePath, Tensor], Any], state: Any, path: StatePath = ()) -> Any:
    """Apply a function to the tensors of nested dictionaries and lists; return such a state."""
    if isinstance(state, Tensor):
        return function(path, state)
    if isinstance(state, Mapping):
        return {key: map_tensors(function, value, (*path, key)) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(map_tensors(function, v, (*path, i)) for i, v in enumerate(state))
    return state


def without_shards(state: Any) -> Any:
    """Return a state in which sharded tensors are empty ones of their shape, on torch's device meta."""

    def hollow(path: StatePath, tensor: Tensor) -> Tensor:
        if distributed.is_sharded(tensor):
            return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
        return tensor

    return map_tensors(hollow, state)


def write_shards(state: Any, folder: Path) -> dict[str, int]:
    """Write the sharded tensors of a state into a new folder; all processes must call it.

    Returns:
        The checksum (CRC-32) of each file by its name.

    Raises:
        Unwritable: a file cannot be written.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    sharded = {_name(path): t for path, t in tensors_of(state) if distributed.is_sharded(t)}
    try:
        save(sharded, storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))
    except CheckpointException as error:  # no subclass of Exception
        reasons = [reason for reason, _ in error.failures.values()]
        first = next((reason for reason in reasons if isinstance(reason, OSError)), None)
        if first is None:
            raise RuntimeError(error_line(reasons[0])) from error
        with write_errors(folder):
            raise first from error
    with write_errors(folder):
        files = sorted(folder.iterdir())
        mine = {file.name: checksum(file) for file in files[dist.get_rank() :: dist.get_world_size()]}
        flush_folder(folder)
    shares: list[dict[str, int]] = [{}] * dist.get_world_size()
    dist.all_gather_object(shares, mine)
    return {name: value for share in shares for name, value in share.items()}


def check_shards(folder: Path, checksums: Mapping[str, int]) -> None:
    """Raise if a file is missing, or is not the one that was written.

    Raises:
        UserError: it is.
    """
    for name, expected in checksums.items():
        file = folder / name
        try:
            found = checksum(file)
        except OSError as error:
            raise UserError(f"{file} cannot be read: {error}") from error
        if found != expected:
            raise UserError(f"{file} cannot be read: it has a wrong checksum")


def read_shards(state: Any, folder: Path, like: Like | None = None) -> Any:
    """Return a state with the tensors of a folder in the places of the empty ones.

    Args:
        state: what `without_shards` gave.
        folder: the folder.
        like: tells which tensors to read as slices, which all processes must then do together; None to
            read whole ones, in this process alone.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    found: dict[str, Tensor] = {}
    for path, hollow in tensors_of(state):
        if hollow.is_meta:
            model = None if like is None else like(path)
            whole = model is None or model.shape != hollow.shape
            found[_name(path)] = (
                torch.empty_like(hollow, device="cpu")
                if model is None or whole
                else torch.empty_like(model, dtype=hollow.dtype)
            )
    reader = HuggingFaceStorageReader(str(folder))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # which is meant
        load(found, storage_reader=reader, no_dist=like is None)
    return map_tensors(lambda path, t: found[_name(path)] if t.is_meta else t, state)


def sliced(state: Any, like: Like | None) -> Any:
    """Return a state in which whole tensors are this process's slices, where `like` has them sharded."""
    if like is None:
        return state

    def place(path: StatePath, tensor: Tensor) -> Tensor:
        model: Any = like(path)
        if model is None or distributed.is_sharded(tensor) or tensor.shape != model.shape:
            return tensor
        from torch.distributed.tensor import distribute_tensor

        there = tensor.to(model.device)
        return distribute_tensor(there, model.device_mesh, model.placements, src_data_rank=None)

    return map_tensors(place, state)


def checksum(file: Path) -> int:
    """Return the CRC-32 of a file.

    Raises:
        OSError: it cannot be read.
    """
    value = 0
    with file.open("rb") as opened:
        while part := opened.read(_PART):
            value = zlib.crc32(part, value)
    return value


def _name(path: StatePath) -> str:
    """Return the name of a tensor in the files."""
    return "/".join(map(str, path))
