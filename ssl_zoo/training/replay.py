"""Steps with a loss or gradient that is not finite: saved to a file, and repeated."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from ssl_zoo import distributed
from ssl_zoo.errors import Unwritable, UserError
from ssl_zoo.runs.agreement import check_settings
from ssl_zoo.runs.build import build_data, build_task
from ssl_zoo.runs.checkpoints import pack_state, read_checkpoint, state_dict_errors
from ssl_zoo.runs.run import Run
from ssl_zoo.runs.shards import map_tensors
from ssl_zoo.runtime.defaults import torch_defaults
from ssl_zoo.runtime.device import Device
from ssl_zoo.runtime.files import write_atomic
from ssl_zoo.task import Losses
from ssl_zoo.training.batch import Batch
from ssl_zoo.training.finite import NotFinite
from ssl_zoo.training.trainer import Trainer

MAX_SHOWN_INDICES = 8
"""The number of a batch's sample indices that an error shows; the file has all of them."""


@contextlib.contextmanager
def keep_failed_step(trainer: Trainer, run: Run) -> Iterator[None]:
    """Write a step that fails to a file, for `replay`.

    Raises:
        NotFinite: the trainer raised it; of a step, the message names the file and the samples.
    """
    try:
        yield
    except NotFinite as error:
        if not error.batches:
            raise
        numbers = torch.cat([batch.numbers for batch in error.batches]).tolist()
        indices = ", ".join(map(str, numbers[:MAX_SHOWN_INDICES]))
        if len(numbers) > MAX_SHOWN_INDICES:
            indices += ", …"
        try:
            location = f"kept for a replay, in {_keep_step(trainer, run, error.batches)}"
        except Unwritable as unwritable:
            location = f"not kept, {unwritable}"
        raise NotFinite(f"{error}; {location}: samples {indices}", error.step, error.batches) from error


def _keep_step(trainer: Trainer, run: Run, batches: Sequence[Batch]) -> Path:
    """Write the trainer's state and this process's batches, with their names, and return the file.

    Raises:
        Unwritable: the file cannot be written.
    """
    file = run.path / f"not_finite.{distributed.rank()}.pt"
    names = trainer.data.train.names
    drawn = [
        {**batch._asdict(), "names": names and [names[i] for i in batch.numbers.tolist()]}
        for batch in batches
    ]
    processes = distributed.world_size()
    state = map_tensors(lambda _, tensor: distributed.local(tensor), trainer.state_dict())
    write_atomic(file, pack_state({**state, "batches": drawn, "processes": processes}))
    return file


@torch_defaults()
def replay(file: str | Path) -> Losses:
    """Repeat the step that stopped a run because its loss or gradient was not finite.

    To find the operation that caused it, call this within `torch.autograd.detect_anomaly()`.

    Args:
        file: the ``not_finite.0.pt`` in the run's directory.

    Raises:
        NotFinite: the step fails as it did then.
        UserError: the file or its run cannot be read, or several processes shared the step, and none can
            repeat it alone.
    """
    file = Path(file)
    run = Run.open(file.parent)
    config = run.config()
    try:
        state = read_checkpoint(file)
    except FileNotFoundError:
        raise UserError(f"{file}: there is no such file") from None
    if "batches" not in state:
        raise UserError(f"{file}: is a checkpoint, not a step saved for a replay")
    if (processes := state["processes"]) > 1:
        raise UserError(
            f"{file}: a share of a step of {processes} processes, which one process cannot replay; "
            "resume the run instead"
        )
    check_settings(run, state, config)
    device = Device.choose(config.train)
    with device.computing():
        data = build_data(run.with_inputs(config), device.device)
        trainer = Trainer(config, data, device, build_task(config, data.spec, restored=True))
        with state_dict_errors(file):
            trainer.load_state_dict(state)
            batches = [
                # Earlier versions wrote the labels alone.
                Batch(b["raw"], b["numbers"], tuple(b["needed"] if "needed" in b else b["labels"]))
                for b in state["batches"]
            ]
        trainer.task.train()
        losses = trainer.train_step(batches)
        trainer.confirm()
        return losses
