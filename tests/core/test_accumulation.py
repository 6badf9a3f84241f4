"""Accumulated batches, and those of two processes, have the gradient and the logs of the joint batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ssl_zoo import distributed
from ssl_zoo.runs.build import build_data, build_task
from ssl_zoo.runtime.device import Device
from ssl_zoo.task import Losses
from ssl_zoo.testing.rank_server import server
from ssl_zoo.training import Trainer
from ssl_zoo.training.accumulation import Accumulation
from ssl_zoo.views import Rng
from tests.conftest import small_config

SIZE = 32
"""The samples of the joint batch."""


def trainer(task: str, accumulate: int, **settings: Any) -> Trainer:
    """Return a trainer in float64 with fixed batch statistics, as a part has others than the whole."""
    sizes = {"train__batch_size": SIZE // accumulate, "train__accumulate": accumulate}
    config = small_config(task, **sizes, **settings)
    data = build_data(config, torch.device("cpu"))
    built = build_task(config, data.spec).double().eval()
    generator = torch.Generator().manual_seed(0)
    for module in built.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_var is not None:
            module.running_var.uniform_(0.5, 2, generator=generator)
    return Trainer(config, data, Device.choose(config.train), built)


def step(t: Trainer, views: list[tuple[Tensor, ...]]) -> dict[str, Any]:
    """Return the gradients that the optimiser receives in a step, and the line that is logged."""
    gradients: dict[str, Tensor] = {}

    def receive(*_: Any) -> None:
        gradients.update({n: p.grad.clone() for n, p in t.task.named_parameters() if p.grad is not None})

    t.optimizer.register_step_pre_hook(receive)
    line = t.metrics(t.step_on(views, len(views)))
    return {"gradients": gradients, "line": line}


def share(rank: int = 0, world: int = 1, accumulate: int = 1) -> dict[str, Any]:
    """Return a process's share in a step of inpainting on the joint batch."""
    t = trainer("inpainting", accumulate)
    x, hidden = t.task.views(t.data.train.batch(torch.arange(SIZE)), Rng(0))
    hidden[SIZE // 2 :, :, 5:] = False  # the second half has far fewer targets
    parts = (v.view(accumulate, world, -1, *v.shape[1:])[:, rank] for v in (x.double(), hidden))
    return step(t, list(zip(*parts, strict=True)))


def assert_joint(result: dict[str, Any]) -> None:
    expected = share()
    assert result["gradients"].keys() == expected["gradients"].keys()
    for name, gradient in expected["gradients"].items():
        torch.testing.assert_close(result["gradients"][name], gradient, rtol=1e-8, atol=1e-14)
    for name in ("loss", "reconstruction", "grad_norm"):
        assert result["line"][name] == pytest.approx(expected["line"][name], rel=1e-6), name


@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulated_masked_batches_have_the_gradient_and_the_loss_of_the_joint_one(
    accumulate: int,
) -> None:
    assert_joint(share(accumulate=accumulate))


def work(folder: Path, rank: int) -> None:
    """Save a rank's share."""
    rendezvous = f"file://{folder / 'rendezvous'}"
    torch.distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2)
    torch.save([share(rank, 2, accumulate) for accumulate in (1, 2)], folder / f"share-{rank}.pt")
    distributed.barrier()
    torch.distributed.destroy_process_group()


def test_two_processes_with_masks_of_other_areas_have_the_gradient_and_the_loss_of_one(
    tmp_path: Path,
) -> None:
    assert server.run(work, tmp_path) is None, (tmp_path / "output-0").read_text()
    for rank in (0, 1):
        for result in torch.load(tmp_path / f"share-{rank}.pt", weights_only=True):
            assert_joint(result)


def test_a_batch_without_a_target_does_not_count() -> None:
    def gradients(*areas: int) -> dict[str, Tensor]:
        t = trainer("inpainting", len(areas))
        x, hidden = t.task.views(t.data.train.batch(torch.arange(4)), Rng(0))
        masks = [torch.zeros_like(hidden).index_fill(3, torch.arange(area), True) for area in areas]
        return dict(step(t, [(x.double(), mask) for mask in masks])["gradients"])

    alone = gradients(5)
    for name, gradient in gradients(0, 5).items():
        torch.testing.assert_close(gradient, alone[name])
    assert all(gradient.abs().max() == 0 for gradient in gradients(0, 0).values())


def test_the_logged_loss_is_the_mean_of_the_accumulated_batches_not_the_last_one() -> None:
    t = trainer("rotation", 4)
    images = t.data.train.batch(torch.arange(SIZE)).split(SIZE // 4)
    views = [tuple(v.double() for v in t.task.views(part, Rng(0))) for part in images]
    each = [t.task.loss(part) for part in views]
    line = step(t, views)["line"]
    assert line["loss"] == pytest.approx(sum(float(one.total.detach()) for one in each) / 4)
    assert line["accuracy"] == pytest.approx(sum(float(one.logs["accuracy"]) for one in each) / 4)
    assert line["loss"] != pytest.approx(float(each[-1].total.detach()))


def test_a_batch_without_any_target_counts_as_none() -> None:
    weights = torch.ones(3, requires_grad=True)

    def loss(targets: int) -> Losses:
        values = weights.expand(targets, 3).sum(1)
        mean = values.mean()  # not a number for no target
        return Losses(mean, {"mean": mean.detach()}, weight=torch.tensor(targets))

    joint = Accumulation(2)
    for targets in (2, 0):
        joint.add(loss(targets)).backward()
    joint.normalise([weights])
    assert joint.mean().total == joint.mean().logs["mean"] == 3
    assert torch.equal(weights.grad, torch.ones(3))
    alone = Accumulation(1)
    alone.add(loss(0)).backward()
    assert alone.mean().total == 0
