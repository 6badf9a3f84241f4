"""The generator of ELECTRA and its samples."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo.nn import full_precision
from ssl_zoo_text.backbones import TransformersEncoder, create
from ssl_zoo_text.spec import TextSpec


class ProjectedEmbedding(nn.Embedding):
    """The embedding of tokens of another network, projected to a width [e] -> [d].

    Args:
        shared: the other network's embedding of tokens [V, e].
        width: d.
    """

    def __init__(self, shared: nn.Embedding, width: int) -> None:
        super().__init__(shared.num_embeddings, shared.embedding_dim, _weight=shared.weight)
        self.weight = shared.weight
        self.project = nn.Linear(shared.embedding_dim, width)
        nn.init.normal_(self.project.weight, std=shared.embedding_dim**-0.5)
        nn.init.zeros_(self.project.bias)

    def forward(self, ids: Tensor) -> Tensor:
        """Return vectors [..., d] for ids [...]."""
        vectors: Tensor = self.project(super().forward(ids))
        return vectors


def generator(encoder: TransformersEncoder, size: float, spec: TextSpec) -> TransformersEncoder:
    """Return a narrower network as deep as the encoder, with its embeddings of tokens and positions.

    It projects them to its own width. The heads are as wide as the encoder's and fewer (Clark et al.
    2020, sections 3.1 and 3.2). It is of the encoder's family, or ELECTRA's if that is BERT.

    Args:
        encoder: the discriminator, a network of ELECTRA, BERT or ModernBERT.
        size: the generator's width over the encoder's, rounded down to whole heads, of which it has one
            at least.
        spec: the description of the texts.
    """
    config = encoder.network.config
    heads = max(1, int(size * config.num_attention_heads))
    share = heads / config.num_attention_heads
    options = {
        "hidden_size": int(share * config.hidden_size),
        "num_attention_heads": heads,
        "intermediate_size": max(1, int(share * config.intermediate_size)),
        "num_hidden_layers": config.num_hidden_layers,
        "max_position_embeddings": config.max_position_embeddings,
    }
    if encoder.family == "modernbert":
        options |= {"dropout": config.mlp_dropout}
        network = _create("modernbert", options, spec)
        width = options["hidden_size"]
        network.network.embeddings.tok_embeddings = ProjectedEmbedding(encoder.embedding, width)
        return network
    options |= {
        "embedding_size": encoder.embedding.embedding_dim,
        "dropout": config.hidden_dropout_prob,
    }
    network = _create("electra", options, spec)
    own, shared = network.network.embeddings, encoder.network.embeddings
    own.word_embeddings, own.position_embeddings = shared.word_embeddings, shared.position_embeddings
    return network


def _create(family: str, options: dict[str, Any], spec: TextSpec) -> TransformersEncoder:
    return create(family, "tiny", BackboneConfig(name=f"{family}-tiny", options=options), spec)


@torch.no_grad()
def sample(logits: Tensor, u: Tensor) -> Tensor:
    """Draw a token from each softmax(logits) [..., V] by inversion of its distribution function.

    It is exact, and takes one number for each token where Gumbel noise takes V. There is no gradient.

    Args:
        logits: [..., V].
        u: independent numbers, uniform in [0, 1), [...].

    Returns:
        The tokens, int64 [...].
    """
    total = full_precision(logits).softmax(-1).cumsum(-1)
    # The last sum is 1 up to rounding; a token of probability 0 is never the first to exceed u.
    drawn = torch.searchsorted(total, (u * total[..., -1])[..., None].to(total.dtype), right=True)
    return drawn[..., 0].clamp(max=logits.shape[-1] - 1)
