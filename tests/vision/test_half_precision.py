"""Under autocast a network computes in bf16, and all that its loss does with the outputs in float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ssl_zoo_vision.contrastive.pixpro import pixpro_loss
from ssl_zoo_vision.joint_embedding import correspondence
from tests.vision.tiny_tasks import TINY_OPTIONS, fixed_views, tiny


def layers(task: nn.Module) -> Iterator[nn.Module]:
    """Yield the layers of a task's networks: modules without parts, which are torch's or timm's."""
    for module in task.modules():
        own = type(module).__module__.startswith("ssl_zoo") and not isinstance(module, nn.Conv2d)
        if not own and not [*module.children()]:
            yield module


def record(task: nn.Module, patch: pytest.MonkeyPatch) -> list[Tensor]:
    """Keep the outputs of all layers, in the order of their calls, in the list that is returned."""
    outputs: list[Tensor] = []

    def recording(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(*inputs: Any, **options: Any) -> Tensor:
            output = forward(*inputs, **options)
            outputs.append(output.clone())  # as an activation may change it in place
            return output

        return call

    for layer in layers(task):
        patch.setattr(layer, "forward", recording(layer.forward))
    return outputs


def replay(task: nn.Module, patch: pytest.MonkeyPatch, outputs: list[Tensor]) -> None:
    """Let all layers return recorded outputs, whatever their inputs."""
    following = iter(outputs)
    for layer in layers(task):
        patch.setattr(layer, "forward", lambda *inputs, **options: next(following).clone())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in TINY_OPTIONS),
        ("npid", {"negatives": 7}),
        ("swav", {"queue": 9, "queue_from": 0.0}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_a_loss_of_bf16_features_is_computed_in_float32(
    name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = tiny(name, dtype=torch.float32, **options)
    if options.get("queue"):
        task.queue.push(task.queue.features.clone())
    task.before_step(0.5)
    views = fixed_views(task)
    with monkeypatch.context() as patch, torch.autocast("cpu", torch.bfloat16):
        outputs = record(task, patch)
        loss = task.loss(views).total
    # A transformer's norms give float32; its other layers and the heads are in bf16.
    formats = {x.dtype for x in outputs}
    assert formats - {torch.float32} == {torch.bfloat16}
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    with monkeypatch.context() as patch:
        replay(task, patch, outputs)
        expected = task.loss(views).total
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    assert not torch.isclose(task.loss(views).total, expected, rtol=1e-6)  # the layers were in bf16


def nearly_equal_places(seed: int, places: int = 16) -> Tensor:
    """Return unit features [2, places, 8] whose cosines differ by less than bf16 can tell."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.ones(2, places, 8) + 0.02 * torch.randn(2, places, 8, generator=generator)
    return nn.functional.normalize(features, dim=2)


def test_densecl_finds_the_most_similar_of_places_that_bf16_cannot_tell_apart() -> None:
    x, order = nearly_equal_places(0), torch.randperm(16, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", torch.bfloat16):
        found = correspondence(x[:, order].mT.unflatten(2, (4, 4)), x.mT.unflatten(2, (4, 4)))
    assert torch.equal(found, order.expand(2, -1))


def test_pixpros_cosines_are_of_float32_under_autocast() -> None:
    task = tiny("pixpro", dtype=torch.float32)
    task.transform = nn.Identity()
    x, target = nearly_equal_places(0), nearly_equal_places(1)
    pairs = torch.eye(16, dtype=torch.bool).expand(2, -1, -1)
    exact = task.propagate(x)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(task.propagate(x), exact, rtol=1e-6, atol=1e-6)
        loss = pixpro_loss(exact, target, pairs)
    torch.testing.assert_close(loss, pixpro_loss(exact, target, pairs), rtol=1e-6, atol=0)
