"""Segments of packed blocks: exchanged between blocks, or permuted within one, and a head that tells."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssl_zoo_text.spec import Text
from ssl_zoo_text.tokenizer import PAD, SEP


def exchange(x: Text, follows: Tensor) -> tuple[Text, Tensor]:
    """Put [SEP] into the middle of blocks; where `follows` [B] is false, exchange the second halves.

    They are exchanged with the next sample's, or the previous one's, of a pair. Both are drawn at random
    from all blocks. Returns the texts, and 1 where the second half is the sample's own, int64 [B].
    """
    b, half = len(x.ids), x.ids.shape[1] // 2
    partner = torch.arange(b, device=x.ids.device) ^ 1
    alone = partner >= b  # the last sample of an odd batch
    partner = partner.where(~alone, partner - 1)
    follows = follows | alone
    ids = x.ids.clone()
    ids[:, half + 1 :] = x.ids[:, half + 1 :].where(follows[:, None], x.ids[partner, half + 1 :])
    ids[:, half] = SEP
    return Text(ids, x.lengths.where(follows, x.lengths[partner])), follows.long()


def permute(x: Text, order: Tensor) -> Text:
    """Cut each text behind [CLS] into k segments of equal length, with [SEP] between, and permute them.

    [SEP] takes the place of a token of the text, so that no segment is a visible continuation of a word
    of another; what is left over at the end is cut off. All orders have [SEP] at the same places.

    Args:
        x: the texts, of at least k tokens each.
        order: the number of the segment that comes at each place, int64 [B, k].
    """
    k, length = order.shape[1], x.ids.shape[1]
    step = x.lengths[:, None] // k  # a segment and its [SEP]; [CLS] makes up for the last one's
    places = torch.arange(length, device=x.ids.device).expand_as(x.ids)
    number, inner = (places - 1) // step, (places - 1) % step
    source = 1 + order.gather(1, number.clamp(0, k - 1)) * step + inner
    ids = x.ids.gather(1, source.where(places > 0, 0).clamp(max=length - 1))
    ids = ids.masked_fill((inner == step - 1) & (places > 0), SEP)
    lengths = k * step[:, 0]
    return Text(ids.masked_fill(places >= lengths[:, None], PAD), lengths)


def classifier(width: int, classes: int) -> nn.Sequential:
    """Return Linear, tanh, Linear on features [B, width]; it begins with the deviation 0.02, as BERT."""
    head = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, classes))
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.02)
    return head
