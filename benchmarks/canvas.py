"""What training on whole images and on tiles changes, on photographs of several megapixels.

python benchmarks/canvas.py /usr/share/wallpapers /usr/share/backgrounds/mate

The left of each photograph is cut into frames of 640×480 pixels without labels, on which SimCLR is
trained with one budget: on central squares (data.canvas=square), on windows of frames (the default),
and on tiles. Small patches of the right tell how well the features know details. The class of a patch is
its photograph; those of the upper half are learnt from, and those of the lower half are scored. All is
gray, so that no colour tells the class.
"""

from __future__ import annotations

import argparse
import math
import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageStat

from ssl_zoo.comparison.statistics import Estimate
from ssl_zoo.config.load import load_config
from ssl_zoo.data.listing import list_files
from ssl_zoo.evaluation import evaluate
from ssl_zoo.evaluation.api import Evaluation
from ssl_zoo.preprocess import stored_size
from ssl_zoo.training import train

FRAME = 640, 480
"""The width and height of a frame, in pixels."""
PATCHES = 40
"""The number of patches of each half of a photograph."""


def photographs(folders: list[Path]) -> Iterator[tuple[str, Image.Image]]:
    """Yield each JPEG of at least two megapixels, the largest of each name."""
    files = [file for folder in folders for file in list_files(folder).images if file.suffix == ".jpg"]
    largest: dict[str, Image.Image] = {}
    for file in files:
        parents = [part for part in file.parts if part not in ("contents", "images", "images_dark")]
        name = parents[-2] if file.stem[0].isdigit() else file.stem
        image: Image.Image = Image.open(file)
        known = largest.get(name)
        if min(image.size) >= 1400 and (known is None or known.width < image.width):
            largest[name] = image
    for name, image in largest.items():
        yield name, image.convert("L")


def patches(image: Image.Image, side: int, draw: random.Random) -> Iterator[Image.Image]:
    """Yield random patches that are not flat."""
    made = 0
    for _ in range(100 * PATCHES):
        left, top = draw.randint(0, image.width - side), draw.randint(0, image.height - side)
        patch = image.crop((left, top, left + side, top + side))
        if ImageStat.Stat(patch).stddev[0] > 8:
            yield patch
            made += 1
        if made == PATCHES:
            return


def make(folders: list[Path], side: int, frames: Path, labelled: Path) -> None:
    """Cut photographs into frames to train on, and into labelled patches of `side` pixels."""
    width, height = FRAME
    frames.mkdir()
    for name, image in photographs(folders):
        draw = random.Random(name)
        divide, half = round(0.6 * image.width), image.height // 2
        for left in range(0, divide - width + 1, width):
            for top in range(0, image.height - height + 1, height):
                frame = image.crop((left, top, left + width, top + height))
                frame.save(frames / f"{name}-{left}-{top}.png")
        parts = [image.crop((divide, top, image.width, top + half)) for top in (0, half)]
        cut = [list(patches(part, side, draw)) for part in parts]
        if min(map(len, cut)) < PATCHES:
            continue
        for split, images in zip(("train", "test"), cut, strict=True):
            folder = labelled / split / name
            folder.mkdir(parents=True)
            for i, patch in enumerate(images):
                patch.save(folder / f"{i}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("source", type=Path, nargs="+", help="folders of large photographs")
    parser.add_argument("--samples", type=int, default=12_800, help="the budget of each run")
    parser.add_argument("--size", type=int, default=64, help="side of the network's input in pixels")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--ways", default="squares,windows,tiles", help="the ways to train")
    arguments = parser.parse_args()
    size, tile = arguments.size, round(arguments.size / math.sqrt(0.08))
    ways: dict[str, dict[str, Any]] = {
        "squares": {"data.canvas": "square"},
        "windows": {},
        "tiles": {"data.tile": tile},
    }
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        make(arguments.source, max(stored_size(size)), root / "frames", root / "patches")
        common: dict[str, Any] = {
            "task.name": "simclr", "data.source": str(root / "frames"), "data.image_size": size,
            "train.samples": arguments.samples, "train.batch_size": 64, "train.epochs": None,
            "train.tune": False,
        }  # fmt: skip
        print(f"{len(list((root / 'frames').iterdir()))} frames, {arguments.samples:,} samples drawn")
        print(f"{'':12} {'kNN %':>11} {'linear %':>11}")
        for way in arguments.ways.split(","):
            scores: list[Evaluation] = []
            for seed in range(arguments.seeds):
                config = load_config(None, {**common, **ways[way], "train.seed": seed})
                run = train(config, out=root / f"{way} {seed}", protocol=())
                scores.append(evaluate(run.path, ["knn", "linear"], not scores, str(root / "patches")))
            show(way, [found["simclr"] for found in scores])
        for row in scores[0].keys() - {"simclr"}:
            show(row, [scores[0][row]])


def show(row: str, scores: Sequence[Mapping[str, float]]) -> None:
    """Print the means of some scores, with half of the 95 % interval over seeds."""
    texts = []
    for name in ("knn", "linear"):
        found = Estimate.of([float(values[name]) for values in scores])
        half = found.half_width
        texts.append(f"{found.mean:.1f}" + ("" if half is None else f" ± {half:.1f}"))
    print(f"{row:12} {texts[0]:>11} {texts[1]:>11}", flush=True)


if __name__ == "__main__":
    main()
