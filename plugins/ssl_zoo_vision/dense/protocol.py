"""Segmentation and detection on the unpooled feature map of a frozen encoder."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ssl_zoo.backbones.timm_encoder import TimmEncoder
from ssl_zoo.data import ArraySplit
from ssl_zoo.data.download import default_root
from ssl_zoo.evaluation.features import extract
from ssl_zoo.evaluation.protocol import Metric, Protocol, Scores
from ssl_zoo.evaluation.subject import Subject, evaluating
from ssl_zoo.runtime.eval_batch import EvalBatch
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Encoder
from ssl_zoo_vision.dense.canvases import MAX_OBJECTS, TEST, TRAIN, Canvases, canvas_side, pasted
from ssl_zoo_vision.dense.detection import EPOCHS, Detections, find, fit_detector, mean_average_precision
from ssl_zoo_vision.dense.segmentation import PIXELS, confusion, fit_segmenter, mean_iou
from ssl_zoo_vision.dense.voc import VOC_CLASSES, voc_at, voc_canvases

CHUNK = 32
"""The maximum number of canvases per batch."""
VOC_SIZE = 64
"""The smallest shorter side of the input, in pixels, of a colour network that is evaluated on VOC."""


def takes_any_size(encoder: Encoder) -> bool:
    """Return whether a network takes larger images than the data's; known for timm's models only.

    Any other encoder need only take prepared batches.
    """
    known = getattr(encoder.model, "pretrained_cfg", {}) if isinstance(encoder, TimmEncoder) else {}
    return not known.get("fixed_input_size", True)


def tile(x: Tensor, rows: int, columns: int) -> Tensor:
    """Split images [B, C, m·h, n·w] into m rows of n tiles [B·m·n, C, h, w], row by row."""
    x = x.unflatten(3, (columns, -1)).unflatten(2, (rows, -1))
    return x.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)


def untile(maps: Tensor, rows: int, columns: int) -> Tensor:
    """Join the maps [B·m·n, d, h, w] of tiles into maps [B, d, m·h, n·w] of images."""
    maps = maps.unflatten(0, (-1, rows, columns))
    return maps.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def feature_maps(subject: Subject, images: Tensor, batches: EvalBatch | None = None) -> Tensor:
    """Return the frozen feature maps of canvases, on the device.

    A network that takes images of any size gets the whole canvas. Any other gets tiles of its input
    size, and the maps of the tiles are joined.

    Args:
        subject: a subject with an encoder.
        images: uint8 [N, C, S, S].
        batches: the number of canvases per batch; None for at most `CHUNK`.

    Returns:
        float32 [N, d, h, w].

    Raises:
        SslZooError: a feature is not a finite number.
    """
    encoder, device, spec = subject.encoder, subject.device, subject.data.spec
    assert encoder is not None
    assert isinstance(spec, ImageSpec)
    batches = batches or device.eval_batch.capped(CHUNK)
    side = images.shape[-1]
    grid = (1, 1) if takes_any_size(encoder) else (side // spec.height, side // spec.width)
    canvas = replace(spec, size=side)

    def represent(batch: Tensor) -> Tensor:
        tiles = tile(canvas.prepare(batch), *grid)
        with device.autocast():
            return untile(encoder.feature_map(device.to_format(tiles)), *grid)

    with evaluating(subject.module):
        return extract(represent, ArraySplit(images, None), device.device, batch_size=batches)


def dense_scores(subject: Subject, train: Canvases, test: Canvases, classes: int) -> Scores:
    """Fit both heads to the frozen maps of the training canvases, and score the test canvases.

    Returns:
        `segmentation`, the mean IoU, and `detection`, the AP at IoU 0.5, in percent.
    """
    side, seed = train.images.shape[-1], subject.seed
    batches = subject.device.eval_batch.capped(CHUNK)
    maps = feature_maps(subject, train.images, batches)
    segment = fit_segmenter(maps, train.masks, classes, seed)
    detector = fit_detector(maps, train.boxes, train.labels, classes, side, seed)
    del maps
    pixels = torch.zeros(classes + 1, classes + 1, dtype=torch.long)
    detections: list[Detections] = []
    for number, part in enumerate(test.split(CHUNK)):
        maps = feature_maps(subject, part.images, batches)
        pixels += confusion(part.masks, segment(maps, side).cpu(), classes + 1)
        detections.append(find(detector, maps, number * CHUNK))
    precision = mean_average_precision(Detections.joined(detections), test.boxes, test.labels, test.hard)
    return {"segmentation": mean_iou(pixels), "detection": precision}


def measure(subject: Subject) -> Scores:
    """Return the scores on canvases of the data set's images, and on VOC if it is on disk."""
    spec = subject.data.spec
    assert isinstance(spec, ImageSpec)
    if subject.encoder is None:
        return {}
    subject.labels()
    scores = dict(dense_scores(subject, *pasted(subject.data)))
    root = default_root()
    if spec.channels == 3 and min(spec.height, spec.width) >= VOC_SIZE and voc_at(root):
        train, test = (voc_canvases(root, part, canvas_side(spec)) for part in ("train", "val"))
        voc = dense_scores(subject, train, test, len(VOC_CLASSES))
        scores |= {f"voc_{name}": value for name, value in voc.items()}
    return scores


_METRICS = {
    "segmentation": Metric(
        "mIoU %",
        f"{TRAIN} canvases with up to {MAX_OBJECTS} images of the train split each: multinomial "
        f"logistic regression (L-BFGS) on the frozen feature map at {PIXELS:,} of their pixels, the L2 "
        f"penalty chosen on a tenth of them; mean IoU of background and classes on {TEST} such canvases "
        "of the test split",
    ),
    "detection": Metric(
        "AP50 %",
        "a linear 3×3 convolution on the frozen feature map of the same canvases predicts class and box "
        f"at each position (focal and GIoU loss, AdamW, {EPOCHS} epochs, NMS at IoU 0.5); AP at IoU "
        "0.5, the area under the precision-recall curve, the mean over classes",
    ),
}
_VOC = "the same on the segmented images of VOC 2012, made square: trained on train, measured on val"

DENSE = Protocol(
    measure,
    {
        **_METRICS,
        "voc_segmentation": Metric("VOC mIoU %", _VOC),
        "voc_detection": Metric("VOC AP50 %", _VOC),
    },
    modality="image",
)
