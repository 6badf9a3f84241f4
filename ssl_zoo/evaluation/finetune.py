"""Fine-tuning: training the whole network on all labels or on few, from the learnt weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from fnmatch import fnmatch

import torch
import torch.nn.functional as F
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch import Tensor, nn

from ssl_zoo import tree
from ssl_zoo.backbones.gradient_cache import frozen_statistics
from ssl_zoo.errors import SslZooError
from ssl_zoo.evaluation.accuracy import accuracies, balanced_metric
from ssl_zoo.evaluation.features import extract
from ssl_zoo.evaluation.lowshot import FEW, draw
from ssl_zoo.evaluation.protocol import Metric, Protocol, Scores
from ssl_zoo.evaluation.subject import Subject, evaluating
from ssl_zoo.nn import undecayed_names
from ssl_zoo.notices import Notice
from ssl_zoo.runtime.eval_batch import EvalBatch, is_out_of_memory
from ssl_zoo.task import Encoder
from ssl_zoo.tree import Tree

_IN_PARTS = Notice(
    "fine-tuning-parts",
    "Fine-tuning passes its batches through the network in equal parts if they do not fit into memory; "
    "the gradient is that of the whole batch, but batch norms see a part at a time.",
    "--device, or a machine with more memory",
)

EPOCHS = 10
MIN_STEPS = 200
BATCH = 128
WEIGHT_DECAY = 0.05
LAYER_DECAY = 0.75
SMOOTHING = 0.1


class Classifier(nn.Module):
    """A network with a linear classifier on its pooled features."""

    def __init__(self, encoder: Encoder, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.width, classes)

    def forward(self, x: Tree) -> Tensor:
        """Return the logits [B, classes] of a prepared batch [B, ...]."""
        logits: Tensor = self.head(self.encoder(x).float())
        return logits


def finetune(subject: Subject, known: Tensor | None = None) -> Classifier:
    """Train a copy of the network on the labels of the bank.

    AdamW with the encoder's peak rate (1e-3 for images) at batches of 128 after a tenth of the steps,
    then half a cosine to 0; weight decay 0.05, label smoothing 0.1; 10 epochs, but at least 200 steps;
    samples augmented by `Spec.vary`. From layer to layer of the encoder (only transformers have several)
    the rate is multiplied by 0.75 towards the input (Clark et al. 2020, arXiv:2003.10555, as in BEiT
    and MAE).

    Args:
        subject: the network and the samples.
        known: the indices of the samples whose labels are known, int64 [m]; None for all.
    """
    assert subject.encoder is not None
    labels, _ = subject.labels()
    known = torch.arange(len(labels)) if known is None else known
    with torch.random.fork_rng(subject.device.forked):
        torch.manual_seed(subject.seed)
        model = Classifier(copy.deepcopy(subject.encoder), int(labels.max()) + 1)
        model = subject.device.place(model).train().requires_grad_(True)
        _train(model, labels, known, subject)
    return model


def _train(model: Classifier, labels: Tensor, known: Tensor, subject: Subject) -> None:
    data, device, lr = subject.data, subject.device, model.encoder.finetune_lr
    optimizer = create_optimizer_v2(groups(model), "adamw", lr=lr, weight_decay=WEIGHT_DECAY)
    scaler = torch.amp.GradScaler(device.device.type, enabled=device.precision == "fp16")
    samples = len(known)
    batch_size = min(BATCH, samples)
    per_epoch = samples // batch_size
    steps = per_epoch * max(EPOCHS, math.ceil(MIN_STEPS / per_epoch))
    warmup = steps // 10
    schedule = CosineLRScheduler(
        optimizer,
        t_initial=steps - warmup,
        warmup_t=warmup,
        warmup_lr_init=lr / warmup,  # a step at rate 0 would be wasted
        warmup_prefix=True,
        t_in_epochs=False,
    )
    generator = torch.Generator().manual_seed(subject.seed)
    memory = EvalBatch(limit=device.eval_batch.limit)

    def loss_of(x: Tree, target: Tensor) -> Tensor:
        with device.autocast():
            logits = model(device.to_format(x))
        return F.cross_entropy(logits.float(), target, label_smoothing=SMOOTHING)

    def differentiate(loss: Tensor) -> None:
        with frozen_statistics(model):  # of a network that recomputes its activations
            scaler.scale(loss).backward()

    for step in range(steps):
        if step % per_epoch == 0:
            order = known[torch.randperm(samples, generator=generator)]
        schedule.step_update(step)
        numbers = order[step % per_epoch * batch_size :][:batch_size]
        x = data.spec.vary(tree.move(data.bank.batch(numbers), device.device), generator)
        target = labels[numbers].to(device.device)
        loss = _backward(loss_of, differentiate, x, target, optimizer, memory, first=step == 0)
        if step % per_epoch == 0 and not loss.isfinite():
            raise SslZooError(f"fine-tuning {subject.name}: the loss is {float(loss)} at step {step}")
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()


def _backward(
    loss_of: Callable[[Tree, Tensor], Tensor],
    differentiate: Callable[[Tensor], None],
    x: Tree,
    target: Tensor,
    optimizer: torch.optim.Optimizer,
    memory: EvalBatch,
    first: bool,
) -> Tensor:
    """Compute the gradient of the mean loss of a batch; where memory runs out, in equal parts.

    Args:
        loss_of: maps samples [n, ...] and their labels [n] to the mean loss.
        differentiate: adds the gradients of a loss.
        x: the samples [B, ...].
        target: their labels [B].
        optimizer: the optimiser, whose gradients are 0.
        memory: the number of samples that fit into memory, which is lowered where it runs out.
        first: whether it is the first batch, with which a notice is given of parts.

    Returns:
        The mean loss of the batch.

    Raises:
        SslZooError: there is not enough memory for one sample.
    """
    batch = len(target)
    changed = first and memory.limit is not None and memory.limit < batch

    def add(part: Tree, labels: Tensor) -> Tensor:
        loss = loss_of(part, labels) * (len(labels) / batch)
        differentiate(loss)
        return loss.detach()

    while True:
        number = 1 if memory.limit is None else math.ceil(batch / memory.limit)
        size = math.ceil(batch / number)
        try:
            parts = map(add, tree.split(x, size), target.split(size))
            total = sum(parts, torch.zeros((), device=target.device))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if size == 1:
                raise SslZooError(
                    "fine-tuning is out of memory with 1 sample at a time; leave finetune out of "
                    "--protocol, use --device cpu, or a machine with more memory"
                ) from error
        else:
            if changed:
                _IN_PARTS(
                    f"fine-tuning passes a batch of {batch} through the network {size} samples at a "
                    "time, as more do not fit into memory; only batch norms see the difference"
                )
            return total
        # Outside of the handler the frames that hold memory are gone.
        changed = True
        optimizer.zero_grad()
        memory.halve(size)


def groups(model: Classifier) -> list[dict[str, object]]:
    """Return parameter groups with rate factors; vectors and timm's exceptions are not decayed."""
    undecayed = undecayed_names(model)
    names = {parameter: name for name, parameter in model.named_parameters()}
    layers = [*model.encoder.parameter_layers(), list(model.head.parameters())]
    last = len(layers) - 2  # whose rate is the head's
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for i, layer in enumerate(layers):
        for parameter in layer:
            name = names[parameter]
            excluded = name.endswith(".bias") or any(fnmatch(name, pattern) for pattern in undecayed)
            decayed = parameter.ndim > 1 and not excluded
            key = LAYER_DECAY ** max(0, last - i), WEIGHT_DECAY if decayed else 0.0
            groups.setdefault(key, []).append(parameter)
    return [{"params": p, "lr_scale": s, "weight_decay": d} for (s, d), p in groups.items()]


def measure(subject: Subject) -> Scores:
    """Return the accuracy on the test split of the network fine-tuned on all labels, in percent."""
    if subject.encoder is None:
        return {}
    predicted, labels = classify_test(finetune(subject), subject)
    return accuracies("finetune", predicted, labels)


def measure_few(subject: Subject) -> Scores:
    """Return the accuracy of the network fine-tuned on 1 % of the labels, in percent.

    Which labels are known depends on the subject's seed alone; each class has at least one.
    """
    if subject.encoder is None:
        return {}
    known = draw(subject.labels()[0], FEW["lowshot_1pct"][1], subject.seed)
    predicted, labels = classify_test(finetune(subject, known), subject)
    return accuracies("finetune_1pct", predicted, labels)


def classify_test(model: Classifier, subject: Subject) -> tuple[Tensor, Tensor]:
    """Return the predicted and the true classes of the test split, int64 [N] each."""
    data, device = subject.data, subject.device
    _, labels = subject.labels()
    assert data.test is not None

    def classify(batch: Tree) -> Tensor:
        x = data.spec.prepare(batch)
        with device.autocast():
            predicted: Tensor = model(device.to_format(x)).argmax(1, keepdim=True)
        return predicted

    with evaluating(model):
        predicted = extract(classify, data.test, device.device, batch_size=device.eval_batch)
    return predicted[:, 0].cpu(), labels


_SETTINGS = (
    "AdamW, rate 1e-3 at batches of 128 with warm-up and cosine, weight decay 0.05, label smoothing "
    "0.1, 10 epochs (at least 200 steps), layer decay 0.75 in transformers; accuracy on the test split"
)

FINETUNE = Protocol(
    measure,
    {
        "finetune": Metric(
            "fine-tuned %", f"the whole network trained on the train split's labels: {_SETTINGS}"
        ),
        **balanced_metric("finetune", "fine-tuned"),
    },
)

FINETUNE_FEW = Protocol(
    measure_few,
    {
        "finetune_1pct": Metric(
            "fine-tuned, 1 % labels",
            f"the whole network trained on 1 % of the train split's labels: {_SETTINGS}",
        ),
        **balanced_metric("finetune_1pct", "fine-tuned, 1 % labels,"),
    },
)
