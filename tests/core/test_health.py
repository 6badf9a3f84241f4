"""RankMe, alignment, uniformity and spread are the papers' formulas, and collapse is told."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_zoo.evaluation import Subject, score, warnings
from ssl_zoo.evaluation.health import alignment, rankme, uniformity
from ssl_zoo.nn import spread
from ssl_zoo.runs.build import build_data, build_task
from ssl_zoo.runtime.device import Device
from ssl_zoo.spec import ImageSpec, Spec
from tests.conftest import small_config

CPU = torch.device("cpu")
DEVICE = Device(CPU, "fp32", False)


def noise(n: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("n", "width"), [(50, 8), (8, 50)])
def test_rankme_is_the_exponential_entropy_of_the_singular_values(n: int, width: int) -> None:
    x = noise(n, width) * torch.linspace(0.1, 3, width)
    singular = torch.linalg.svdvals(x.double()).tolist()
    shares = [s / sum(singular) for s in singular]
    assert rankme(x) == pytest.approx(math.exp(-sum(p * math.log(p) for p in shares)), rel=1e-4)


@pytest.mark.parametrize("rank", [1, 3, 7])
def test_rankme_of_equal_directions_is_their_number(rank: int) -> None:
    q, _ = torch.linalg.qr(noise(64, 16))
    assert rankme(q[:, :rank] @ torch.eye(16)[:rank]) == pytest.approx(rank, rel=1e-3)


def test_rankme_does_not_depend_on_scale_or_rotation() -> None:
    x, (q, _) = noise(40, 6) * torch.linspace(0.2, 2, 6), torch.linalg.qr(noise(6, 6, seed=1))
    assert rankme(1000 * x @ q) == pytest.approx(rankme(x), rel=1e-4)


def test_alignment_and_uniformity_are_means_over_pairs() -> None:
    x, y = noise(20, 5), noise(20, 5, seed=1)
    unit_x, unit_y = F.normalize(x, dim=1).tolist(), F.normalize(y, dim=1).tolist()

    def d2(a: list[float], b: list[float]) -> float:
        return sum((p - q) ** 2 for p, q in zip(a, b, strict=True))

    assert alignment(x, y) == pytest.approx(sum(map(d2, unit_x, unit_y)) / 20, rel=1e-5)
    pairs = [math.exp(-2 * d2(unit_x[i], unit_x[j])) for i in range(20) for j in range(i)]
    assert uniformity(x) == pytest.approx(math.log(sum(pairs) / len(pairs)), rel=1e-4)


def test_the_extremes_are_where_they_are_said_to_be() -> None:
    one_point = torch.ones(100, 16)
    assert alignment(one_point, 3 * one_point) == pytest.approx(0, abs=1e-12)
    assert uniformity(one_point) == pytest.approx(0, abs=1e-5)
    assert float(spread(one_point)) == pytest.approx(0, abs=1e-6)
    sphere = noise(2000, 256)
    assert float(spread(sphere)) == pytest.approx(1, abs=0.02)
    assert uniformity(sphere) == pytest.approx(-4, abs=0.1)


def scores_of(features: Tensor) -> dict[str, float]:
    return {"rankme": rankme(features), "spread": float(spread(features))}


def test_a_collapsed_representation_is_told_and_a_sound_one_is_not() -> None:
    constant = torch.ones(300, 32) + 1e-3 * noise(300, 32)
    (text,) = warnings(scores_of(constant))
    assert text.startswith("the representation has collapsed: all samples have nearly the same features")
    line = noise(300, 1) * torch.ones(1, 32) + 1e-4 * noise(300, 32)
    assert len(warnings(scores_of(line))) == 1
    assert warnings(scores_of(noise(300, 32))) == []
    assert warnings(scores_of(noise(300, 32).relu() + 0.5)) == []
    assert warnings({"knn": 3.0}) == []


def test_a_representation_of_nothing_but_zeros_has_collapsed() -> None:
    assert len(warnings(scores_of(torch.zeros(50, 8)))) == 1


@pytest.mark.parametrize("labels", [True, False])
def test_health_needs_no_labels_and_changes_with_no_batch(labels: bool) -> None:
    data = build_data(small_config("simclr"), CPU)
    if not labels:
        for split in (data.train, data.test):
            assert split is not None
            split.labels = None
    task = build_task(small_config("simclr"), data.spec)
    first, second = (score(Subject.of_task(task, data, DEVICE), ["health"]) for _ in range(2))
    assert first == second
    assert set(first) == {"rankme", "spread", "alignment", "uniformity"}
    assert 0 <= first["alignment"] <= 4
    raw = Subject.raw(data, DEVICE)
    assert raw is not None
    assert set(score(raw, ["health"])) == {"rankme", "spread", "uniformity"}


def test_varied_images_are_near_the_images_and_obey_the_generator() -> None:
    spec = ImageSpec(channels=1, size=24, mean=(0.5,), std=(0.25,), mirror=False)
    ramp = torch.linspace(0, 255, 28).byte().expand(200, 1, 28, 28)
    generators = [torch.Generator().manual_seed(s) for s in (0, 0, 1)]
    a, b, c = (spec.vary(ramp, g) for g in generators)
    assert a.shape == (200, 1, 24, 24)
    assert a.equal(b)
    assert not a.equal(c)
    # Never mirrored where the reading side matters, and half of the images where it does not.
    rising = a[..., -1] > a[..., 0]
    assert bool(rising.all())
    mirrored = ImageSpec(channels=1, size=24, mean=(0.5,), std=(0.25,)).vary(ramp, generators[0])
    share = float((mirrored[:, 0, 0, -1] > mirrored[:, 0, 0, 0]).float().mean())
    assert 0.35 < share < 0.65
    # A square of at least half the area: at least 0.7 of the range of the ramp is seen.
    seen = (a[:, 0, 0, -1] - a[:, 0, 0, 0]) * 0.25
    assert float(seen.min()) > 0.65
    assert float(seen.max()) <= 1.0


def test_a_batch_of_no_images_is_varied_by_its_own_spec() -> None:
    batch = torch.arange(6).view(2, 3)
    assert Spec("text").vary(batch, torch.Generator()).equal(batch)


def test_images_of_other_channels_are_taken_as_the_network_knows_them() -> None:
    colour = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    gray = ImageSpec(channels=1, size=16, mean=(0.0,), std=(1.0,)).prepare(colour)
    torch.testing.assert_close(gray, colour.float().mean(1, keepdim=True) / 255)
    rgb = ImageSpec(channels=3, size=16, mean=(0.0,) * 3, std=(1.0,) * 3).prepare(colour[:, :1])
    torch.testing.assert_close(rgb, (colour[:, :1].float() / 255).expand(-1, 3, -1, -1))
