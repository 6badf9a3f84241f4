"""Tasks that lose, leak or change state."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_zoo import Encoder, Losses, Rng
from ssl_zoo.nn import FeatureQueue, ema_update, frozen_copy
from ssl_zoo.training import Trainer
from tests.core.broken_tasks.declare import TRAINING, broken
from tests.core.sound_tasks import Centred, Distilled, Queued, Remembering, Scheduled, Sound, Taught
from tests.core.sound_texts import NextToken, PoolingPadding, Sentences


@broken("features_are_pure", "features changes encoder.*running_mean.*; it must change no state")
class FeaturesThatUpdateBatchNorm(Sound):
    """Features are computed in training mode."""

    def features(self, x: Tensor) -> Tensor:
        self.encoder.train()
        features = self.encoder(x)
        self.encoder.eval()
        return features


@broken("features_are_pure", "features switches parts of the task between training and evaluation")
class FeaturesThatSwitchModes(Sound):
    """Features leave a module in another mode than before."""

    def features(self, x: Tensor) -> Tensor:
        self.head.train()
        return super().features(x)


@broken("features_are_pure", "features of the same samples differ from call to call")
class FeaturesWithDropout(Sound):
    """Dropout stays on in evaluation."""

    def features(self, x: Tensor) -> Tensor:
        return F.dropout(super().features(x), 0.5)


@broken("features_are_pure", "features draws random numbers")
class FeaturesThatSeed(Sound):
    """Features set the global seed, which changes all later random numbers."""

    def features(self, x: Tensor) -> Tensor:
        torch.manual_seed(0)
        return super().features(x) + 0.01 * torch.randn(1)


@broken("features_are_pure", "features of a sample depend on the other samples of the batch")
class FeaturesOfTheBatch(Sound):
    """Features are centred in their batch."""

    def features(self, x: Tensor) -> Tensor:
        features = super().features(x)
        return features - features.mean(0)


@broken("features_are_pure", r"features of 6 samples must be \[6, D\], not \[6, 16, 4, 4\]")
class FeaturesNeverPooled(Sound):
    """Features are maps instead of vectors."""

    def features(self, x: Tensor) -> Tensor:
        return self.encoder.feature_map(x)


@broken(
    "features_are_pure",
    "two different samples have the same features",
    also=["exported_encoder_is_evaluated"],
)
class FeaturesOfNothing(Sound):
    """Features are all the same."""

    def features(self, x: Tensor) -> Tensor:
        return 0 * super().features(x)


FORGOTTEN = r"the next step's loss is .* but .* once resumed: .*must be a buffer or a parameter"


@broken("resumed_training_is_the_same", FORGOTTEN)
class CentreInAnAttribute(Centred):
    """A plain attribute is not saved."""

    def keep(self, centre: Tensor) -> None:
        self.centre = centre


@broken("resumed_training_is_the_same", FORGOTTEN)
class CentreThatDoesNotPersist(Centred):
    """A buffer that is left out of the state is not saved either."""

    def keep(self, centre: Tensor) -> None:
        self.register_buffer("centre", centre, persistent=False)


@broken("resumed_training_is_the_same", FORGOTTEN)
class StepsCounted(Sound):
    """A weight rises with a number of steps that is not saved."""

    steps = 1

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        return Losses(super().loss(views).total * self.steps)

    def after_step(self, progress: float) -> None:
        self.steps += 1


@broken("resumed_training_is_the_same", "another state after the first resumed step: teacher")
class MomentumByCount(Queued):
    """The teacher slows down with a number of steps that is not saved."""

    steps = 0

    def after_step(self, progress: float) -> None:
        super().after_step(progress)
        self.steps += 1
        ema_update(self.teacher, nn.Sequential(self.encoder, self.head), 1 - 0.5**self.steps)


@broken(
    "resumed_training_is_the_same",
    "^its state cannot be read back: .*Unexpected key.*centre",
)
class CentreMadeLater(Centred):
    """A buffer that a new task does not have yet."""

    def keep(self, centre: Tensor) -> None:
        self.register_buffer("centre", None)

    def embed(self, x: Tensor) -> Tensor:
        if self.centre is None:
            self.centre = torch.zeros(1, 16)
        return super().embed(x)


@broken(
    "batches_of_any_size_follow_each_other",
    "^batch 5 of 9 samples: RuntimeError: The expanded size.*wrap around",
)
class QueueThatDoesNotWrap(Queued):
    """Writing past the end of the queue fails."""

    def push(self, keys: Tensor) -> None:
        start = int(self.queue.place)
        self.queue.features[start : start + len(keys)] = keys
        self.queue.place.fill_((start + len(keys)) % len(self.queue.features))


@broken(
    "batches_of_any_size_follow_each_other",
    "queue.features: a step usually replaces 9 rows, but step 5 only 4: does the queue wrap around",
)
class QueueThatDrops(Queued):
    """Keys past the end of the queue are dropped."""

    def push(self, keys: Tensor) -> None:
        start = int(self.queue.place)
        end = min(start + len(keys), len(self.queue.features))
        self.queue.features[start:end] = keys[: end - start]
        self.queue.place.fill_(end % len(self.queue.features))


@broken(
    "batches_of_any_size_follow_each_other",
    "queue.features: a step usually replaces 211 rows, but step 4 only 106: does the queue wrap around",
)
class LongQueueThatDrops(QueueThatDrops):
    """The queue is so long that the check skips to its end."""

    def __init__(self, encoder: Encoder, options: Any, spec: Any) -> None:
        super().__init__(encoder, options, spec)
        self.queue = FeatureQueue(6000, 16)


@broken("batches_of_any_size_follow_each_other", "a batch of 2: the loss is nan")
class MeanOfFurtherSamples(Sound):
    """The loss needs more than two samples."""

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        losses = super().loss(views)
        return Losses(losses.total + self.embed(views[0])[2:].mean(), losses.logs)


def labels_on_the_stack() -> Iterator[Any]:
    """Yield the labels of every trainer on the call stack."""
    frame = inspect.currentframe()
    while frame := frame and frame.f_back:
        trainer = frame.f_locals.get("self")
        if isinstance(trainer, Trainer) and trainer.data.train.labels is not None:
            yield trainer.data.train.labels


@broken("labels_are_never_touched", r"^the labels were touched \(labels\[...\]\)")
class LabelsFromTheStack(Sound):
    """It looks for the trainer's labels."""

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        for labels in labels_on_the_stack():
            batch = batch + labels[: len(batch)].view(-1, 1, 1, 1)
        return super().views(batch, rng)


@broken(
    "labels_are_never_touched",
    r"^the labels were touched \(labels\[...\] and \d+ more\)",
)
class LabelsOnTheSly(Sound):
    """It looks for the trainer's labels, and swallows errors."""

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        for labels in labels_on_the_stack():
            try:
                batch = batch + labels[: len(batch)].view(-1, 1, 1, 1)
            except Exception:
                continue
        return super().views(batch, rng)


@broken("resumed_training_is_the_same", FORGOTTEN)
class MasterOfTheSeed(Taught):
    """A teacher that is not saved is another one in each run."""

    seed = None


@broken(
    "indices_are_right",
    "samples .* of 32: IndexError: index 31 is out of bounds .*a memory of samples needs spec.samples",
    also=TRAINING,
)
class MemoryWithoutTheLastSample(Remembering):
    """The memory has a row less than there are samples."""

    def rows(self, samples: int) -> int:
        return samples - 1


@broken("progress_is_told", r"`progress` is 0.0 in a step at 0.03125: begin before_step with super")
class ProgressKeptFromTheTask(Scheduled):
    """`before_step` is overridden without a call of the original."""

    def before_step(self, progress: float) -> None:
        self.steps = 0


@broken("exported_encoder_is_evaluated", "features depend on `encoder`, but another is exported")
class StudentIsEvaluated(Distilled):
    """The teacher is exported, and the student evaluated."""

    def features(self, x: Tensor) -> Tensor:
        return self.encoder(x)


@broken("exported_encoder_is_evaluated", "features do not depend on exported_encoder")
class SomethingElseIsEvaluated(Sound):
    """Features are those of another network."""

    def __init__(self, encoder: Encoder, options: Any, spec: Any) -> None:
        super().__init__(encoder, options, spec)
        self.other = frozen_copy(encoder)

    def features(self, x: Tensor) -> Tensor:
        return self.other(x)

    def after_step(self, progress: float) -> None:
        ema_update(self.other, self.encoder, 0.9)


@broken(
    "exported_encoder_is_evaluated",
    "exported_encoder is not saved with the task: assign it",
    also=["features_are_pure"],
)
class ExportedFromAList(Sound):
    """A plain list hides the exported encoder from checkpoints."""

    def __init__(self, encoder: Encoder, options: Any, spec: Any) -> None:
        super().__init__(encoder, options, spec)
        self.others = [frozen_copy(encoder)]

    @property
    def exported_encoder(self) -> Encoder:
        return self.others[0]


@broken(
    "features_ignore_padding",
    r"features change by \d+\.\d% with 16 more places of padding: mask them where",
    also=["views_vary"],
)
class PoolsPadding(NextToken):
    """The encoder pools padding together with what is real."""

    checked_on = (Sentences(PoolingPadding),)
