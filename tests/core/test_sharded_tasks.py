"""A task sharded over processes (``train.parallel=fsdp``): what one process computes, in parts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.optim import muon
from torch import Tensor, nn

from ssl_zoo import distributed
from ssl_zoo.config.errors import SettingError
from ssl_zoo.runs.build import build_data, build_task
from ssl_zoo.runs.shards import sliced
from ssl_zoo.runtime.device import Device
from ssl_zoo.task import Encoder, Losses, Task
from ssl_zoo.testing.rank_server import server
from ssl_zoo.training import Trainer
from ssl_zoo.training.optimizer import create_optimizer
from ssl_zoo.training.sharded import OPTIMIZERS, Shards, units
from ssl_zoo.views import Rng
from tests.conftest import small_config

VIT = {
    "backbone__name": "test_vit",
    "backbone__options": {"patch_size": 4, "depth": 2},
    "train__epochs": None,
    "train__samples": 4 * 64,
    "train__batch_size": 64,
    "train__lr": 0.002,
    "train__optimizer": "sgd",
}
"""A small transformer for four steps of plain SGD, which does not amplify rounding."""

ADAM = {"train__optimizer": "adamw", "train__optimizer_options": {"eps": 0.01}}
"""Adam that makes little of the rounding of gradients near 0."""

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "contrastive": ("simclr", {"train__ema": 0.5}),
    "accumulated and clipped": (
        "simclr",
        {"train__accumulate": 2, "train__batch_size": 32, "train__clip_norm": 0.5},
    ),
    "teacher": ("byol", {"task__hidden": 64, "task__out": 32, "train__optimizer": "momentum"}),
    "crops of two sizes": (
        "dino",
        {"task__hidden": 64, "task__prototypes": 50, "train__clip_norm": 1.0, "train__lr": 0.1},
    ),
    "left-out patches": ("mae", {**ADAM, "task__decoder_width": 32, "task__decoder_depth": 2}),
    "recomputed": ("mae", {**ADAM, "task__decoder_width": 32, "train__grad_checkpointing": True}),
}
"""Networks and tasks that pass through them in different ways."""

PARALLEL = ("ddp", "fsdp")
CONVOLUTIONS = {"backbone__name": "test_resnet", "backbone__options": {}}


def trainer(case: str, **settings: Any) -> Trainer:
    """Return the trainer of a case, sharded in several processes."""
    name, own = CASES[case]
    config = small_config(name, **{**VIT, **own, "train__parallel": "fsdp", **settings})
    built = Trainer(config, build_data(config, torch.device("cpu")), Device.choose(config.train))
    built.task.train()
    return built


def stepped(trained: Trainer, number: int) -> list[float]:
    """Make some steps; return the loss and the norm of the gradient of each."""
    values = []
    for batches in itertools.islice(trained.endless_batches(), number):
        line = trained.metrics(trained.train_step(batches))
        values += [line["loss"], line["grad_norm"]]
    return values


def weights(trained: Trainer) -> dict[str, Tensor]:
    """Return all tensors of the task, and of the task that is evaluated, as whole ones."""
    own = {name: distributed.whole(t.detach()).clone() for name, t in trained.task.state_dict().items()}
    with trained.evaluated_task() as task:
        return own | {f"evaluated.{name}": t.clone() for name, t in task.state_dict().items()}


@contextmanager
def joined(folder: Path, rank: int, world: int = 2) -> Iterator[None]:
    """Join the ranks that a server has started with a folder."""
    torch.set_num_threads(1)
    rendezvous = f"file://{folder / f'rendezvous-{world}'}"
    torch.distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=world)
    yield
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def work_on_cases(folder: Path, rank: int) -> None:
    """Train each case in two processes, and save what came of it in each."""
    results: dict[str, Any] = {}
    with joined(folder, rank):
        for case in CASES:
            trained = trainer(case)
            parameters = list(trained.task.parameters())
            held = sum(distributed.local(p).numel() for p in parameters)
            share = held / sum(p.numel() for p in parameters)
            results[case] = {"lines": stepped(trained, 4), "share": share, "weights": weights(trained)}
        copies, shards = (trainer("contrastive", **CONVOLUTIONS, train__parallel=p) for p in PARALLEL)
        for _ in range(2):  # synchronised batch norms, whose sums are in another order than alone
            assert stepped(shards, 2) == pytest.approx(stepped(copies, 2), rel=1e-5)
        expected = weights(copies)
        for name, found in weights(shards).items():
            torch.testing.assert_close(found, expected[name], rtol=1e-5, atol=1e-6, msg=name)
        torch.save(results, folder / f"results-{rank}.pt")


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Return the results of all cases in each of two processes."""
    folder = tmp_path_factory.mktemp("cases")
    failed = server.run(work_on_cases, folder)
    assert failed is None, (folder / f"output-{failed}").read_text()
    return [torch.load(folder / f"results-{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("case", CASES)
def test_losses_gradients_and_weights_are_those_of_one_process(
    sharded: list[dict[str, Any]], case: str
) -> None:
    alone = trainer(case)
    before = weights(alone)
    lines = stepped(alone, 4)
    after = weights(alone)
    for results in sharded:
        assert results[case]["lines"] == pytest.approx(lines, rel=1e-4)
        assert results[case]["weights"].keys() == after.keys()
        for name, expected in after.items():
            found = results[case]["weights"][name]
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5, msg=name)
    moved = max(float((after[n] - before[n]).abs().max()) for n in after if "weight" in n)
    assert moved > 1e-4  # so that the bound tells trained weights from those before


@pytest.mark.parametrize("case", CASES)
def test_each_process_holds_half_of_the_parameters(sharded: list[dict[str, Any]], case: str) -> None:
    shares = [results[case]["share"] for results in sharded]
    assert math.isclose(sum(shares), 1)
    assert shares == pytest.approx([0.5, 0.5], abs=0.02)


def test_units_are_the_blocks_of_encoders_teachers_and_decoders() -> None:
    def kinds(case: str, **settings: Any) -> list[str]:
        return [type(unit).__name__ for unit in units(trainer(case, **settings).task)]

    assert kinds("teacher") == ["Block"] * 4
    assert kinds("left-out patches") == ["Block"] * 4
    resnet = kinds("contrastive", backbone__name="resnet18", backbone__options={})
    assert resnet == ["BasicBlock"] * 8


def test_blocks_that_share_weights_are_no_units() -> None:
    blocks = [nn.Sequential(nn.Linear(2, 2), nn.ReLU()) for _ in range(3)]
    assert units(nn.Sequential(*blocks)) == blocks
    blocks[1][0].weight = blocks[0][0].weight
    assert units(nn.Sequential(*blocks)) == [blocks[2]]


class Reading(Task):
    """A task whose `after_step` does what torch cannot do with shards."""

    name = "reading"

    def __init__(self, encoder: Encoder, options: Any, spec: Any) -> None:
        super().__init__(encoder, options, spec)
        self.head = nn.Linear(encoder.width, 2)

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        return (self.spec.prepare(batch),)

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        unit = F.normalize(self.head.weight, dim=1)  # whole while the loss is computed
        return Losses((self.encoder(views[0]) @ unit.T).pow(2).mean())

    def after_step(self, progress: float) -> None:
        with torch.no_grad():
            self.head.weight.copy_(torch.zeros(2, self.encoder.width))


def optimised(name: str) -> dict[str, Tensor]:
    """Return the weights of a task after two steps of an optimiser with fixed gradients.

    Muon computes in float32 here, as in bfloat16 products of shards are rounded otherwise.
    """
    built = trainer("contrastive", train__optimizer="sgd", train__weight_decay=0.1)
    config = built.config.train.model_copy(update={"optimizer": name, "lr": 1.0})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(muon, "zeropower_via_newtonschulz", muon.zeropower_via_newtonschulz)
        patch.setattr("ssl_zoo.training.optimizer.cpu_has_bf16", lambda: False)
        optimizer = create_optimizer(built.task, config, 64)
        for step in range(2):
            generator = torch.Generator().manual_seed(step)
            for parameter in built.task.parameters():
                gradient = torch.randn(parameter.shape, generator=generator)
                whole = {"gradient": gradient}
                parameter.grad = sliced(
                    whole, lambda _, p=parameter: p if distributed.is_sharded(p) else None
                )["gradient"]
            optimizer.step()
    return {n: distributed.whole(p.detach()).clone() for n, p in built.task.named_parameters()}


def work_on_optimizers(folder: Path, rank: int) -> None:
    """Save the weights after steps of each optimiser, and the refusal of a task."""
    with joined(folder, rank):
        torch.save({name: optimised(name) for name in OPTIMIZERS}, folder / f"optimised-{rank}.pt")
        built = trainer("contrastive")
        task = Reading(build_task(built.config, built.data.spec).encoder, None, built.data.spec)
        reading = Trainer(built.config, built.data, built.device, task.train())
        with pytest.raises(SettingError) as refused:
            stepped(reading, 1)
        (folder / f"refused-{rank}").write_text(str(refused.value))


def test_optimizers_make_the_step_of_whole_tensors_and_what_cannot_is_refused(tmp_path: Path) -> None:
    failed = server.run(work_on_optimizers, tmp_path)
    assert failed is None, (tmp_path / f"output-{failed}").read_text()
    found = torch.load(tmp_path / "optimised-1.pt", weights_only=True)
    for name in OPTIMIZERS:
        for weight, expected in optimised(name).items():
            message = f"{name}: {weight}"
            torch.testing.assert_close(found[name][weight], expected, rtol=1e-4, atol=1e-5, msg=message)
    line = (tmp_path / "refused-0").read_text()
    assert line.startswith("train.parallel: reading with sgd cannot be sharded (")
    assert line.endswith("; choose --set train.parallel=ddp")
    assert "\n" not in line


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"train__optimizer": "adafactor"},
            r"train\.optimizer: adafactor was not tried on shards; .*adamw",
        ),
        ({"train__cached_gradients": True}, r"train\.cached_gradients: cannot be combined with"),
        ({"train__compile": True}, r"train\.compile: cannot be combined with"),
    ],
)
def test_settings_that_do_not_go_with_shards_are_refused(settings: dict[str, Any], message: str) -> None:
    config = small_config("simclr", **{**VIT, **settings})
    data = build_data(config, torch.device("cpu"))
    device = replace(Device.choose(config.train), compile=config.train.compile is True)
    with pytest.raises(SettingError, match=f"^{message}.*train.parallel=ddp$"):
        Shards(build_task(config, data.spec), None, config, device)


def test_a_parameter_of_one_number_is_refused() -> None:
    built = trainer("contrastive")
    built.task.scale = nn.Parameter(torch.ones(()))
    with pytest.raises(SettingError, match=r"^train\.parallel: scale is a single number, .*=ddp$"):
        Shards(built.task, None, built.config, built.device)
