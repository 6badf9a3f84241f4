"""Optimisers of timm treat a setting of 0 as the limit of small ones, and layers by their shape."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from timm.optim import get_optimizer_info, list_optimizers
from timm.optim._optim_factory import default_registry
from torch import Tensor, nn

from ssl_zoo.config.schema import TrainConfig
from ssl_zoo.errors import UserError
from ssl_zoo.notices import collect_notices
from ssl_zoo.task import Losses, Task, TaskOptions
from ssl_zoo.training.optimizer import create_optimizer
from ssl_zoo.views import Rng

LOCAL = [name for name in list_optimizers() if not isinstance(get_optimizer_info(name).opt_class, str)]
"""The optimisers of timm and torch; those of apex and bitsandbytes need a GPU."""


class Layers(Task):
    """A task with a matrix, a convolution, a bias and a scaled head."""

    name = "layers"
    Options = TaskOptions

    def __init__(self) -> None:
        nn.Module.__init__(self)
        generator = torch.Generator().manual_seed(0)

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))

        self.matrix, self.convolution = parameter(8, 4), parameter(6, 3, 3, 3)
        self.bias, self.head = parameter(8), parameter(5, 4)

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        return (batch,)

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        return Losses(sum((p.sin().sum() for p in self.parameters()), torch.zeros(())))

    def lr_scale(self, parameter: str) -> float:
        return 0.1 if parameter == "head" else 1.0


def moves(optimizer: str, steps: int = 1, **settings: Any) -> dict[str, Tensor]:
    """Return how far some steps move each parameter, whose gradient is small against it."""
    task = Layers()
    before = {name: p.detach().clone() for name, p in task.named_parameters()}
    config = TrainConfig(optimizer=optimizer, lr=0.01, lr_scaling="none", **settings)
    made = create_optimizer(task, config, 256)
    for group in made.param_groups:
        group["lr"] *= group["lr_scale"]
    torch.manual_seed(0)
    for _ in range(steps):
        made.zero_grad()
        (0.01 * task.loss(()).total).backward(create_graph=get_optimizer_info(optimizer).second_order)
        made.step()
    return {name: p.detach() - before[name] for name, p in task.named_parameters()}


def assert_near(a: dict[str, Tensor], b: dict[str, Tensor], optimizer: str) -> None:
    for name, move in a.items():
        torch.testing.assert_close(move, b[name], rtol=1e-6, atol=1e-9, msg=f"{optimizer}, {name}")


@pytest.mark.filterwarnings("ignore")  # of timm and torch, about what is experimental
@pytest.mark.parametrize("setting", ["weight_decay", "momentum"])
def test_a_setting_of_zero_is_the_limit_of_small_ones_for_all_optimisers(setting: str) -> None:
    # Without decay, as MADGRAD's decoupled decay is lost where its momentum is small, but not 0.
    settings = {"weight_decay": 0.0, "momentum": 0.9 if setting == "weight_decay" else 0.0}
    for name in LOCAL:
        zero = moves(name, steps=3, **settings)
        small = moves(name, steps=3, **settings | {setting: 1e-12})
        assert_near(zero, small, name)
        assert any(move.abs().max() > 0 for move in zero.values()), name


@pytest.mark.parametrize("decay", [0.0, 1e-4])
def test_lars_adapts_layers_and_neither_decays_nor_adapts_biases(decay: float) -> None:
    task = Layers()
    task.loss(()).total.backward()
    gradients = {name: 0.01 * p.grad for name, p in task.named_parameters() if p.grad is not None}
    moved = moves("lars", momentum=0.0, weight_decay=decay)
    for name, p in task.named_parameters():
        g, rate = gradients[name], 0.01 * task.lr_scale(name)
        if name == "bias":
            expected = -rate * g
        else:  # equation 6 of You et al. 2017, with trust coefficient 0.001
            w = p.detach()
            expected = -rate * 0.001 * w.norm() / (g.norm() + decay * w.norm()) * (g + decay * w)
        torch.testing.assert_close(moved[name], expected, rtol=1e-4, atol=0)


def test_a_user_can_let_all_parameters_be_adapted() -> None:
    always = moves("lars", weight_decay=0.0, optimizer_options={"always_adapt": True})
    assert always["bias"].norm() < 0.5 * moves("lars", weight_decay=0.0)["bias"].norm()


@pytest.mark.parametrize(("corrected", "plain"), [("adamc", "adamwlegacy"), ("lionc", "lion")])
def test_corrected_decay_is_the_plain_one_at_the_peak_whatever_the_factor_on_the_rate(
    corrected: str, plain: str
) -> None:
    assert_near(moves(corrected, weight_decay=0.5), moves(plain, weight_decay=0.5), corrected)


def test_a_momentum_that_the_optimiser_does_not_have_is_said() -> None:
    with collect_notices() as notices:
        moves("adan", momentum=0.5)
        moves("adagrad", momentum=0.5)
        moves("adagrad")  # the default
        moves("adamw", momentum=0.5)
    assert [notice["text"] for notice in notices] == [
        "train.momentum: adan has none, so 0.5 is not used; it has betas, (0.98, 0.92, 0.99): "
        "set train.optimizer_options.betas",
        "train.momentum: adagrad has none, so 0.5 is not used",
    ]


def test_a_lamb_that_cannot_adapt_some_parameters_alone_is_refused_without_decay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class FusedLamb(torch.optim.SGD):  # the arguments of apex's, which needs a GPU
        def __init__(self, params: Any, lr: float, weight_decay: float, use_nvlamb: bool = False):
            super().__init__(params, lr, weight_decay=weight_decay)

    info = replace(get_optimizer_info("fusedlamb"), opt_class=FusedLamb)
    monkeypatch.setitem(default_registry._optimizers, "fusedlamb", info)
    with pytest.raises(UserError, match=r"train.weight_decay: fusedlamb .* choose train.optimizer=lamb"):
        moves("fusedlamb", weight_decay=0.0)
    moves("fusedlamb", weight_decay=0.1)
    moves("fusedlamb", weight_decay=0.0, optimizer_options={"use_nvlamb": True})


def test_an_optimiser_of_a_library_that_is_not_here_is_one_line() -> None:
    with pytest.raises(UserError, match=r"^train.optimizer: fusedlamb .*[Aa]"):
        moves("fusedlamb")
