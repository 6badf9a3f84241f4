"""Notices, at the start of a run, of what it leaves out or takes as a default."""

from __future__ import annotations

from collections.abc import Mapping

from ssl_zoo import distributed
from ssl_zoo.config.effects import NO_EFFECT, report_ineffective
from ssl_zoo.config.schema import BackboneConfig, DataConfig
from ssl_zoo.evaluation import ONLINE_EVAL_SIZES
from ssl_zoo.notices import Notice
from ssl_zoo.text import quantity
from ssl_zoo.training.trainer import Trainer

_LAST_BATCH = Notice(
    "last-batch",
    "Samples that do not fill a last step are left out of an epoch, others in each.",
    "--batch-size",
)
_MIRROR = Notice(
    "mirror",
    "In a folder, or a data set of timm or Hugging Face, a mirrored image is assumed to mean the same.",
    "task.flip=0",
)
_MOVES = Notice(
    "moves",
    "Images of which it is known that small rotations, shifts, scalings and shears keep their meaning, "
    "and crops do not, are moved so in place of crops.",
    "task.moves=false",
)
_EPOCHS = Notice("epochs", "Without a budget a run has 100 epochs.", "--epochs, --samples, --minutes")
_BACKBONE = Notice(
    "default-backbone",
    "The default backbone is small, for a quick look on two CPU cores.",
    "--backbone resnet50, or any other timm model",
)
_LEFT_OUT = Notice(
    "left-out-protocols",
    "Protocols that the data does not support are left out, such as those that need labels of two "
    "classes, a test split or images.",
    "class sub-folders, or eval with labelled --data",
)
_ONLINE = Notice(
    "online-sample",
    "kNN during training uses up to {:,} samples as neighbours and up to {:,} to score.".format(
        *ONLINE_EVAL_SIZES
    ),
    "the evaluation at the end uses all",
)
_ACCUMULATED = Notice(
    "accumulated",
    "Accumulated batches are one step, but losses and norms that compare samples see a batch at a time.",
    "a larger --batch-size, with train.cached_gradients to save memory",
)
_OVERFLOW = Notice(
    "fp16-overflow",
    "In fp16, a step whose gradient overflows changes nothing, and the loss is scaled less.",
    "--precision bf16 or fp32",
)
_BATCH_NORM = Notice(
    "sync-batchnorm",
    "In several processes, batch norms compute their statistics over all of them.",
    "train.sync_batchnorm=false",
)


def report_choices(trainer: Trainer, left_out: Mapping[str, str]) -> None:
    """Give a notice for each thing that a run leaves out or takes as a default.

    Args:
        trainer: the trainer, before the first step.
        left_out: the protocols that the data does not support, and why.
    """
    config, data, budget = trainer.config, trainer.data, trainer.budget
    noun = data.spec.noun
    if rest := len(data.train) - budget.steps_per_epoch * budget.step_samples:
        _LAST_BATCH(
            f"left out of an epoch: {rest:,} of {quantity(len(data.train), noun)}, others each time, as "
            f"a step takes {budget.step_samples:,}"
        )
    if data.facts.mirror_assumed and getattr(trainer.task.options, "flip", 0) is None:
        _MIRROR(f"{data.name}: a mirrored image is assumed to mean the same; task.flip=0 if it does not")
    if getattr(data.spec, "moves", None) and getattr(trainer.task.options, "moves", False) is None:
        _MOVES(
            f"{data.name}: small moves in place of crops, as these change the meaning; task.moves=false"
        )
    if "epochs" not in config.train.model_fields_set and config.train.epochs is not None:
        _EPOCHS(f"the budget is {config.train.epochs:g} epochs, the default; --epochs changes it")
    default = BackboneConfig()
    if config.backbone == default and config.data.source != DataConfig().source:
        _BACKBONE(
            f"{default.name}, the default backbone, is small; --backbone resnet50 is a usual choice"
        )
    for reason in dict.fromkeys(left_out.values()):
        names = sorted(name for name, r in left_out.items() if r == reason)
        _LEFT_OUT(f"{data.name} {reason}: without {', '.join(names)}")
    sizes = (len(data.bank), 0 if data.test is None else len(data.test))
    evaluates = data.labelled and (config.train.knn_points or config.train.knn_every)
    if evaluates and any(size > limit for size, limit in zip(sizes, ONLINE_EVAL_SIZES, strict=True)):
        bank, test = map(min, sizes, ONLINE_EVAL_SIZES)
        _ONLINE(
            f"kNN during training: {bank:,} neighbours, {quantity(test, noun)} to score; at the end, all"
        )
    if config.train.accumulate > 1:
        batch = config.train.batch_size
        _ACCUMULATED(
            f"{config.train.accumulate} batches are accumulated: what compares samples, as contrastive "
            f"losses and batch norms do, sees {quantity(batch, noun)}, not {budget.step_samples:,}"
        )
    if trainer.scaler.is_enabled():
        _OVERFLOW("fp16: steps whose gradient overflows change nothing")
    if distributed.world_size() > 1 and config.train.sync_batchnorm:
        _BATCH_NORM("batch norms compute their statistics over all processes")
    if config.train.layer_decay is not None and len(trainer.task.encoder.parameter_layers()) == 1:
        NO_EFFECT(f"train.layer_decay has no effect: {config.backbone.name} tells of one layer only")
    report_ineffective(
        config, distributed.world_size(), data.no_accuracy if trainer.best.figure is None else ""
    )
