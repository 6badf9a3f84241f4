"""The command line of the benchmark."""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path

import torch

from ssl_zoo.errors import UserError

from .loop import AHEAD, WORKERS
from .measure import Mark, ours, race, throughput, train
from .ours import NAME
from .registry import PEERS, Peer
from .results import conditions, ratios, table
from .setting import Setting, read_settings


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers",
        description="SimCLR with ssl-zoo and with other libraries: throughput, and time to accuracy.",
    )
    parser.add_argument("--data", default="fashion-mnist", help="as in ssl-zoo train")
    parser.add_argument("--backbone", default="test_resnet", help="as in ssl-zoo train")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--config", type=Path, help="YAML; its sections task and train, for everybody")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS), metavar="NAME",
                        help=f"some of: {'; '.join(PEERS)}")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=5, help="of throughput; 0 for none")
    parser.add_argument("--steps", type=int, default=30, help="optimiser steps in a round")
    parser.add_argument("--warmup", type=int, default=8, help="steps before them, not counted")
    parser.add_argument("--epochs", type=float, default=1.0, help="of each peer; 0: throughput alone")
    parser.add_argument("--every", type=float, default=0.1, help="epochs between ssl-zoo's evaluations")
    parser.add_argument("--threads", type=int, help="of the main process; none: PyTorch's choice")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there")
    args = parser.parse_args()
    if args.warmup < WORKERS * AHEAD:
        parser.error(f"--warmup: at least {WORKERS * AHEAD}, which the workers have made in advance")
    return args


def main() -> None:
    args = arguments()
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        try:
            setting = Setting.of(read_settings(args), Path(folder))
        except UserError as error:
            raise SystemExit(f"error: {error}") from error
        compare(args, setting)


def taking_part(names: list[str], setting: Setting) -> dict[str, Peer]:
    """Return the peers that can be measured, and say which cannot."""
    reasons = {name: PEERS[name].reason_left_out(setting) for name in names}
    for reason in dict.fromkeys(filter(None, reasons.values())):
        print(f"left out: {'; '.join(n for n in names if reasons[n] == reason)} ({reason})")
    return {name: PEERS[name] for name in names if reasons[name] is None}


def compare(args: argparse.Namespace, setting: Setting) -> None:
    """Measure, and print and write the results."""
    peers = taking_part(args.peers, setting)
    packages = {peer.package for peer in peers.values() if peer.package is not None}
    made_with = conditions(setting, sorted(packages))
    print(
        f"{made_with['data']}, {made_with['images']:,} images, {args.backbone}, batches of "
        f"{args.batch_size}, on {made_with['device']} in {made_with['precision']}, "
        f"{made_with['threads']} threads, {made_with['cores']} cores"
    )

    speeds: dict[str, list[float]] = {}
    marks: dict[str, Mark] = {}
    curve: list[tuple[float, float]] = []
    # What `ssl_zoo.train` sets in the process while it trains helps the peers as well.
    with setting.device.computing():
        builds = {NAME: ours, **{name: peer.build for name, peer in peers.items()}}
        if args.rounds:
            speeds = throughput(builds, setting, args.rounds, args.steps, args.warmup)
        if args.epochs and peers and not setting.data.labelled:
            print("the data has no labels, so there is no accuracy")
        elif args.epochs and peers:
            marks = {name: train(name, build, setting, args.epochs) for name, build in builds.items()}
            curve = race(setting, {name: marks[name] for name in peers}, args.every)

    if speeds:
        print(f"\n{table(speeds, marks, args.epochs)}")
    else:
        for name, mark in marks.items():
            reached = "not reached" if mark.ours is None else f"{mark.ours / 60:.2f} minutes"
            print(f"{name}: {mark.accuracy:.1f} % in {mark.seconds / 60:.2f} minutes; {NAME}: {reached}")
    if args.json is not None:
        results = {
            "conditions": made_with,
            "images_per_second": speeds,
            "ratios": ratios(speeds) if speeds else {},
            "epochs": args.epochs,
            "marks": {name: asdict(mark) for name, mark in marks.items()},
            "curve": curve,
        }
        args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
