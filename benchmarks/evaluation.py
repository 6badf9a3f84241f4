"""Time of evaluation on 60,000 × D train and 10,000 × D test features.

python benchmarks/evaluation.py [D]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch

from ssl_zoo.evaluation import Features
from ssl_zoo.evaluation.health import rankme, uniformity
from ssl_zoo.evaluation.knn import knn_accuracy
from ssl_zoo.evaluation.linear import linear_accuracy
from ssl_zoo.evaluation.lowshot import FEW, lowshot_accuracies
from ssl_zoo.nn import spread


def features(width: int, classes: int = 10) -> Features:
    """Make features like those of networks: non-negative, correlated, of overlapping classes."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (70_000,), generator=generator)
    centres = torch.randn(classes, 48, generator=generator)
    latent = centres[labels] + 2.5 * torch.randn(70_000, 48, generator=generator)
    x = (latent @ torch.randn(48, width, generator=generator)).relu()
    return Features(x[:60_000], labels[:60_000], x[60_000:], labels[60_000:], classes)


def main() -> None:
    width = int(sys.argv[1]) if len(sys.argv) > 1 else 512
    data = features(width)
    timed: dict[str, Callable[[], object]] = {
        "knn": lambda: knn_accuracy(data),
        "linear": lambda: linear_accuracy(data),
        "lowshot": lambda: [lowshot_accuracies(data, count) for _, count in FEW.values()],
        "health": lambda: (rankme(data.test), float(spread(data.test)), uniformity(data.test[:2048])),
    }
    print(f"60,000 × {width} train, 10,000 × {width} test, {torch.get_num_threads()} threads")
    for name, function in timed.items():
        start = time.perf_counter()
        function()
        print(f"{name:8} {time.perf_counter() - start:6.1f} s")


if __name__ == "__main__":
    main()
