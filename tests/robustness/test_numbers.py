"""A loss or gradient that is not finite stops the run, and its step can be replayed."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ssl_zoo import Field, Losses, Task, TaskOptions
from ssl_zoo.errors import UserError
from ssl_zoo.plugins.registry import registry
from ssl_zoo.runs.build import build_data
from ssl_zoo.runs.checkpoints import read_checkpoint
from ssl_zoo.runs.run import Run
from ssl_zoo.training import NotFinite, Trainer, replay
from tests.conftest import small_config, train
from tests.core.pictures import folder, photo, write

CPU = torch.device("cpu")
WHERE = ("loss", "gradient")


class Delicate(Task):
    """A task that predicts the mean intensity; its loss is not finite for images with one given mean."""

    name = "delicate"

    class Options(TaskOptions):
        worst: float = Field(math.pi, description="the mean of a prepared image")
        where: str = Field("loss", description="what is not finite: the loss, or the gradient alone")
        factor: float = Field(1.0, description="a factor on the loss")

    def __init__(self, encoder: Any, options: Any, spec: Any) -> None:
        super().__init__(encoder, options, spec)
        self.head = nn.Linear(encoder.width, 1)

    def views(self, batch: Tensor, rng: Any) -> tuple[Tensor, ...]:
        return (self.spec.prepare(batch),)

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        (x,) = views
        mean = x.mean((1, 2, 3))
        predicted = self.head(self.encoder(x)).squeeze(1)
        zero = predicted * 0
        fine = ((mean - self.options.worst).abs() > 1e-5).to(predicted.dtype)
        # The logarithm is infinite at 0; the square root is finite there, but its derivative is not.
        odd = zero * fine.log() if self.options.where == "loss" else (zero + fine).sqrt() - fine
        return Losses(self.options.factor * ((predicted - mean).pow(2) + odd).mean())


class Numbered(Delicate):
    """A task that asks for all that a batch has beside samples."""

    name = "numbered"
    needs = ("labels", "index")

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        x, labels, index = views
        assert len(labels) == len(index) == len(x)
        return super().loss((x,))


class Shallow(Delicate):
    """A task without the encoder, whose convolutions are slow in half precision on a CPU."""

    name = "shallow"

    def __init__(self, encoder: Any, options: Any, spec: Any) -> None:
        super().__init__(encoder, options, spec)
        self.head = nn.Linear(spec.size**2, 1)

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        (x,) = views
        return Losses(self.options.factor * (self.head(x.flatten(1)).squeeze(1) - 1).pow(2).mean())


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    with registry.isolated():
        for task in (Delicate, Numbered, Shallow):
            registry.register_task(task)
        yield


def drawn_at(step: int, config: Any) -> Tensor:
    """Return the indices of the samples that a step of the first epoch draws, from the seed alone."""
    from ssl_zoo.runtime.device import Device

    trainer = Trainer(config, build_data(config, CPU), Device.choose(config.train))
    steps = list(trainer.epoch_batches())
    return torch.cat([batch.numbers for batch in steps[step - 1]])


def fatal_at(step: int, **settings: Any) -> Any:
    """Return a configuration whose loss is not finite at this step, because of one image."""
    config = small_config("delicate", **settings)
    data = build_data(config, CPU)
    everything = torch.arange(len(data.train))
    means = data.spec.prepare(data.train.batch(everything)).mean((1, 2, 3))
    unique = (means[:, None] - means).abs().lt(1e-4).sum(1) == 1
    worst = next(means[i].item() for i in drawn_at(step, config) if unique[i])
    return small_config("delicate", task__worst=worst, **settings)


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_run_stops_at_the_step_and_says_which_samples_it_drew(
    tmp_path: Path, where: str, accumulate: int, tried: Counter[str]
) -> None:
    settings = {"train__batch_size": 32, "train__accumulate": accumulate, "train__seed": 4}
    config = fatal_at(6, task__where=where, train__checkpoint_seconds=0, **settings)
    with pytest.raises(NotFinite) as caught:
        train(config, out=tmp_path / "r")
    run, (line,) = Run.open(tmp_path / "r"), str(caught.value).splitlines()
    file = run.path / "not_finite.0.pt"
    numbers = drawn_at(6, config).tolist()
    assert caught.value.exit_code == 1
    assert line.startswith(f"delicate: the {where} is nan at step 6; lower the learning rate (--lr)")
    assert line.endswith(f"in {file}: samples {', '.join(map(str, numbers[:8]))}, …")

    # The weights are those of the last checkpoint, before the failed step.
    failed, last = read_checkpoint(file), run.checkpoints.load()
    assert failed["step"] == last["step"] == 5
    assert [entry["step"] for entry in run.metrics()] == [1, 2, 3, 4, 5]
    parameters = [name for name in last["task"] if not name.endswith(("_mean", "_var", "_tracked"))]
    assert all(failed["task"][name].equal(last["task"][name]) for name in parameters)
    assert all(value.isfinite().all() for value in last["task"].values())
    assert not run.backbone_file.exists()

    # The file holds the samples as they were drawn, so the data set is not needed.
    assert torch.cat([batch["numbers"] for batch in failed["batches"]]).tolist() == numbers
    raw = torch.cat([batch["raw"] for batch in failed["batches"]])
    assert raw.equal(build_data(config, CPU).train.batch(torch.tensor(numbers)))
    tried["steps that were not finite"] += 1


@pytest.mark.parametrize("where", WHERE)
def test_the_step_can_be_made_again(tmp_path: Path, where: str) -> None:
    with pytest.raises(NotFinite):
        train(fatal_at(2, task__where=where), out=tmp_path / "r")
    with pytest.raises(NotFinite, match=f"the {where} is nan at step 2"):
        replay(tmp_path / "r" / "not_finite.0.pt")


@pytest.mark.filterwarnings("ignore:Anomaly Detection", "ignore:Error detected in")
def test_the_step_of_a_task_with_labels_and_indices_can_be_made_again(tmp_path: Path) -> None:
    worst = fatal_at(2).task.option_values()["worst"]
    config = small_config("numbered", task__worst=worst)
    with pytest.raises(NotFinite) as caught:
        train(config, out=tmp_path / "r")
    with pytest.raises(NotFinite, match="the loss is nan at step 2"):
        replay(tmp_path / "r" / "not_finite.0.pt")
    assert "at step 2" in str(caught.value)


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("log_every", [1, 50])
def test_a_step_that_is_read_during_the_next_one_stops_the_run_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, log_every: int
) -> None:
    def outcome(name: str) -> tuple[str, list[int], dict[str, Any]]:
        with pytest.raises(NotFinite) as caught:
            train(config, out=tmp_path / name)
        logged = [entry["step"] for entry in Run.open(tmp_path / name).metrics()]
        failed = read_checkpoint(tmp_path / name / "not_finite.0.pt")
        return str(caught.value).replace(name, "RUN"), logged, failed

    config = fatal_at(6, task__where=where, train__log_every=log_every)
    line, logged, failed = outcome("at-once")
    begin = Trainer.__init__

    def begin_as_on_cuda(trainer: Trainer, *arguments: Any) -> None:
        begin(trainer, *arguments)
        trainer.finite.later = True

    monkeypatch.setattr(Trainer, "__init__", begin_as_on_cuda)
    line_later, logged_later, failed_later = outcome("later")
    assert (line_later, logged_later) == (line, logged)
    assert failed_later["step"] == failed["step"] == 5
    parameters = [name for name in failed["task"] if not name.endswith(("_mean", "_var", "_tracked"))]
    assert all(failed_later["task"][name].equal(failed["task"][name]) for name in parameters)
    moments, moments_later = (f["optimizer"]["state"][0] for f in (failed, failed_later))
    assert moments
    assert all(moments_later[name].equal(moments[name]) for name in moments)
    with pytest.raises(NotFinite, match=f"the {where} is nan at step 6"):
        replay(tmp_path / "later" / "not_finite.0.pt")


def test_pytorch_then_names_the_operation(tmp_path: Path) -> None:
    with pytest.raises(NotFinite):
        train(fatal_at(2, task__where="gradient"), out=tmp_path / "r")
    with (
        torch.autograd.detect_anomaly(),
        pytest.raises(RuntimeError, match="'MulBackward0' returned nan"),
    ):
        replay(tmp_path / "r" / "not_finite.0.pt")


def test_what_is_kept_of_the_first_step_stays_too(tmp_path: Path) -> None:
    with pytest.raises(NotFinite):
        train(fatal_at(1), out=tmp_path / "r")
    assert sorted(file.name for file in (tmp_path / "r").iterdir() if file.suffix) == [
        "config.yaml", "metrics.jsonl", "not_finite.0.pt",
    ]  # fmt: skip
    with pytest.raises(NotFinite):
        replay(tmp_path / "r" / "not_finite.0.pt")


def test_of_images_in_files_the_names_are_kept(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for i in range(12):
        write(photos / f"{i}.png", photo(seed=i))
    settings = {"data__source": str(photos), "train__batch_size": 4, "data__resident": "never"}
    settings |= {"data__canvas": "square"}  # so that an image is the same in every epoch
    config = fatal_at(2, **settings)
    with pytest.raises(NotFinite):
        train(config, out=tmp_path / "r")
    (batch,) = read_checkpoint(tmp_path / "r" / "not_finite.0.pt")["batches"]
    names = folder(photos).train.names
    assert names is not None
    assert batch["names"] == [names[i] for i in drawn_at(2, config)]
    assert len(batch["names"]) == 4


def truncate(file: Path) -> Path:
    file.write_bytes(file.read_bytes()[:-100])
    return file


def flip_a_byte(file: Path) -> Path:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)
    return file


def replace_state(file: Path) -> Path:
    torch.save({"task": {}}, file)
    return file


def empty_task(file: Path) -> Path:
    torch.save({**read_checkpoint(file), "task": {}}, file)
    return file


def share_among_two(file: Path) -> Path:
    torch.save({**read_checkpoint(file), "processes": 2}, file)
    return file


def move(file: Path) -> Path:
    return file.rename(file.parents[1] / file.name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (truncate, "{file} cannot be read: File is not a zip file"),
        (flip_a_byte, "{file} cannot be read: .* has a wrong checksum"),
        (replace_state, "{file}: is a checkpoint, not a step saved for a replay"),
        (share_among_two, "{file}: a share of a step of 2 processes, .*; resume the run instead"),
        (move, "is not a run: it has no config.yaml"),
        (empty_task, "{file} does not fit the installed versions: RuntimeError: .*Missing key"),
        (Path.unlink, "{file}: there is no such file"),
    ],
)
def test_a_step_that_cannot_be_replayed_is_an_error_of_one_line(
    tmp_path: Path, change: Callable[[Path], Path | None], message: str
) -> None:
    with pytest.raises(NotFinite):
        train(fatal_at(1), out=tmp_path / "r")
    file = tmp_path / "r" / "not_finite.0.pt"
    with pytest.raises(UserError) as caught:
        replay(change(file) or file)
    (line,) = str(caught.value).splitlines()
    assert re.search(message.format(file=file), line)


def test_weights_that_are_no_numbers_do_not_replace_a_checkpoint(tmp_path: Path) -> None:
    # The loss and the gradient of the last step are finite, but the updated weights overflow.
    extreme = {"train__lr": 1e38, "train__weight_decay": 1e10, "train__warmup": 0.0}
    with pytest.raises(NotFinite, match=r"the weight .* is nan at step 1; lower the learning rate"):
        train(small_config("delicate", train__epochs=0.1, **extreme), out=tmp_path / "r")
    assert not (tmp_path / "r" / "checkpoint.pt").exists()


HALF = {
    "train__precision": "fp16", "train__batch_size": 4, "train__epochs": None, "train__samples": 112,
    "train__knn_points": 0,
}  # fmt: skip


def test_in_half_precision_the_scaler_leaves_out_what_overflows(tmp_path: Path) -> None:
    # At the scaler's initial scale of 65,536 the gradients of this loss overflow in fp16.
    config = small_config("shallow", task__factor=300.0, train__lr=1e-3, **HALF)
    run = train(config, out=tmp_path / "r", protocol=(), with_baselines=False)
    overflowed = [line["step"] for line in run.metrics() if "grad_norm" not in line]
    assert overflowed[:4] == [1, 2, 3, 4]
    assert len(overflowed) < 15
    state = run.checkpoints.load()
    assert state["scaler"]["scale"] < 65536
    assert state["step"] == 28
    assert all(value.isfinite().all() for value in state["task"].values())


def test_in_half_precision_what_no_scale_makes_a_number_stops_too(tmp_path: Path) -> None:
    config = small_config("shallow", task__factor=1e30, **HALF)
    with pytest.raises(NotFinite, match="the gradient is nan at step 25"):
        train(config, out=tmp_path / "r")
