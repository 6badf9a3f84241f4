"""Canvases say what is on them, mIoU and AP are those of slow references, heads learn what is there."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchvision.ops import masks_to_boxes

from ssl_zoo.backbones.create import create_backbone
from ssl_zoo.config.schema import BackboneConfig, DataConfig
from ssl_zoo.data import ArraySplit, DataSet, load
from ssl_zoo.errors import SslZooError, UserError
from ssl_zoo.evaluation.subject import Subject
from ssl_zoo.runtime.device import Device
from ssl_zoo.spec import ImageSpec, Spec
from ssl_zoo.task import Encoder
from ssl_zoo_vision.dense import canvases, segmentation
from ssl_zoo_vision.dense import protocol as dense
from ssl_zoo_vision.dense.canvases import (
    DARK,
    IGNORED,
    MAX_OBJECTS,
    OVERLAP,
    Canvases,
    canvas_side,
    layout,
    paste,
    pasted,
)
from ssl_zoo_vision.dense.detection import (
    Detections,
    assign,
    average_precision,
    find,
    fit_detector,
    grid,
    mean_average_precision,
)
from ssl_zoo_vision.dense.protocol import DENSE, feature_maps, tile, untile
from ssl_zoo_vision.dense.segmentation import at_pixels, confusion, fit_segmenter, mean_iou
from ssl_zoo_vision.dense.voc import voc_canvases
from ssl_zoo_vision.protocols import ssl_zoo_register_protocols

CPU = Device(torch.device("cpu"), "fp32", False)
COLOURS = torch.tensor([[250, 10, 10], [10, 250, 10], [10, 10, 250]], dtype=torch.uint8)


@pytest.fixture(autouse=True)
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer canvases and pixels than the protocol's, which would take longer and show no more."""
    monkeypatch.setattr(canvases, "TRAIN", 100)
    monkeypatch.setattr(canvases, "TEST", 50)
    monkeypatch.setattr(segmentation, "PIXELS", 4000)


def digits() -> DataSet:
    return load(DataConfig(source="digits"), CPU.device)


def squares(size: int = 96, height: int = 20, width: int = 20) -> DataSet:
    """Colour pictures of three classes, each of one colour alone."""
    labels = torch.arange(60) % 3
    split = ArraySplit(COLOURS[labels][..., None, None].expand(-1, -1, height, width), labels)
    spec = ImageSpec(channels=3, size=size, mean=(0.0,) * 3, std=(1.0,) * 3)
    return DataSet("squares", spec, split, split, split)


def subject(encoder: Encoder | None, data: DataSet) -> Subject:
    if encoder is None:
        return Subject("raw", data, CPU, None)
    return Subject.of_encoder(encoder, data, CPU, "encoder")


def same(x: Canvases, y: Canvases) -> bool:
    return all(torch.equal(getattr(x, f.name), getattr(y, f.name)) for f in fields(Canvases))


# Canvases


def test_canvases_follow_from_the_data_set_alone() -> None:
    torch.manual_seed(0)
    first = pasted(digits())
    torch.manual_seed(1)
    second = pasted(digits())
    assert all(same(x, y) for x, y in zip(first[:2], second[:2], strict=True))
    assert first[2] == second[2] == 10
    assert not torch.equal(first[0].images[:50], first[1].images)


def test_of_bright_pictures_on_dark_ground_an_object_is_what_is_bright() -> None:
    for part in pasted(digits())[:2]:
        assert part.images.shape[1:] == (1, 64, 64)
        assert torch.equal(part.masks > 0, part.images[:, 0] > DARK)
        assert set(part.images[:, 0][part.masks == 0].tolist()) == {0}


def test_of_colour_pictures_an_object_is_a_square_on_ground_of_the_mean_colour() -> None:
    part, _, classes = pasted(squares())
    assert classes == 3
    pixels = part.images.movedim(1, -1)
    for label, colour in enumerate(COLOURS):
        assert (pixels[part.masks == label + 1] == colour).all()
    mean = pixels[part.masks == 0].unique(dim=0)
    assert len(mean) == 1
    assert (mean - 90.0).abs().max() < 15  # the mean of 250, 10 and 10, as the classes were drawn
    alone = (part.labels >= 0).sum(1) == 1
    sides = (part.boxes[alone][..., 2:] - part.boxes[alone][..., :2])[part.labels[alone] >= 0]
    assert (sides[:, 0] - sides[:, 1]).abs().max() <= 1  # whole pixels
    assert sides.min() >= 23
    assert sides.max() <= 49


def test_pictures_of_any_size_are_pasted() -> None:
    assert same(pasted(squares(height=100, width=120))[0], pasted(squares())[0])


@pytest.mark.parametrize("data", [digits, squares])
def test_masks_boxes_and_labels_agree(data: Any) -> None:
    part, _, classes = pasted(data())
    counts = (part.labels >= 0).sum(1)
    assert counts.min() >= 1
    assert counts.max() == MAX_OBJECTS
    assert counts.float().mean() > 2
    assert part.labels.unique().tolist() == list(range(-1, classes))
    assert not part.hard.any()
    for mask, boxes, labels in zip(part.masks, part.boxes.int().tolist(), part.labels, strict=True):
        covered = torch.zeros_like(mask)
        for (left, top, right, bottom), label in zip(boxes, labels.tolist(), strict=True):
            if label < 0:
                assert (left, top, right, bottom) == (0, 0, 0, 0)
                continue
            there = mask == label + 1
            covered[top:bottom, left:right] = 1
            for line in (
                there[top, left:right], there[bottom - 1, left:right],
                there[top:bottom, left], there[top:bottom, right - 1],
            ):  # fmt: skip
                assert line.any()
        assert not mask[covered == 0].any()
        assert set(mask.tolist()[0]) <= {0, *(labels + 1).tolist()}


def test_a_box_is_the_tight_box_of_its_mask() -> None:
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (50, 4, 1, 9, 9), generator=generator, dtype=torch.uint8)
    # A class of its own for each object of a canvas, so that its class is its mask.
    labels = torch.arange(4).expand(50, 4)
    part = paste(pictures, labels, 64, torch.zeros(1), True, generator)
    for mask, boxes, found in zip(part.masks, part.boxes, part.labels, strict=True):
        there = found >= 0
        assert torch.equal(found[there], torch.arange(4)[there])
        masks = mask == torch.arange(1, 5)[there][:, None, None]
        expected = masks_to_boxes(masks) + torch.tensor([0, 0, 1, 1])  # its last pixel is inside
        torch.testing.assert_close(boxes[there], expected)


def test_pictures_overlap_little_and_lie_inside() -> None:
    corners, sides, there = layout(200, 64, torch.Generator().manual_seed(0))
    assert (corners >= 0).all()
    assert ((corners + sides[..., None])[there] <= 64).all()
    for n in range(200):
        for i in range(MAX_OBJECTS):
            for j in range(i):
                if there[n, i] and there[n, j]:
                    low = torch.maximum(corners[n, i], corners[n, j])
                    high = torch.minimum(corners[n, i] + sides[n, i], corners[n, j] + sides[n, j])
                    shared = float((high - low).clamp(min=0).prod())
                    assert shared <= OVERLAP * float(min(sides[n, i], sides[n, j])) ** 2 + 1e-3


def test_of_many_classes_twenty_are_shown() -> None:
    labels = torch.arange(300) % 30
    split = ArraySplit(torch.full((300, 1, 8, 8), 200, dtype=torch.uint8), labels)
    spec = ImageSpec(channels=1, size=16, mean=(0.5,), std=(0.5,))
    train, test, classes = pasted(DataSet("many", spec, split, split, split))
    assert classes == 20
    assert train.masks.max() == test.masks.max() == 20


def test_splits_without_a_common_class_are_refused() -> None:
    data = squares()
    assert data.test is not None
    other = ArraySplit(data.test.batch(torch.arange(60)), torch.arange(60) % 3 + 3)
    with pytest.raises(UserError, match="no class in common"):
        pasted(replace(data, test=other))


@pytest.mark.parametrize(
    ("size", "side"), [(8, 32), (16, 64), (28, 112), (32, 128), (64, 128), (224, 224)]
)
def test_the_side_of_a_canvas(size: int, side: int) -> None:
    assert canvas_side(ImageSpec(size=size)) == side


# Maps


def test_tiles_are_laid_together_again() -> None:
    x = torch.arange(2 * 3 * 12 * 12.0).view(2, 3, 12, 12)
    assert torch.equal(tile(x, 3, 2)[3], x[0, :, 4:8, 6:12])
    assert torch.equal(untile(tile(x, 3, 2), 3, 2), x)


class Patches(Encoder):
    """Patches of 4×4, of which each is seen alone; it takes images of one size."""

    def __init__(self, size: int, channels: int = 3) -> None:
        super().__init__()
        self.size, self.width = size, 8
        self.patch = nn.Conv2d(channels, 8, 4, 4)

    def feature_map(self, x: Tensor) -> Tensor:
        assert x.shape[-2:] == (self.size, self.size)
        y: Tensor = self.patch(x)
        return y

    def forward(self, x: Tensor) -> Tensor:
        return self.feature_map(x).mean((2, 3))


def test_a_network_of_one_image_size_sees_a_canvas_in_tiles() -> None:
    data = squares(size=16)
    assert isinstance(data.spec, ImageSpec)
    encoder = Patches(16)
    images = pasted(data)[0].images[:5]
    maps = feature_maps(subject(encoder, data), images)
    whole = encoder.patch(replace(data.spec, size=64).prepare(images))
    torch.testing.assert_close(maps, whole.detach())


@pytest.mark.parametrize(("name", "tiled"), [("test_resnet", False), ("test_vit", True)])
def test_what_timm_says_of_image_sizes_decides(name: str, tiled: bool) -> None:
    data = digits()
    assert isinstance(data.spec, ImageSpec)
    options = {"patch_size": 4} if tiled else {}
    encoder = create_backbone(BackboneConfig(name=name, options=options), data.spec)
    assert dense.takes_any_size(encoder) != tiled
    maps = feature_maps(subject(encoder, data), pasted(data)[0].images[:2])
    assert maps.shape[2:] == ((16, 16) if tiled else (8, 8))


def test_maps_that_are_not_finite_are_an_error() -> None:
    data = squares()
    encoder = Patches(96)
    nn.init.constant_(encoder.patch.weight, float("nan"))
    with pytest.raises(SslZooError, match="not finite"):
        feature_maps(subject(encoder, data), pasted(data)[0].images[:2])


def test_features_at_pixels_are_those_of_the_enlarged_map() -> None:
    maps = torch.randn(2, 3, 5, 4)
    enlarged = F.interpolate(maps, (20, 20), mode="bilinear", align_corners=False)
    pixels = torch.randint(400, (2, 50))
    expected = enlarged.flatten(2).gather(2, pixels[:, None].expand(-1, 3, -1)).transpose(1, 2)
    torch.testing.assert_close(at_pixels(maps, pixels, 20), expected)


# Segmentation


def test_mean_iou_by_hand() -> None:
    truth = torch.tensor([[0, 0, 1, 1], [0, 0, 1, IGNORED]])
    said = torch.tensor([[0, 0, 0, 1], [0, 2, 1, 1]])
    # Ground: 3 of 5. Class 1: 2 of 3. Class 2 does not occur, and only costs the ground a pixel.
    assert mean_iou(confusion(truth, said, 3)) == pytest.approx(100 * (3 / 5 + 2 / 3) / 2)


def test_mean_iou_is_that_of_sets_of_pixels() -> None:
    g = torch.Generator().manual_seed(0)
    truth, said = (torch.randint(6, (3, 9, 9), generator=g) for _ in range(2))
    truth[0, :2] = IGNORED
    true = list(enumerate(truth.flatten().tolist()))
    guess = [(i, k) for i, k in enumerate(said.flatten().tolist()) if true[i][1] != IGNORED]
    ious = []
    for kind in range(6):
        is_, is_said = ({i for i, k in pairs if k == kind} for pairs in (true, guess))
        ious.append(len(is_ & is_said) / len(is_ | is_said))
    assert mean_iou(confusion(truth, said, 6)) == pytest.approx(100 * sum(ious) / 6)


def test_ignored_pixels_teach_nothing() -> None:
    g = torch.Generator().manual_seed(0)
    maps = torch.randn(20, 4, 4, 4, generator=g)
    masks = (F.interpolate(maps[:, :1], (16, 16)) > 0).byte()[:, 0]
    masks[:, :8] = IGNORED
    clean = fit_segmenter(maps, masks, 1, seed=0)
    maps[:, :, 0] = 0  # the upper fourth, which no pixel that counts is near
    torch.testing.assert_close(fit_segmenter(maps, masks, 1, seed=0).weight, clean.weight)


# Detection


def test_places_near_the_centre_find_an_object() -> None:
    places, stride = grid(torch.zeros(1, 1, 2, 4), 16)
    assert stride.tolist() == [4, 8]
    assert places.tolist() == [[x, y] for y in (4, 12) for x in (2, 6, 10, 14)]
    boxes = torch.tensor([[[1.0, 1, 4, 6], [9, 8, 15, 16], [2, 4, 2, 4]]])
    found = assign(places, stride, boxes, torch.tensor([[5, 0, -1]]))
    # Centres (2.5, 3.5) and (12, 12): the latter lies between two places, and no nearer than a stride
    # to those above.
    assert found.view(2, 4).tolist() == [[0, 0, 1, 1], [-1, -1, 1, 1]]


def test_average_precision_by_hand() -> None:
    # Right, wrong, right, of three: precision 1 up to a third, 2/3 up to two thirds, then none.
    score, right = torch.tensor([0.5, 0.9, 0.7]), torch.tensor([True, True, False])
    assert average_precision(score, right, 3) == pytest.approx(1 / 3 + 2 / 9)
    # Precision falls nowhere with greater recall: what comes later counts for what comes before.
    assert average_precision(score, ~right, 1) == pytest.approx(1 / 2)
    assert average_precision(score[:0], right[:0], 2) == 0


def iou(a: list[float], b: list[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0.0, width) * max(0.0, height)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def literal_precision(
    found: Detections, boxes: Tensor, labels: Tensor, hard: Tensor, label: int
) -> float:
    """VOC's procedure, box by box; the area by steps of recall."""
    order = sorted(range(len(found.score)), key=lambda d: -float(found.score[d]))
    used: set[tuple[int, int]] = set()
    right: list[bool] = []
    for d in order:
        if int(found.label[d]) != label:
            continue
        n = int(found.image[d])
        overlaps = [
            (iou(found.box[d].tolist(), boxes[n, m].tolist()), m)
            for m in range(boxes.shape[1])
            if int(labels[n, m]) == label
        ]
        best, m = max(overlaps, default=(0.0, -1))
        if best < 0.5:
            right.append(False)
        elif not hard[n, m]:
            right.append((n, m) not in used)
            used.add((n, m))
    objects = int(((labels == label) & ~hard).sum())
    recall, precision = [0.0], [0.0]
    for i in range(len(right)):
        recall.append(sum(right[: i + 1]) / objects)
        precision.append(sum(right[: i + 1]) / (i + 1))
    return sum((recall[i] - recall[i - 1]) * max(precision[i:]) for i in range(1, len(recall)))


def test_the_mean_average_precision_is_that_of_a_literal_reference() -> None:
    g = torch.Generator().manual_seed(0)
    n, m = 12, 4
    corner = 60 * torch.rand(n, m, 2, generator=g)
    boxes = torch.cat([corner, corner + 10 + 20 * torch.rand(n, m, 2, generator=g)], -1)
    labels = torch.randint(-1, 3, (n, m), generator=g)
    hard = torch.rand(n, m, generator=g) < 0.2
    # Boxes near objects, some of them several times, with a class that is mostly right.
    image, number = (torch.randint(k, (150,), generator=g) for k in (n, m))
    label = torch.where(
        torch.rand(150, generator=g) < 0.8, labels[image, number], torch.randint(3, (150,), generator=g)
    ).clamp(min=0)
    box = boxes[image, number] + 3 * torch.randn(150, 4, generator=g)
    found = Detections(image, label, torch.rand(150, generator=g), box)
    precisions = [literal_precision(found, boxes, labels, hard, k) for k in range(3)]
    assert min(precisions) > 0.1
    assert max(precisions) < 0.9
    ours = mean_average_precision(found, boxes, labels, hard)
    assert ours == pytest.approx(100 * sum(precisions) / 3, rel=1e-5)


def test_a_second_box_of_an_object_is_wrong_and_an_unfound_class_costs() -> None:
    boxes = torch.tensor([[[0.0, 0, 10, 10], [20, 20, 30, 30]]])
    labels, hard = torch.tensor([[0, 1]]), torch.zeros(1, 2, dtype=torch.bool)

    def score(*found: tuple[int, float, list[float]]) -> float:
        label, s, box = (torch.tensor(column) for column in zip(*found, strict=True))
        return mean_average_precision(
            Detections(torch.zeros_like(label), label, s, box), boxes, labels, hard
        )

    first, second = [0.0, 0, 10, 10], [20.0, 20, 30, 30]
    assert score((0, 0.9, first), (1, 0.8, second)) == 100
    assert score((0, 0.9, first), (0, 0.8, second)) == 50
    assert score((0, 0.9, first), (0, 0.8, first), (1, 0.7, second)) == 100
    assert score((0, 0.9, second), (0, 0.8, first)) == 25


def test_the_detector_ignores_scale_and_place_of_the_features() -> None:
    maps = torch.randn(8, 5, 3, 3, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[[4.0, 4, 20, 24]]]).expand(8, 1, 4)
    labels = torch.zeros(8, 1, dtype=torch.long)
    here = find(fit_detector(maps, boxes, labels, 1, 48, seed=0), maps)
    moved = 100 * maps + 7
    there = find(fit_detector(moved, boxes, labels, 1, 48, seed=0), moved)
    torch.testing.assert_close(here.score.sort().values, there.score.sort().values, atol=1e-3, rtol=0)


# The protocol


class Known(Encoder):
    """Knows canvases by heart: the nearest one's map."""

    def __init__(self, parts: list[Canvases], maps: Tensor) -> None:
        super().__init__()
        self.images = torch.cat([part.images for part in parts]).flatten(1).float() / 255
        self.maps, self.width = maps, maps.shape[1]

    def feature_map(self, x: Tensor) -> Tensor:
        return self.maps[torch.cdist(x.flatten(1), self.images).argmin(1)]

    def forward(self, x: Tensor) -> Tensor:
        return self.feature_map(x).mean((2, 3))


def perfect(part: Canvases, classes: int, stride: int = 4) -> Tensor:
    """Return, for each position of a canvas, the classes, the assigned object and its box."""
    side = part.images.shape[-1]
    kinds = F.one_hot(part.masks.long(), classes + 1).movedim(-1, 1).float()
    kinds = F.avg_pool2d(kinds, stride)
    places, strides = grid(kinds, side)
    number = assign(places, strides, part.boxes, part.labels)
    at = (number >= 0)[..., None]
    label = part.labels.gather(1, number.clamp(min=0))
    box = part.boxes.gather(1, number.clamp(min=0)[..., None].expand(-1, -1, 4))
    size = (box[..., 2:] - box[..., :2]).clamp(min=1)
    offset = ((box[..., 2:] + box[..., :2]) / 2 - places) / strides
    told = torch.cat(
        [F.one_hot(label.clamp(min=0), classes), offset, 3 * ((4 * size / side).log() / 3).atanh()], -1
    )
    return torch.cat([kinds, (told * at).transpose(1, 2).unflatten(2, kinds.shape[2:])], 1)


def test_a_perfect_representation_scores_near_the_top_and_wrong_labels_cost_it_all() -> None:
    data = squares()
    train, test, classes = pasted(data)
    encoder = Known([train, test], torch.cat([perfect(part, classes) for part in (train, test)]))
    scores = DENSE(subject(encoder, data))
    assert set(scores) == {"segmentation", "detection"}
    assert scores["segmentation"] > 95
    assert scores["detection"] > 90

    # Other labels of the test split leave the training canvases as they are, and so the heads.
    assert isinstance(data.test, ArraySplit)
    assert data.test.labels is not None
    wrong = replace(data, test=ArraySplit(data.test.samples, (data.test.labels + 1) % 3))
    retrain, retest, _ = pasted(wrong)
    assert same(retrain, train)
    relabelled = replace(test, labels=(test.labels + 1) % 3)
    assert not same(retest, test)
    maps, side = perfect(test, classes), 96
    segment = fit_segmenter(perfect(train, classes), train.masks, classes, seed=0)
    assert mean_iou(confusion(test.masks, segment(maps, side), 4)) == pytest.approx(
        scores["segmentation"], abs=0.1
    )
    shifted = torch.where(test.masks > 0, test.masks % 3 + 1, 0)
    assert mean_iou(confusion(shifted, segment(maps, side), 4)) < 30
    detector = fit_detector(perfect(train, classes), train.boxes, train.labels, classes, side, seed=0)
    found = find(detector, maps)
    assert mean_average_precision(found, test.boxes, relabelled.labels, test.hard) < 10


def test_a_constant_representation_scores_as_chance_does() -> None:
    data = squares()
    train, test, classes = pasted(data)
    encoder = Known([train, test], torch.ones(len(train) + len(test), 4, 6, 6))
    scores = DENSE(subject(encoder, data))
    # All is ground, whose IoU is its share of the canvases.
    ground = 100 * float((test.masks == 0).float().mean())
    assert scores["segmentation"] == pytest.approx(ground / (classes + 1), rel=1e-3)
    assert scores["detection"] < 5


def test_what_has_no_map_is_not_measured() -> None:
    assert DENSE(subject(None, digits())) == {}
    other = replace(squares(), spec=Spec("sound"))
    with pytest.raises(UserError, match="squares is sound data, not image data"):
        DENSE(subject(Patches(96), other))


def test_data_without_labels_are_refused() -> None:
    data = squares()
    bank = ArraySplit(data.bank.batch(torch.arange(60)), None)
    with pytest.raises(UserError, match="no labels"):
        DENSE(subject(Patches(96), replace(data, bank=bank)))


@pytest.mark.parametrize(("name", "options"), [("test_resnet", {}), ("test_vit", {"patch_size": 8})])
def test_scores_of_real_networks(name: str, options: dict[str, Any]) -> None:
    data = digits()
    assert isinstance(data.spec, ImageSpec)
    torch.manual_seed(0)
    encoder = create_backbone(BackboneConfig(name=name, options=options), data.spec).train()
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    scores = DENSE(subject(encoder, data))
    assert set(scores) == {"segmentation", "detection"}
    assert all(math.isfinite(value) and 0 <= value <= 100 for value in scores.values())
    assert encoder.training
    assert all(torch.equal(before[k], v) for k, v in encoder.state_dict().items())


def test_scores_are_the_same_again() -> None:
    data = squares(size=32)
    torch.manual_seed(0)
    encoder = Patches(32)
    first = DENSE(subject(encoder, data))
    torch.manual_seed(1)
    assert DENSE(subject(encoder, data)) == first


def test_the_protocol_describes_what_it_gives() -> None:
    assert ssl_zoo_register_protocols() == {"dense": DENSE}
    assert [m.title for m in DENSE.metrics.values()] == ["mIoU %", "AP50 %", "VOC mIoU %", "VOC AP50 %"]


# VOC


def write_voc(root: Path, images: int = 4) -> Path:
    """Write VOC as torchvision unpacks it: a red car (class 7) left, a difficult cat (8) right."""
    voc = root / "VOCdevkit" / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "Annotations", "ImageSets/Segmentation"):
        (voc / folder).mkdir(parents=True)
    for part in ("train", "val"):
        names = [f"{part}_{i}" for i in range(images)]
        (voc / "ImageSets" / "Segmentation" / f"{part}.txt").write_text("\n".join(names) + "\n")
        for name in names:
            pixels = np.zeros((64, 128, 3), dtype=np.uint8)
            pixels[16:48, 32:64, 0] = 255
            Image.fromarray(pixels).save(voc / "JPEGImages" / f"{name}.jpg", quality=95)
            classes = np.zeros((64, 128), dtype=np.uint8)
            classes[16:48, 32:64] = 7
            classes[16:48, 64:96] = 8
            classes[48:52, 32:96] = IGNORED
            mask = Image.fromarray(classes, "P")
            mask.putpalette([i for k in range(256) for i in (k, k, k)])
            mask.save(voc / "SegmentationClass" / f"{name}.png")
            objects = "".join(
                f"<object><name>{kind}</name><difficult>{hard}</difficult>"
                f"<bndbox><xmin>{left + 1}</xmin><ymin>17</ymin>"
                f"<xmax>{left + 32}</xmax><ymax>48</ymax></bndbox>"
                "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part></object>"
                for kind, hard, left in (("car", 0, 32), ("cat", 1, 64))
            )
            (voc / "Annotations" / f"{name}.xml").write_text(f"<annotation>{objects}</annotation>")
    return voc


def test_voc_is_read_as_canvases(tmp_path: Path) -> None:
    write_voc(tmp_path)
    part = voc_canvases(tmp_path, "train", 64)
    assert part.images.shape == (4, 3, 64, 64)
    # The width is halved, the height stays; a box's edges are where its mask's are.
    assert part.boxes[0].tolist() == [[16, 16, 32, 48], [32, 16, 48, 48]]
    assert part.labels[0].tolist() == [6, 7]
    assert part.hard[0].tolist() == [False, True]
    expected = torch.zeros(64, 64, dtype=torch.uint8)
    expected[16:48, 16:32], expected[16:48, 32:48], expected[48:52, 16:48] = 7, 8, IGNORED
    assert torch.equal(part.masks[0], expected)
    assert part.images[0, 0, 20:44, 20:28].min() > 200
    assert part.images[0, 0, :12].max() < 50


def test_voc_is_measured_where_it_lies_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_voc(tmp_path)
    monkeypatch.setenv("SSL_ZOO_DATA", str(tmp_path))
    torch.manual_seed(0)
    scores = DENSE(subject(Patches(96), squares()))
    assert set(scores) == set(DENSE.metrics)
    # The car alone is red; but patches seen one by one do not tell where it ends.
    assert scores["voc_segmentation"] > 50
    assert 0 <= scores["voc_detection"] <= 100
    assert set(DENSE(subject(Patches(32), squares(size=32)))) == {"segmentation", "detection"}


@pytest.mark.parametrize("broken", ["Annotations/val_2.xml", "SegmentationClass/val_2.png"])
def test_a_broken_file_of_voc_is_named(tmp_path: Path, broken: str) -> None:
    voc = write_voc(tmp_path)
    (voc / broken).write_text("<annotation>")
    with pytest.raises(UserError, match="val_2"):
        voc_canvases(tmp_path, "val", 64)
    (voc / "ImageSets" / "Segmentation" / "val.txt").unlink()
    with pytest.raises(UserError, match="VOC2012 cannot be read"):
        voc_canvases(tmp_path, "val", 64)
