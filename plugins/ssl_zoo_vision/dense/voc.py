"""VOC 2012 as canvases, if the user has it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torchvision.datasets import VOCSegmentation

from ssl_zoo.data.decode import image_error_reason, open_image
from ssl_zoo.errors import UserError
from ssl_zoo.text import printable
from ssl_zoo_vision.dense.canvases import Canvases

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip
"""The classes 1 to 20 of VOC's masks."""


def voc_at(root: Path) -> bool:
    """Return whether a folder has torchvision's VOC 2012 with segmentations."""
    voc = root / "VOCdevkit" / "VOC2012"
    return (voc / "SegmentationClass").is_dir() and (voc / "ImageSets" / "Segmentation").is_dir()


def voc_canvases(root: Path, part: str, side: int) -> Canvases:
    """Load the segmented images of a part of VOC 2012 (Everingham et al. 2010), made square.

    Images, masks and boxes are stretched alike. Objects that VOC calls difficult are hard, and the
    borders of objects are ignored.

    Args:
        root: the root folder of torchvision's `VOCSegmentation`.
        part: train or val.
        side: S.

    Raises:
        UserError: a file is missing or broken.
    """

    def read(names: tuple[str, str]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        try:
            return _read_voc(Path(names[0]), Path(names[1]), side)
        except (OSError, ValueError, SyntaxError) as error:  # SyntaxError is ElementTree's
            raise UserError(
                f"VOC2012: {printable(names[0])} or its mask or annotation cannot be read "
                f"({image_error_reason(error)}); "
                f"repair or move {printable(root / 'VOCdevkit' / 'VOC2012')}"
            ) from error

    try:
        voc = VOCSegmentation(str(root), "2012", part)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"VOC2012 cannot be read from {printable(root)}: {image_error_reason(error)}"
        ) from error
    with ThreadPoolExecutor() as pool:
        read_all = list(pool.map(read, zip(voc.images, voc.masks, strict=True)))
    images, masks, boxes, labels, hard = map(list, zip(*read_all, strict=True))
    return Canvases(
        torch.stack(images),
        torch.stack(masks),
        pad_sequence(boxes, batch_first=True),
        pad_sequence(labels, batch_first=True, padding_value=-1),
        pad_sequence(hard, batch_first=True),
    )


def _read_voc(image: Path, mask: Path, side: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the fields of one canvas."""
    annotation = ElementTree.parse(image.parents[1] / "Annotations" / f"{image.stem}.xml").getroot()
    boxes, labels, hard = [], [], []
    for item in annotation.iter("object"):
        edges = [float(item.findtext(f"bndbox/{edge}", "")) for edge in ("xmin", "ymin", "xmax", "ymax")]
        # VOC counts pixels from 1, and its edges are inclusive.
        boxes.append([edges[0] - 1, edges[1] - 1, edges[2], edges[3]])
        labels.append(VOC_CLASSES.index(item.findtext("name", "")))
        hard.append(item.findtext("difficult") == "1")
    with open_image(image, side) as opened:
        pixels = np.array(opened.convert("RGB").resize((side, side), Image.Resampling.BILINEAR))
    with Image.open(mask) as opened:
        size = torch.tensor(opened.size * 2)
        classes = np.array(opened.resize((side, side), Image.Resampling.NEAREST), dtype=np.uint8)
    return (
        torch.from_numpy(pixels).permute(2, 0, 1),
        torch.from_numpy(classes),
        torch.tensor(boxes).view(-1, 4) * side / size,
        torch.tensor(labels, dtype=torch.long),
        torch.tensor(hard, dtype=torch.bool),
    )
