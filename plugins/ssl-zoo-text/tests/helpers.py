"""A small corpus of the bundled text and a small network, for quick tests."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from ssl_zoo_text.corpus import TextOptions, build
from ssl_zoo_text.kjv import chapters
from ssl_zoo_text.spec import Text, TextSpec

from ssl_zoo import Encoder
from ssl_zoo.backbones.build import create_encoder
from ssl_zoo.config.schema import BackboneConfig, DataConfig
from ssl_zoo.data import DataSet
from ssl_zoo.testing.check_data import CheckData

OPTIONS = TextOptions(length=32, vocabulary=500, passages=8000)


@lru_cache(maxsize=1)
def small_data() -> DataSet:
    """Return 60 chapters of all parts, 500 tokens in the vocabulary."""
    return build("small", chapters()[::20], DataConfig(), torch.device("cpu"), OPTIONS)


def small_spec() -> TextSpec:
    """Return the description of `small_data`."""
    spec: Any = small_data().spec
    return spec


@dataclass(frozen=True)
class SmallTexts(CheckData):
    """Blocks of the small corpus, and a network of two narrow layers."""

    backbone: str = "bert-tiny"
    layer: int | None = None

    @property
    def spec(self) -> TextSpec:
        """The description of the texts."""
        return small_spec()

    @property
    def config(self) -> BackboneConfig:
        """The section of a network of width 32."""
        options = {"hidden_size": 32, "num_attention_heads": 2, **WIDTHS[self.backbone.split("-")[0]]}
        options |= {} if self.layer is None else {"layer": self.layer}
        return BackboneConfig(name=self.backbone, options=options)

    def encoder(self) -> Encoder:
        """Return a new network."""
        return create_encoder(self.config, self.spec)

    def batch(self, n: int, seed: int = 0) -> Text:
        """Return n blocks of the train split."""
        train = small_data().train
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
        batch: Text = train.batch(order.repeat(-(-n // len(train)))[:n])
        return batch


WIDTHS: dict[str, dict[str, int]] = {
    "bert": {"intermediate_size": 64},
    "electra": {"intermediate_size": 64, "embedding_size": 32},
    "gpt2": {},
    "modernbert": {"intermediate_size": 48},
    "xlnet": {"d_inner": 64, "d_head": 16},
}

CASE: dict[str, Any] = {"backbone": {"name": "bert-tiny"}, "data": [SmallTexts()]}
"""The arguments of a case of a task that takes the network of BERT."""
MODERN: dict[str, Any] = {
    "backbone": {"name": "modernbert-tiny"},
    "data": [SmallTexts("modernbert-tiny")],
}
"""Those of one with a network of the family of its default."""
