"""Many processes that train from shards, killed and resumed, against one process.

    python -m benchmarks.many_processes --processes 16 --steps 200    # some minutes, 0.6 GB a process

Small pictures are written as shards of unequal length, fewer than there are processes. One process
trains a small transformer on them by SimCLR; then so do many, over gloo on the cores of this machine.
They are all killed (SIGKILL) after half of the steps, and resumed from their last checkpoint. Printed is
the largest difference of the losses, relative to those of one process, and how much these fall.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

SHARDS, IMAGES, BATCH = 5, 2000, 64


def write_shards(folder: Path) -> Path:
    """Write coloured squares on noise as shards, and return their folder."""
    generator = np.random.default_rng(0)
    for i in range(IMAGES):
        pixels = generator.integers(0, 60, (24, 24, 3), dtype=np.uint8)
        top, left = generator.integers(0, 12, 2)
        pixels[top : top + 12, left : left + 12] += generator.integers(60, 190, 3, dtype=np.uint8)
        file = folder / "photos" / f"{i:04d}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(file)
    size = sum(file.stat().st_size + 2048 for file in (folder / "photos").iterdir())
    megabytes = f"{size / 1e6 / (SHARDS - 0.5):.3f}"
    command = ["shard", "--data", str(folder / "photos"), "-o", str(folder / "shards")]
    subprocess.run([sys.executable, "-m", "ssl_zoo", *command, "--megabytes", megabytes], check=True)
    return folder / "shards"


def arguments(shards: Path, steps: int, out: Path) -> list[str]:
    """Return the arguments of the run."""
    settings = {
        "data.resident": "never",
        "backbone.options": "{patch_size: 4, depth: 2}",
        "train.optimizer": "sgd",
        "train.lr": 0.001,
        "train.log_every": 5,
        "train.checkpoint_seconds": 0,
        "data.options.shuffle": 50,
    }
    sets = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    return [
        *("train", "--task", "simclr", "--data", str(shards), "--image-size", "16", "--out", str(out)),
        *("--backbone", "test_vit", "--batch-size", str(BATCH), "--samples", str(steps * BATCH)),
        *("--device", "cpu", "--precision", "fp32", "--no-tune", "--protocol", "health", *sets),
    ]


def losses(run: Path) -> dict[int, float]:
    """Return the logged losses by step."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def start(*main: str) -> subprocess.Popen[bytes]:
    """Start ssl-zoo with one thread a process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "ssl_zoo", *main],
        env=environment,
        stdout=subprocess.DEVNULL,
    )


def kill_after(process: subprocess.Popen[bytes], run: Path, step: int) -> int:
    """Kill all processes of a run once a step is logged; return the last logged step."""
    while process.poll() is None:
        time.sleep(0.2)
        if (run / "metrics.jsonl").exists() and max(losses(run), default=0) >= step:
            subprocess.run(["pkill", "-KILL", "-f", str(run)], check=True)
            process.wait()
            return max(losses(run))
    raise SystemExit("the run ended before it could be killed")


def main() -> None:
    parser = argparse.ArgumentParser(description="Many processes, killed and resumed, against one.")
    parser.add_argument("--processes", type=int, default=16)
    parser.add_argument("--steps", type=int, default=200)
    args = parser.parse_args()
    devices = ["--devices", str(args.processes)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shards = write_shards(folder)
        number = len(list(shards.glob("*.tar")))
        assert start(*arguments(shards, args.steps, folder / "one")).wait() == 0
        many = folder / "many"
        began = time.perf_counter()
        killed = kill_after(start(*arguments(shards, args.steps, many), *devices), many, args.steps // 2)
        assert start("train", "--resume", str(many), *devices).wait() == 0
        seconds = time.perf_counter() - began
        one, theirs = losses(folder / "one"), losses(many)
    assert one.keys() == theirs.keys()
    differences = {step: abs(theirs[step] / one[step] - 1) for step in one}
    change = 1 - min(one.values()) / max(one.values())
    print(f"{args.processes} processes, {number} shards, {args.steps} steps, killed after step {killed}")
    for part in (killed, args.steps):
        largest = max(value for step, value in differences.items() if step <= part)
        print(f"largest difference of the losses up to step {part}: {largest:.1e}")
    print(f"the losses of one process fall by {change:.0%}")
    print(f"{seconds:.0f} s for both parts of the run, with starts and evaluation")


if __name__ == "__main__":
    main()
