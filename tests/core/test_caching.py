"""Cached gradients: in parts through the network, and yet the plain large batch's loss and gradient."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from ssl_zoo import tree
from ssl_zoo.backbones.create import create_backbone
from ssl_zoo.backbones.gradient_cache import cache_gradients
from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo.data import load
from ssl_zoo.errors import UserError
from ssl_zoo.runs.build import build_task
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Encoder, Task
from ssl_zoo.views import Rng
from tests.conftest import small_config

SPEC = ImageSpec(channels=1, size=16, mean=(0.5,), std=(0.5,))
BACKBONES: dict[str, dict[str, Any]] = {
    "convolutions": {
        "name": "resnet18",
        "options": {"channels": [32, 32, 32, 32], "layers": [1, 1, 1, 1], "norm_layer": "groupnorm"},
    },
    "transformer": {"name": "test_vit", "options": {"patch_size": 4}},
}
"""Encoders that treat each sample by itself."""


def encoder(kind: str = "convolutions", **options: Any) -> Encoder:
    given = copy.deepcopy(BACKBONES[kind])
    given["options"] |= options
    torch.manual_seed(0)
    return create_backbone(BackboneConfig(**given), SPEC).train()


def batch(n: int = 23) -> Tensor:
    return torch.randn(n, 1, 16, 16, generator=torch.Generator().manual_seed(1))


def loss_and_gradients(task: Task) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss and the gradients of 40 digits, a size that no part divides."""
    digits = load(small_config("simclr").data, torch.device("cpu")).train.batch(torch.arange(40))
    task.train()
    loss = task(task.views(digits, Rng(0))).total
    loss.backward()
    return loss.detach(), {n: p.grad for n, p in task.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", BACKBONES)
def test_loss_and_gradient_are_those_of_the_plain_batch(kind: str, task_name: str) -> None:
    def found(**settings: Any) -> tuple[Tensor, dict[str, Tensor]]:
        config = small_config(task_name, train__batch_size=40, **settings)
        config.backbone = BackboneConfig(**BACKBONES[kind])
        return loss_and_gradients(build_task(config, SPEC))

    loss, gradients = found()
    cached_loss, cached_gradients = found(train__cached_gradients=True, train__part_size=7)
    torch.testing.assert_close(cached_loss, loss, rtol=1e-5, atol=1e-6)
    assert gradients.keys() == cached_gradients.keys()
    scale = max(float(g.abs().max()) for g in gradients.values())
    for name, gradient in gradients.items():
        error = float((cached_gradients[name] - gradient).abs().max())
        assert error <= 2e-5 * scale, name


@pytest.mark.parametrize("kind", BACKBONES)
def test_every_way_to_call_an_encoder_gives_the_same(kind: str) -> None:
    plain = encoder(kind)
    parted = cache_gradients(copy.deepcopy(plain), 5)
    x = batch()
    torch.testing.assert_close(parted(x), plain(x))
    torch.testing.assert_close(parted.feature_map(x), plain.feature_map(x))
    torch.testing.assert_close(parted.stages(x, [0, -1]), plain.stages(x, [0, -1]))
    if kind == "transformer":
        visible = torch.rand(len(x), 16).argsort(1)[:, :6]
        torch.testing.assert_close(parted.tokens(x, visible), plain.tokens(x, visible))


def ways(network: Encoder, x: Tensor, token: Tensor) -> dict[str, Callable[[], Any]]:
    """Return the calls of an encoder with further arguments, by name."""
    n, side = len(x), 4
    hidden = torch.rand(n, side, side, generator=torch.Generator().manual_seed(2)) < 0.5
    visible = torch.arange(6).repeat(n, 1)
    causal = torch.ones(1, 16, 16, dtype=torch.bool).tril()
    stage = next(network.parameters()).ndim == 3  # a transformer's class token
    places = hidden if stage else hidden[:, :2, :2]
    every = {
        "nothing there": lambda: network.pooled_and_map(x, places),
        "map": lambda: network.feature_map(x, places),
        "stages": lambda: network.stages(x, [0, -1], places),
    }
    if stage:
        every |= {
            "a token there": lambda: network.pooled_and_map(x, hidden, token),
            "causal": lambda: network.tokens(x, attend=causal, prefix=True),
            "own masks": lambda: network.tokens(x, visible, causal[:, :6, :6].repeat(n, 1, 1)),
        }
    return every


@pytest.mark.parametrize("kind", BACKBONES)
def test_hidden_places_tokens_and_attention_give_the_same_gradients(kind: str) -> None:
    plain = encoder(kind)
    parted = cache_gradients(copy.deepcopy(plain), 5)
    token = torch.zeros(64, requires_grad=True)
    for name in ways(plain, batch(), token):
        found = []
        for network in (parted, plain):
            network.zero_grad()
            token.grad = None
            output = ways(network, batch(), token)[name]()
            tensors = list(tree.leaves(tuple(map(tuple_of, tuple_of(output)))))
            torch.stack([t.square().mean() for t in tensors]).sum().backward()
            gradients = [p.grad for p in (*network.parameters(), token) if p.grad is not None]
            found.append((tensors, gradients))
        torch.testing.assert_close(found[0], found[1], msg=lambda text, name=name: f"{name}: {text}")
        assert (token.grad is not None) == (name == "a token there")


def tuple_of(output: Any) -> Any:
    """Return lists as tuples, which are trees."""
    return tuple(output) if isinstance(output, list | tuple) else output


class Pair(NamedTuple):
    values: Tensor
    lengths: Tensor


class Summing(Encoder):
    """An encoder of sequences with lengths."""

    width = 1

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def feature_map(self, x: Pair) -> Tensor:
        return self.layer(x.values.unsqueeze(2)).transpose(1, 2)

    def forward(self, x: Pair) -> Tensor:
        return self.feature_map(x).sum(2) / x.lengths.unsqueeze(1)


def test_batches_of_several_tensors_go_by_parts() -> None:
    plain = Summing()
    parted = cache_gradients(copy.deepcopy(plain), 5)
    x = Pair(torch.randn(13, 7), torch.arange(1, 14))
    for network in (plain, parted):
        network(x).square().sum().backward()
        torch.testing.assert_close(network(x), plain(x))
        torch.testing.assert_close(network.pooled_and_map(x), plain.pooled_and_map(x))
    for p, q in zip(plain.parameters(), parted.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


def kept_for_backward(network: Encoder, x: Tensor) -> int:
    """Bytes of what a forward pass leaves for the backward pass, parameters aside."""
    own = {p.data_ptr() for p in network.parameters()}
    kept: dict[int, int] = {}

    def note(t: Tensor) -> Tensor:
        if t.data_ptr() not in own:
            kept[t.data_ptr()] = t.numel() * t.element_size()
        return t

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        features = network(x)
    assert features.requires_grad
    return sum(kept.values())


def test_what_is_kept_for_the_backward_pass_is_the_input_and_not_each_layer() -> None:
    x = batch(64)
    plain = encoder()
    assert kept_for_backward(cache_gradients(copy.deepcopy(plain), 8), x) <= x.nbytes
    assert kept_for_backward(plain, x) > 10 * x.nbytes


def test_names_of_weights_and_evaluation_stay_as_they_are() -> None:
    plain = encoder()
    parted = cache_gradients(copy.deepcopy(plain), 5)
    assert parted.state_dict().keys() == plain.state_dict().keys()
    torch.testing.assert_close(parted.eval()(batch()), plain.eval()(batch()), rtol=0, atol=0)


def test_a_copy_is_a_network_of_its_own_that_goes_by_parts_too() -> None:
    parted = cache_gradients(encoder(), 5)
    teacher = copy.deepcopy(parted).requires_grad_(False)
    with torch.no_grad():
        before = teacher(batch())
        next(parted.parameters()).add_(1.0)
        torch.testing.assert_close(teacher(batch()), before, rtol=0, atol=0)
    sizes: list[int] = []
    teacher.model.conv1.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    with torch.no_grad():
        teacher(batch())
    assert sizes == [5, 5, 5, 4, 4]


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "bf16"])
def test_batch_statistics_are_of_a_part_and_move_once_for_each(half: bool) -> None:
    by_hand = encoder(norm_layer="batchnorm2d")
    parted = cache_gradients(copy.deepcopy(by_hand), 8)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        features = parted(batch())
        expected = torch.cat([by_hand(part) for part in batch().tensor_split(3)])
    features.float().square().sum().backward()
    expected.float().square().sum().backward()
    torch.testing.assert_close(features, expected)
    for (name, a), b in zip(parted.state_dict().items(), by_hand.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, msg=name)
    for (name, p), q in zip(parted.named_parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, msg=name)


def test_it_is_not_compiled() -> None:
    with pytest.raises(UserError, match="train: compile cannot be combined with cached_gradients"):
        small_config("simclr", train__compile=True, train__cached_gradients=True)


def test_dropout_drops_the_same_both_times() -> None:
    by_hand = encoder("transformer", proj_drop_rate=0.5)
    parted = cache_gradients(copy.deepcopy(by_hand), 8)
    torch.manual_seed(3)
    parted(batch()).square().sum().backward()
    torch.manual_seed(3)
    torch.cat([by_hand(part) for part in batch().tensor_split(3)]).square().sum().backward()
    for (name, p), q in zip(parted.named_parameters(), by_hand.named_parameters(), strict=True):
        torch.testing.assert_close(p.grad, q[1].grad, msg=name)
