"""Tasks with a broken loss, or that train the wrong parameters."""

from __future__ import annotations

import copy
import random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_zoo import Encoder, Losses
from ssl_zoo.nn import ema_update, full_precision
from tests.core.broken_tasks.declare import BF16_TOO, EVERYTHING, broken
from tests.core.sound_tasks import Centred, Queued, Sound


@broken("loss_is_finite_in_fp32", r"the loss must be a scalar, not \[1\]", also=BF16_TOO)
class LossInAVector(Sound):
    """The loss is a vector of one element, not a scalar."""

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        return Losses(super().loss(views).total.view(1))


@broken("loss_is_finite_in_fp32", "the loss is float64: compute it in float32", also=BF16_TOO)
class LossOfDoubles(Sound):
    """The loss is in float64, which many devices do not have."""

    def embed(self, x: Tensor) -> Tensor:
        return super().embed(x).double()


@broken("loss_is_finite_in_fp32", "the logged value pull keeps the gradient: detach it", also=BF16_TOO)
class LogWithAGradient(Sound):
    """A logged value keeps the graph of each step in memory."""

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        losses = super().loss(views)
        return Losses(losses.total, {"pull": 2 * losses.total})


@broken("loss_is_finite_in_fp32", r"the logged value pulls must be a scalar, not \[\d\]", also=BF16_TOO)
class LogOfEachSample(Sound):
    """A logged value is a vector instead of a scalar."""

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        return Losses(super().loss(views).total, {"pulls": views[0].mean((1, 2, 3))})


@broken("loss_is_finite_in_fp32", "gradients that are not finite: encoder", also=EVERYTHING)
class RootOfNothing(Sound):
    """The distance of an embedding from itself is 0, where a root has no finite slope."""

    def logits(self, q: Tensor, k: Tensor) -> Tensor:
        everyone = torch.cat([q, k])
        apart = (everyone[:, None] - everyone).pow(2).sum(2).sqrt()
        return super().logits(q, k) + apart.mean()


@broken("loss_is_finite_in_bf16", "the loss is bfloat16: compute it in float32 .full_precision.")
class LossOfHalfPrecision(Sound):
    """The loss has the low precision of the network's outputs."""

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        losses = super().loss(views)
        return Losses(losses.total.to(self.head(self.encoder(views[0])).dtype), losses.logs)


@broken("loss_is_finite_in_bf16", "the loss is (nan|inf)")
class VarianceOfHalfPrecision(Sound):
    """E[x²] - E[x]² of large numbers is inaccurate in half precision, and can be negative."""

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        z = self.head(self.encoder(views[0])) + 50
        variance = z.pow(2).mean(0) - z.mean(0).pow(2)
        return Losses(super().loss(views).total - (variance + 1e-3).log().mean().float())


UNSTEADY = "the loss of the same views is .* update queues, teachers and centres in after_step"


@broken("loss_changes_nothing_that_it_reads", UNSTEADY)
class KeysPushedBeforeNegativesAreRead(Queued):
    """The positive key is among the negatives."""

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        self.queue.push(self.keys(views[1]))
        return super().loss(views)

    def push(self, keys: Tensor) -> None:
        pass


@broken("loss_changes_nothing_that_it_reads", UNSTEADY)
class KeysPushedAfterNegativesAreRead(Queued):
    """Batches accumulated into one step see each other's keys."""

    def logits(self, q: Tensor, k: Tensor) -> Tensor:
        return super().logits(q, k.clone())  # or else torch itself would say so

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        losses = super().loss(views)
        self.queue.push(self.new)
        return losses

    def push(self, keys: Tensor) -> None:
        pass


@broken("loss_changes_nothing_that_it_reads", UNSTEADY)
class CentreMovedInLoss(Centred):
    """The centre moves with each batch rather than with each step."""

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        losses = super().loss(views)
        super().after_step(0.0)
        return losses

    def after_step(self, progress: float) -> None:
        pass


@broken(
    "loss_changes_nothing_that_it_reads",
    "draw random numbers in views",
    also=["resumed_training_is_the_same"],
)
class DiceInLoss(Sound):
    """A weight is drawn in the loss."""

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        return Losses(super().loss(views).total * (1 + random.random()))


@broken("loss_changes_nothing_that_it_reads", "loss changes the views that it is given")
class LossThatClampsItsViews(Sound):
    """An in-place operation changes the views."""

    def embed(self, x: Tensor) -> Tensor:
        return super().embed(x.clamp_(-1, 1))


@broken(
    "every_parameter_is_trained",
    "no gradient reaches spare.bias, spare.weight: use them in the loss, or freeze .*frozen_copy",
)
class HeadThatIsNeverUsed(Sound):
    """A head is never used."""

    def __init__(self, encoder: Encoder, options: Any, spec: Any) -> None:
        super().__init__(encoder, options, spec)
        self.spare = nn.Linear(16, 16)


@broken("every_parameter_is_trained", "no gradient reaches head.bias, head.weight")
class HeadWithoutGradient(Sound):
    """The head is used without gradient."""

    def embed(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            embedded = super().embed(x)
        return F.normalize(full_precision(self.encoder(x))[:, :16], dim=1) + embedded


@broken(
    "every_parameter_is_trained",
    "the loss trains 2 tensors that are not parameters of the task: .*nn.ModuleList",
    also=["resumed_training_is_the_same"],
)
class HeadInAList(Sound):
    """A plain list hides a head from the optimiser, from devices and from checkpoints."""

    def __init__(self, encoder: Encoder, options: Any, spec: Any) -> None:
        super().__init__(encoder, options, spec)
        self.heads = [nn.Linear(16, 16)]

    def embed(self, x: Tensor) -> Tensor:
        return F.normalize(full_precision(self.heads[0](super().embed(x))), dim=1)


@broken("every_parameter_is_trained", "no gradient reaches encoder.*: use them in the loss")
class EncoderDetached(Sound):
    """Only the head is trained, because features are detached."""

    def embed(self, x: Tensor) -> Tensor:
        return F.normalize(full_precision(self.head(self.encoder(x).detach())), dim=1)


@broken(
    "every_parameter_is_trained",
    "the encoder itself is not trained",
    also=["teachers_move_after_a_step_alone"],
)
class EncoderFrozen(Sound):
    """Only the head is trained, because the encoder is frozen."""

    def __init__(self, encoder: Encoder, options: Any, spec: Any) -> None:
        super().__init__(encoder.requires_grad_(False), options, spec)


@broken(
    "every_parameter_is_trained",
    "no gradient reaches teacher.* or freeze a teacher .ssl_zoo.nn.frozen_copy.",
    also=["teachers_move_after_a_step_alone"],
)
class TeacherNeverFrozen(Queued):
    """The optimiser applies weight decay to a teacher."""

    def __init__(self, encoder: Encoder, options: Any, spec: Any) -> None:
        super().__init__(encoder, options, spec)
        self.teacher = copy.deepcopy(self.teacher).requires_grad_()


@broken(
    "teachers_move_after_a_step_alone",
    "after_step changes trained parameters: teacher.*is it a teacher that was never .*frozen_copy",
)
class TeacherWithGradient(TeacherNeverFrozen):
    """The teacher is trained, and then overwritten by the student."""

    def keys(self, x: Tensor) -> Tensor:
        return F.normalize(full_precision(self.teacher(x)), dim=1)

    def push(self, keys: Tensor) -> None:
        super().push(keys.detach())


@broken(
    "teachers_move_after_a_step_alone",
    "frozen copy of a trained parameter never changes: teacher.*; update it in after_step",
)
class TeacherThatNeverMoves(Queued):
    """The teacher is never updated."""

    def after_step(self, progress: float) -> None:
        self.push(self.new)


@broken("teachers_move_after_a_step_alone", "moves before after_step: teacher")
class TeacherMovedInLoss(Queued):
    """The teacher moves with each batch rather than with each step."""

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        ema_update(self.teacher, nn.Sequential(self.encoder, self.head), 0.9)
        return super().loss(views)


@broken("teachers_move_after_a_step_alone", "frozen parameters get a gradient: teacher")
class TeacherThawedInLoss(Queued):
    """The loss makes a frozen teacher trainable again."""

    def keys(self, x: Tensor) -> Tensor:
        self.teacher.requires_grad_()
        return F.normalize(full_precision(self.teacher(x)), dim=1)

    def push(self, keys: Tensor) -> None:
        super().push(keys.detach())


@broken("passes_are_as_declared", r"encoders see a sample 2 times, not 3 \(passes\)")
class MorePassesThanItMakes(Sound):
    """It says that there are three, and makes one for each view."""

    passes = 3


@broken("small_batch_overfits", r"the loss of the same 8 samples only goes from \d.* in 30 steps")
class LearnsNothing(Sound):
    """The factor on the learning rate is 0."""

    def lr_scale(self, parameter: str) -> float:
        return 0.0


@broken("representations_do_not_collapse", "the features have collapsed .*: spread 0.000 of 1")
class OneDirection(Sound):
    """All features lie on one line."""

    def features(self, x: Tensor) -> Tensor:
        return self.encoder(x).mean(1, keepdim=True).expand(-1, 8)


@broken("representations_do_not_collapse", r"effective rank 2\.0 of 32 samples|effective rank 1\.\d")
class TwoDimensions(Sound):
    """All features lie in a plane."""

    def features(self, x: Tensor) -> Tensor:
        return self.encoder(x)[:, :2]
