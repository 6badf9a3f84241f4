"""A folder of small pictures, cut at random out of large ones: real image files for `ssl-zoo bench`.

python benchmarks/crops.py /usr/share/wallpapers photos --number 2000 --size 500x375
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from PIL import Image

from ssl_zoo.data.listing import list_files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("source", type=Path, help="folder of large images")
    parser.add_argument("target", type=Path, help="folder to make")
    parser.add_argument("--number", type=int, default=2000)
    parser.add_argument("--size", default="500x375", help="width x height in pixels")
    parser.add_argument("--quality", type=int, default=90, help="of the JPEG files")
    arguments = parser.parse_args()
    width, height = map(int, arguments.size.split("x"))
    draw = random.Random(0)
    arguments.target.mkdir(parents=True)
    files = list_files(arguments.source).images
    share = -(-arguments.number // len(files))
    made = 0
    for file in files:
        with Image.open(file) as opened:
            image = opened.convert("RGB")
        for _ in range(share):
            # Between the whole image and a crop in its own resolution.
            scale = draw.uniform(1, max(1.0, min(image.width / width, image.height / height)))
            w, h = min(image.width, round(width * scale)), min(image.height, round(height * scale))
            left, top = draw.randint(0, image.width - w), draw.randint(0, image.height - h)
            crop = image.resize(
                (width, height), Image.Resampling.BICUBIC, (left, top, left + w, top + h)
            )
            crop.save(arguments.target / f"{made:06}.jpg", quality=arguments.quality)
            made += 1
            if made == arguments.number:
                return


if __name__ == "__main__":
    main()
