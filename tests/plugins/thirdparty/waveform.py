"""Waves of four pitches, as a modality of their own: contrastive predictive coding in one layer."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from ssl_zoo import Encoder, Field, Losses, Spec, Task, distributed, hookimpl
from ssl_zoo.data import ArraySplit, DataSet, Source, SourceOptions
from ssl_zoo.nn import full_precision


class Wave(NamedTuple):
    """Samples of sound: int16 or float [B, T], and the number of real ones in each, int64 [B]."""

    samples: torch.Tensor
    length: torch.Tensor


@dataclass(frozen=True)
class WaveSpec(Spec):
    """The description of waves of at most `longest` samples."""

    raw_name, noun = "mean spectrum", "waves"
    modality: str = "wave"
    longest: int = 256

    def example(self, n=2):
        return Wave(torch.zeros(n, self.longest), torch.full((n,), self.longest))

    def prepare(self, batch):
        return Wave(batch.samples.float() / 2**15, batch.length)

    def vary(self, batch, generator):
        gain = 0.5 + torch.rand(len(batch.length), 1, generator=generator).to(batch.samples.device)
        return Wave(gain * batch.samples.float() / 2**15, batch.length)

    def pad(self, x, places):
        return Wave(F.pad(x.samples, (0, places)), x.length)

    def raw(self, batch):
        return torch.fft.rfft(batch.samples.float()).abs().log1p()

    def show(self, x):
        spectra = torch.stft(x.samples.float(), 32, return_complex=True, window=torch.ones(32)).abs()
        scaled = (255 * spectra / spectra.amax((1, 2), keepdim=True).clamp(min=1e-6)).byte()
        return [Image.fromarray(np.ascontiguousarray(one.numpy()[::-1])) for one in scaled.cpu()]


class WaveOptions(SourceOptions):
    """The options of the waves."""

    number: int = Field(200, ge=20, description="number of waves")


def waves(config, device, options):
    """Return waves of four pitches and different lengths, a fifth of them to evaluate on."""
    generator = torch.Generator().manual_seed(0)
    n, longest = options.number, 256
    pitch = torch.arange(n) % 4
    length = torch.randint(128, longest + 1, (n,), generator=generator)
    time = torch.arange(longest) + 20 * torch.rand(n, 1, generator=generator)
    wave = (time * (0.1 + 0.15 * pitch[:, None])).sin() + 0.3 * torch.randn(
        n, longest, generator=generator
    )
    wave = wave * (torch.arange(longest) < length[:, None])
    split = ArraySplit(Wave((wave * 8000).short().to(device), length.to(device)), pitch)
    train, test = split.subset(torch.arange(n // 5, n)), split.subset(torch.arange(n // 5))
    return DataSet("waves", WaveSpec(longest=longest, classes=4), train, test, train)


class WaveNet(Encoder):
    """Two convolutions, and the mean over the real places."""

    def __init__(self, config, spec):
        super().__init__()
        self.width = config.options.get("width", 32)
        self.layer = nn.Conv1d(1, self.width, 16, stride=8)
        self.top = nn.Conv1d(self.width, self.width, 1)

    def forward(self, x):
        places, valid = self.feature_map(x), self.valid(x)[:, None]
        return (places * valid).sum(2) / valid.sum(2).clamp(min=1)

    def feature_map(self, x, hidden=None, token=None):
        return self.top(self.layer(x.samples[:, None]).relu()).relu()

    def valid(self, x):
        return (
            8 * torch.arange((x.samples.shape[1] - 8) // 8, device=x.length.device) + 16
            <= x.length[:, None]
        )


class WaveCoding(Task):
    """Tell the next place of a wave from the places of other waves (van den Oord et al. 2018)."""

    name, modality = "wave-coding", "wave"
    recipe = {"data": {"source": "waves"}, "backbone": {"name": "wavenet"}, "train": {"batch_size": 32}}

    def __init__(self, encoder, options, spec):
        super().__init__(encoder, options, spec)
        self.predict = nn.Linear(encoder.width, encoder.width)

    def views(self, batch, rng):
        x = self.spec.prepare(batch)
        gain = rng.uniform(len(x.length), 1, low=0.5, high=1.5)
        place = (rng.uniform(len(x.length)) * 8).long()
        return Wave(x.samples * gain, x.length), place

    def gallery(self, views):
        return {"wave": views[0]}

    def loss(self, views):
        x, place = views
        places = full_precision(self.encoder.feature_map(x))  # [B, d, T]
        rows = torch.arange(len(place), device=place.device)
        now, following = places[rows, :, place], places[rows, :, place + 1]
        candidates = F.normalize(distributed.all_gather(following), dim=1)
        target = rows + distributed.rank() * len(rows)
        return Losses(
            F.cross_entropy(F.normalize(self.predict(now), dim=1) @ candidates.T / 0.1, target)
        )


@hookimpl
def ssl_zoo_register_sources():
    return {"waves": Source(waves, modality="wave", Options=WaveOptions)}


@hookimpl
def ssl_zoo_register_backbones():
    return {"wavenet": WaveNet}


@hookimpl
def ssl_zoo_register_specs():
    return {"wave": WaveSpec}
