"""The description of clips."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ssl_zoo import Spec, UserError
from ssl_zoo_audio.sound import Sound, masked_statistics, pad_clips, standardise, within
from ssl_zoo_audio.spectra import FLOOR, LogMel, Spectra

MODALITY = "audio"
PAD = 320
"""The number of samples that stand for a place of padding."""


@dataclass(frozen=True)
class SoundSpec(Spec):
    """Clips of sound with one channel.

    A raw batch is a `Sound`; a prepared one is standardised too.

    Attributes:
        rate: samples per second.
        seconds: the length of the longest clip.
    """

    raw_name = "log-mel statistics"
    raw_note = "the mean and deviation of 80 log-mel bands over a clip"
    noun = "clips"

    modality: str = MODALITY
    rate: int = 16000
    seconds: float = 1.0

    @property
    def longest(self) -> int:
        """The number of samples of the longest clip."""
        return round(self.rate * self.seconds)

    def example(self, n: int = 2) -> Sound:
        """Return clips of silence, all of the greatest length."""
        return Sound(torch.zeros(n, self.longest), torch.full((n,), self.longest))

    def prepare(self, batch: Sound) -> Sound:
        """Return clips with mean 0 and variance 1 each, padded to the longest of the batch."""
        longest = max(1, int(batch.length.max())) if len(batch.length) else 1
        return standardise(Sound(batch.wave[:, :longest], batch.length))

    def vary(self, batch: Sound, generator: torch.Generator) -> Sound:
        """Return a part of each clip, 80 % or more, with noise 20 to 40 dB below it.

        A gain would have no effect, as clips are standardised.
        """
        n, device = len(batch.length), batch.wave.device
        share, place, level = torch.rand(3, n, 1, generator=generator, device=generator.device).to(
            device
        )
        length = batch.length[:, None]
        kept = ((0.8 + 0.2 * share) * length).ceil().long()
        first = (place * (length - kept + 1)).long()
        index = first + torch.arange(batch.wave.shape[1], device=device)
        wave = batch.wave.gather(1, index.clamp(max=batch.wave.shape[1] - 1))
        sound = standardise(Sound(wave * within(kept[:, 0], wave.shape[1]), kept[:, 0]))
        noise = torch.randn(wave.shape, generator=generator, device=generator.device).to(device)
        noisy = sound.wave + noise * 10 ** (-(20 + 20 * level) / 20)
        return standardise(Sound(noisy * sound.valid(), sound.length))

    def pad(self, x: Sound, places: int) -> Sound:
        """Return clips with more padding, on which features must not depend."""
        return Sound(torch.nn.functional.pad(x.wave, (0, places * PAD)), x.length)

    def raw(self, batch: Sound) -> Tensor:
        """Return the mean and deviation of the log-mel spectrum of each clip [B, 160]."""
        log_mel = log_mel_on(self.rate, batch.wave.device)
        x = log_mel(standardise(batch).wave)
        return masked_statistics(x, within(log_mel.frames(batch.length), x.shape[1]))

    def show(self, x: Sound | Spectra) -> list[Image.Image]:
        """Return the spectrogram of each clip, a column for 10 ms; of spectra, of their real frames."""
        if isinstance(x, Sound):
            return self.spectrograms(x)
        rows = zip(x.values.detach().float().cpu(), x.frames.tolist(), strict=True)
        return [paint(spectrum[:n], float(spectrum[:n].min())) for spectrum, n in rows]

    def spectrograms(self, x: Sound, hidden: Tensor | None = None) -> list[Image.Image]:
        """Return the log-mel spectrogram of each clip, low bands below, hidden spans dark.

        Args:
            x: a prepared batch.
            hidden: which places are hidden, bool [B, T], all of the same length; None for none.
        """
        log_mel = log_mel_on(self.rate, torch.device("cpu"))
        x = Sound(x.wave.detach().float().cpu(), x.length.cpu())
        spectra, frames = log_mel(x.wave), log_mel.frames(x.length)
        pictures = []
        for row, (spectrum, n) in enumerate(zip(spectra, frames.tolist(), strict=True)):
            place = torch.arange(n) * (0 if hidden is None else hidden.shape[1]) // spectra.shape[1]
            dark = None if hidden is None else hidden[row].cpu()[place]
            pictures.append(paint(spectrum[:n], math.log(FLOOR), dark))
        return pictures

    def preprocess(self, source: str | Path) -> Sound:
        """Return an audio file as a prepared batch of one clip.

        Raises:
            UserError: it cannot be read.
        """
        from ssl_zoo_audio.data.decoding import read_clip, read_header

        try:
            read_header(Path(source))
            wave = read_clip(Path(source), self.rate)
        except (OSError, RuntimeError, ValueError) as error:
            raise UserError(f"{source}: cannot be read as audio ({error})") from error
        return self.prepare(pad_clips([wave], len(wave)))

    def data_settings(self) -> dict[str, Any]:
        """Return the rate, at which a network takes other clips too."""
        return {"options": {"rate": self.rate}}

    def adopt(self, other: Spec) -> SoundSpec:
        """Return the description of other clips of the same rate, of any length."""
        ours = replace(self, seconds=other.seconds) if isinstance(other, SoundSpec) else self
        return Spec.adopt(ours, other)


def paint(spectrum: Tensor, low: float, dark: Tensor | None = None) -> Image.Image:
    """Return a picture of a spectrum [F, bands], low bands below, 4 pixels for a frame and 2 for a band.

    Args:
        spectrum: the spectrum.
        low: the value that is black.
        dark: which frames are shown dark, bool [F]; None for none.
    """
    from matplotlib import colormaps  # a second, which a command that draws nothing need not wait

    values = (spectrum - low) / (spectrum.max() - low).clamp(min=1e-6)
    pixels = torch.from_numpy(colormaps["magma"](values.clamp(0, 1).T.flip(0).numpy())[..., :3])
    if dark is not None:
        pixels[:, dark] *= 0.25
    picture = Image.fromarray((pixels * 255).round().byte().numpy())
    return picture.resize((4 * picture.width, 2 * picture.height), Image.Resampling.NEAREST)


@cache
def log_mel_on(rate: int, device: torch.device) -> LogMel:
    """Return what computes log-mel spectra at a rate on a device, once for each."""
    return LogMel(rate).to(device)
