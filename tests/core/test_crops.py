"""Crops tell their boxes, transforms what they did to each image, and images have any channels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision.transforms.v2.functional as TF
from PIL import Image
from torch import Tensor, nn

from ssl_zoo.backbones.create import create_backbone
from ssl_zoo.config.schema import BackboneConfig, DataConfig
from ssl_zoo.data import ArraySplit
from ssl_zoo.data.assemble import assemble
from ssl_zoo.errors import UserError
from ssl_zoo.nn import by_size
from ssl_zoo.notices import collect_notices
from ssl_zoo.runs.backbone import load_backbone
from ssl_zoo.spec import ImageSpec
from ssl_zoo.views import (
    ColorJitter,
    Compose,
    GaussianBlur,
    MultiCrop,
    Normalise,
    PerSample,
    RandomChannelDrop,
    RandomChannelShift,
    RandomGrayscale,
    RandomResizedCrop,
    RandomSolarise,
    RandomTransform,
    Rng,
    cells,
)
from ssl_zoo.views import functional as F
from ssl_zoo_vision.augmentation import (
    AsymmetricViewOptions,
    Crops,
    MultiCropOptions,
    SymmetricViewOptions,
    ViewOptions,
)
from tests.conftest import OPTIONS, Call

CPU = torch.device("cpu")


def spec(channels: int = 3, size: int = 16) -> ImageSpec:
    return ImageSpec(channels=channels, size=size, mean=(0.5,) * channels, std=(0.25,) * channels)


def photos(n: int = 8, channels: int = 3, height: int = 20, width: int = 24) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (n, channels, height, width), generator=generator, dtype=torch.uint8)


def ramp(n: int, height: int = 30, width: int = 40) -> Tensor:
    """Images whose channels are the position of each pixel: the shares of width and of height."""
    x = ((torch.arange(width) + 0.5) / width).expand(height, width)
    y = ((torch.arange(height) + 0.5) / height).unsqueeze(1).expand(height, width)
    return torch.stack([x, y]).expand(n, 2, height, width)


def test_a_crop_shows_the_image_at_the_box_that_it_tells() -> None:
    crop = RandomResizedCrop(6, scale=(0.2, 0.5))
    crops, boxes = crop.placed(ramp(200), Rng(0))
    assert torch.equal(crops, crop(ramp(200), Rng(0)))
    assert boxes.shape == (200, 4)
    assert boxes.min() >= 0
    assert boxes.max() <= 1
    left, top, right, bottom = boxes.view(200, 4, 1).unbind(1)
    mirrored = (left > right).flatten()
    assert 60 < mirrored.sum() < 140
    assert (top < bottom).all()
    # The pixel at the share u of the crop shows left + u · (right - left). Positions are linear, and
    # so is the resampling, away from the edges, where a truncated triangle is not symmetric.
    u = ((torch.arange(6) + 0.5) / 6)[1:-1]
    shown_x, shown_y = crops[:, 0].mean(1)[:, 1:-1], crops[:, 1].mean(2)[:, 1:-1]
    torch.testing.assert_close(shown_x, left + u * (right - left), atol=0.01, rtol=0)
    torch.testing.assert_close(shown_y, top + u * (bottom - top), atol=0.01, rtol=0)


def test_a_box_gives_the_crop_again_and_a_flip_exchanges_its_sides() -> None:
    x = photos().float() / 255
    for flip in (0.0, 1.0):
        crops, boxes = RandomResizedCrop(9, flip=flip).placed(x, Rng(4))
        left, top, right, bottom = (boxes * torch.tensor([24, 20, 24, 20])).unbind(1)
        sides = torch.minimum(left, right), (right - left).abs()
        again = F.resized_crop(x, top, sides[0], bottom - top, sides[1], 9, left > right)
        torch.testing.assert_close(again, crops, atol=1e-5, rtol=0)
        assert bool((left > right).all()) == bool(flip)


def test_a_whole_view_and_many_crops_tell_their_boxes_too() -> None:
    options, x = ViewOptions(), photos()
    view, boxes = options.view(spec()).placed(x, Rng(1))
    assert torch.equal(view, options.view(spec())(x, Rng(1)))
    assert torch.equal(boxes, options.crop(spec()).placed(x, Rng(1))[1])
    many = options.crops(spec(), Crops(2, (0.14, 1.0), blur_p=1), Crops(3, (0.05, 0.14), size=8))
    views, placed = many.placed(x, Rng(2))
    assert [v.shape[-1] for v in views] == [16, 16, 8, 8, 8]
    assert all(torch.equal(a, b) for a, b in zip(views, many(x, Rng(2)), strict=True))
    areas = [((b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1])).abs() for b in placed]
    assert all((area > 0.1).all() for area in areas[:2])
    assert all((area < 0.2).all() for area in areas[2:])


def test_without_a_crop_at_the_start_there_are_no_boxes() -> None:
    with pytest.raises(TypeError, match="RandomGrayscale tells no boxes; begin with a RandomResized"):
        Compose(RandomGrayscale(), RandomResizedCrop(8)).placed(photos(), Rng(0))
    with pytest.raises(TypeError, match="RandomSolarise tells no boxes"):
        MultiCrop([(1, RandomSolarise())]).placed(photos(), Rng(0))


def test_a_view_is_its_crop_and_its_colours() -> None:
    options, x = ViewOptions(blur_p=0.5), photos()
    rng = Rng(5)
    separately = options.colours(spec(), solarise_p=0.3)(options.crop(spec())(x, rng), rng)
    assert torch.equal(separately, options.view(spec(), solarise_p=0.3)(x, Rng(5)))


class DinoOptions(MultiCropOptions, AsymmetricViewOptions):
    pass


def dino_crops(size: int, patch: int = 0, **options: Any) -> MultiCrop:
    backbone = (
        {"name": "test_vit", "options": {"patch_size": patch}} if patch else {"name": "test_resnet"}
    )
    encoder = create_backbone(BackboneConfig(**backbone), spec(size=size), any_size=True)
    return DinoOptions(**options).multi_crop(spec(size=size), encoder, local=8)


def test_a_pair_is_of_one_distribution_or_of_byols_two() -> None:
    x = photos()
    strong = SymmetricViewOptions()
    rng = Rng(5)
    view = strong.view(spec())
    expected = view(x, rng), view(x, rng)
    assert all(a.equal(b) for a, b in zip(strong.pair(spec())(x, Rng(5)), expected, strict=True))
    assert strong.jitter == (0.8, 0.8, 0.8, 0.2)
    (first, one), (second, other) = AsymmetricViewOptions().pair(spec(size=224)).crops
    parts = [{type(t).__name__: t for t in v.transforms} for v in (one, other)]
    assert (first, second) == (1, 1)
    assert [p["GaussianBlur"].p for p in parts] == [1.0, 0.1]
    assert [p["RandomSolarise"].p for p in parts] == [0.0, 0.2]


def test_small_crops_are_the_papers_for_large_images_and_none_for_small_ones() -> None:
    shapes = [v.shape[-1] for v in dino_crops(224)(photos(2), Rng(0))]
    assert shapes == [224, 224, *[96] * 8]
    assert [v.shape[-1] for v in dino_crops(32)(photos(2), Rng(0))] == [32, 32]
    large, small = dino_crops(224, local=3, local_scale=(0.05, 0.4)).crops[1:]
    parts = {type(t).__name__: t for t in small[1].transforms}
    assert small[0] == 3
    assert parts["RandomResizedCrop"].scale == (0.05, 0.4)
    assert parts["GaussianBlur"].p == 0.5
    assert large[0] == 1


@pytest.mark.parametrize(
    ("size", "patch", "share", "side"),
    [(32, 0, 96 / 224, 14), (32, 4, 96 / 224, 12), (32, 4, 0.5, 16), (32, 16, 0.01, 16)],
)
def test_a_transformers_small_crops_are_a_whole_number_of_patches_wide(
    size: int, patch: int, share: float, side: int
) -> None:
    crops = dino_crops(size, patch, local=2, local_size=share)
    assert [v.shape[-1] for v in crops(photos(2), Rng(0))] == [size, size, side, side]


def test_a_small_crops_share_must_be_a_range() -> None:
    with pytest.raises(ValueError, match=r"local_scale[\s\S]*two shares in \(0, 1\]"):
        MultiCropOptions(local_scale=(0.4, 0.1))


TRANSFORMS: dict[str, RandomTransform[Any]] = {
    "crop": RandomResizedCrop(9),
    "jitter": ColorJitter(0.8, 0.8, 0.8, 0.2, 0.8),
    "jitter of each channel": ColorJitter(0.8, 0.8, 0.8, 0.2, 0.8, each=True),
    "channel drop": RandomChannelDrop(0.5, 2),
    "channel shift": RandomChannelShift(2),
    "gray": RandomGrayscale(0.5),
    "blur": GaussianBlur(p=0.5),
    "solarise": RandomSolarise(0.5),
    "normalise": Normalise(spec()),
    "one by one": PerSample(lambda image: image.float() * torch.rand(())),
    "all": ViewOptions(blur_p=0.5).view(spec(), solarise_p=0.5),
    "bands": ViewOptions(jitter_each=True, channel_drop_p=0.5).view(spec()),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_drawing_and_applying_is_calling_to_the_bit(name: str) -> None:
    transform, x = TRANSFORMS[name], photos()
    drawn = transform.draw(x, Rng(3))
    assert torch.equal(transform.apply(x, drawn), transform(x, Rng(3)))


def test_the_same_is_done_to_two_batches() -> None:
    jitter, x = ColorJitter(0.8, 0.8, 0.8, 0.2, 0.8), photos()
    drawn = jitter.draw(x, Rng(0))
    both = jitter.apply(torch.cat([x, x]), type(drawn)(*(torch.cat([p, p]) for p in drawn)))
    one, two = both.chunk(2)
    assert torch.equal(one, jitter.apply(x, drawn))
    assert torch.equal(one, two)
    other = drawn._replace(order=drawn.order.flip(1))
    with pytest.raises(ValueError, match="one order"):
        jitter.apply(torch.cat([x, x]), type(drawn)(*map(torch.cat, zip(drawn, other, strict=True))))


def test_parameters_are_those_applied_and_neutral_where_nothing_is() -> None:
    x = photos(64).float() / 255
    jitter, blur, gray = (
        ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.5),
        GaussianBlur(p=0.5),
        RandomGrayscale(0.5),
    )
    drawn = jitter.draw(x, Rng(0))
    still = ~drawn.applied
    assert 16 < still.sum() < 48
    for factor in (drawn.brightness, drawn.contrast, drawn.saturation):
        assert (factor[still] == 1).all()
        assert (factor[drawn.applied] != 1).all()
    assert (drawn.hue[still] == 0).all()
    blurred = blur.draw(x, Rng(0))
    assert torch.equal(blurred.sigma > 0, blurred.applied)
    # A blur of 0 changes nothing where it is computed, either.
    assert torch.equal(F.gaussian_blur(x, torch.zeros(64), 3), x)
    for transform, told in ((blur, blurred.applied), (gray, gray.draw(x, Rng(0)).applied)):
        assert torch.equal((transform(x, Rng(0)) != x).flatten(1).any(1), told)
    five = photos(channels=5)
    assert not RandomGrayscale(1.0).draw(five, Rng(0)).applied.any()
    assert (jitter.draw(five, Rng(0)).saturation == 1).all()
    assert (jitter.draw(five, Rng(0)).hue == 0).all()


def test_a_function_that_draws_as_it_is_called_says_so() -> None:
    plain = Compose(RandomResizedCrop(8), lambda x, rng: x)
    assert plain(photos(), Rng(0)).shape == (8, 3, 8, 8)
    with pytest.raises(TypeError, match="function: draws as it is called"):
        plain.draw(photos(), Rng(0))


def test_views_of_one_size_pass_the_network_together_and_come_back_in_order() -> None:
    passes: list[int] = []

    def network(x: Tensor) -> tuple[Tensor, Tensor]:
        passes.append(len(x))
        return x.mean((1, 2, 3)), x.flatten(1)

    views = [torch.rand(n, 3, s, s) for n, s in ((4, 8), (4, 6), (4, 8), (2, 6))]
    outputs = by_size(network, views)
    assert passes == [8, 6]
    for view, (pooled, pixels) in zip(views, outputs, strict=True):
        assert torch.equal(pixels, view.flatten(1))
        torch.testing.assert_close(pooled, view.mean((1, 2, 3)))
    pool = nn.AdaptiveAvgPool2d(1)
    assert [tuple(z.shape) for z in by_size(pool, views)] == [(n, 3, 1, 1) for n in (4, 4, 4, 2)]


PER_CHANNEL = {
    "crop": RandomResizedCrop(9),
    "brightness": ColorJitter(0.8),
    "blur": GaussianBlur(p=0.5),
    "solarise": RandomSolarise(0.5),
}


@pytest.mark.parametrize("name", PER_CHANNEL)
def test_five_channels_are_transformed_each_as_if_alone(name: str) -> None:
    x, transform = photos(channels=5), PER_CHANNEL[name]
    alone = torch.cat([transform(channel, Rng(1)) for channel in x.split(1, 1)], 1)
    # Products of other shapes may round otherwise; torch promises bits for equal shapes alone.
    rounding = 4 * torch.finfo(torch.float32).eps
    torch.testing.assert_close(transform(x, Rng(1)), alone, atol=rounding, rtol=0)


def test_contrast_of_five_channels_is_about_the_mean_of_all() -> None:
    x = photos(channels=5).float() / 255
    factor = torch.linspace(0.2, 2, len(x)).view(-1, 1, 1, 1)
    expected = (x.mean((1, 2, 3), keepdim=True) * (1 - factor) + x * factor).clamp(0, 1)
    torch.testing.assert_close(F.contrast(x, factor.flatten()), expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("channels", [3, 5])
def test_channels_that_jitter_by_themselves_change_as_gray_images_of_torchvision(channels: int) -> None:
    x = photos(channels=channels).float() / 255
    jitter = ColorJitter(0.8, 0.8, p=0.7, each=True)
    drawn = jitter.draw(x, Rng(2))
    assert drawn.brightness.shape == drawn.contrast.shape == (len(x), channels)
    assert (drawn.brightness[~drawn.applied] == 1).all()
    assert (drawn.brightness[drawn.applied].std(1) > 0.01).all()
    expected = x.clone()
    for i, image in enumerate(expected):
        for c, band in enumerate(image):
            gray = band[None]
            for operation in drawn.order[i].tolist():
                if operation == 0:
                    gray = TF.adjust_brightness(gray, float(drawn.brightness[i, c]))
                elif operation == 1:
                    gray = TF.adjust_contrast(gray, float(drawn.contrast[i, c]))
            expected[i, c] = gray[0]
    torch.testing.assert_close(jitter(x, Rng(2)), expected, atol=5e-6, rtol=0)
    one = x[:, :1]
    assert torch.equal(jitter(one, Rng(2)), ColorJitter(0.8, 0.8, p=0.7)(one, Rng(2)))


@pytest.mark.parametrize(("channels", "number"), [(3, 1), (5, 2)])
def test_lost_channels_are_filled_others_stay_and_each_is_as_likely(channels: int, number: int) -> None:
    x = photos(1, channels=channels).float().div(255).clamp(0.01).expand(3000, -1, -1, -1)
    fill = tuple(c / 100 for c in range(channels))
    drop = RandomChannelDrop(0.4, number, fill)
    drawn, y = drop.draw(x, Rng(0)), drop(x, Rng(0))
    counts = drawn.dropped.sum(1)
    assert torch.equal(counts, number * drawn.applied)
    for c in range(channels):
        lost = drawn.dropped[:, c]
        assert (y[lost, c] == fill[c]).all()
        assert torch.equal(y[~lost, c], x[~lost, c])
        share = 0.4 * number / channels
        assert lost.float().mean().item() == pytest.approx(share, abs=4 * (share / 3000) ** 0.5)
    assert torch.equal(RandomChannelDrop(0.4, number)(x[:, :number], Rng(0)), x[:, :number])


def test_options_for_bands_leave_other_draws_as_they_are() -> None:
    x, plain = photos(channels=3), ViewOptions(blur_p=0.5)
    assert [type(t).__name__ for t in plain.view(spec()).transforms].count("RandomChannelDrop") == 0
    bands = ViewOptions(blur_p=0.5, channel_drop_p=1.0).view(spec())
    dropped = bands.transforms[-2]
    assert isinstance(dropped, RandomChannelDrop)
    y, z = bands(x, Rng(1)), plain.view(spec())(x, Rng(1))
    lost = (y == 0).flatten(2).all(2)  # the fill is the mean, which is 0 after normalisation
    assert lost.sum(1).eq(1).all()
    assert torch.equal(y[~lost], z[~lost])


def test_five_channels_have_no_colours_and_a_notice_says_so() -> None:
    x = photos(channels=5)
    same = x.float() / 255
    with collect_notices() as notices:
        assert torch.equal(ColorJitter(0, 0, 0.8, 0.2)(x, Rng(0)), same)
        assert torch.equal(RandomGrayscale(1.0)(x, Rng(0)), same)
        ColorJitter(0.4, 0.4)(x, Rng(0))
        ColorJitter(0, 0, 0.8, 0.2)(x[:, :3], Rng(0))
        ColorJitter(0, 0, 0.8, 0.2)(x[:, :1], Rng(0))
    assert [n["text"] for n in notices] == [
        "views of images of 5 channels are made without changes of saturation and hue",
        "views of images of 5 channels are made without conversion to gray",
    ]


def bands(n: int = 160) -> tuple[Tensor, Tensor]:
    """Images of five channels and three classes, uint8 [n, 5, 18, 18], with their labels."""
    generator, labels = torch.Generator().manual_seed(0), torch.arange(n) % 3
    colours = torch.rand(3, 5, 1, 1, generator=generator)[labels]
    noise = torch.rand(n, 5, 18, 18, generator=generator)
    return (255 * (colours + noise) / 2).byte(), labels


FIVE = """
from tests.core.test_crops import bands
from ssl_zoo import hookimpl
from ssl_zoo.data import ArraySplit
from ssl_zoo.data.assemble import assemble

@hookimpl
def ssl_zoo_register_sources():
    def source(config, device):
        images, labels = bands()
        train, test = ArraySplit(images[:128], labels[:128]), ArraySplit(images[128:], labels[128:])
        return assemble("bands", config, device, size=16, train=train, test=test)
    return {"bands": source}
"""

SHIPPED = ("simclr", "moco", "byol", "rotation", "jigsaw", "inpainting", "mae", "supervised")
TINY = "{channels: [8, 8, 8, 8], layers: [1, 1, 1, 1]}"


@pytest.mark.parametrize("name", SHIPPED)
def test_every_task_trains_on_five_channels_and_is_drawn(
    name: str, call: Call, isolated_registry: None
) -> None:
    Path("five.py").write_text(FIVE)
    given = {**OPTIONS.get(name, {}), "train.batch_size": 64, "train.epochs": 1, "train.device": "cpu"}
    if name != "mae":
        given |= {"backbone.name": "resnet18", "backbone.options": TINY}
    settings = [part for key, value in given.items() for part in ("--set", f"{key}={value}")]
    plugin = ("--plugin", "five.py")
    code, _, err = call(*plugin, "train", "--task", name, "--data", "bands", "--out", "run", *settings)
    assert code == 0, err
    code, _, err = call(*plugin, "views", "--run", "run", "-o", "views.png")
    assert code == 0, err
    if name == "simclr":
        assert "5 channels are made without conversion" in Path("run/results.json").read_text()
        code, _, err = call(*plugin, "eval", "run", "--protocol", "knn")
        assert code == 0, err
        code, _, err = call(*plugin, "embed", "run", "-o", "features.npz")
        assert code == 0, err
        with pytest.raises(UserError, match="the image has 3 channels, and 5 are taken"):
            load_backbone("run").ssl_zoo_preprocess(Image.new("RGB", (9, 9)))


@pytest.mark.parametrize(("given", "taken"), [(1, 3), (1, 5), (3, 1), (5, 1)])
def test_gray_is_repeated_and_channels_are_averaged_to_gray(given: int, taken: int) -> None:
    x = photos(channels=given)
    expected = (x.float() / 255).mean(1, keepdim=True).expand(-1, taken, -1, -1)
    described = spec(taken, 20)
    square = x[..., :20], expected[..., :20]
    torch.testing.assert_close(described.prepare(square[0]), described.normalise(square[1]))


@pytest.mark.parametrize(("given", "taken"), [(5, 3), (3, 5), (2, 3)])
def test_other_channels_are_refused_rather_than_averaged(given: int, taken: int) -> None:
    message = f"the images have {given} channels and the network takes {taken}, between which"
    generator = torch.Generator()
    for convert in (spec(taken).prepare, lambda x: spec(taken).vary(x, generator)):
        with pytest.raises(UserError, match=message):
            convert(photos(channels=given))
    split = ArraySplit(photos(channels=given), None)
    data = assemble("b", DataConfig(source="b"), CPU, size=16, train=split)
    with pytest.raises(UserError, match=message):
        spec(taken).adopt(data.spec)


@pytest.mark.parametrize(
    ("samples", "kind"),
    [
        (torch.zeros(9, 5, 8, 8).long(), r"int64 of shape \[5, 8, 8\]"),
        (torch.zeros(9, 8, 8, dtype=torch.uint8), r"uint8 of shape \[8, 8\]"),
    ],
)
def test_a_source_of_something_else_than_images_is_refused(samples: Tensor, kind: str) -> None:
    with pytest.raises(UserError, match=f"data.source: b gives samples {kind}, not images"):
        assemble("b", DataConfig(source="b"), CPU, size=8, train=ArraySplit(samples, None))


def test_the_cells_of_a_box_lie_row_by_row_and_backwards_in_a_mirrored_one() -> None:
    boxes = torch.tensor([[10.0, 0.0, 16.0, 4.0], [16.0, 0.0, 10.0, 4.0]])
    centres, diagonals = cells(boxes, (1, 2))
    assert centres.tolist() == [[[11.5, 2.0], [14.5, 2.0]], [[14.5, 2.0], [11.5, 2.0]]]
    assert diagonals.tolist() == [5.0, 5.0]
    rows, _ = cells(boxes[:1], (2, 1))
    assert rows.tolist() == [[[13.0, 1.0], [13.0, 3.0]]]
