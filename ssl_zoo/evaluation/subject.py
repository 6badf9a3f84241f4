"""The subject of an evaluation: a representation of the samples of a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ssl_zoo import distributed, tree
from ssl_zoo.data import DataSet, Split
from ssl_zoo.data.holdout import related_samples
from ssl_zoo.evaluation import shares
from ssl_zoo.evaluation.features import Features, extract, extract_share
from ssl_zoo.runtime.device import Device
from ssl_zoo.task import Encoder, Task
from ssl_zoo.tree import Tree

T = TypeVar("T")

MAX_TRAINED_ON = 50_000
"""The number of samples of the train split that stand for a test split where there is none."""

Embed = Callable[[Tree], Tensor]
"""Maps a batch to features [B, D]."""


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Temporarily switch `module` to eval mode, without gradients."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in modes:
            part.training = training


class Subject:
    """A representation of a data set's samples, computed once for all protocols.

    Several processes evaluate the same subject. Each computes the features of its share of the samples.
    A protocol need not know: whatever it asks for is of all samples, gathered in each process, and it
    computes as in a single process. One that is made for shares, such as kNN, takes `share` and
    `test_share` in place of `features` and `test`, so that no process holds the features of all samples,
    and communicates within `together`.

    Attributes:
        name: the name of its row in tables.
        data: the samples.
        device: where and how to compute.
        encoder: the network, for protocols that need more than features; None for the raw input.
        module: the module that must be in eval mode while features are computed.
        seed: the seed of a protocol's randomness.
    """

    def __init__(
        self,
        name: str,
        data: DataSet,
        device: Device,
        embed: Embed | None,
        *,
        module: nn.Module | None = None,
        encoder: Encoder | None = None,
        seed: int = 0,
        limits: tuple[int, int] | None = None,
    ) -> None:
        """Describe the subject; nothing is computed yet.

        Args:
            name: the name of its row in tables.
            data: the samples.
            device: where and how to compute.
            embed: the representation; None for the raw input.
            module: the module that must be in eval mode for it.
            encoder: the network.
            seed: the seed of a protocol's randomness.
            limits: the maximum number of samples of the bank and of the test split; None for all.
        """
        self.name, self.data, self.device = name, data, device
        self.encoder, self.seed = encoder, seed
        self.module = module if module is not None else nn.Identity()
        self._embed, self._limits = embed, limits
        self._once: dict[Callable[[Subject], Any], Any] = {}
        self._shared = distributed.world_size() > 1

    @classmethod
    def of_task(
        cls, task: Task, data: DataSet, device: Device, name: str = "", *, seed: int = 0,
        limits: tuple[int, int] | None = None,
    ) -> Subject:  # fmt: skip
        """Return the subject of a task's features, with the task's weights as they are."""
        name = name or type(task).name
        return cls(
            name,
            data,
            device,
            task.features,
            module=task,
            encoder=task.exported_encoder,
            seed=seed,
            limits=limits,
        )

    @classmethod
    def of_encoder(
        cls, encoder: Encoder, data: DataSet, device: Device, name: str, *, seed: int = 0
    ) -> Subject:
        """Return the subject of a network's pooled features."""
        return cls(name, data, device, encoder, module=encoder, encoder=encoder, seed=seed)

    @classmethod
    def raw(cls, data: DataSet, device: Device) -> Subject | None:
        """Return the subject of the raw input; None where it makes no sense as features."""
        name = data.spec.raw_name
        return None if name is None else cls(name, data, device, None)

    def embed(self, x: Tree) -> Tensor:
        """Return the features [B, D] of a prepared batch [B, ...]."""
        assert self._embed is not None
        with self.device.autocast():
            return self._embed(self.device.to_format(x))

    def represent(self, batch: Tree) -> Tensor:
        """Return the features [B, D] of a raw batch [B, ...] on the device."""
        spec = self.data.spec
        return spec.raw(batch) if self._embed is None else self.embed(spec.prepare(batch))

    def extract(
        self, split: Split, numbers: Tensor | None = None, function: Embed | None = None
    ) -> Tensor:
        """Return features of samples of any split, computed in evaluation mode.

        Several processes compute them by shares, and each has all of them.

        Args:
            split: the samples.
            numbers: the indices [N] of the samples; None for all.
            function: maps a raw batch [B, ...] on the device to features [B, ...]; None for `represent`.

        Returns:
            [N, ...] float32, on the device.

        Raises:
            SslZooError: a feature is not a finite number, or one sample does not fit into memory.
        """
        numbers = torch.arange(len(split)) if numbers is None else numbers
        with self.together():
            return shares.gather(self._extract_share(split, numbers, function or self.represent))

    def together(self) -> AbstractContextManager[None]:
        """Temporarily communicate with the other processes that evaluate this subject, if there are any.

        All of them must reach it. Elsewhere a protocol computes as in a single process.
        """
        return distributed.together() if self._shared else distributed.alone()

    @cached_property
    def test(self) -> Tensor:
        """The features [M, D] of the test split; of some of the train split where there is none."""
        with self.together():
            return shares.gather(self.test_share)

    @cached_property
    def test_share(self) -> Tensor:
        """The features [m, D] of this process's share of the samples of `test`."""
        split = self.data.train if self.data.test is None else self.data.test
        return self._share_of(split, 1)

    @cached_property
    def test_labels(self) -> Tensor:
        """The labels [M] of the samples of `test`, int64 on the device.

        Raises:
            UserError: there are none, or only one class.
        """
        assert self.data.test is not None
        _, labels = self.labels()
        return labels[self._numbers(self.data.test, 1)].to(self.device.device)

    @cached_property
    def test_groups(self) -> Tensor | None:
        """The group of each sample of `test`, int64 [M] in 0..G-1 on the CPU; None if each is alone."""
        data = self.data
        if data.test is None:
            return None
        return related_samples(data.test, data.bank, data.facts.group_rule, self._numbers(data.test, 1))

    @cached_property
    def features(self) -> Features:
        """The features of the bank and of the test split, with their labels.

        Raises:
            UserError: there are no labels to learn from, or only one class.
            SslZooError: a feature is not a finite number.
        """
        share = self.share
        with self.together():
            bank, bank_labels = shares.gather(share.bank), shares.gather(share.bank_labels)
        return Features(bank, bank_labels, self.test, self.test_labels, share.classes)

    @cached_property
    def share(self) -> Features:
        """The shares of `features` that this process computes; those of all follow each other.

        Raises:
            UserError: there are no labels to learn from, or only one class.
            SslZooError: a feature is not a finite number.
        """
        bank_labels, test_labels = self.labels()
        classes = int(max(bank_labels.max(), test_labels.max())) + 1
        bank, test = self._share_of(self.data.bank, 0), self.test_share
        bank_labels = bank_labels[self._numbers(self.data.bank, 0)]
        with self.together():
            (first, _), (second, _) = shares.place(bank), shares.place(test)
        return Features(
            bank=bank,
            bank_labels=bank_labels[first : first + len(bank)].to(bank.device),
            test=test,
            test_labels=self.test_labels[second : second + len(test)],
            classes=classes,
        )

    def two_views(self, limit: int) -> tuple[Tensor, Tensor]:
        """Return the features [M, D] of two slightly different views of samples of the test split.

        The changes follow from the seed, sample after sample, so that each of several processes computes
        all of them. For the raw input, the features are the raw views.

        Args:
            limit: the maximum of M; the samples are spread over the split.

        Raises:
            SslZooError: a feature is not a finite number.
        """
        split = self.data.train if self.data.test is None else self.data.test
        spec, generator = self.data.spec, torch.Generator().manual_seed(self.seed)
        represent = spec.raw if self._embed is None else self.embed

        def pair(batch: Tree) -> Tensor:
            return torch.stack([represent(spec.vary(batch, generator)) for _ in range(2)], 1)

        numbers, device = split.sample(limit), self.device
        with (
            self.together(),
            distributed.failing_together(),
            distributed.alone(),
            evaluating(self.module),
        ):
            pairs = extract(pair, split, device.device, numbers, device.eval_batch)  # [M, 2, D]
        x, y = pairs.unbind(1)
        return x, y

    def once(self, compute: Callable[[Subject], T]) -> T:
        """Return what a function computes of this subject; it is computed once."""
        if compute not in self._once:
            self._once[compute] = compute(self)
        value: T = self._once[compute]
        return value

    def labels(self) -> tuple[Tensor, Tensor]:
        """Return the labels [N] of the bank and [M] of the test split, on the CPU.

        Raises:
            UserError: there are none, or only one class.
        """
        data = self.data
        data.check_labels()
        assert data.test is not None
        assert data.bank.labels is not None
        assert data.test.labels is not None
        return data.bank.labels, data.test.labels

    def _numbers(self, split: Split, part: int) -> Tensor:
        limit = len(split) if self._limits is None else self._limits[part]
        if part == 1 and self.data.test is None:
            limit = min(limit, MAX_TRAINED_ON)
        return split.sample(limit)

    def _share_of(self, split: Split, part: int) -> Tensor:
        with self.together():
            return self._extract_share(split, self._numbers(split, part), self.represent)

    def _extract_share(self, split: Split, numbers: Tensor, function: Embed) -> Tensor:
        device = self.device
        with evaluating(self.module):
            return extract_share(function, split, device.device, numbers, device.eval_batch)


def dry_run(task: Task, data: DataSet, device: Device) -> None:
    """Compute features of a whole batch, to find errors and lack of memory before training.

    The batch is as large as those of the evaluation, but has only two different samples, as reading
    them may take long. The raw input's features are computed too.
    """
    train, batches = data.train, device.eval_batch
    size = min(batches.size(train.nbytes / max(1, len(train))), len(train))
    batch = tree.repeat_rows(train.batch(torch.arange(min(2, len(train)))), size)

    def compute(part: Tree) -> Tensor:
        part = tree.move(part, device.device)
        if data.spec.raw_name is not None:
            data.spec.raw(part)
        return subject.represent(part)

    subject = Subject.of_task(task, data, device)
    with evaluating(task):
        batches.apply(compute, batch)
