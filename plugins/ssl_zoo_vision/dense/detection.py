"""A linear detector on frozen feature maps, and its average precision."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import (
    batched_nms,
    box_convert,
    box_iou,
    generalized_box_iou_loss,
    sigmoid_focal_loss,
)

from ssl_zoo.runtime.defaults import seeded

EPOCHS = 30
MIN_STEPS = 300
BATCH = 32
BIAS_LR = 1e-2
WARMUP = 0.1
WEIGHT_DECAY = 1e-2
NEAR = 1.0
"""Positions within this distance of an object's centre, in strides along x and y, must detect it."""
NMS_IOU = 0.5
"""The IoU of two boxes of a class above which the one with the lower score is removed."""
MAX_DETECTIONS = 100
"""The maximum number of boxes per image."""
MATCH_IOU = 0.5
"""The minimum IoU of a correct box with its object."""


class Detector(nn.Module):
    """A detector that predicts classes and boxes at each position of a feature map.

    It has no anchors, as FCOS (Tian et al. 2019, arXiv:1904.01355), and predicts centre and size as
    CenterNet (Zhou et al. 2019, arXiv:1904.07850), also for objects smaller than a position. It is
    one linear 3×3 convolution, so that its quality is that of the features.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, maps: Tensor, classes: int, side: int) -> None:
        """Initialise a detector for maps like the given ones.

        Args:
            maps: [N, d, h, w], whose statistics standardise features.
            classes: K.
            side: S, the side of the images in pixels.
        """
        super().__init__()
        std, mean = torch.std_mean(maps, (0, 2, 3), correction=0, keepdim=True)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std.clamp(min=1e-6))
        self.classes, self.side = classes, side
        self.weight = nn.Parameter(1e-3 * torch.randn(classes + 4, maps.shape[1], 3, 3))
        # Almost every position is empty (Lin et al. 2017, arXiv:1708.02002, section 4.1).
        self.bias = nn.Parameter(torch.cat([torch.full((classes,), -4.6), torch.zeros(4)]))

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [B, h·w, K] and boxes [B, h·w, 4] in pixels, for maps [B, d, h, w]."""
        out = F.conv2d((maps - self.mean) / self.std, self.weight, self.bias, padding=1)
        logits, box = out.flatten(2).transpose(1, 2).split([self.classes, 4], -1)
        places, stride = grid(maps, self.side)
        centre = places + stride * box[..., :2]
        # Initially a quarter of the image's side; within a factor of e³ of it, to prevent overflow.
        size = self.side / 4 * (3 * (box[..., 2:] / 3).tanh()).exp()
        return logits, box_convert(torch.cat([centre, size], -1), "cxcywh", "xyxy")


def grid(maps: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Return the centres [h·w, 2] of a map's positions, x and y in pixels, and the strides [2]."""
    h, w = maps.shape[-2:]
    stride = torch.tensor([side / w, side / h], device=maps.device)
    y, x = torch.meshgrid(*(torch.arange(n, device=maps.device) for n in (h, w)), indexing="ij")
    return (torch.stack([x, y], -1).flatten(0, 1) + 0.5) * stride, stride


def assign(places: Tensor, stride: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
    """Return the index of the object that each position [P, 2] is to detect, int64 [N, P]; -1 for none.

    It is the nearest object within `NEAR` strides, by the larger of the distances along x and y.

    Args:
        places: the positions, in pixels.
        stride: [2].
        boxes: [N, M, 4].
        labels: [N, M], -1 for no object.
    """
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2
    distance = ((places[:, None] - centres[:, None]) / stride).abs().amax(-1)
    distance = distance.masked_fill((labels < 0)[:, None], torch.inf)
    nearest, number = distance.min(-1)
    return number.masked_fill(nearest > NEAR, -1)


def fit_detector(
    maps: Tensor, boxes: Tensor, labels: Tensor, classes: int, side: int, seed: int
) -> Detector:
    """Train a detector on maps [N, d, h, w] of images with objects [N, M].

    The loss is the focal loss (α = 0.25, γ = 2) over all positions plus the generalised IoU loss of
    boxes, divided by the number of assigned positions. AdamW, 30 epochs but at least 300 steps of 32
    images, weight decay 0.01; the peak rate is 1 / (9 d) for weights and 0.01 for biases after a tenth
    of the steps, then half a cosine to 0.
    """
    boxes, labels = boxes.to(maps.device), labels.to(maps.device)
    target = assign(*grid(maps, side), boxes, labels)
    with seeded(seed):
        detector = Detector(maps, classes, side)
    detector.to(maps.device)
    # Adam changes each of an output's 9 d weights by the rate, so their sum by about 1 for any width.
    optimizer = torch.optim.AdamW(
        [
            {
                "params": [detector.weight],
                "lr": 1 / detector.weight[0].numel(),
                "weight_decay": WEIGHT_DECAY,
            },
            {"params": [detector.bias], "lr": BIAS_LR, "weight_decay": 0.0},
        ]
    )
    per_epoch = -(-len(maps) // BATCH)
    steps = max(EPOCHS * per_epoch, MIN_STEPS)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=steps,
        pct_start=WARMUP,
        cycle_momentum=False,
    )
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        if step % per_epoch == 0:
            order = torch.randperm(len(maps), generator=generator).to(maps.device).split(BATCH)
        batch = order[step % per_epoch]
        logits, predicted = detector(maps[batch])
        number = target[batch]
        at = number >= 0
        classes_at = labels[batch].gather(1, number.clamp(min=0)).masked_fill(~at, classes)
        one_hot = F.one_hot(classes_at, classes + 1)[..., :-1].float()
        loss = sigmoid_focal_loss(logits, one_hot, alpha=0.25, gamma=2, reduction="sum")
        image = torch.arange(len(batch), device=maps.device)[:, None].expand_as(number)[at]
        true = boxes[batch][image, number[at]]
        loss = loss + generalized_box_iou_loss(predicted[at], true, reduction="sum")
        optimizer.zero_grad()
        (loss / at.sum().clamp(min=1)).backward()
        optimizer.step()
        schedule.step()
    return detector


@dataclass(frozen=True)
class Detections:
    """The boxes that a detector predicts in images.

    Attributes:
        image: int64 [D], the index of the image.
        label: int64 [D], the class.
        score: float32 [D].
        box: float32 [D, 4], in pixels.
    """

    image: Tensor
    label: Tensor
    score: Tensor
    box: Tensor

    @classmethod
    def joined(cls, parts: Iterable[Detections]) -> Detections:
        """Concatenate detections."""
        columns = zip(*((p.image, p.label, p.score, p.box) for p in parts), strict=True)
        return cls(*map(torch.cat, columns))


@torch.no_grad()
def find(detector: Detector, maps: Tensor, first: int = 0) -> Detections:
    """Return the detections in maps [B, d, h, w], on the CPU: the 100 best per image after NMS.

    Args:
        detector: the trained detector.
        maps: the maps of images.
        first: the index of the first image.
    """
    logits, boxes = (x.float().cpu() for x in detector(maps))
    boxes = boxes.clamp(0, detector.side)
    parts = []
    for number, (score, box) in enumerate(zip(logits.sigmoid(), boxes, strict=True), first):
        best, index = score.flatten().topk(min(score.numel(), 10 * MAX_DETECTIONS))
        place, label = index // detector.classes, index % detector.classes
        selected = batched_nms(box[place], best, label, NMS_IOU)[:MAX_DETECTIONS]
        parts.append(
            Detections(
                torch.full_like(selected, number), label[selected], best[selected], box[place[selected]]
            )
        )
    return Detections.joined(parts)


def matches(detections: Detections, boxes: Tensor, labels: Tensor) -> Tensor:
    """Return the index of the object that each detection overlaps most, of its class and image.

    Args:
        detections: D boxes.
        boxes: [N, M, 4], the objects.
        labels: [N, M], -1 for no object.

    Returns:
        int64 [D], n·M + m for object m of image n; -1 where no IoU is at least 0.5.
    """
    numbers = torch.full_like(detections.image, -1)
    for image in detections.image.unique():
        here = detections.image == image
        iou = box_iou(detections.box[here], boxes[image])
        iou = iou.masked_fill(detections.label[here, None] != labels[image], 0)
        best, index = iou.max(1)
        numbers[here] = (image * boxes.shape[1] + index).masked_fill(best < MATCH_IOU, -1)
    return numbers


def average_precision(score: Tensor, correct: Tensor, objects: int) -> float:
    """Return the area under the monotone precision-recall curve, at all points (VOC since 2010).

    Args:
        score: [D].
        correct: bool [D].
        objects: the number of objects, > 0.
    """
    correct = correct[score.argsort(descending=True, stable=True)].double()
    precision = correct.cumsum(0) / torch.arange(1, len(correct) + 1)
    # The precision at a recall is the best one at that or any larger recall.
    best = precision.flip(0).cummax(0).values.flip(0)
    return float((best * correct).sum()) / objects


def mean_average_precision(detections: Detections, boxes: Tensor, labels: Tensor, hard: Tensor) -> float:
    """Return AP at IoU 0.5, the mean over the classes that occur, in percent.

    As in VOC's development kit: in order of decreasing score, a box is correct if the object that it
    overlaps most was not detected before; a hard object counts neither as found nor as missed.

    Args:
        detections: the detections in N images.
        boxes: [N, M, 4], the objects.
        labels: [N, M], -1 for no object.
        hard: bool [N, M].
    """
    order = detections.score.argsort(descending=True, stable=True)
    detections = Detections(
        detections.image[order], detections.label[order], detections.score[order], detections.box[order]
    )
    number = matches(detections, boxes, labels)
    rank = torch.arange(len(number))
    # The rank of the first box of each object; the last row is for boxes without an object.
    first = torch.full((labels.numel() + 1,), len(rank)).scatter_reduce(
        0, number % (labels.numel() + 1), rank, "amin"
    )
    correct = (number >= 0) & (first[number] == rank)
    counts = (number < 0) | ~hard.flatten()[number]
    precisions = []
    for label in labels[(labels >= 0) & ~hard].unique():
        mine = (detections.label == label) & counts
        objects = int(((labels == label) & ~hard).sum())
        precisions.append(average_precision(detections.score[mine], correct[mine], objects))
    return 100 * sum(precisions) / len(precisions) if precisions else 0.0
