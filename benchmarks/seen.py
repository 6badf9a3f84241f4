"""Draw what training sees of a large image: ``python -m benchmarks.seen docs/results/canvas.png``.

A picture of 4000×1500 pixels is covered with the bundled digits, 32 pixels high, and another one of that
size holds the coordinates of its pixels as colours, so that each crop tells where it was taken. For each
setting of the canvas the figure shows how often each place is seen in 200 samples, and some crops as the
network gets them, 96 pixels wide.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ssl_zoo.config.load import load_config
from ssl_zoo.data.sources import DIGITS_FILE
from ssl_zoo.runs.build import build_data, build_task
from ssl_zoo.spec import ImageSpec
from ssl_zoo.views import Rng, derive_seed

mpl.use("agg")

from matplotlib.figure import Figure

WIDTH, HEIGHT, DIGIT, INPUT = 4000, 1500, 32, 96
DIGITS = 3000
SAMPLES, CROPS, BIN = 200, 5, 25
WAYS: dict[str, dict[str, object]] = {
    "central square\ndata.canvas=square": {"data.canvas": "square"},
    "windows\nthe default": {},
    "tiles\ndata.tile=400": {"data.tile": 400},
}


def make_photo(rng: np.random.Generator) -> Image.Image:
    """Return a picture with digits at random places."""
    with np.load(DIGITS_FILE) as arrays:
        digits = arrays["images"]
    photo = Image.new("L", (WIDTH, HEIGHT))
    for digit in digits[rng.integers(0, len(digits), DIGITS)]:
        tile = Image.fromarray((digit * 15).astype(np.uint8)).resize((DIGIT, DIGIT))
        photo.paste(
            tile, (int(rng.integers(0, WIDTH - DIGIT)), int(rng.integers(0, HEIGHT - DIGIT))), tile
        )
    return photo.convert("RGB")


def make_coordinates() -> Image.Image:
    """Return a picture whose red is the column and whose green is the row, as shares of 255."""
    x, y = np.meshgrid(np.linspace(0, 255, WIDTH), np.linspace(0, 255, HEIGHT))
    return Image.fromarray(np.stack([x, y, 0 * x], -1).round().astype(np.uint8))


def crops(settings: dict[str, object], picture: Image.Image, number: int) -> Iterator[Tensor]:
    """Yield the first view of a sample of each pass, [3, INPUT, INPUT], in [0, 1]."""
    plain = {f"task.{name}": 0 for name in ("jitter_p", "grayscale_p", "blur_p", "flip")}
    with tempfile.TemporaryDirectory() as folder:
        picture.save(Path(folder, "picture.png"))
        config = load_config(
            overrides={
                "task.name": "simclr",
                "data.source": folder,
                "data.image_size": INPUT,
                **plain,
                **settings,
            }
        )
        data = build_data(config, torch.device("cpu"))
        task = build_task(config, data.spec).eval()
        spec = data.spec
        assert isinstance(spec, ImageSpec)
        mean, std = (torch.tensor(values)[:, None, None] for values in (spec.mean, spec.std))
        for i in range(number):
            rng = Rng(derive_seed(0, "seen", i))
            samples = data.train.at_pass(derive_seed(0, "pass", i))
            batch = samples.batch(rng.permutation(len(samples))[:1])
            (view, *_) = task.views(batch, rng)
            yield view[0] * std + mean


def count_seen(settings: dict[str, object]) -> Tensor:
    """Return how often each place is seen, a map of BIN×BIN pixels each."""
    seen = torch.zeros(HEIGHT // BIN, WIDTH // BIN)
    for crop in crops(settings, make_coordinates(), SAMPLES):
        x, y = (crop[i].clamp(0, 1).sub(1e-6).clamp(min=0).flatten() for i in (0, 1))
        places = (y * len(seen)).long() * seen.shape[1] + (x * seen.shape[1]).long()
        seen.view(-1)[places.unique()] += 1
    return seen


def main() -> None:
    """Draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    photo = make_photo(np.random.default_rng(0))
    figure = Figure(figsize=(13, 6.2), layout="constrained")
    rows = figure.subfigures(len(WAYS), 1, squeeze=False)[:, 0]
    for row, (title, settings) in zip(rows, WAYS.items(), strict=True):
        axes = row.subplots(1, 1 + CROPS, width_ratios=[2.67, *[1] * CROPS])
        seen = count_seen(settings)
        axes[0].imshow(seen, cmap="viridis", vmin=0, extent=(0, WIDTH, HEIGHT, 0))
        share = 100 * float((seen > 0).float().mean())
        axes[0].set_title(f"{share:.0f} % of the image seen in {SAMPLES} samples", fontsize=9)
        axes[0].set_ylabel(title, fontsize=9)
        axes[0].tick_params(labelsize=7)
        for axis, crop in zip(axes[1:], crops(settings, photo, CROPS), strict=True):
            axis.imshow(crop.clamp(0, 1).permute(1, 2, 0))
            axis.set_axis_off()
    figure.savefig(out, dpi=80)


if __name__ == "__main__":
    main()
