"""Batched operations equal torchvision's, and their parameters have torchvision's distributions."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torchvision.transforms.v2 as T
import torchvision.transforms.v2.functional as TF
from torch import Tensor

from ssl_zoo.sizes import Size, height_width
from ssl_zoo.spec import ImageSpec
from ssl_zoo.views import (
    ColorJitter,
    Compose,
    GaussianBlur,
    MultiCrop,
    Normalise,
    PerSample,
    RandomGrayscale,
    RandomResizedCrop,
    RandomSolarise,
    Rng,
    random_blocks,
)
from ssl_zoo.views import functional as F

# float32 arithmetic in another order: a few units in the last place of numbers in [0, 1].
TOLERANCE = {"atol": 5e-6, "rtol": 0.0}


def images(n: int = 6, channels: int = 3, height: int = 20, width: int = 20) -> Tensor:
    x = torch.rand(n, channels, height, width, generator=torch.Generator().manual_seed(0))
    x[0] = x[0].round()  # saturated, so that clamping has an effect
    x[1] = 0.3  # constant: neither hue nor contrast
    return x


def one_by_one(x: Tensor, op: Callable[[Tensor, int], Tensor]) -> Tensor:
    return torch.stack([op(image, i) for i, image in enumerate(x)])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 20, 33, (12, 30), (33, 8)])
def test_resized_crop(channels: int, size: Size) -> None:
    x = images(8, channels, 24, 30)
    top, left, height, width = RandomResizedCrop(size).boxes(8, 24, 30, Rng(1))
    flip = torch.arange(8) % 2 == 0

    def torchvision(image: Tensor, i: int) -> Tensor:
        box = [int(p[i]) for p in (top, left, height, width)]
        y = TF.resized_crop(image, *box, list(height_width(size)), antialias=True)
        return TF.horizontal_flip(y) if flip[i] else y

    ours = F.resized_crop(x, top, left, height, width, size, flip)
    torch.testing.assert_close(ours, one_by_one(x, torchvision), **TOLERANCE)


OPERATIONS = {
    "brightness": (F.brightness, TF.adjust_brightness, (0.0, 2.5)),
    "contrast": (F.contrast, TF.adjust_contrast, (0.0, 2.5)),
    "saturation": (F.saturation, TF.adjust_saturation, (0.0, 2.5)),
    "hue": (F.hue, TF.adjust_hue, (-0.5, 0.5)),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", OPERATIONS)
def test_jitter_operation(name: str, channels: int) -> None:
    ours, theirs, (low, high) = OPERATIONS[name]
    x = images(6, channels)
    parameter = torch.linspace(low, high, len(x))
    expected = one_by_one(x, lambda image, i: theirs(image, float(parameter[i])))
    torch.testing.assert_close(ours(x, parameter), expected, **TOLERANCE)


def test_the_order_of_clamping_makes_a_real_difference() -> None:
    # The jitter clamps after each operation, as torchvision does, not once at the end.
    x = torch.full((1, 1, 2, 2), 0.8)
    up, down = torch.tensor([1.8]), torch.tensor([0.5])
    clamped = F.brightness(F.brightness(x, up), down)
    unclamped = x * up * down
    assert (clamped - unclamped).abs().max() > 0.2


@pytest.mark.parametrize("channels", [1, 3])
def test_grayscale(channels: int) -> None:
    x = images(6, channels)
    expected = TF.rgb_to_grayscale(x, num_output_channels=channels)
    torch.testing.assert_close(F.grayscale(x), expected, **TOLERANCE)


@pytest.mark.parametrize("kernel_size", [3, 5, 23])
@pytest.mark.parametrize(("height", "width"), [(20, 20), (16, 25)])
def test_gaussian_blur(kernel_size: int, height: int, width: int) -> None:
    x = images(6, 3, height, width)
    sigma = torch.linspace(0.1, 2.0, len(x))
    expected = one_by_one(
        x, lambda image, i: TF.gaussian_blur(image, [kernel_size] * 2, [float(sigma[i])] * 2)
    )
    torch.testing.assert_close(F.gaussian_blur(x, sigma, kernel_size), expected, **TOLERANCE)


def test_solarise() -> None:
    x = images()
    x[2, 0, 0, 0] = 0.5
    torch.testing.assert_close(F.solarise(x), TF.solarize(x, 0.5), atol=0, rtol=0)


@pytest.mark.parametrize("quarters", range(4))
def test_rotation_is_exact(quarters: int) -> None:
    x = images()
    torch.testing.assert_close(F.rotate90(x, quarters), TF.rotate(x, 90.0 * quarters), atol=0, rtol=0)


def test_normalise_and_its_inverse() -> None:
    spec = ImageSpec(channels=3, size=20, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    x = images()
    normal = Normalise(spec)(x, Rng(0))
    torch.testing.assert_close(normal, TF.normalize(x, list(spec.mean), list(spec.std)))
    torch.testing.assert_close(spec.denormalise(normal), x)


def test_prepare_resizes_as_torchvision() -> None:
    x = torch.randint(0, 256, (2, 3, 40, 40), dtype=torch.uint8)
    spec = ImageSpec(channels=3, size=24, mean=(0.5,) * 3, std=(0.5,) * 3)
    expected = TF.normalize(TF.resize(x.float() / 255, [24, 24], antialias=True), [0.5] * 3, [0.5] * 3)
    torch.testing.assert_close(spec.prepare(x), expected, atol=2e-5, rtol=0)


def same_distribution(ours: Tensor, theirs: Tensor) -> bool:
    """Return whether two samples differ by less than the Kolmogorov-Smirnov bound at a level of 1e-4."""
    grid = torch.cat([ours, theirs]).sort().values
    ranks = [torch.searchsorted(s.sort().values, grid, right=True) / len(s) for s in (ours, theirs)]
    bound = math.sqrt(-math.log(0.5e-4) / 2) * math.sqrt(1 / len(ours) + 1 / len(theirs))
    return bool((ranks[0] - ranks[1]).abs().max() < bound)


@pytest.mark.parametrize(
    ("height", "width", "scale", "ratio"),
    [
        (32, 32, (0.08, 1.0), (3 / 4, 4 / 3)),
        (20, 60, (0.5, 1.0), (3 / 4, 4 / 3)),
        (30, 30, (1.0, 1.0), (1.5, 2.0)),
    ],
    ids=["square", "wide: tries fail", "nothing fits"],
)
def test_boxes_are_drawn_as_torchvision_draws_them(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> None:
    torch.manual_seed(0)
    crop = T.RandomResizedCrop(8, scale=scale, ratio=ratio)
    blank = torch.zeros(1, height, width)
    theirs = [crop.make_params([blank]) for _ in range(2000)]
    ours = RandomResizedCrop(8, scale, ratio).boxes(20_000, height, width, Rng(0))
    for name, drawn in zip(("top", "left", "height", "width"), ours, strict=True):
        reference = torch.tensor([float(p[name]) for p in theirs])
        assert same_distribution(drawn, reference), name
        assert drawn.min() >= 0
    assert ((ours[0] + ours[2]) <= height).all()
    assert ((ours[1] + ours[3]) <= width).all()


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_jitter_is_drawn_as_torchvision_draws_it(name: str) -> None:
    # Of two pixels of opposite colours, one channel of the result determines the factor.
    pixels = torch.tensor([[0.5, 0.4, 0.3], [0.3, 0.4, 0.5]]).T.view(1, 3, 1, 2)
    strength = 0.5 if name == "hue" else 0.8
    torch.manual_seed(0)
    reference = T.ColorJitter(**{name: strength})
    theirs = torch.stack([reference(pixels[0]) for _ in range(2000)])[:, 0, 0, 0]
    ours = ColorJitter(**{name: strength})(pixels.expand(4000, -1, -1, -1), Rng(0))[:, 0, 0, 0]
    assert ours.std() > 0.01
    assert same_distribution(ours, theirs)


def test_blur_is_drawn_as_torchvision_draws_it() -> None:
    # The value of a bright pixel decreases with the standard deviation.
    x = torch.zeros(1, 1, 9, 9)
    x[..., 4, 4] = 1
    torch.manual_seed(0)
    reference = T.GaussianBlur(5, (0.1, 2.0))
    theirs = torch.stack([reference(x[0]) for _ in range(2000)])[:, 0, 4, 4]
    ours = GaussianBlur(5, (0.1, 2.0), p=1.0)(x.expand(4000, -1, -1, -1), Rng(0))[:, 0, 4, 4]
    assert ours.std() > 0.01
    assert same_distribution(ours, theirs)


def test_jitter_clamps_factors_at_zero() -> None:
    x = torch.full((500, 1, 1, 1), 0.2)
    assert (ColorJitter(brightness=1.8)(x, Rng(0)) >= 0).all()


def test_every_order_of_the_jitter_is_as_likely() -> None:
    # Of black and white, brightness first and contrast first give different means.
    x = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2)
    jitter = ColorJitter(brightness=0.5, contrast=0.5)
    brightness_first = []
    for seed in range(400):
        rng = Rng(seed)
        rng.bernoulli(1, 1.0)
        b, c = rng.uniform(1, low=0.5, high=1.5), rng.uniform(1, low=0.5, high=1.5)
        by_brightness = F.contrast(F.brightness(x, b), c)
        by_contrast = F.brightness(F.contrast(x, c), b)
        result = jitter(x, Rng(seed))
        assert torch.equal(result, by_brightness) or torch.equal(result, by_contrast)
        if not torch.equal(by_brightness, by_contrast):
            brightness_first.append(torch.equal(result, by_brightness))
    share = sum(brightness_first) / len(brightness_first)
    assert share == pytest.approx(0.5, abs=2 / math.sqrt(len(brightness_first)))


@pytest.mark.parametrize("p", [0.0, 0.2, 1.0])
@pytest.mark.parametrize(
    "make",
    [
        lambda p: RandomGrayscale(p),
        lambda p: GaussianBlur(3, (1.0, 2.0), p),
        lambda p: RandomSolarise(p),
        lambda p: ColorJitter(0.5, 0.5, 0.5, 0.2, p),
        lambda p: RandomResizedCrop(4, (1.0, 1.0), (1.0, 1.0), p),
    ],
    ids=["grayscale", "blur", "solarise", "jitter", "flip"],
)
def test_probabilities(make: Callable[[float], Callable[[Tensor, Rng], Tensor]], p: float) -> None:
    x = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(1)).expand(3000, -1, -1, -1)
    changed = (make(p)(x, Rng(0)) - x).abs().amax((1, 2, 3)) > 1e-4
    assert changed.float().mean().item() == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / 3000))


PIPELINE = Compose(
    RandomResizedCrop(12),
    ColorJitter(0.8, 0.8, 0.8, 0.2, 0.8),
    RandomGrayscale(0.2),
    GaussianBlur(p=0.5),
    RandomSolarise(0.2),
)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_same_seed_gives_the_same_views_and_another_seed_others(channels: int) -> None:
    x = (images(8, channels) * 255).byte()
    torch.testing.assert_close(PIPELINE(x, Rng(3)), PIPELINE(x, Rng(3)), atol=0, rtol=0)
    assert not torch.equal(PIPELINE(x, Rng(3)), PIPELINE(x, Rng(4)))
    assert PIPELINE(x, Rng(3)).shape == (8, channels, 12, 12)


def test_views_leave_their_input_and_the_global_generator_alone() -> None:
    x = images()
    before, state = x.clone(), torch.get_rng_state()
    PIPELINE(x, Rng(0))
    assert torch.equal(x, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_images_get_parameters_of_their_own() -> None:
    x = images()[2:3].expand(16, -1, -1, -1)
    views = PIPELINE(x, Rng(0)).flatten(1)
    assert (torch.cdist(views, views) > 1e-3).sum() == 16 * 15


@pytest.mark.parametrize("world", [2, 4])
def test_processes_see_the_shares_of_the_joint_batch(world: int) -> None:
    x = images(8)
    joint = PIPELINE(x, Rng(7))
    share = 8 // world
    parts = [PIPELINE(x[r * share : (r + 1) * share], Rng(7, "cpu", r, world)) for r in range(world)]
    torch.testing.assert_close(torch.cat(parts), joint, atol=1e-6, rtol=0)


def test_multi_crop_gives_every_crop_its_size() -> None:
    crops = MultiCrop([(2, RandomResizedCrop(16)), (3, RandomResizedCrop(8, (0.05, 0.3)))])
    assert [v.shape[-1] for v in crops(images(), Rng(0))] == [16, 16, 8, 8, 8]


def test_any_torchvision_transform_goes_through_the_adapter() -> None:
    adapted = PerSample(T.RandomResizedCrop(10, antialias=True))
    x, state = images(), torch.get_rng_state()
    torch.testing.assert_close(adapted(x, Rng(1)), adapted(x, Rng(1)), atol=0, rtol=0)
    assert adapted(x, Rng(1)).shape == (6, 3, 10, 10)
    assert not torch.equal(adapted(x, Rng(1)), adapted(x, Rng(2)))
    assert torch.equal(torch.get_rng_state(), state)


def test_centre_block_is_half_the_side() -> None:
    mask = F.centre_block(2, 8, 4)
    assert mask.sum((1, 2, 3)).tolist() == [16, 16]
    assert mask[0, 0, 2:6, 2:6].all()


@pytest.mark.parametrize("size", [28, 32, 224])
def test_random_blocks_cover_about_a_quarter(size: int) -> None:
    covered = random_blocks(2000, size, Rng(0)).float().mean((1, 2, 3))
    assert covered.mean().item() == pytest.approx(0.25, abs=0.02)
    assert covered.min() > 0


@pytest.mark.parametrize(("side", "width"), [(8, 3 * 8 * 8), (32, 3 * 32 * 32), (256, 3 * 32 * 32)])
def test_raw_pixels_are_bounded_in_memory(side: int, width: int) -> None:
    spec = ImageSpec(channels=3, size=224, mean=(0.5,) * 3, std=(0.5,) * 3)
    x = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8)
    assert spec.raw(x).shape == (2, width)
    if side <= 32:
        assert torch.equal(spec.raw(x), x.flatten(1).float())
