"""What no network can learn: independent uniform tokens stay at ln V; a cycle of tokens goes to 0."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from ssl_zoo_text.backbones import backbones
from ssl_zoo_text.bert import BERT
from ssl_zoo_text.gpt import GPT
from ssl_zoo_text.masking import at
from ssl_zoo_text.spec import Text, TextSpec
from ssl_zoo_text.tokenizer import CLS, MASK, SPECIALS
from tokenizers import Tokenizer, models

from ssl_zoo import Rng
from ssl_zoo.config.schema import BackboneConfig

WORDS = 8
"""The number V of ordinary tokens."""
LENGTH = 16


def spec() -> TextSpec:
    """Return the description of texts of V words."""
    names = [*SPECIALS, *(f"w{i}" for i in range(WORDS))]
    vocabulary = {name: i for i, name in enumerate(names)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    return TextSpec(length=LENGTH, tokenizer=tokenizer.to_str())


def uniform(n: int, generator: torch.Generator) -> Text:
    """Return texts of independent tokens, each equally likely."""
    ids = torch.randint(len(SPECIALS), len(SPECIALS) + WORDS, (n, LENGTH), generator=generator)
    ids[:, 0] = CLS
    return Text(ids, torch.full((n,), LENGTH))


def cycles(n: int, generator: torch.Generator) -> Text:
    """Return texts that count in a cycle from a random token, so that one token tells all others."""
    first = torch.randint(WORDS, (n, 1), generator=generator)
    ids = len(SPECIALS) + (first + torch.arange(LENGTH)) % WORDS
    ids[:, 0] = CLS
    return Text(ids, torch.full((n,), LENGTH))


def trained(cls: Any, backbone: str, texts: Any, steps: int) -> tuple[Any, torch.Generator]:
    """Return a task after some steps, each on new texts."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    options = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}
    encoder = backbones()[backbone](BackboneConfig(name=backbone, options=options), spec())
    task = cls(encoder, cls.Options(), spec())
    optimizer = torch.optim.AdamW(task.parameters(), lr=3e-3)
    for step in range(steps):
        optimizer.zero_grad()
        task(task.views(texts(32, generator), Rng(step))).total.backward()
        optimizer.step()
    return task.eval(), generator


@torch.no_grad()
def nats_of_hidden(task: Any, x: Text) -> torch.Tensor:
    """Return the cross entropies [n] of the tokens that the network does not see.

    Of BERT's targets 80 % are hidden; of the others half are as they were, which the network may use.
    """
    if isinstance(task, GPT):
        logits, ids = task.logits(x), x.ids[:, 1:]
        return F.cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction="none")
    masked, targets = task.views(x, Rng(-1))
    logits = task.head(at(task.states(masked), targets.places), task.encoder.embedding)
    each = F.cross_entropy(logits.flatten(0, 1), targets.ids.flatten(), reduction="none")
    hidden = (masked.ids.gather(1, targets.places) == MASK) & (targets.weight > 0)
    return each[hidden.flatten()]


TASKS = [(GPT, "gpt2-tiny"), (BERT, "bert-tiny")]


@pytest.mark.parametrize(("cls", "backbone"), TASKS)
def test_independent_uniform_tokens_stay_at_ln_v(cls: Any, backbone: str) -> None:
    task, generator = trained(cls, backbone, uniform, 80)
    nats = nats_of_hidden(task, uniform(2048, generator)).double()
    error = float(nats.std()) / len(nats) ** 0.5
    # On average no prediction of an independent uniform token is better than ln V (Gibbs' inequality).
    assert float(nats.mean()) > math.log(WORDS) - 5 * error
    assert float(nats.mean()) < math.log(WORDS) + 0.02, "special tokens are known not to occur"
    assert error < 0.004


def test_as_small_a_network_learns_a_cycle_of_tokens_in_as_many_steps() -> None:
    task, generator = trained(GPT, "gpt2-tiny", cycles, 80)
    nats = nats_of_hidden(task, cycles(256, generator)).view(256, -1)
    assert float(nats[:, 1:].mean()) < 0.05 * math.log(WORDS), "all but the first are certain"
