"""Accounting for the weights that a network takes: every name of either side is loaded or reported."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from timm.models import adapt_input_conv
from torch import Tensor, nn

from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo.errors import UserError
from ssl_zoo.text import printable

log = logging.getLogger("ssl_zoo.backbones")

State = dict[str, Tensor]

_HEAD = re.compile(
    r"(?:fc|heads?|classifier|last_linear|logits|projector|projection|projection_head|predictor|"
    r"prediction_head|prototypes|queue|queue_ptr|mask_token|contrast|contrast_head)\d*$|decoder|[Aa]ux"
)
"""The first part of names that belong to a head beside the network (a norm in it does not)."""

_SHOWN = 3
"""The maximum number of names in a notice."""
_LISTED = 20
"""The maximum number of modules in an error, whose names are listed."""


@dataclass
class Fit:
    """The weights of a file as a network takes them.

    Attributes:
        state: the tensors to load, by the network's names.
        missing: names of the network that are not in the file.
        unexpected: names under the prefix that the network lacks.
        misshapen: names of tensors that have another shape in the network, with both shapes.
        mistyped: names of tensors that are no floating-point numbers, with their type.
        elsewhere: names of the network that are in the file, but not under the prefix.
        heads: names under the prefix that belong to a head.
        converted: the tensors that were converted, in words.
    """

    state: State = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    misshapen: dict[str, str] = field(default_factory=dict)
    mistyped: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    converted: list[str] = field(default_factory=list)

    @property
    def errors(self) -> int:
        """The number of names that are not accounted for."""
        shapes = len(self.misshapen) + len(self.mistyped)
        return len(self.missing) + len(self.elsewhere) + len(self.unexpected) + shapes

    def __str__(self) -> str:
        """Return in words which names are not accounted for."""
        kinds = {
            "missing in the file": self.missing,
            "in the file, but not under the prefix": self.elsewhere,
            "unknown to the network": self.unexpected,
            "of another shape": list(self.misshapen.values()),
            "not floating-point numbers, as quantised weights are": self.mistyped,
        }
        return "; ".join(f"{len(n)} {kind}: {_listed(n)}" for kind, n in kinds.items() if n)


def account(tensors: State, model: nn.Module) -> Fit:
    """Return how tensors fit a network; those of the first layer are converted to its channels."""
    own, kernel, fit = model.state_dict(), input_kernel(model), Fit()
    for name, tensor in tensors.items():
        if name not in own:
            (fit.heads if _is_head(name, model) else fit.unexpected).append(name)
            continue
        fitted = _to_channels(tensor, own[name]) if name == kernel else tensor
        if fitted.shape != own[name].shape:
            fit.misshapen[name] = f"{name} {shape_of(tensor)}, not {shape_of(own[name])}"
            continue
        if not _fits_type(tensor, own[name]):
            fit.mistyped.append(_typed(name, tensor))
            continue
        fit.state[name] = fitted
        if fitted.shape != tensor.shape:
            fit.converted.append(f"{name} from {tensor.shape[1]} to {fitted.shape[1]} channels")
    # Old versions of torch did not count batches, which matters without momentum only.
    fit.missing = [n for n in own if n not in tensors and not n.endswith("num_batches_tracked")]
    return fit


def _fits_type(tensor: Tensor, own: Tensor) -> bool:
    """Return whether a tensor can be a network's own: codes of quantised weights are no weights."""
    return tensor.is_floating_point() or not own.is_floating_point()


def _typed(name: str, tensor: Tensor) -> str:
    return f"{name} {str(tensor.dtype).removeprefix('torch.')}"


def _is_head(name: str, model: nn.Module) -> bool:
    """Return whether a name belongs to a classifier or another head, not to the network."""
    known = getattr(model, "pretrained_cfg", {}).get("classifier") or ()
    classifiers = (known,) if isinstance(known, str) else tuple(known)
    first, _, rest = name.partition(".")
    head = _HEAD.match(first) is not None or first in {c.partition(".")[0] for c in classifiers}
    return (head and not rest.startswith("norm")) or name.rpartition(".")[0] in classifiers


def input_kernel(model: nn.Module) -> str:
    """Return the name of the first convolution's kernel; "" if there is none."""
    return next((name for name, tensor in model.state_dict().items() if tensor.ndim == 4), "")


def _to_channels(kernel: Tensor, like: Tensor) -> Tensor:
    """Return a kernel [D, C, k, k] for the channels of another one, unchanged where there is no way.

    One channel is spread over all evenly, so that it sees the mean of the colours; otherwise as timm.
    """
    channels = like.shape[1] if like.ndim == 4 else 0
    if kernel.ndim != 4 or not channels or kernel.shape[1] == channels:
        return kernel
    if kernel.shape[1] == 1:
        return (kernel / channels).expand(-1, channels, -1, -1).contiguous()
    if channels == 1 or kernel.shape[1] == 3:
        converted: Tensor = adapt_input_conv(channels, kernel)
        return converted
    return kernel


def shape_of(tensor: Tensor) -> str:
    """Return a tensor's shape for messages."""
    return str(list(tensor.shape))


def first_few(names: list[str]) -> str:
    """Return the first few names, and the number of all where there are more."""
    more = f", … ({len(names)} in all)" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _listed(names: list[str]) -> str:
    """Return names, those of one module together: ``bn1.{weight,bias}``."""
    groups: dict[str, list[str]] = {}
    for name in names:
        # What is described, as by shapes, stands alone.
        module, _, last = name.rpartition(".") if " " not in name else (name, "", "")
        groups.setdefault(module, []).append(last)
    texts = [
        f"{module}.{{{','.join(last)}}}" if len(last) > 1 else ".".join(filter(None, (module, *last)))
        for module, last in groups.items()
    ]
    left = sum(len(last) for last in list(groups.values())[_LISTED:])
    return ", ".join(texts[:_LISTED]) + (f" and {left} more" if left else "")


def report(config: BackboneConfig, message: str) -> None:
    """Raise that weights are not accounted for, or warn where the configuration allows it.

    Raises:
        UserError: `backbone.strict` is set.
    """
    if config.strict:
        raise UserError(
            printable(
                f"{message}; give the file's network, or load what fits: --set backbone.strict=false"
            )
        )
    _warn(printable(f"{message}; weights that are missing or of another shape or type stay random"))


@lru_cache(maxsize=100)
def _warn(message: str) -> None:
    """Warn once; a run builds its network several times."""
    log.warning("%s", message)


@contextmanager
def recorded_loading() -> Iterator[list[tuple[nn.Module, Fit]]]:
    """Record each module whose state is loaded meanwhile, with the names that are not accounted for.

    timm loads pretrained weights non-strictly where the classifier is left out, and returns nothing.
    Its own messages about names are left out: `check_loaded` says what they say.
    """
    loaded: list[tuple[nn.Module, Fit]] = []
    patched: Any = nn.Module
    original, builder = patched.load_state_dict, logging.getLogger("timm.models._builder")

    def load_state_dict(module: nn.Module, state: State, *args: Any, **options: Any) -> Any:
        own = module.state_dict()
        pairs = [(name, tensor) for name, tensor in state.items() if name in own]
        types = [_typed(name, tensor) for name, tensor in pairs if not _fits_type(tensor, own[name])]
        result = original(module, state, *args, **options)
        fit = Fit(missing=result.missing_keys, unexpected=result.unexpected_keys, mistyped=types)
        loaded.append((module, fit))
        return result

    patched.load_state_dict = load_state_dict
    builder.addFilter(_says_more)
    try:
        yield loaded
    finally:
        patched.load_state_dict = original
        builder.removeFilter(_says_more)


def _says_more(record: logging.LogRecord) -> bool:
    """Return whether a record of timm's builder is not about names of weights."""
    return not record.getMessage().startswith(("Missing keys", "Unexpected keys"))


def check_loaded(config: BackboneConfig, model: nn.Module, loaded: list[tuple[nn.Module, Fit]]) -> None:
    """Check that timm's pretrained weights cover the model, and hold only heads beside it.

    Args:
        config: the configuration of the model.
        model: the model.
        loaded: the record of `recorded_loading`; empty where timm converts another format itself.

    Raises:
        UserError: a name is not accounted for.
    """
    for module, fit in loaded:
        fit.unexpected = [name for name in fit.unexpected if not _is_head(name, model)]
        if module is model and fit.errors:
            report(
                config,
                f"backbone.pretrained: the weights do not fit {config.name}: {fit} "
                "(--from FILE also finds weights under a prefix)",
            )
