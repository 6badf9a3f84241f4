"""XLNet: the conformance suite, the spans, and what a target sees of the others."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import SmallTexts
from ssl_zoo_text.masking import Targets, draw_spans
from ssl_zoo_text.spec import Text
from ssl_zoo_text.xlnet import Views, XLNet

from ssl_zoo import Unsuitable
from ssl_zoo.backbones.build import create_encoder
from ssl_zoo.testing import Case, Check, parametrize_with_checks
from ssl_zoo.views import Rng

CASE: dict[str, Any] = {"backbone": {"name": "xlnet-tiny"}, "data": [SmallTexts("xlnet-tiny")]}


@parametrize_with_checks(XLNet, **CASE)
def test_conformance(check: Check) -> None:
    check()


def task_and_views(n: int = 8, layers: int = 2) -> tuple[Any, Views]:
    case = Case.of(XLNet, **CASE)
    texts = SmallTexts("xlnet-tiny")
    config = texts.config.model_copy(
        update={"options": {**texts.config.options, "num_hidden_layers": layers}}
    )
    torch.manual_seed(0)
    task: Any = XLNet(create_encoder(config, texts.spec), XLNet.Options(), texts.spec).eval()
    assert len(task.encoder.network.layer) == layers
    return task, task.views(case.data.batch(n), Rng(0))


def test_spans_of_1_to_5_tokens_have_a_sixth_of_all_places_each_as_likely() -> None:
    number = draw_spans(20000, 64, 6, 5, Rng(0))
    hidden = (number >= 0).float()
    assert abs(hidden.mean() - 1 / 6) < 0.001
    assert (hidden.mean(0) - 1 / 6).abs().max() < 0.015, "more than five deviations of 20000 draws"
    sizes = F.one_hot(number + 1)[..., 1:].sum(1)
    assert sizes.max() == 5
    # Away from the ends spans are whole; lengths are uniform, so a place is in those of L as often as L.
    inner = sizes.gather(1, number[:, 30:31].clamp(min=0))[number[:, 30:31] >= 0]
    share = inner.bincount(minlength=6)[1:] / len(inner)
    torch.testing.assert_close(share, torch.arange(1, 6) / 15, rtol=0, atol=0.03)
    for row in number[:200]:
        for n in row.unique().tolist():
            places = (row == n).nonzero()[:, 0]
            assert n < 0 or places[-1] - places[0] == len(places) - 1, "consecutive places"


def test_targets_are_ordinary_tokens_one_in_six_and_last_in_one_order_of_the_whole_block() -> None:
    task, views = task_and_views(4096)
    x, targets, order = views
    hidden = targets.hidden(x)
    number = x.ordinary().sum()
    assert number > 1e5
    assert abs(hidden.sum() / number - 1 / 6) < 0.003
    assert not (hidden & ~x.ordinary()).any()
    assert x.ids.equal(task.spec.prepare(x).ids), "the ids are left as they are"
    assert order.sort(1).values.equal(torch.arange(x.ids.shape[1]).expand_as(order))
    first_target = order.masked_fill(~hidden, x.ids.shape[1]).amin(1)
    assert (order.masked_fill(hidden, -1).amax(1) < first_target).all()
    for row in range(200):
        assert targets.places[row].unique().numel() == targets.places.shape[1]
    assert targets.weight.sum() == hidden.sum(), "all targets have a place"
    assert x.ids.gather(1, targets.places).equal(targets.ids)


def test_no_text_has_more_targets_than_places_for_them() -> None:
    for length in (7, 16, 64):
        for k, span in ((6, 5), (2, 5), (3, 1)):
            count = (draw_spans(20000, length, k, span, Rng(1)) >= 0).sum(1)
            assert count.max() <= min(length, max(length - 2 * span, 0) // k + 2 * span)


def test_the_loss_begins_at_ln_v() -> None:
    task, views = task_and_views(32)
    assert abs(task(views).total.item() - math.log(task.spec.vocabulary)) < 0.1


def test_a_target_is_seen_by_later_ones_alone() -> None:
    task, views = task_and_views()
    x, targets, order = views
    rank = order.gather(1, targets.places)
    before = task.logits(views)
    for k in range(4):
        place, real = targets.places[:, k : k + 1], targets.weight > 0
        ids = x.ids.scatter(1, place, (x.ids.gather(1, place) + 7) % task.spec.vocabulary)
        ids = ids.where(real[:, k : k + 1], x.ids)
        change = (task.logits((Text(ids, x.lengths), targets, order)) - before).abs().amax(-1)
        later = (rank > rank[:, k : k + 1]) & real & real[:, k : k + 1]
        assert change[~later].max() == 0, "neither its own logits nor those of earlier ones"
        assert k == 0 or later.any()
        assert (change[later] > 0).all()


@pytest.mark.parametrize("layers", [2, 4])
def test_logits_have_no_gradient_at_their_own_token_nor_at_later_ones(layers: int) -> None:
    task, views = task_and_views(4, layers)
    x, targets, order = views
    embedded: list[torch.Tensor] = []

    def keep(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        embedded.append(output.detach().requires_grad_())
        return embedded[-1]

    handle = task.encoder.embedding.register_forward_hook(keep)
    logits = task.logits(views)
    handle.remove()
    b, t = order.shape
    hidden = targets.hidden(x)
    for row in range(b):
        for k in range(int(targets.weight[row].sum())):
            place = int(targets.places[row, k])
            (gradient,) = torch.autograd.grad(logits[row, k].square().sum(), embedded, retain_graph=True)
            size = gradient.transpose(0, 1)[row].abs().amax(-1)  # the network has [T, B, d]
            for j in range(t):
                sees = not hidden[row, j] or order[row, j] < order[row, place]
                assert (size[j] > 0) == bool(sees and j < x.lengths[row])


def test_padding_adds_nothing() -> None:
    task, (x, targets, order) = task_and_views()
    longer = (task.spec.pad(x, 5), targets, F.pad(order, (0, 5)))
    spare = Targets(*(F.pad(values, (0, 3)) for values in targets))
    expected = task((x, targets, order)).total
    torch.testing.assert_close(task(longer).total, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(task((x, spare, order)).total, expected, rtol=1e-5, atol=1e-5)


def test_features_see_the_whole_text() -> None:
    task, (x, _, _) = task_and_views()
    ids = x.ids.clone()
    ids[:, 20] = (ids[:, 20] + 7) % task.spec.vocabulary
    change = task.encoder.tokens(Text(ids, x.lengths)) - task.encoder.tokens(x)
    assert (change.abs().amax(-1)[x.valid()] > 0).all()


def test_a_network_with_one_stream_is_refused() -> None:
    case = Case.of(XLNet, data=[SmallTexts()])
    with pytest.raises(Unsuitable, match="a network of the family bert; choose xlnet-micro"):
        case.construct(case.data)
