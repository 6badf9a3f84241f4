"""The rows of a comparison, and the cells of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from ssl_zoo.comparison.cells import Cell, RawCell, TrainedCell, UntrainedCell
from ssl_zoo.comparison.config import OLD_RAW, RAW, Comparison
from ssl_zoo.comparison.networks import frozen_networks, own_backbones
from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo.errors import UserError
from ssl_zoo.evaluation.scoring import PRETRAINED, UNTRAINED


def make_cells(comparison: Comparison, out: Path) -> list[Cell]:
    """Return all cells in the order of work: every row with the first seed, then the next seed."""
    rows, supervised = comparison.trained_rows(), comparison.supervised_names()
    cells: list[Cell] = []
    if comparison.has_baseline(RAW):
        old = out / OLD_RAW
        cells.append(RawCell(comparison, RAW, None, old if old.is_dir() else out / RAW))
    untrained, frozen = list(_untrained_rows(comparison)), frozen_networks(comparison)
    for seed in range(comparison.seeds):
        for row, own, pretrained in untrained:
            path = out / f"{row}-{seed}"
            cells.append(UntrainedCell(comparison, row, seed, path, True, own, pretrained))
        for row, source in frozen.items():
            path = out / f"{row}-{seed}"
            cells.append(UntrainedCell(comparison, row, seed, path, True, None, True, source))
        for row in rows:
            path = out / f"{row}-{seed}"
            cells.append(TrainedCell(comparison, row, seed, path, row in supervised))
    if twice := [name for name, number in Counter(cell.name for cell in cells).items() if number > 1]:
        raise UserError(f"two rows of the comparison are named {twice[0]}; rename or leave out one")
    return cells


def _untrained_rows(comparison: Comparison) -> Iterator[tuple[str, BackboneConfig | None, bool]]:
    """Yield each row without training: its name, its backbone if it is its own, and if it is trained."""
    common = comparison.encoder_config(0).backbone
    own = {f"-{name}": backbone for name, backbone in own_backbones(comparison).items()}
    for suffix, backbone in {"": None, **own}.items() if comparison.has_baseline(UNTRAINED) else ():
        if (backbone or common).starts_trained:
            yield PRETRAINED + suffix, backbone, True
        yield UNTRAINED + suffix, backbone, False
