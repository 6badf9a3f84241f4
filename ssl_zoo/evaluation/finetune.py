"""Fine-tuning: training the whole network on the labels, from the learnt weights."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
import torch.nn.functional as F
from timm.optim import create_optimizer_v2, param_groups_layer_decay, param_groups_weight_decay
from timm.scheduler import CosineLRScheduler
from torch import Tensor, nn

from ssl_zoo.backbones.timm_encoder import TimmEncoder
from ssl_zoo.errors import SslZooError
from ssl_zoo.evaluation.accuracy import accuracies, balanced_metric
from ssl_zoo.evaluation.features import extract
from ssl_zoo.evaluation.protocol import Metric, Protocol, Scores
from ssl_zoo.evaluation.subject import Subject, evaluating
from ssl_zoo.task import Encoder

EPOCHS = 10
MIN_STEPS = 200
BATCH = 128
LR = 1e-3
WEIGHT_DECAY = 0.05
LAYER_DECAY = 0.75
SMOOTHING = 0.1


class Classifier(nn.Module):
    """A network with a linear classifier on its pooled features."""

    def __init__(self, encoder: Encoder, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits [B, classes] of a prepared batch [B, ...]."""
        logits: Tensor = self.head(self.encoder(x).float())
        return logits


def finetune(subject: Subject) -> Classifier:
    """Train a copy of the network on the labels of the bank.

    AdamW with a peak rate of 1e-3 at batches of 128 after a tenth of the steps, then half a cosine
    to 0; weight decay 0.05, label smoothing 0.1; 10 epochs, but at least 200 steps; images augmented
    by `Spec.vary`. In transformers the rate is multiplied by 0.75 per layer towards the input
    (Clark et al. 2020, arXiv:2003.10555, as in BEiT and MAE).
    """
    assert subject.encoder is not None
    labels, _ = subject.labels()
    with torch.random.fork_rng(subject.device.forked):
        torch.manual_seed(subject.seed)
        model = Classifier(copy.deepcopy(subject.encoder), int(labels.max()) + 1)
        model = subject.device.place(model).train().requires_grad_(True)
        _train(model, labels, subject)
    return model


def _train(model: Classifier, labels: Tensor, subject: Subject) -> None:
    data, device = subject.data, subject.device
    optimizer = create_optimizer_v2(groups(model), "adamw", lr=LR, weight_decay=WEIGHT_DECAY)
    scaler = torch.amp.GradScaler(device.device.type, enabled=device.precision == "fp16")
    samples = len(data.bank)
    batch_size = min(BATCH, samples)
    per_epoch = samples // batch_size
    steps = per_epoch * max(EPOCHS, math.ceil(MIN_STEPS / per_epoch))
    warmup = steps // 10
    schedule = CosineLRScheduler(
        optimizer,
        t_initial=steps - warmup,
        warmup_t=warmup,
        warmup_lr_init=LR / warmup,  # a step at rate 0 would be wasted
        warmup_prefix=True,
        t_in_epochs=False,
    )
    generator = torch.Generator().manual_seed(subject.seed)
    for step in range(steps):
        if step % per_epoch == 0:
            order = torch.randperm(samples, generator=generator)
        schedule.step_update(step)
        numbers = order[step % per_epoch * batch_size :][:batch_size]
        x = data.spec.vary(data.bank.batch(numbers).to(device.device), generator)
        with device.autocast():
            logits = model(device.to_format(x))
        target = labels[numbers].to(device.device)
        loss = F.cross_entropy(logits.float(), target, label_smoothing=SMOOTHING)
        if step % per_epoch == 0 and not loss.isfinite():
            raise SslZooError(f"fine-tuning {subject.name}: the loss is {float(loss)} at step {step}")
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()


def groups(model: Classifier) -> list[dict[str, object]]:
    """Return parameter groups with rate factors; vectors and timm's exceptions are not decayed."""
    encoder = model.encoder
    network: Any = encoder.model if isinstance(encoder, TimmEncoder) else encoder
    transformer = hasattr(network, "blocks") and hasattr(network, "no_weight_decay")
    undecayed: Any = getattr(network, "no_weight_decay", tuple)()
    if transformer:
        groups = param_groups_layer_decay(network, WEIGHT_DECAY, undecayed, layer_decay=LAYER_DECAY)
    else:
        groups = param_groups_weight_decay(network, WEIGHT_DECAY, no_weight_decay_list=undecayed)
    return [*groups, *param_groups_weight_decay(model.head, WEIGHT_DECAY)]


def measure(subject: Subject) -> Scores:
    """Return the accuracy of the fine-tuned network on the test split, in percent."""
    if subject.encoder is None:
        return {}
    model = finetune(subject)
    data, device = subject.data, subject.device
    _, labels = subject.labels()
    assert data.test is not None

    def classify(batch: Tensor) -> Tensor:
        x = data.spec.prepare(batch)
        with device.autocast():
            predicted: Tensor = model(device.to_format(x)).argmax(1, keepdim=True)
        return predicted

    with evaluating(model):
        predicted = extract(classify, data.test, device.device, batch_size=device.eval_batch)
    return accuracies("finetune", predicted[:, 0].cpu(), labels)


FINETUNE = Protocol(
    measure,
    {
        "finetune": Metric(
            "fine-tuned %", "the whole network trained on the train split's labels: AdamW, rate 1e-3 at "
            "batches of 128 with warm-up and cosine, weight decay 0.05, label smoothing 0.1, 10 epochs "
            "(at least 200 steps), layer decay 0.75 in transformers; accuracy on the test split",
        ),
        **balanced_metric("finetune", "fine-tuned"),
    },
)  # fmt: skip
