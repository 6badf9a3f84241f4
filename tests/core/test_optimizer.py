"""Optimisers of timm treat a setting of 0 as the limit of small ones, and layers by their shape."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from timm.optim import get_optimizer_info, list_optimizers, muon
from timm.optim._optim_factory import default_registry
from torch import Tensor, nn

from ssl_zoo.config.schema import TrainConfig
from ssl_zoo.errors import UserError
from ssl_zoo.notices import collect_notices
from ssl_zoo.task import Encoder, Losses, Task, TaskOptions
from ssl_zoo.training.budget import Budget
from ssl_zoo.training.optimizer import Schedules, create_optimizer
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
def test_a_setting_of_zero_is_the_limit_of_small_ones_for_all_optimisers(
    setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("timm.optim.kron.has_dynamo", False)  # compiling takes a minute
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


@pytest.mark.parametrize(("has_bf16", "error"), [(False, 1e-5), (True, 0.1)])
def test_muon_is_exact_on_a_cpu_that_would_emulate_its_half_precision(
    has_bf16: bool, error: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    orthogonalised = getattr(muon.zeropower_via_newtonschulz, "func", muon.zeropower_via_newtonschulz)
    monkeypatch.setattr(muon, "zeropower_via_newtonschulz", orthogonalised)
    monkeypatch.setattr("ssl_zoo.training.optimizer.cpu_has_bf16", lambda: has_bf16)
    task = Layers()
    task.loss(()).total.backward()
    expected = orthogonalised(task.matrix.grad, 5, muon._COEFFICIENTS["quintic"], dtype=torch.float64)
    moved = moves("muon", weight_decay=0.0)["matrix"]
    difference = moved / moved.norm() + expected / expected.norm()
    assert error / 100 < difference.norm() < error if has_bf16 else difference.norm() < error


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


class Stack(Encoder):
    """Three layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(2, 2) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return x

    feature_map = forward

    def parameter_layers(self) -> list[list[nn.Parameter]]:
        return [list(layer.parameters()) for layer in (self.first, self.second, self.third)]


class Predicting(Task):
    """A task whose predictor has a constant rate, and whose critic has a tenth of the rate."""

    def __init__(self) -> None:
        super().__init__(Stack(), TaskOptions(), None)
        self.predictor, self.critic = nn.Linear(2, 2), nn.Linear(2, 2)

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        return (batch,)

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        return Losses(self.critic(self.predictor(self.encoder(views[0]))).mean())

    def lr_constant(self, parameter: str) -> bool:
        return parameter.startswith("predictor.")

    def lr_scale(self, parameter: str) -> float:
        return 0.1 if parameter.startswith(("critic.", "encoder.first.")) else 1.0


def followed(progress: float, **settings: Any) -> dict[str, tuple[float, float, float]]:
    """Return the rate and the weight decay of each matrix, and its bias's weight decay."""
    task, config = Predicting(), TrainConfig(lr=1.0, lr_scaling="none", images=25600, **settings)
    optimizer = create_optimizer(task, config, 256)
    schedules = Schedules(optimizer, config, Budget.of(config, 25600))
    optimizer.load_state_dict(optimizer.state_dict())  # as a resumed run does
    schedules.follow(progress)
    groups = {p: group for group in optimizer.param_groups for p in group["params"]}
    values = {
        name: (groups[m.weight]["lr"], groups[m.weight]["weight_decay"], groups[m.bias]["weight_decay"])
        for name, m in task.named_modules()
        if isinstance(m, nn.Linear)
    }
    assert schedules.rate == values["encoder.third"][0]
    return values


def test_a_predictors_rate_stays_at_its_peak_and_all_others_follow_the_schedule() -> None:
    rates = [{k: v[0] for k, v in followed(p, warmup=0.1).items()} for p in (0.0, 0.55, 1.0)]
    assert [r["predictor"] for r in rates] == [1.0] * 3
    assert [r["encoder.second"] for r in rates] == pytest.approx([0.1, 0.5, 0.0])
    assert [r["critic"] for r in rates] == pytest.approx([0.01, 0.05, 0.0])


def test_rates_decay_by_layer_towards_the_input_and_heads_have_the_full_rate() -> None:
    rates = {k: v[0] for k, v in followed(0.0, warmup=0.0, layer_decay=0.5).items()}
    assert rates == pytest.approx(
        {
            "encoder.first": 0.25 * 0.1,
            "encoder.second": 0.5,
            "encoder.third": 1,
            "predictor": 1,
            "critic": 0.1,
        }
    )


@pytest.mark.parametrize("start", [0.04, 0.0])
def test_a_weight_decay_goes_to_its_end_on_a_cosine_but_not_that_of_biases(start: float) -> None:
    for progress, share in ((0.0, 0.0), (1 / 3, 0.25), (0.5, 0.5), (1.0, 1.0)):
        decays = followed(progress, weight_decay=start, weight_decay_end=0.4)
        for _, weight, bias in decays.values():
            assert weight == pytest.approx(start + share * (0.4 - start))
            assert bias == 0


def test_a_layer_that_is_frozen_at_first_begins_with_its_first_gradient() -> None:
    def train(first: int) -> Tensor:
        task = Predicting()
        weight = task.critic.weight
        torch.nn.init.ones_(weight)
        optimizer = create_optimizer(task, TrainConfig(momentum=0.9), 256)
        for step in range(4):
            task.predictor.weight.grad = torch.ones(2, 2)
            weight.grad = torch.ones(2, 2) if step >= first else None
            optimizer.step()
            if step == first:
                return weight.detach().clone()
        raise AssertionError

    assert train(2).equal(train(0))
