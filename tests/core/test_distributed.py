"""Two processes that share each batch compute what one process with the joint batch does."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_zoo import distributed
from ssl_zoo.distributed import SyncBatchNorm, sync_batchnorm
from ssl_zoo.nn import (
    Centre,
    FeatureQueue,
    MemoryBank,
    Prototypes,
    across,
    covariance,
    cross_correlation,
    info_nce,
    koleo,
    nt_xent,
    off_diagonal,
    shuffled_groups,
    sigreg,
    sinkhorn,
    sup_con,
    unsaved,
)
from ssl_zoo.runs.build import build_data, build_task
from ssl_zoo.runs.run import Run
from ssl_zoo.runtime.device import Device
from ssl_zoo.task import Encoder, Losses, Task
from ssl_zoo.testing.rank_server import server
from ssl_zoo.training import Trainer
from ssl_zoo.views import Rng
from tests.conftest import KNN, flags, small_config, ssl_zoo, train


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def torchrun(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments in two processes."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return subprocess.run(
        [*launcher, *arguments],
        capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


# Of all tasks the conformance suite asks the same of one step.
@pytest.mark.parametrize(
    "task_name",
    [
        "simclr",
        pytest.param("moco", marks=pytest.mark.slow),
        pytest.param("byol", marks=pytest.mark.slow),
        pytest.param("rotation", marks=pytest.mark.slow),
        pytest.param("inpainting", marks=pytest.mark.slow),
    ],
)
def test_two_processes_give_the_losses_of_one(tmp_path: Path, task_name: str) -> None:
    # Sums are taken in another order, and what divides by a gradient's size (Adam, LARS) makes whole
    # steps of the rounding where gradients are nearly 0; plain SGD at a low rate does not amplify it.
    # So does normalising embeddings of almost no length, as those of a digit's empty corner are.
    settings = {"train__samples": 1024, "train__lr": 0.002, "train__optimizer": "sgd"}
    settings |= {"task__crop_scale": [0.5, 1.0]}
    settings |= {"backbone__options": {}}  # narrow layers make more of the rounding
    one = train(small_config(task_name, train__epochs=None, **settings), out=tmp_path / "one")
    arguments = [*flags(task_name, train__epochs="null", **settings), "--devices", "2"]
    two = ssl_zoo("train", *KNN, *arguments, "--out", tmp_path / "two", OMP_NUM_THREADS="1")
    assert two.returncode == 0, two.stderr
    alone, shared = losses(one.path), losses(tmp_path / "two")
    assert len(alone) == 8
    assert shared == pytest.approx(alone, rel=1e-4)
    assert shared[0] == pytest.approx(alone[0], rel=1e-5)
    # The bound is far below what tells one batch from another.
    assert max(alone) - min(alone) > 100 * 1e-4 * alone[0]
    # Both processes evaluate: the same features of what is not trained, nearly the same of what is.
    expected, scores = (Run.open(tmp_path / name).results()["scores"] for name in ("one", "two"))
    for row, values in expected.items():
        images = 2 if row == task_name else 0
        assert scores[row]["knn"] == pytest.approx(values["knn"], abs=100 * images / 359 + 1e-9)


PARTS = {
    "train__accumulate": 2,
    "train__batch_size": 64,
    "train__cached_gradients": True,
    "train__part_size": 20,
    # Its samples know nothing of each other, so that it does not matter which are in a part.
    "backbone__name": "test_vit",
    "backbone__options": {"patch_size": 4},
}


def test_two_processes_of_torchrun_go_by_parts_as_one_does(tmp_path: Path) -> None:
    settings = {"train__samples": 512, "train__lr": 0.002, "train__optimizer": "sgd", **PARTS}
    one = train(small_config("simclr", train__epochs=None, **settings), out=tmp_path / "one")
    arguments = flags("simclr", train__epochs="null", **settings)
    two = torchrun("-m", "ssl_zoo", "train", *KNN, *arguments, "--out", tmp_path / "two")
    assert two.returncode == 0, two.stderr
    assert losses(tmp_path / "two") == pytest.approx(losses(one.path), rel=1e-4)


@pytest.mark.slow
def test_two_processes_end_a_budget_of_minutes_at_the_same_step(tmp_path: Path) -> None:
    # They measure time differently, and would wait for each other if each went by its own.
    arguments = flags("simclr", train__epochs="null", train__minutes=0.05, train__log_every=7)
    two = ssl_zoo(
        "train", *KNN, *arguments, "--devices=2", "--out", tmp_path / "two", OMP_NUM_THREADS="1"
    )
    assert two.returncode == 0, two.stderr
    last = (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()[-1]
    assert json.loads(last)["seconds"] >= 3


@contextmanager
def joined(folder: Path, rank: int) -> Iterator[None]:
    """Join the two ranks that a server has started with a folder."""
    rendezvous = f"file://{folder / 'rendezvous'}"
    torch.distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2)
    yield
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def work_on_batches(folder: Path, rank: int) -> None:
    """Compare a rank's share of batches with the joint batches."""
    with joined(folder, rank):
        check_shares(rank)


def check_shares(rank: int) -> None:
    """Compare normalisation, NT-Xent, gathering, a sum and a queue with those of the joint batch."""
    torch.manual_seed(0)
    x = torch.randn(8, 6, 3, 3, dtype=torch.float64)
    mine = distributed.local_rows(x).requires_grad_()
    joint = x.clone().requires_grad_()

    # Batch normalisation: outputs, gradients and running statistics of the joint batch.
    alone, shared = nn.BatchNorm2d(6).double(), nn.BatchNorm2d(6).double()
    shared.load_state_dict(alone.state_dict())
    shared = distributed.sync_batchnorm(shared)
    weight = torch.randn_like(x)
    (alone(joint) * weight).sum().backward()
    (shared(mine) * distributed.local_rows(weight)).sum().backward()
    torch.testing.assert_close(mine.grad, distributed.local_rows(joint.grad), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(shared.running_var, alone.running_var, atol=1e-6, rtol=1e-6)

    # NT-Xent: the mean over processes of the loss, and the gradient of that mean.
    z1, z2 = (F.normalize(torch.randn(8, 5, dtype=torch.float64), dim=1) for _ in range(2))
    a, b = z1.clone().requires_grad_(), z2.clone().requires_grad_()
    p, q = (distributed.local_rows(z).clone().requires_grad_() for z in (z1, z2))
    loss = nt_xent(p, q, 0.2)
    loss.backward()
    with_all = distributed.mean(loss)
    world = distributed.world_size()
    with distributed.alone():
        reference = nt_xent(a, b, 0.2)
        reference.backward()
    torch.testing.assert_close(with_all, reference.detach())
    torch.testing.assert_close(p.grad / world, a.grad.chunk(world)[rank])
    torch.testing.assert_close(q.grad / world, b.grad.chunk(world)[rank])

    # Gathering: the gradient of the joint batch, also where what comes back is strided.
    rows, weight = torch.randn(8, 5), torch.randn(5, 8)
    own = distributed.local_rows(rows).clone().requires_grad_()
    (distributed.all_gather(own).T * weight).sum().backward()  # on each process, and summed over them
    torch.testing.assert_close(own.grad / world, weight.T.chunk(world)[rank])

    # A sum: the covariance of the joint batch, alike in all, and its gradient.
    together, z = rows.clone().requires_grad_(), distributed.local_rows(rows).clone().requires_grad_()
    centred = z - distributed.sum(z.sum(0)) / len(rows)
    shared_covariance = distributed.sum(centred.T @ centred) / (len(rows) - 1)
    torch.testing.assert_close(shared_covariance, torch.cov(together.T))
    shared_covariance.pow(2).triu(1).sum().backward()
    torch.cov(together.T).pow(2).triu(1).sum().backward()
    torch.testing.assert_close(z.grad / world, together.grad.chunk(world)[rank])

    # A queue: the same on all, and that of one process with the joint batch.
    torch.manual_seed(0)
    queue, joint_queue = FeatureQueue(20, 5), FeatureQueue(20, 5)
    joint_queue.load_state_dict(queue.state_dict())
    for _ in range(4):
        keys = torch.randn(8, 5)
        queue.push(distributed.all_gather(distributed.local_rows(keys)))
        joint_queue.push(keys)
    assert queue.features.equal(joint_queue.features)


def test_gathering_summing_and_normalising_have_the_gradients_of_the_joint_batch(tmp_path: Path) -> None:
    failed = server.run(work_on_batches, tmp_path)
    assert failed is None, (tmp_path / f"output-{failed}").read_text()


class Changing(Task):
    """A head rests in the first half of the run, another in the second, and a third every other step."""

    def __init__(self, encoder: Encoder, options: Any, spec: Any) -> None:
        super().__init__(encoder, options, spec)
        self.late, self.early, self.odd = (nn.Linear(encoder.width, 1) for _ in range(3))
        self.master = unsaved(nn.Linear(encoder.width, 1))

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        return (self.spec.prepare(batch),)

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        features = self.encoder(views[0])
        total = (self.late if self.progress >= 0.5 else self.early)(features).pow(2).mean()
        total = total + self.master(features).pow(2).mean()
        if round(4 * self.progress) % 2 == 0:
            total = total + self.odd(features).pow(2).mean()
        return Losses(total)


def changing() -> dict[str, Tensor]:
    """Return the weights after a run of four steps of `Changing`."""
    settings = {"train__batch_size": 16, "train__images": 64, "train__epochs": None}
    settings |= {"train__optimizer": "momentum", "train__weight_decay": 0.1, "train__ema": 0.5}
    config = small_config("simclr", **settings)
    data = build_data(config, torch.device("cpu"))
    torch.manual_seed(0)
    task = Changing(build_task(config, data.spec).encoder, None, data.spec).train()
    trainer = Trainer(config, data, Device.choose(config.train), task)
    for batches in itertools.islice(trainer.epoch_batches(), 4):
        trainer.train_step(batches)
    assert trainer.progress == 1
    return {name: p.detach() for name, p in task.named_parameters()}


def work(folder: Path, rank: int) -> None:
    """Save the weights of a rank."""
    with joined(folder, rank):
        torch.save(changing(), folder / f"weights-{rank}.pt")


def test_parameters_that_rest_for_a_while_are_left_alone_in_two_processes_as_in_one(
    tmp_path: Path,
) -> None:
    assert server.run(work, tmp_path) is None, (tmp_path / "output-0").read_text()
    for rank in (0, 1):
        weights = torch.load(tmp_path / f"weights-{rank}.pt", weights_only=True)
        for name, expected in changing().items():
            torch.testing.assert_close(weights[name], expected, rtol=1e-4, atol=1e-6, msg=name)


def pieces() -> dict[str, Tensor]:
    """Return losses, their gradients and updated buffers of this process's share of 8 samples."""
    torch.manual_seed(0)
    x, directions, index = torch.randn(2, 8, 5).double(), torch.randn(6, 5), torch.arange(8) % 6
    labels, prototypes = torch.arange(8) % 3, Prototypes(5, 4).double()
    queue, bank, centre = FeatureQueue(20, 5), MemoryBank(6, 5).double(), Centre(5).double()
    shuffle, network = torch.randperm(8), nn.BatchNorm1d(5).double()
    mine = distributed.local_rows
    z1, z2 = (mine(F.normalize(z, dim=1)).clone().requires_grad_() for z in x)
    losses = {
        "decoupled": nt_xent(z1, z2, 0.2, decoupled=True),
        "keys": info_nce(z1, z2, None, 0.2),
        "sup_con": sup_con([z1, z2], mine(labels), 0.2),
        "covariance": covariance(z1).pow(2).sum() + 0 * z2.sum(),
        "correlation": off_diagonal(cross_correlation(z1, z2)).pow(2).sum(),
        "koleo": koleo(z1) + 0 * z2.sum(),
        "sigreg": sigreg(z1, directions) + 0 * z2.sum(),
        "swapped": across([sinkhorn(prototypes(z) / 0.1) for z in (z1, z2)], [z1, z2], 0.1, prototypes),
    }
    results = {}
    for name, loss in losses.items():
        results[name] = distributed.mean(loss)
        gradients = torch.cat(
            [g / distributed.world_size() for g in torch.autograd.grad(loss, [z1, z2])]
        )
        rows = gradients.unflatten(0, (2, -1)).transpose(0, 1)
        results[f"gradient of {name}"] = distributed.all_gather(rows.contiguous())
    for part, notes in ((queue, (z1,)), (bank, (z1, mine(index))), (centre, (z1,))):
        part.note(*notes)
        part.update()
        results |= {f"{type(part).__name__}.{k}": v for k, v in part.state_dict().items()}
    groups = shuffled_groups(network, z1.detach(), shuffle, groups=2)
    return results | {"groups": distributed.all_gather(groups)}


def work_on_pieces(folder: Path, rank: int) -> None:
    """Save the pieces of a rank."""
    with joined(folder, rank):
        torch.save(pieces(), folder / f"pieces-{rank}.pt")


def test_shared_pieces_in_two_processes_are_those_of_the_joint_batch(tmp_path: Path) -> None:
    assert server.run(work_on_pieces, tmp_path) is None, (tmp_path / "output-0").read_text()
    for rank in (0, 1):
        shared = torch.load(tmp_path / f"pieces-{rank}.pt", weights_only=True)
        for name, expected in pieces().items():
            torch.testing.assert_close(
                shared[name], expected, rtol=1e-9, atol=1e-12, msg=f"{name} of rank {rank}"
            )


def test_a_module_can_keep_statistics_of_its_own() -> None:
    module = nn.Sequential(nn.BatchNorm1d(3), nn.Sequential(nn.BatchNorm1d(3)))
    module[1].local_batchnorm = True
    sync_batchnorm(module)
    assert isinstance(module[0], SyncBatchNorm)
    assert type(module[1][0]) is nn.BatchNorm1d


def test_synchronising_keeps_timms_activation_after_the_norm() -> None:
    from timm.layers import BatchNormAct2d

    torch.manual_seed(0)
    module = nn.Sequential(BatchNormAct2d(3))
    x = torch.randn(4, 3, 5, 5)
    expected, names = module.eval()(x), list(module.state_dict())
    torch.testing.assert_close(sync_batchnorm(module)(x), expected)
    assert list(module.state_dict()) == names  # so that one process reads what two have saved
    assert (expected >= 0).all()
