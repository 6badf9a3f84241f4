"""Tasks that are broken, each beside the check that says so."""

from __future__ import annotations

import copy
import inspect
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_zoo import Encoder, Field, Losses, Rng, Task, UserError, distributed
from ssl_zoo.nn import ema_update, full_precision
from ssl_zoo.testing.suite import PROMISES
from ssl_zoo.training import Trainer
from tests.core.sound_tasks import Centred, Queued, Sound

BROKEN: list[Any] = []
EVERYTHING = frozenset(PROMISES)


def broken(check: str, says: str, *, also: Iterable[str] = ()) -> Callable[[type[Task]], type[Task]]:
    """Note that a task fails a check.

    Args:
        check: the only one of the quick checks to fail.
        says: what its message must match.
        also: further checks that may fail, where the fault cannot but spoil them too.
    """

    def noted(cls: type[Task]) -> type[Task]:
        BROKEN.append(pytest.param(cls, check, says, set(also), id=cls.__name__))
        return cls

    return noted


TRAINER = ("resumed_training_is_the_same", "labels_are_never_touched")
"""What takes the recipe for training."""
BOTH = ("loss_is_finite_in_bf16",)
"""What fails in float32 does in bf16."""


# What it says of itself.


@broken("describes_itself", "no docstring, which `ssl-zoo tasks` shows")
class WithoutDocstring(Sound):
    pass


@broken("describes_itself", "WithoutName has no `name`")
class WithoutName(Sound):
    """Its name is empty."""

    name = ""


@broken("describes_itself", "OptionNamedName has an option `name`, which is reserved")
class OptionNamedName(Sound):
    """An option would take the place of the task's name in a config."""

    class Options(Sound.Options):
        name: str = Field("blue", description="colour")


@broken("options_round_trip", r"option scales: \(0.5, 1.0\) is \[0.5, 1.0\] once written and read")
class DefaultThatYamlDoesNotKnow(Sound):
    """A tuple comes back as a list, because nothing says that it is to be a tuple."""

    class Options(Sound.Options):
        scales: Any = Field((0.5, 1.0), description="of crops")


@broken(
    "options_round_trip",
    "option momentum: its own default is refused: .*less than or equal to 1",
)
class DefaultOutOfRange(Sound):
    """Pydantic does not look at a default before it comes back from a file."""

    class Options(Sound.Options):
        momentum: float = Field(1.5, le=1, description="of the teacher")


@broken("options_refuse_nonsense", "an option that it does not have is accepted")
class OptionsThatTakeAnything(Sound):
    """A misspelt option would pass unseen."""

    class Options(Sound.Options, extra="allow"):
        pass


@broken("options_refuse_nonsense", "option weight accepts nan")
class OptionThatTakesNan(Sound):
    """A weight of nan ends the run at its first step."""

    class Options(Sound.Options, allow_inf_nan=True):
        weight: float = Field(1.0, description="factor on the loss")


@broken("recipe_is_valid", "train.optimizer: timm has no optimiser 'larz'.*'lars'", also=TRAINER)
class RecipeOfAnUnknownOptimiser(Sound):
    """A slip of the pen."""

    recipe = {"train": {"optimizer": "larz"}}


@broken("recipe_is_valid", "the recipe's train.learning_rate: there is no such setting", also=TRAINER)
class RecipeOfAnUnknownKey(Sound):
    """The setting is called lr."""

    recipe = {"train": {"learning_rate": 0.1}}


@broken("recipe_is_valid", "the recipe has no section 'optimizer': data, backbone, train")
class RecipeWithoutSections(Sound):
    """What belongs to the train section stands outside of it."""

    recipe = {"optimizer": "lars"}


@broken(
    "describes_itself",
    "RecipeThatIsNoMapping has a `recipe` that is not a mapping: 'lars'",
    also=EVERYTHING,
)
class RecipeThatIsNoMapping(Sound):
    """The name of an optimiser is no recipe."""

    recipe: Any = "lars"


@broken(
    "recipe_is_valid",
    "the recipe's backbone.nmae: there is no such setting. Did you mean 'name'",
)
class RecipeOfNoBackbone(Sound):
    """The setting is called name."""

    recipe = {"backbone": {"nmae": "resnet18"}}


# What it makes of raw data.


@broken("views_are_tensors_of_steady_shape", r"view \d has no steady shape: .*\[6, 3, \d+, 16\] of 6")
class ViewsOfAnySize(Sound):
    """A crop is left at the size that was drawn."""

    def view(self, batch: Tensor, rng: Rng) -> Tensor:
        return super().view(batch, rng)[:, :, rng.order(8)[0] :]


@broken("views_are_tensors_of_steady_shape", "views changes the batch that it is given")
class ViewsThatBlackenTheBatch(Sound):
    """The margin of the very images that a later view is made of is blackened in place."""

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        batch[..., 0] = 0
        return super().views(batch, rng)


@broken("views_are_tensors_of_steady_shape", "views must return a tuple of tensors")
class ViewsInAList(Sound):
    """A list is no tuple."""

    def views(self, batch: Tensor, rng: Rng) -> Any:
        return list(super().views(batch, rng))


@broken("views_are_tensors_of_steady_shape", "view 3 is no tensor, but int", also=EVERYTHING)
class ViewThatIsANumber(Sound):
    """A number between tensors cannot be put on a device."""

    def views(self, batch: Tensor, rng: Rng) -> Any:
        return *super().views(batch, rng), 3


@broken("views_are_tensors_of_steady_shape", "view 1 requires a gradient")
class ViewsThatAreLearnt(Sound):
    """Views are made outside of what the trainer differentiates."""

    def __init__(self, encoder: Encoder, options: Any, spec: Any) -> None:
        super().__init__(encoder, options, spec)
        self.contrast = nn.Parameter(torch.ones(1, 1, 1, 1))

    def view(self, batch: Tensor, rng: Rng) -> Tensor:
        return super().view(batch, rng) * self.contrast


@broken("views_are_tensors_of_steady_shape", "2 views at one time, 3 at another", also=EVERYTHING)
class ViewsOfAnyNumber(Sound):
    """How many there are is drawn."""

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        return super().views(batch, rng) + (self.spec.prepare(batch),) * (rng.order(2)[0])

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        return super().loss(views[:2])


@broken("views_obey_the_seed", "view 1 is another one each time: draw all that is random from `rng`")
class ViewsOfTheGlobalGenerator(Sound):
    """What torch draws by itself is lost to the seed, and the same in all processes."""

    def factors(self, n: int, rng: Rng) -> Tensor:
        return 0.5 + torch.rand(n)


@broken("views_obey_the_seed", "view 1 is another one each time", also=["resumed_training_is_the_same"])
class ViewsOfPythonsGenerator(Sound):
    """Python's own generator is no better."""

    def factors(self, n: int, rng: Rng) -> Tensor:
        return torch.tensor([0.5 + random.random() for _ in range(n)])


@broken("views_obey_the_seed", "views draws from torch's global generator")
class ViewsThatSeedTheGlobalGenerator(Sound):
    """The views are the same each time, but so is all that anybody else draws thereafter."""

    def factors(self, n: int, rng: Rng) -> Tensor:
        torch.manual_seed(rng.seed())
        return 0.5 + torch.rand(n)


@broken("views_vary", "another seed gives the same views")
class ViewsOfOneSeed(Sound):
    """A generator that is made anew gives the same factors at each step."""

    def factors(self, n: int, rng: Rng) -> Tensor:
        return 0.5 + torch.rand(n, generator=torch.Generator().manual_seed(0))


@broken("views_vary", "all samples of a batch are changed in the same way: draw parameters for each")
class ViewsOfOneFactor(Sound):
    """One factor is drawn for all images of a batch, as torchvision's transforms do."""

    def factors(self, n: int, rng: Rng) -> Tensor:
        return rng.uniform(1, low=0.5, high=1.5).expand(n)


@broken(
    "views_take_any_image",
    "^21×13 images of 3 channels, network at 17: RuntimeError: The size of tensor a",
)
class SizeHardCoded(Sound):
    """A mask is made for the network's size in the first experiment."""

    def view(self, batch: Tensor, rng: Rng) -> Tensor:
        x = super().view(batch, rng)
        return x * torch.ones(16, 16) if self.spec.size < 20 else x


@broken(
    "views_take_any_image",
    "^8×8 images of 1 channels, network at 16: RuntimeError",
)
class ChannelsHardCoded(Sound):
    """A weight for each of three channels makes three of one."""

    def view(self, batch: Tensor, rng: Rng) -> Tensor:
        return super().view(batch, rng) * torch.tensor([0.9, 1.0, 1.1]).view(3, 1, 1)


@broken(
    "views_take_any_image",
    "^8×8 images of 1 channels, network at 16: task: it takes images in colours",
)
class GrayRefused(Sound):
    """It takes colours alone."""

    def __init__(self, encoder: Encoder, options: Any, spec: Any) -> None:
        super().__init__(encoder, options, spec)
        if spec.channels != 3:
            raise UserError("task: it takes images in colours")


@broken("pictures_are_images", r"column 'view 1' must be \[B, C, h, w\], not float32 \[3, 16, 16\]")
class GalleryOfOneChannel(Sound):
    """A column without a dimension of channels."""

    def gallery(self, views: tuple[Tensor, ...]) -> dict[str, Tensor]:
        return {name: column[:, 0] for name, column in super().gallery(views).items()}


@broken("pictures_are_images", r"column 'first' must be \[B, C, h, w\], not float32 \[1, 3, 16, 16\]")
class GalleryOfOneRow(Sound):
    """A column of the first sample alone."""

    def gallery(self, views: tuple[Tensor, ...]) -> dict[str, Tensor]:
        return {"first": views[0][:1]}


@broken("pictures_are_images", "column 'painted' must be normalised, not torch.uint8")
class ReconstructionsOfBytes(Sound):
    """A column is meant for the screen already."""

    def reconstructions(self, views: tuple[Tensor, ...]) -> dict[str, Tensor]:
        return {"painted": (255 * self.spec.denormalise(views[0])).byte()}


@broken("pictures_are_images", "gallery gives no column, so there is nothing to look at")
class GalleryOfNothing(Sound):
    """No column at all."""

    def gallery(self, views: tuple[Tensor, ...]) -> dict[str, Tensor]:
        return {}


@broken("throughput", "RuntimeError: .*256")
class BatchesUpToAHundred(Sound):
    """Factors are drawn for a largest batch."""

    def factors(self, n: int, rng: Rng) -> Tensor:
        return super().factors(100, rng)[:n]


# What it teaches its network.


@broken("loss_is_finite_in_fp32", r"the loss must be a scalar, not \[1\]", also=BOTH)
class LossInAVector(Sound):
    """One number is not a scalar."""

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        return Losses(super().loss(views).total.view(1))


@broken("loss_is_finite_in_fp32", "the loss is float64: compute it in float32", also=BOTH)
class LossOfDoubles(Sound):
    """Half of the devices have no doubles."""

    def embed(self, x: Tensor) -> Tensor:
        return super().embed(x).double()


@broken("loss_is_finite_in_fp32", "what is logged as pull keeps the gradient: detach it", also=BOTH)
class LogWithAGradient(Sound):
    """What is logged keeps the graph of each step in memory."""

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        losses = super().loss(views)
        return Losses(losses.total, {"pull": 2 * losses.total})


@broken("loss_is_finite_in_fp32", r"what is logged as pulls must be a scalar, not \[\d\]", also=BOTH)
class LogOfEachSample(Sound):
    """What is logged is a line's number, not a vector."""

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
    """The loss is as rough as the network's outputs."""

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        losses = super().loss(views)
        return Losses(losses.total.to(self.head(self.encoder(views[0])).dtype), losses.logs)


@broken("loss_is_finite_in_bf16", "the loss is (nan|inf)")
class VarianceOfHalfPrecision(Sound):
    """E[x²] - E[x]² of large numbers is anything in half precision, below 0 too."""

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        z = self.head(self.encoder(views[0])) + 50
        variance = z.pow(2).mean(0) - z.mean(0).pow(2)
        return Losses(super().loss(views).total - (variance + 1e-3).log().mean().float())


UNSTEADY = "the loss of the same views is .* must move in after_step"


@broken("loss_changes_nothing_that_it_reads", UNSTEADY)
class KeysPushedBeforeNegativesAreRead(Queued):
    """The positive stands among the negatives."""

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        self.queue.push(self.keys(views[1]))
        return super().loss(views)

    def push(self, keys: Tensor) -> None:
        pass


@broken("loss_changes_nothing_that_it_reads", UNSTEADY)
class KeysPushedAfterNegativesAreRead(Queued):
    """Batches that are accumulated into one step see each other's keys."""

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
    "what is random be drawn in views",
    also=["resumed_training_is_the_same"],
)
class DiceInLoss(Sound):
    """A weight is drawn in the loss."""

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        return Losses(super().loss(views).total * (1 + random.random()))


@broken("loss_changes_nothing_that_it_reads", "loss changes the views that it is given")
class LossThatClampsItsViews(Sound):
    """An operation in place saves memory at the wrong place."""

    def embed(self, x: Tensor) -> Tensor:
        return super().embed(x.clamp_(-1, 1))


@broken(
    "every_parameter_is_trained",
    "no gradient reaches spare.bias, spare.weight: use them in the loss, or freeze .*frozen_copy",
)
class HeadThatIsNeverUsed(Sound):
    """A head takes part in nothing."""

    def __init__(self, encoder: Encoder, options: Any, spec: Any) -> None:
        super().__init__(encoder, options, spec)
        self.spare = nn.Linear(16, 16)


@broken("every_parameter_is_trained", "no gradient reaches head.bias, head.weight")
class HeadWithoutGradient(Sound):
    """The head is used where nothing is learnt."""

    def embed(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            embedded = super().embed(x)
        return F.normalize(full_precision(self.encoder(x))[:, :16], dim=1) + embedded


@broken(
    "every_parameter_is_trained",
    "the loss trains what is no parameter of the task, 2 tensors: .*nn.ModuleList",
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
    """The head learns alone."""

    def embed(self, x: Tensor) -> Tensor:
        return F.normalize(full_precision(self.head(self.encoder(x).detach())), dim=1)


@broken(
    "every_parameter_is_trained",
    "the encoder itself is not trained",
    also=["teachers_move_after_a_step_alone"],
)
class EncoderFrozen(Sound):
    """The head learns alone, and on purpose."""

    def __init__(self, encoder: Encoder, options: Any, spec: Any) -> None:
        super().__init__(encoder.requires_grad_(False), options, spec)


@broken(
    "every_parameter_is_trained",
    "no gradient reaches teacher.* or freeze a teacher .ssl_zoo.nn.frozen_copy.",
    also=["teachers_move_after_a_step_alone"],
)
class TeacherNeverFrozen(Queued):
    """The optimiser decays a teacher that it should not know of."""

    def __init__(self, encoder: Encoder, options: Any, spec: Any) -> None:
        super().__init__(encoder, options, spec)
        self.teacher = copy.deepcopy(self.teacher).requires_grad_()


@broken(
    "teachers_move_after_a_step_alone",
    "after_step moves what is trained: teacher.*is it a teacher that was never frozen .*frozen_copy",
)
class TeacherWithGradient(TeacherNeverFrozen):
    """The teacher is trained too, and then overwritten by its pupil."""

    def keys(self, x: Tensor) -> Tensor:
        return F.normalize(full_precision(self.teacher(x)), dim=1)

    def push(self, keys: Tensor) -> None:
        super().push(keys.detach())


@broken(
    "teachers_move_after_a_step_alone",
    "frozen copy of what is trained never moves: teacher.*; move it in after_step",
)
class TeacherThatNeverMoves(Queued):
    """The teacher is forgotten."""

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
    """A network is frozen for one of two losses, and then thawed, though it was frozen before."""

    def keys(self, x: Tensor) -> Tensor:
        self.teacher.requires_grad_()
        return F.normalize(full_precision(self.teacher(x)), dim=1)

    def push(self, keys: Tensor) -> None:
        super().push(keys.detach())


@broken("small_batch_overfits", r"the loss of the same 8 samples only goes from \d.* in 30 steps")
class LearnsNothing(Sound):
    """The factor on the rate is 0."""

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


# What it keeps from step to step.


@broken("features_are_pure", "features changes encoder.*running_mean.*; it must change no state")
class FeaturesThatUpdateBatchNorm(Sound):
    """Features are computed as if in training."""

    def features(self, x: Tensor) -> Tensor:
        self.encoder.train()
        features = self.encoder(x)
        self.encoder.eval()
        return features


@broken("features_are_pure", "features switches parts of the task between training and evaluation")
class FeaturesThatSwitchModes(Sound):
    """Training would go on in the mode of evaluation, or the other way round."""

    def features(self, x: Tensor) -> Tensor:
        self.head.train()
        return super().features(x)


@broken("features_are_pure", "features of the same samples differ from call to call")
class FeaturesWithDropout(Sound):
    """Dropout that does not know of evaluation."""

    def features(self, x: Tensor) -> Tensor:
        return F.dropout(super().features(x), 0.5)


@broken("features_are_pure", "features draws random numbers")
class FeaturesThatSeed(Sound):
    """Noise that is the same each time, at the cost of all that others draw."""

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
    """Features are maps."""

    def features(self, x: Tensor) -> Tensor:
        return self.encoder.feature_map(x)


@broken("features_are_pure", "two different samples have the same features")
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
    """The last keys of a batch find no rows where the batch does not divide the queue."""

    def push(self, keys: Tensor) -> None:
        start = int(self.queue.place)
        self.queue.features[start : start + len(keys)] = keys
        self.queue.place.fill_((start + len(keys)) % len(self.queue.features))


@broken(
    "batches_of_any_size_follow_each_other",
    "queue.features: a step usually replaces 9 rows, but step 5 only 4: does the queue wrap around",
)
class QueueThatDrops(Queued):
    """The last keys of a batch are left out where the batch does not divide the queue."""

    def push(self, keys: Tensor) -> None:
        start = int(self.queue.place)
        end = min(start + len(keys), len(self.queue.features))
        self.queue.features[start:end] = keys[: end - start]
        self.queue.place.fill_(end % len(self.queue.features))


@broken("batches_of_any_size_follow_each_other", "a batch of 2: the loss is nan")
class MeanOfFurtherSamples(Sound):
    """Of two samples there are no further ones."""

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        losses = super().loss(views)
        return Losses(losses.total + self.embed(views[0])[2:].mean(), losses.logs)


def labels_on_the_stack() -> Iterator[Any]:
    """The labels of any trainer that is at work, which are nobody's business."""
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
    """It looks for the trainer's labels, and does not mind if there are none."""

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        for labels in labels_on_the_stack():
            try:
                batch = batch + labels[: len(batch)].view(-1, 1, 1, 1)
            except Exception:
                continue
        return super().views(batch, rng)


# What it makes of several processes.


@broken("two_processes_are_one", "the loss is .* in one process, .* in two: gather what couples samples")
class NegativesNeverGathered(Sound):
    """Each process has negatives of its own alone."""

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        q, k = map(self.embed, views)
        return Losses(F.cross_entropy(self.logits(q, k), torch.arange(len(q))))


@broken(
    "two_processes_are_one", "the gradient of .* is not that of one process .*: gather with gradient"
)
class GatheredWithoutGradient(Sound):
    """The embeddings of others are there, but learn nothing from being there."""

    def gathered(self, k: Tensor) -> Tensor:
        if distributed.world_size() == 1:
            return k
        parts = [torch.empty_like(k) for _ in range(distributed.world_size())]
        dist.all_gather(parts, k.detach())
        parts[distributed.rank()] = k
        return torch.cat(parts)


@broken("two_processes_are_one", "queue.features differs between processes after a step: gather what")
class QueueOfEachProcess(Queued):
    """Each process queues its own keys."""

    def push(self, keys: Tensor) -> None:
        self.queue.push(self.new)


@broken(
    "two_processes_are_one",
    "one of two processes failed: RuntimeError: the second process has no data",
)
class SecondProcessThatFails(Sound):
    """One process fails while the other waits for it."""

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        if distributed.rank() == 1:
            raise RuntimeError("the second process has no data")
        return super().loss(views)
