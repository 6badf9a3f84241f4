"""BYOL for audio: two augmented spectra of one clip, without negatives."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_zoo import Field, Losses, Rng, Task, TaskOptions, Unsuitable
from ssl_zoo.nn import FeatureQueue, Teacher, byol_loss, mlp, spread
from ssl_zoo_audio.augmentation import log_mixup, match_statistics, random_part, resized_crop
from ssl_zoo_audio.encoders.base import SoundEncoder
from ssl_zoo_audio.encoders.mel import MelEncoder
from ssl_zoo_audio.recipes import recipe
from ssl_zoo_audio.sound import Sound
from ssl_zoo_audio.spec import SoundSpec
from ssl_zoo_audio.spectra import LOG_DEVIATION, SILENCE, Spectra


class BYOLA(Task):
    """Predict a momentum network's projection of another augmentation of the same second of sound."""

    name = "byol-a"
    paper = "Niizumi et al. 2021, BYOL for Audio, arXiv:2103.06695"
    family = "distillation"
    modality = "audio"
    encoder: MelEncoder
    prerequisites = "a network on log-mel spectra"
    passes = 4
    recipe = recipe("mel-cnn", {"width": 256, "channels": 32}, epochs=40)

    class Options(TaskOptions):
        """BYOL-A's options.

        The paper has a mixup of up to 0.4, crops of 0.6 to 1.5 in both directions from a canvas of 1.5
        times the length, and a bank of 2048: too much change for syllables that differ in a consonant.
        """

        frames: int = Field(96, ge=8, description="frames of 10 ms that a clip is cut to")
        mixup: float = Field(0.2, ge=0, lt=1, description="the greatest share of a past clip in a view")
        bank: int = Field(512, ge=1, description="past clips to mix with")
        frequency_scale: tuple[float, float] = Field(
            (0.9, 1.0), description="sizes of crops in frequency"
        )
        scale: tuple[float, float] = Field((0.9, 1.1), description="sizes of crops in time")
        canvas: float = Field(1.1, ge=1, description="length that crops are cut from, as a multiple")
        momentum: float = Field(0.99, ge=0, le=1, description="momentum of the target")
        hidden: int = Field(1024, ge=1, description="hidden width of the projector and the predictor")
        out: int = Field(256, ge=2, description="width of the projection")

    def __init__(self, encoder: SoundEncoder, options: Options, spec: SoundSpec) -> None:
        super().__init__(encoder, options, spec)
        if not isinstance(encoder, MelEncoder):
            raise Unsuitable("byol-a changes log-mel spectra; choose --backbone mel-cnn or mel-mini")
        longest = int(encoder.log_mel.frames(torch.tensor(spec.longest)))
        self.frames = min(options.frames, longest)
        # As wide whatever the longest clip, so that a run is evaluated on data of shorter ones.
        self.bank = FeatureQueue(options.bank, options.frames * encoder.log_mel.mels)
        self.projector = mlp([encoder.width, options.hidden, options.out])
        self.predictor = mlp([options.out, options.hidden, options.out])
        self.target = Teacher(encoder, self.projector, start=options.momentum, end=options.momentum)

    def views(self, batch: Sound, rng: Rng) -> tuple[Tensor, ...]:
        """Return two augmented spectra [B, F, mels], the one they are of, and its real frames [B]."""
        x = self.spec.prepare(batch)
        spectrum, frames = self.encoder.spectrum(x), self.encoder.frames(x)
        crop, n = random_part(spectrum, frames, self.frames, rng, SILENCE)
        return self.augment(crop, n, rng), self.augment(crop, n, rng), crop, n

    def augment(self, x: Tensor, frames: Tensor, rng: Rng) -> Tensor:
        """Return spectra [B, F, mels] with past ones mixed in, then cropped and resized."""
        filled = self.bank.filled
        past = self.bank.features[(rng.uniform(len(x)) * filled).long()]
        past = past.unflatten(1, (self.options.frames, -1))[:, : x.shape[1]]
        share = rng.uniform(len(x), 1, 1, high=self.options.mixup) * (filled > 0)
        mixed = log_mixup(LOG_DEVIATION * x, LOG_DEVIATION * past, share) / LOG_DEVIATION
        ranges = (self.options.frequency_scale, self.options.scale, self.options.canvas)
        return resized_crop(mixed, frames, rng, *ranges)

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        """Return the loss of each view's prediction and the other's target projection, in [0, 8]."""
        *pair, crop, frames = views
        missing = self.options.frames - crop.shape[1]
        self.bank.note(F.pad(crop, (0, 0, 0, missing), value=SILENCE).flatten(1))
        pair = match_statistics(pair, crop, frames)
        online = [self.projector(self.encoder.pooled_spectrum(x, frames)) for x in pair]
        predictions = [self.predictor(z) for z in online]  # [B, out]
        encoder: Any = self.target[0]
        with torch.no_grad():
            targets = [self.target[1](encoder.pooled_spectrum(x, frames)) for x in pair]
        loss = byol_loss(predictions[0], targets[1]) + byol_loss(predictions[1], targets[0])
        return Losses(loss, {"spread": spread(targets[0])})

    def compared(self, x: Sound | Spectra) -> Tensor:
        """Return the projections [B, out] of views, or of whole clips."""
        if isinstance(x, Sound):
            x = Spectra(self.encoder.spectrum(x), self.encoder.frames(x))
        projection: Tensor = self.projector(self.encoder.pooled_spectrum(*x))
        return projection

    def gallery(self, views: tuple[Tensor, ...]) -> dict[str, Any]:
        """Return two augmentations of the spectrum of each clip, and that."""
        *spectra, frames = views
        captions = ("view 1", "view 2", "clip")
        return {name: Spectra(x, frames) for name, x in zip(captions, spectra, strict=True)}

    def after_step(self, progress: float) -> None:
        """Update the target network and the past clips."""
        self.target.update(progress, self.encoder, self.projector)
        self.bank.update()
