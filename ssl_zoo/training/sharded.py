"""A task whose parameters, gradients and optimiser states are sharded over the processes (FSDP2).

Each process keeps a slice of every tensor. A block of the network is gathered when it computes, and
dropped again; its gradients are averaged and sliced as soon as the block's backward pass is done. The
optimiser's step and a teacher's momentum update work on slices. Source: ZeRO, arXiv:1910.02054, stage 3;
PyTorch FSDP, arXiv:2304.11277.
"""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ssl_zoo import distributed
from ssl_zoo.config.errors import SettingError
from ssl_zoo.config.schema import RunConfig
from ssl_zoo.runs.shards import Like, StatePath
from ssl_zoo.runtime.device import Device
from ssl_zoo.task import Losses, Task
from ssl_zoo.text import error_line
from ssl_zoo.training.parallel import Parallel
from ssl_zoo.tree import Tree

try:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
except ImportError as error:
    raise SettingError(
        "train.parallel", f"fsdp needs a newer torch than {torch.__version__}; update it, or choose ddp"
    ) from error

OPTIMIZERS = (
    "sgd", "momentum", "adam", "adamw", "nadamw", "radam", "lion", "rmsprop", "lars", "lamb", "muon",
)  # fmt: skip
"""Optimisers of which a test shows that a step on shards is that on whole tensors."""

INSTEAD = "choose --set train.parallel=ddp"


class Shards(Parallel):
    """A task of which every process keeps a slice (`fully_shard`).

    The units that are gathered one at a time are the members of lists of alike modules, such as a
    transformer's blocks and the stages of a convolutional network, also of teachers and decoders. All
    else, as embeddings, norms and heads, is gathered for the whole step.

    Args:
        task: as for `Parallel`; its parameters become slices, in place.
        average: as for `Parallel`; it becomes slices too.
        config: the configuration.
        device: as for `Parallel`.

    Raises:
        SettingError: a setting, the optimiser or the task cannot be combined with shards.
    """

    def __init__(self, task: Task, average: nn.Module | None, config: RunConfig, device: Device) -> None:
        _check(task, config, device)
        super().__init__(task, average, device)
        self._optimizer = config.train.optimizer
        self._device = device.device
        self._meta_copy = _meta_copy(task)
        group = distributed.gradient_group() or dist.group.WORLD
        assert group is not None
        mesh = DeviceMesh.from_group(group, device.device.type)
        self._root = _TupleTask(task)
        _shard(self._root, mesh)
        register_fsdp_forward_method(self._root, "before_training")
        if average is not None:
            _shard(average, mesh)
        self.model = self._losses

    def _losses(self, views: tuple[Tree, ...]) -> Losses:
        total, logs, weight = self._root(views)
        return Losses(total, logs, weight)

    def before_training(self, batches: Iterator[tuple[Tree, ...]]) -> None:
        """Call the task's `before_training`, with its parameters gathered as in a step."""
        root: Any = self._root
        with self.refusals():
            root.before_training(batches)
        root.reshard()

    @contextmanager
    def refusals(self) -> Iterator[None]:
        """As in `Parallel`: operations that have no rule for sharded tensors raise errors of torch.

        Raises:
            SettingError: there was one; nothing else was computed in its place.
        """
        try:
            yield
        except (RuntimeError, NotImplementedError) as error:
            if "DTensor" in str(error) or "sharding strategy" in str(error):
                raise SettingError(
                    "train.parallel",
                    f"{type(self.task).name} with {self._optimizer} cannot be sharded "
                    f"({error_line(error)}); {INSTEAD}",
                ) from error
            raise

    def evaluated(self) -> AbstractContextManager[Task]:
        """As in `Parallel`, as a copy with gathered weights, which is dropped again."""
        return self._gathered()

    @contextmanager
    def _gathered(self) -> Iterator[Task]:
        task = copy.deepcopy(self._meta_copy).to_empty(device=self._device)
        task.progress = self.task.progress
        _fill(task, self.task)
        if self.average is not None:
            _fill(task.exported_encoder, self.average)
        yield task.train(self.task.training)

    def like(self, optimizer: torch.optim.Optimizer) -> Like | None:
        """As in `Parallel`; an optimiser's state of a parameter's shape is sharded as the parameter."""
        networks: dict[str, Mapping[str, Tensor]] = {"task": self.task.state_dict()}
        if self.average is not None:
            networks["ema"] = self.average.state_dict()
        parameters = [p for group in optimizer.param_groups for p in group["params"]]

        def like(path: StatePath) -> Tensor | None:
            found = None
            if path[:2] == ("optimizer", "state") and len(path) == 4:
                found = parameters[path[2]]
            elif path[0] in networks and len(path) == 2:
                found = networks[path[0]].get(path[1])
            return found if found is not None and distributed.is_sharded(found) else None

        return like


class _TupleTask(nn.Module):
    """The root of the sharded modules: a task that returns a tuple, in which torch looks for tensors.

    Args:
        task: the task.
    """

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task

    def forward(self, views: tuple[Tree, ...]) -> tuple[Tensor, Mapping[str, Tensor], Tensor | None]:
        """Return the parts of the losses of the views."""
        losses: Losses = self.task(views)
        return losses.total, losses.logs, losses.weight

    def before_training(self, batches: Iterator[tuple[Tree, ...]]) -> None:
        """Call the task's."""
        self.task.before_training(batches)


def units(root: nn.Module) -> list[nn.Module]:
    """Return the outermost modules that stand in a list of at least two of one class.

    Single layers are none, nor are modules that share a parameter with one outside.
    """
    holders = Counter(p for module in root.modules() for p in module.parameters(recurse=False))
    found: list[nn.Module] = []

    def visit(module: nn.Module) -> None:
        children = list(module.children())
        alike = isinstance(module, nn.ModuleList | nn.Sequential) and len({*map(type, children)}) == 1
        for child in children:
            if alike and len(children) > 1 and _is_unit(child, holders):
                found.append(child)
            else:
                visit(child)

    visit(root)
    return list(dict.fromkeys(found))


def _is_unit(module: nn.Module, holders: Counter[nn.Parameter]) -> bool:
    """Return whether a module has inner modules, and all parameters for itself."""
    inside = Counter(p for part in module.modules() for p in part.parameters(recurse=False))
    layered = any(True for _ in module.children()) and not isinstance(module, nn.ModuleList)
    return layered and bool(inside) and all(holders[p] == number for p, number in inside.items())


def _shard(root: nn.Module, mesh: DeviceMesh) -> None:
    """Slice the parameters of a network over the processes, as they are in the first one."""
    for tensor in (*root.parameters(), *root.buffers()):
        tensor.data = tensor.data.contiguous()  # as torch's slices are
        dist.broadcast(tensor.data, 0)
    for unit in units(root):
        fully_shard(unit, mesh=mesh)
    fully_shard(root, mesh=mesh)


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the parameters and buffers by name; shared ones by each of their names."""
    return itertools.chain(
        module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False)
    )


def _meta_copy(task: Task) -> Task:
    """Return a copy of a task whose tensors have shapes, but no memory."""
    memo: dict[int, Any] = {}
    for _, tensor in _tensors(task):
        empty = torch.empty_like(tensor, device="meta")
        if isinstance(tensor, nn.Parameter):
            empty = nn.Parameter(empty, tensor.requires_grad)
        memo[id(tensor)] = empty
    return copy.deepcopy(task, memo)


@torch.no_grad()
def _fill(whole: nn.Module, sharded: nn.Module) -> None:
    """Copy the tensors of a network whose parameters are sharded to one whose are not."""
    source = dict(_tensors(sharded))
    for name, tensor in _tensors(whole):
        tensor.copy_(distributed.whole(source[name]))


def _check(task: Task, config: RunConfig, device: Device) -> None:
    """Raise if a setting, the optimiser or the task cannot be combined with shards.

    Raises:
        SettingError: one cannot.
    """
    if device.compile:
        raise SettingError(
            "train.compile", f"cannot be combined with train.parallel=fsdp; leave it out, or {INSTEAD}"
        )
    if config.train.cached_gradients:
        raise SettingError(
            "train.cached_gradients",
            f"cannot be combined with train.parallel=fsdp; set train.accumulate instead, or {INSTEAD}",
        )
    if config.train.optimizer.lower() not in OPTIMIZERS:
        raise SettingError(
            "train.optimizer",
            f"{config.train.optimizer} was not tried on shards; choose one of {', '.join(OPTIMIZERS)}, "
            f"or {INSTEAD}",
        )
    if scalars := [name for name, p in task.named_parameters() if p.ndim == 0]:
        raise SettingError(
            "train.parallel", f"{scalars[0]} is a single number, which cannot be sharded; {INSTEAD}"
        )
