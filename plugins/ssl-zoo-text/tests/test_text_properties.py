"""Independent uniform tokens cannot be predicted, and stay at ln V; a cycle of tokens is learnt."""

from __future__ import annotations

import math
from importlib.metadata import version
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import SmallTexts
from ssl_zoo_text.backbones import backbones
from ssl_zoo_text.bert import BERT
from ssl_zoo_text.electra import ELECTRA
from ssl_zoo_text.gpt import GPT
from ssl_zoo_text.masking import Targets, at
from ssl_zoo_text.sentence_order import SentenceOrder
from ssl_zoo_text.spec import Text, TextSpec
from ssl_zoo_text.tokenizer import CLS, MASK, SPECIALS
from ssl_zoo_text.xlnet import XLNet
from tokenizers import Tokenizer, models

from ssl_zoo import Rng, Unsuitable
from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo.runs.provenance import provenance

WORDS = 8
"""The number V of ordinary tokens."""
LENGTH = 16
N_NEW = 8192
"""The number of new texts on which chance is told from knowledge."""


def spec(ends: int = 0) -> TextSpec:
    """Return the description of texts of V words, of which some end a sentence."""
    names = [*SPECIALS, *(f"w{i}" + "." * (i < ends) for i in range(WORDS))]
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


def of_half(n: int, generator: torch.Generator) -> Text:
    """Return texts of independent tokens, each equally likely of half of all tokens."""
    ids, lengths = uniform(n, generator)
    return Text(ids.where(ids < len(SPECIALS) + WORDS // 2, ids - WORDS // 2), lengths)


def trained(
    cls: Any, backbone: str, texts: Any, steps: int, ends: int = 0, **task_options: Any
) -> tuple[Any, torch.Generator]:
    """Return a task after some steps, each on new texts."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    options = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}
    options |= {"d_head": 16} if cls is XLNet else {}
    encoder = backbones()[backbone](BackboneConfig(name=backbone, options=options), spec(ends))
    task = cls(encoder, cls.Options(**task_options), spec(ends))
    if cls is ELECTRA:  # its generator draws from all ordinary tokens
        task.generate = any_token
    optimizer = torch.optim.AdamW(task.parameters(), lr=3e-3)
    for step in range(steps):
        optimizer.zero_grad()
        task(task.views(texts(32, generator), Rng(step))).total.backward()
        optimizer.step()
    return task.eval(), generator


def any_token(masked: Text, targets: Targets) -> torch.Tensor:
    """Return the logits [B, K, V] of a generator to which all ordinary tokens are as likely."""
    logits = torch.zeros(*targets.ids.shape, len(SPECIALS) + WORDS)
    logits[..., : len(SPECIALS)] = -1e4
    return logits


@torch.no_grad()
def nats_of_hidden(task: Any, x: Text) -> torch.Tensor:
    """Return the cross entropies [n] of the tokens that the network does not see.

    Of BERT's targets 80 % are hidden; of the others half are as they were, which the network may use.
    """
    if isinstance(task, GPT):
        logits, ids = task.logits(x), x.ids[:, 1:]
        return F.cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction="none")
    if isinstance(task, XLNet):
        views = task.views(x, Rng(-1))
        each = F.cross_entropy(
            task.logits(views).flatten(0, 1), views[1].ids.flatten(), reduction="none"
        )
        return each[views[1].weight.flatten() > 0]
    masked, targets = task.views(x, Rng(-1))
    logits = task.head(at(task.states(masked), targets.places), task.encoder.embedding)
    each = F.cross_entropy(logits.flatten(0, 1), targets.ids.flatten(), reduction="none")
    hidden = (masked.ids.gather(1, targets.places) == MASK) & (targets.weight > 0)
    return each[hidden.flatten()]


@pytest.mark.parametrize(("k", "ends"), [(2, 2), (3, 0)])
def test_independent_tokens_do_not_tell_the_order_of_segments(k: int, ends: int) -> None:
    """Neither of whole sentences, of four tokens on average, nor of equal segments."""
    task, generator = trained(SentenceOrder, "bert-tiny", uniform, 150, ends, k=k, mlm_weight=0.0)
    check_chance(task, generator, "order", math.factorial(k))


def test_independent_tokens_do_not_tell_the_next_sentence() -> None:
    task, generator = trained(BERT, "bert-tiny", uniform, 150, next_sentence=True)
    check_chance(task, generator, "next_sentence", 2)


def check_chance(task: Any, generator: torch.Generator, name: str, classes: int) -> None:
    """Check that new texts are classified no better than by chance, within five deviations."""
    with torch.no_grad():
        logs = task(task.views(uniform(N_NEW, generator), Rng(-1))).logs
    p = 1 / classes
    assert float(logs[f"{name}_accuracy"]) < p + 5 * (p * (1 - p) / N_NEW) ** 0.5
    assert float(logs[name]) > math.log(classes) - 0.01


TASKS = [(GPT, "gpt2-tiny"), (BERT, "bert-tiny"), (XLNet, "xlnet-tiny")]


@pytest.mark.parametrize(("cls", "backbone"), TASKS)
def test_independent_uniform_tokens_stay_at_ln_v(cls: Any, backbone: str) -> None:
    task, generator = trained(cls, backbone, uniform, 80)
    nats = nats_of_hidden(task, uniform(2048, generator)).double()
    error = float(nats.std()) / len(nats) ** 0.5
    # On average no prediction of an independent uniform token is better than ln V (Gibbs' inequality).
    assert float(nats.mean()) > math.log(WORDS) - 5 * error
    assert float(nats.mean()) < math.log(WORDS) + 0.02, "special tokens are known not to occur"
    assert error < 0.004


@pytest.mark.parametrize(
    ("cls", "backbone", "steps"),
    [(GPT, "gpt2-tiny", 80), (BERT, "bert-tiny", 300), (XLNet, "xlnet-tiny", 300)],
)
def test_as_small_a_network_learns_a_cycle_of_tokens(cls: Any, backbone: str, steps: int) -> None:
    task, generator = trained(cls, backbone, cycles, steps)
    nats = nats_of_hidden(task, cycles(256, generator))
    nats = nats.view(256, -1)[:, 1:] if cls is GPT else nats  # the first token is any
    assert float(nats.mean()) < 0.05 * math.log(WORDS), "all are certain"


def test_a_discriminator_reaches_the_smallest_loss_that_is_possible() -> None:
    task, generator = trained(ELECTRA, "electra-tiny", of_half, 150)
    with torch.no_grad():
        logs = task(task.views(of_half(4096, generator), Rng(-1))).logs
    assert abs(float(logs["replaced"]) - 0.15 * (1 - 1 / WORDS)) < 0.01
    # Tokens of the other half are all replaced. Of the rest a share q is, and nothing shows which.
    rest = 1 - 0.15 / 2
    q = 0.15 * (1 / 2 - 1 / WORDS) / rest
    smallest = -rest * (q * math.log(q) + (1 - q) * math.log(1 - q))
    assert abs(float(logs["discriminator"]) - smallest) < 0.02


@pytest.mark.parametrize("name", ["bert-tiny", "gpt2-tiny", "electra-tiny"])
def test_recomputed_activations_give_the_same_gradients(name: str) -> None:
    def gradients(recomputed: bool) -> list[torch.Tensor | None]:
        texts = SmallTexts(name)
        torch.manual_seed(0)
        encoder = texts.encoder().train()
        if recomputed:
            encoder.checkpoint_gradients()
        torch.manual_seed(1)  # of dropout
        encoder(texts.batch(3)).square().sum().backward()
        return [parameter.grad for parameter in encoder.parameters()]

    torch.testing.assert_close(gradients(True), gradients(False), rtol=1e-6, atol=1e-6)


def test_xlnet_which_cannot_recompute_activations_is_refused() -> None:
    with pytest.raises(Unsuitable, match=r"^train.grad_checkpointing: .* cannot recompute activations"):
        SmallTexts("xlnet-tiny").encoder().checkpoint_gradients()


def test_a_run_records_the_versions_of_what_its_task_requires() -> None:
    versions = provenance("bert")["versions"]
    names = ["ssl-zoo", "ssl-zoo-text", "torch", "transformers", "tokenizers"]
    assert {name: versions[name] for name in names} == {name: version(name) for name in names}
