"""The generator of ELECTRA and its samples."""

from __future__ import annotations

import torch
from torch import Tensor

from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo.nn import full_precision
from ssl_zoo_text.backbones import TransformersEncoder, create
from ssl_zoo_text.spec import TextSpec


def generator(encoder: TransformersEncoder, size: float, spec: TextSpec) -> TransformersEncoder:
    """Return a narrower network as deep as the encoder, with its embeddings of tokens and positions.

    It projects them to its own width, as ELECTRA's networks do, which are BERT's else. The heads are as
    wide as the encoder's and fewer (Clark et al. 2020, sections 3.1 and 3.2).

    Args:
        encoder: the discriminator, a network of ELECTRA or BERT.
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
        "embedding_size": encoder.embedding.embedding_dim,
        "max_position_embeddings": config.max_position_embeddings,
        "dropout": config.hidden_dropout_prob,
    }
    network = create("electra", "tiny", BackboneConfig(name="electra-tiny", options=options), spec)
    own, shared = network.network.embeddings, encoder.network.embeddings
    own.word_embeddings, own.position_embeddings = shared.word_embeddings, shared.position_embeddings
    return network


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
