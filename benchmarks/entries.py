"""Memory and time of a process that trains from an index of files, by the number of entries.

    python -m benchmarks.entries --entries 10000 100000000    # some minutes, 2 GB of disk

An index of so many entries is written, whose paths name a thousand images of 32×32 pixels in turn. A
process of its own opens it and makes 20 steps of SimCLR with timm's `test_resnet` in batches of 64,
images decoded when they are read. Printed are its memory at its largest, how much of it at the end is
its own (the rest is mapped from files: other processes share it, and the system takes it back when it
needs it), and the seconds, with imports. Nothing is evaluated.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from ssl_zoo.data.computed import ComputedSequence
from ssl_zoo.data.index import Index, IndexedFiles, write_index

IMAGES = 1000
TRAIN = """
import sys
from pathlib import Path

import ssl_zoo

if __name__ == "__main__":
    settings = {
        "task.name": "simclr", "data.source": sys.argv[1], "data.image_size": 32,
        "data.resident": "never", "backbone.name": "test_resnet", "train.batch_size": 64,
        "train.samples": 20 * 64, "train.tune": False, "train.device": "cpu",
    }
    config = ssl_zoo.load_config(None, settings)
    ssl_zoo.train(config, out=sys.argv[2], protocol=[], with_baselines=False)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(status["VmHWM"].split()[0], status["RssAnon"].split()[0])
"""
"""Trains, and prints the largest and the own memory in KiB."""


def write_images(folder: Path) -> None:
    """Write a thousand images into a new folder."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for i in range(IMAGES):
        pixels = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:03d}.png")


def measure(entries: int, folder: Path) -> tuple[float, float, float]:
    """Return the largest and the own memory in MiB, and the seconds, with so many entries."""
    write_images(folder / "photos")
    paths = ComputedSequence(entries, lambda i: f"{i % IMAGES:03d}.png")
    write_index(Index(folder / "photos", {"train": IndexedFiles(paths)}), folder / "index")
    command = [sys.executable, "-c", TRAIN, str(folder / "index"), str(folder / "run")]
    start = time.perf_counter()
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if ended.returncode:
        raise SystemExit(ended.stderr)
    largest, own = map(float, ended.stdout.split()[-2:])
    return largest / 1024, own / 1024, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory of a process, by the entries of its index.")
    parser.add_argument("--entries", type=int, nargs="+", default=[10_000, 100_000_000])
    args = parser.parse_args()
    print("| entries | largest MiB | own MiB | seconds |\n|---:|---:|---:|---:|")
    for entries in args.entries:
        with tempfile.TemporaryDirectory() as name:
            largest, own, seconds = measure(entries, Path(name))
        print(f"| {entries:,} | {largest:,.0f} | {own:,.0f} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
