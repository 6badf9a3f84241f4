"""A table of numbers in a file, as a modality of its own: predict the columns that were shuffled."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ssl_zoo import Encoder, Losses, Spec, Task, UserError, hookimpl
from ssl_zoo.data import ArraySplit, DataSet, Source, rest_of
from ssl_zoo.nn import full_precision


@dataclass(frozen=True)
class TableSpec(Spec):
    """The description of a table of `columns` columns."""

    raw_name, noun = "columns", "rows"
    modality: str = "table"
    columns: int = 1
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def example(self, n=2):
        return torch.zeros(n, self.columns)

    def prepare(self, batch):
        mean, std = (torch.tensor(v, device=batch.device) for v in (self.mean, self.std))
        return (batch.float() - mean) / std

    def show(self, x):
        return [" ".join(f"{value:.2f}" for value in row) for row in x.tolist()]


def table(config, device):
    """Return a .csv file with a header; its last column is the class."""
    file = rest_of(config) or config.source
    try:
        values = torch.from_numpy(np.loadtxt(file, delimiter=",", skiprows=1)).float()
    except (OSError, ValueError) as error:
        raise UserError(f"data.source: {file} is not a table of numbers: {error}") from error
    x, y = values[:, :-1], values[:, -1].long()
    train, test = (ArraySplit(x[i::5].to(device), y[i::5]) for i in (1, 0))
    std = tuple(train.samples.std(0).clamp(min=1e-6).tolist())
    spec = TableSpec(columns=x.shape[1], mean=tuple(train.samples.mean(0).tolist()), std=std,
                     classes=int(y.max()) + 1)  # fmt: skip
    return DataSet("table", spec, train, test, train)


class Mlp(Encoder):
    """Two linear layers."""

    def __init__(self, config, spec):
        super().__init__()
        self.width = 32
        self.body = nn.Sequential(nn.Linear(spec.columns, 64), nn.ReLU(), nn.Linear(64, self.width))

    def forward(self, x):
        return self.body(x)

    def feature_map(self, x, hidden=None, token=None):
        return self.body(x)[:, :, None]


class ShuffledColumns(Task):
    """Tell which columns of a row come from another row (as in VIME, Yoon et al. 2020)."""

    name, modality = "shuffled-columns", "table"
    recipe = {"backbone": {"name": "mlp"}, "train": {"batch_size": 32, "lr": 0.1}}

    def __init__(self, encoder, options, spec):
        super().__init__(encoder, options, spec)
        self.head = nn.Linear(encoder.width, spec.columns)

    def views(self, batch, rng):
        x = self.spec.prepare(batch)
        swapped = rng.uniform(*x.shape) < 0.3
        return torch.where(swapped, x.roll(1, 0), x), swapped

    def gallery(self, views):
        return {"shuffled": views[0]}

    def loss(self, views):
        x, swapped = views
        logits = full_precision(self.head(self.encoder(x)))
        return Losses(F.binary_cross_entropy_with_logits(logits, swapped.float()))


@hookimpl
def ssl_zoo_register_sources():
    return {"csv": Source.of(table, modality="table", takes=lambda name: name.endswith(".csv"))}


@hookimpl
def ssl_zoo_register_backbones():
    return {"mlp": Mlp}


@hookimpl
def ssl_zoo_register_specs():
    return {"table": TableSpec}
