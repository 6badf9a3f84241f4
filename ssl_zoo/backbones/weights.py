"""Weights from a file, of this tool or another: every tensor is loaded, or said not to be.

Tools wrap the same network differently: nested (``{"state_dict": {…}}``), with prefixes (``module.``,
``encoder_q.``), or by number (lightly's ``backbone.0.weight``). There is no list of tools here: nested
entries are joined to their names by dots, and the prefix is the one under which most of the network's
own names stand.
"""

from __future__ import annotations

import argparse
import logging
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ssl_zoo.backbones.accounting import (
    Fit,
    State,
    account,
    first_few,
    input_kernel,
    report,
    shape_of,
)
from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo.config.weights import network_settings, weights_file
from ssl_zoo.errors import UserError
from ssl_zoo.notices import Notice
from ssl_zoo.text import escape_control_chars, one_line, printable

log = logging.getLogger("ssl_zoo.backbones")

FOUND = Notice(
    "weights-prefix",
    "The file of weights holds the network under a prefix, which is found by the network's own names.",
    "backbone.weights_prefix names another prefix in the file",
)
DROPPED = Notice(
    "weights-dropped",
    "A file of weights holds more than the network: heads, second encoders, the optimiser's state.",
    "nothing to change: the network has no place for them",
)
CONVERTED = Notice(
    "weights-converted",
    "Weights are converted to other channels, another image or patch size, or the small stem.",
    "give data as the weights were trained on; for the stem, backbone.stem",
)

_PREFERRED = [
    re.compile(rf"(?:^|[._])(?:{names})(?:[._]|$)")
    for names in ("ema|teacher", "online|online_encoder|online_network", "target_encoder")
]
_AVOIDED = re.compile(r"momentum|key|target|decoder|encoder_k\b|(?:^|[._])k(?:[._]|$)")
"""Of several encoders in a file, the one that each method evaluates: DINO's teacher, MoCo's query,
BYOL's online encoder; the target encoder where there is no online one, as in I-JEPA."""


def _scalar_reader(module: str) -> Callable[[np.dtype[Any], bytes], Any]:
    """Return a function that reads a number of numpy, under the name that files have for it."""

    def scalar(dtype: np.dtype[Any], data: bytes) -> Any:
        return np.frombuffer(data, dtype)[0]

    scalar.__module__, scalar.__qualname__ = module, "scalar"
    return scalar


_PLAIN: list[Any] = [
    argparse.Namespace,  # the options of DINO and MAE
    # Scores beside the weights are often numbers of numpy, whose versions name them differently.
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "?")),
    *map(_scalar_reader, ("numpy.core.multiarray", "numpy._core.multiarray")),
]
"""Types that a file may hold beside tensors and plain values; none of them runs code of the file."""

_MIN_SHARE = 0.1
"""A file with a smaller share of the network's names is another network's."""


def _join(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of nested mappings, with names joined by dots."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _join(item, f"{name}.{key}" if name else str(key))


def read_weights(path: str | Path) -> State:
    """Read the tensors of a file of safetensors or of `torch.save`; no code in it is run.

    Raises:
        UserError: there is no such file, it cannot be read, or it holds no tensors.
    """
    file = weights_file(path)
    try:
        if file.suffix == ".safetensors":
            content: Any = load_file(file)
        else:
            with torch.serialization.safe_globals(_PLAIN):
                content = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"backbone.weights: {file} does not exist") from error
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"backbone.weights: {file} cannot be read: {one_line(str(error), 200)}"
        ) from error
    except Exception as error:  # damaged files raise errors of every kind
        text = str(error).rpartition("WeightsUnpickler error: ")[2]
        reason = one_line(escape_control_chars(text.partition(" was not an allowed global")[0]), 160)
        raise UserError(
            f"backbone.weights: {file} cannot be read without running code ({reason}); if you trust it, "
            "save its state dict alone with torch.save"
        ) from error
    tensors = dict(_join(content))
    if not tensors:
        raise UserError(f"backbone.weights: {file} holds no tensors")
    return tensors


class Weights:
    """The weights that a configuration names, to be fitted to its network.

    Attributes:
        file: the file.
        tensors: its tensors, by their names in the file.
        others: other prefixes under which as many of the network's names stand.
    """

    def __init__(self, config: BackboneConfig) -> None:
        """Read the file.

        Raises:
            UserError: it cannot be read.
        """
        assert config.weights is not None
        self.config = config
        self.file = weights_file(config.weights)
        self.tensors = read_weights(config.weights)
        self.others: list[str] = []

    @property
    def foreign(self) -> bool:
        """True if another tool wrote the file."""
        return network_settings(str(self.file)) is None

    def has_other_stem(self, model: nn.Module) -> bool:
        """Return whether the first convolution has a kernel of another size than the network's."""
        return input_kernel(model) in self._fit(model, *self._prefix(model)).misshapen

    def load(self, model: nn.Module) -> None:
        """Load the weights into a network without a classifier; say what is converted or left out.

        Raises:
            UserError: the file is another network's, or does not account for every weight.
        """
        prefix, names = self._prefix(model)
        fit = self._fit(model, prefix, names)
        if fit.errors:
            self._find_elsewhere(fit, prefix, names)
            report(self.config, f"backbone.weights: {self.file} does not fit {self.config.name}: {fit}")
        model.load_state_dict(fit.state, strict=False)
        self._notify(fit, prefix)

    def _find_elsewhere(self, fit: Fit, prefix: str, names: Mapping[str, str]) -> None:
        """Tell names that stand in the file, but not under the prefix, from those that are missing."""
        tails = {own: tail for tail, own in names.items()}
        for missing in list(fit.missing):
            tail = tails.get(missing, missing)
            found = [n for n in self.tensors if f".{n}".endswith(f".{tail}") and n != prefix + tail]
            if found:
                fit.missing.remove(missing)
                fit.elsewhere.append(min(found, key=len))

    def _prefix(self, model: nn.Module) -> tuple[str, dict[str, str]]:
        """Return the prefix in the file, and the network's name of each name that may follow it.

        Raises:
            UserError: too few of the network's names are found.
        """
        own = list(model.state_dict())
        # lightly wraps a network without its classifier as torch.nn.Sequential(*children).
        numbers = {name: str(i) for i, (name, _) in enumerate(model.named_children())}
        numbered = {".".join([numbers.get(head, head), *rest]): f"{head}.{'.'.join(rest)}"
                    for head, *rest in (name.split(".") for name in own) if rest}  # fmt: skip
        vocabularies = [{name: name for name in own}, numbered]
        best: tuple[int, str, dict[str, str]] = (0, "", vocabularies[0])
        given = self.config.weights_prefix
        if given:
            given = given.rstrip(".") + "."
        for names in vocabularies:
            counts = _prefixes(self.tensors, names)
            prefix = max(counts, key=counts.__getitem__, default="") if given is None else given
            if counts.get(prefix, 0) > best[0]:
                best = counts[prefix], prefix, names
        number, prefix, names = best
        if number < _MIN_SHARE * len(own):
            candidates = self._large_branches(len(own)) if given is None else [given]
            for candidate in candidates:  # names that timm converts
                if len(self._fit(model, candidate, {}).state) > len(own) / 2:
                    return candidate, {}
            place = f" under {given!r}" if given else ""
            found = [p for p, n in self._found(vocabularies) if n >= _MIN_SHARE * len(own)]
            if given is not None and found:
                raise UserError(
                    printable(
                        f"backbone.weights_prefix: {self.file} has {number} of the {len(own)} names of "
                        f"{self.config.name}{place}; they stand under "
                        f"{', '.join(map(repr, found))}: give one of these, or none to find it"
                    )
                )
            message = (
                f"backbone.weights: {self.file} holds another network than {self.config.name}{place}: "
                f"{number} of its {len(own)} names, such as {own[0]}, are there; the file has "
                f"{first_few(list(self.tensors))}; give the file's network with --backbone"
            )
            raise UserError(printable(message))
        same = [p for p, count in _prefixes(self.tensors, names).items() if count == number]
        if given is None:
            prefix = min(same, key=_rank)
        self.others = [p for p in same if p != prefix]
        return prefix, names

    def _found(self, vocabularies: list[dict[str, str]]) -> list[tuple[str, int]]:
        """Return the prefixes under which names of the network stand, and their number there."""
        counts: Counter[str] = Counter()
        for names in vocabularies:
            counts |= _prefixes(self.tensors, names)
        return counts.most_common()

    def _large_branches(self, number: int) -> list[str]:
        """Return the prefixes under which at least half as many tensors stand, the shortest first."""
        counts: Counter[str] = Counter([""] * len(self.tensors))
        for name in self.tensors:
            counts.update(name[: match.end()] for match in re.finditer(r"\.", name))
        return sorted((p for p, count in counts.items() if count >= number / 2), key=len)

    def _fit(self, model: nn.Module, prefix: str, names: Mapping[str, str]) -> Fit:
        """Return the tensors under the prefix as they fit the network, converted by timm if needed."""
        inside = {
            names.get(name.removeprefix(prefix), name.removeprefix(prefix)): tensor
            for name, tensor in self.tensors.items()
            if name.startswith(prefix)
        }
        fit = account(inside, model)
        convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
        if fit.errors and convert is not None:
            try:
                converted: State = convert(dict(inside), model)
            except Exception as error:  # of a file that is not the model's
                log.debug("timm cannot convert %s: %s", self.file, error)
                return fit
            by_timm = account(converted, model)
            if by_timm.errors < fit.errors:
                if renamed := inside.keys() - {*by_timm.state, *by_timm.heads}:
                    number = len(by_timm.state)
                    by_timm.converted.append(
                        f"{len(renamed)} names, such as {min(renamed)}, by timm ({number} in all)"
                    )
                for name, tensor in by_timm.state.items():
                    old = inside.get(name)
                    if old is not None and old.shape != tensor.shape and name not in by_timm.converted:
                        by_timm.converted.append(f"{name} from {shape_of(old)} to {shape_of(tensor)}")
                return by_timm
        return fit

    def _notify(self, fit: Fit, prefix: str) -> None:
        """Say where the weights were found, what was converted, and what is not used."""
        if prefix:
            others = f"; it also holds {first_few(self.others)}" if self.others else ""
            hint = " (backbone.weights_prefix chooses)" if self.others else ""
            number = len(fit.state)
            FOUND(printable(f"{self.file}: {number} tensors are taken from {prefix!r}{others}{hint}"))
        if fit.converted:
            CONVERTED(printable(f"{self.file}: converted: {first_few(fit.converted)}"))
        outside = [_branch(n, prefix) for n in self.tensors if not n.startswith(prefix)]
        heads = [prefix + name.partition(".")[0] for name in fit.heads]
        if dropped := Counter([*heads, *outside]):
            groups = first_few([f"{name} ({number})" for name, number in dropped.items()])
            DROPPED(printable(f"{self.file}: {dropped.total()} tensors are not used: {groups}"))


def _rank(prefix: str) -> tuple[int, bool]:
    """Return a key by which the encoder that a method evaluates comes first."""
    rank = next((i for i, p in enumerate(_PREFERRED) if p.search(prefix)), len(_PREFERRED))
    return rank, bool(_AVOIDED.search(prefix))


def _prefixes(tensors: State, names: Mapping[str, str]) -> Counter[str]:
    """Count under each prefix the tensors whose names go on as one of `names`."""
    counts: Counter[str] = Counter()
    for full in tensors:
        starts = [0, *(match.end() for match in re.finditer(r"\.", full))]
        counts.update(full[:start] for start in starts if full[start:] in names)
    return counts


def _branch(name: str, prefix: str) -> str:
    """Return the start of a name, up to and with the first part that differs from the prefix."""
    parts, known = name.split("."), prefix.split(".")
    same = next((i for i, (a, b) in enumerate(zip(parts, known, strict=False)) if a != b), 0)
    return ".".join(parts[: same + 1])
