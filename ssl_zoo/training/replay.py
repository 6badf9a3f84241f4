"""A step that came to no number: kept as it was, to be made again."""

from __future__ import annotations

from pathlib import Path

from ssl_zoo import distributed
from ssl_zoo.errors import UserError
from ssl_zoo.runs.build import build_data
from ssl_zoo.runs.checkpoints import pack_state, read_checkpoint, state_dict_errors
from ssl_zoo.runs.run import Run
from ssl_zoo.runtime.device import Device
from ssl_zoo.runtime.files import write_atomic
from ssl_zoo.task import Losses
from ssl_zoo.training.trainer import Batch, Trainer


def keep_step(trainer: Trainer, run: Run, batches: list[Batch]) -> Path:
    """Write down a step that failed: the trainer's state, this process's batches and their names.

    Returns:
        The file, which `replay` reads.

    Raises:
        SslZooError: it cannot be written.
    """
    file = run.path / f"not_finite.{distributed.rank()}.pt"
    names = trainer.data.train.names
    drawn = [
        {**batch._asdict(), "names": names and [names[i] for i in batch.numbers.tolist()]}
        for batch in batches
    ]
    processes = distributed.world_size()
    write_atomic(file, pack_state({**trainer.state_dict(), "batches": drawn, "processes": processes}))
    return file


def replay(file: str | Path) -> Losses:
    """Make the step again that a run stopped at, because its loss or gradient was no number.

    To find the operation that it began with, call this within `torch.autograd.detect_anomaly()`.

    Args:
        file: the ``not_finite.0.pt`` in the run's directory.

    Raises:
        NotFinite: as it was then.
        UserError: the file, or the run that it lies in, cannot be read, or the step was one of several
            processes, none of which can make it alone.
    """
    file = Path(file)
    config = Run.open(file.parent).config()
    device = Device.choose(config.train)
    with device.computing():
        trainer = Trainer(config, build_data(config, device.device), device)
        with state_dict_errors(file):
            state = read_checkpoint(file)
            if state["processes"] > 1:
                raise UserError(f"a share of a step of {state['processes']} processes; resume the run")
            trainer.load_state_dict(state)
            batches = [Batch(b["raw"], b["numbers"], tuple(b["labels"])) for b in state["batches"]]
        trainer.task.train()
        return trainer.train_step(batches)
