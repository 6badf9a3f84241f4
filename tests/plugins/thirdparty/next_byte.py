"""Short texts of bytes, as a modality of its own: predict the next byte, with lengths and padding."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from ssl_zoo import Encoder, Field, Losses, Spec, Task, hookimpl
from ssl_zoo.data import ArraySplit, DataSet, Source, SourceOptions
from ssl_zoo.nn import full_precision


class Text(NamedTuple):
    """Bytes, int64 [B, T], zeros behind the end of each text; and the lengths, int64 [B]."""

    ids: torch.Tensor
    lengths: torch.Tensor


def encode(texts, longest):
    """Return texts as a batch."""
    rows = [list(text.encode()[:longest]) for text in texts]
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    return Text(ids, torch.tensor([len(row) for row in rows]))


@dataclass(frozen=True)
class TextSpec(Spec):
    """The description of texts of at most `longest` bytes."""

    raw_name, noun = "byte counts", "texts"
    modality: str = "bytes"
    longest: int = 32

    def example(self, n=2):
        return Text(torch.zeros(n, self.longest, dtype=torch.long), torch.full((n,), self.longest))

    def pad(self, x, places):
        return Text(F.pad(x.ids, (0, places)), x.lengths)

    def raw(self, batch):
        return F.one_hot(batch.ids, 256)[..., 1:].sum(1).float()

    def show(self, x):
        return [bytes(ids).rstrip(b"\0").decode("utf-8", "replace") for ids in x.ids.tolist()]

    def preprocess(self, source):
        return encode([source], self.longest)

    def data_settings(self):
        return {"options": {"longest": self.longest}}


class TextOptions(SourceOptions):
    """The options of a file of texts."""

    longest: int = Field(32, ge=2, description="bytes that are kept of a text")


def texts(config, device, options):
    """Return the lines of a file, ``CLASS<tab>TEXT``, every fourth to be evaluated on."""
    lines = Path(config.source).read_text().splitlines()
    names, lines = zip(*(line.split("\t", 1) for line in lines), strict=True)
    classes = sorted(set(names))
    labels = torch.tensor([classes.index(name) for name in names])
    batch = encode(lines, options.longest)
    held_out = torch.arange(len(lines)) % 4 == 0
    whole = ArraySplit(batch, labels).to(device)
    train, test = (whole.subset(mask.nonzero()[:, 0]) for mask in (~held_out, held_out))
    spec = TextSpec(longest=options.longest, classes=len(classes))
    return DataSet(Path(config.source).name, spec, train, test, train, tuple(classes))


class Reader(Encoder):
    """A recurrent network over bytes; the features of a text are those behind its last byte."""

    def __init__(self, config, spec):
        super().__init__()
        self.width = config.options.get("width", 32)
        self.embed = nn.Embedding(256, self.width)
        self.body = nn.GRU(self.width, self.width, batch_first=True)

    def forward(self, x):
        last = (x.lengths - 1).clamp(min=0)[:, None, None].expand(-1, self.width, 1)
        return self.feature_map(x).gather(2, last)[..., 0]

    def feature_map(self, x, hidden=None, token=None):
        return self.body(self.embed(x.ids))[0].transpose(1, 2)

    def valid(self, x):
        return torch.arange(x.ids.shape[1], device=x.ids.device) < x.lengths[:, None]


class NextByte(Task):
    """Predict each byte from those before it."""

    name, modality = "next-byte", "bytes"
    recipe = {"backbone": {"name": "reader"}, "train": {"batch_size": 32, "lr": 0.5}}

    def __init__(self, encoder, options, spec):
        super().__init__(encoder, options, spec)
        self.head = nn.Linear(encoder.width, 256)

    def views(self, batch, rng):
        return (self.spec.prepare(batch),)

    def predict(self, x):
        return full_precision(self.head(self.encoder.feature_map(x).transpose(1, 2)))  # [B, T, 256]

    def loss(self, views):
        (x,), real = views, self.encoder.valid(views[0])[:, 1:]
        loss = F.cross_entropy(self.predict(x)[:, :-1][real], x.ids[:, 1:][real])
        return Losses(loss, weight=real.sum())

    def gallery(self, views):
        return {"text": views[0]}

    def reconstructions(self, views):
        best, real = self.predict(views[0]).argmax(2), self.encoder.valid(views[0])
        return {"predicted": Text(best * real, views[0].lengths)}


@hookimpl
def ssl_zoo_register_sources():
    return {"byte-texts": Source(texts, "bytes", TextOptions, lambda name: name.endswith(".tsv"))}


@hookimpl
def ssl_zoo_register_backbones():
    return {"reader": Reader}


@hookimpl
def ssl_zoo_register_specs():
    return {"bytes": TextSpec}
