"""Segments of packed blocks: halves, exchanged between blocks, permuted within one; and a head."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_zoo_text.spec import Text
from ssl_zoo_text.tokenizer import CLS, PAD, SEP


def split_halves(x: Text) -> tuple[Text, Text]:
    """Return both halves of each text [B, T], between [CLS] and [SEP]: two texts [B, T // 2 + 2].

    Of an odd number of tokens the last one is left out.
    """
    size = (x.lengths[:, None] - 1) // 2  # tokens of a half
    places = torch.arange(x.ids.shape[1] // 2 + 2, device=x.ids.device)
    halves = []
    for start in (0, size):
        ids = x.ids.gather(1, (start + places).expand(len(x.ids), -1).clamp(max=x.ids.shape[1] - 1))
        ids = ids.where(places <= size, PAD).masked_fill(places == size + 1, SEP)
        halves.append(Text(ids.masked_fill(places == 0, CLS), size[:, 0] + 2))
    return halves[0], halves[1]


def exchange(x: Text, follows: Tensor) -> tuple[Text, Tensor]:
    """Put [SEP] into the middle of texts; where `follows` [B] is false, exchange the second halves.

    They are exchanged with the next sample's, or the previous one's, of a pair. Both are drawn at random
    from all texts. Returns the texts, and 1 where the second half is the sample's own, int64 [B].
    """
    b, length = x.ids.shape
    partner = torch.arange(b, device=x.ids.device) ^ 1
    alone = partner >= b  # the last sample of an odd batch
    partner = partner.where(~alone, partner - 1)
    follows = follows | alone
    other = torch.arange(b, device=x.ids.device).where(follows, partner)  # whose second half it is
    half = x.lengths[:, None] // 2
    places = torch.arange(length, device=x.ids.device).expand(b, length)
    second = x.ids[other].gather(1, (places - half + half[other]).clamp(0, length - 1))
    ids = x.ids.where(places < half, second).masked_fill(places == half, SEP)
    lengths = half[:, 0] + (x.lengths - half[:, 0])[other]
    return Text(ids.masked_fill(places >= lengths[:, None], PAD), lengths), follows.long()


def permute(x: Text, order: Tensor, begin: Tensor, size: Tensor) -> Text:
    """Permute k segments of each text behind [CLS], and join them with [SEP] between.

    Args:
        x: the texts.
        order: the number of the segment that comes at each place, int64 [B, k].
        begin: where each segment begins, int64 [B, k].
        size: how many tokens it has, int64 [B, k]; with k they are at most as many as the text has.
    """
    k, length = order.shape[1], x.ids.shape[1]
    begin, size = begin.gather(1, order), size.gather(1, order)
    stop = 1 + (size + 1).cumsum(1)  # behind each segment and its [SEP]
    places = torch.arange(length, device=x.ids.device).repeat(len(x.ids), 1)
    number = torch.searchsorted(stop, places, right=True).clamp(max=k - 1)
    left = (stop - 1).gather(1, number) - places  # tokens up to the segment's [SEP]
    source = (begin + size).gather(1, number) - left
    ids = x.ids.gather(1, source.where(places > 0, 0).clamp(0, length - 1)).masked_fill(left == 0, SEP)
    lengths = stop[:, -1] - 1  # without a [SEP] at the end
    return Text(ids.masked_fill(places >= lengths[:, None], PAD), lengths)


def equal_spans(x: Text, k: int) -> tuple[Tensor, Tensor]:
    """Return where k segments of equal length begin, and their lengths, int64 [B, k].

    A token between two of them is left out, so that neither is a visible continuation of a word of the
    other, and what is left over at the end.

    Args:
        x: the texts; segments of one of fewer than 2 k tokens are empty.
        k: the number of segments.
    """
    step = x.lengths[:, None] // k
    number = torch.arange(k, device=x.ids.device)
    return 1 + number * step, (step - 1).clamp(min=0).expand(-1, k)


def sentence_spans(x: Text, ends: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Return where k segments of whole sentences begin, and their lengths, int64 [B, k].

    Each has as many sentences, or one more, so that of independent sentences each order is as likely. If
    the cuts were those nearest to equal shares of the tokens, a long sentence beside a cut would tell on
    which side of it the longer segment was. The sentences that a text begins and ends within are left
    out: next to whole ones they would tell which segment is the first or last. A text of fewer than k
    sentences has the segments of `equal_spans`.

    Args:
        x: the texts.
        ends: which tokens end a sentence, bool [B, T].
        key: random numbers [B, k]; the segments of the smallest have one more sentence.
    """
    length, k = x.ids.shape[1], key.shape[1]
    places = torch.arange(1, length + 1, device=x.ids.device)
    cut = ends & x.valid() & (places >= k)  # with fewer tokens before, there is no room for [SEP]
    cuts = F.pad(places.where(cut, length + 1).sort(1).values, (0, k))  # [B, T + k], those of cuts first
    sentences = (cut.sum(1, keepdim=True) - 1).clamp(min=0)
    number = sentences // k + (key.argsort(1).argsort(1) < sentences % k)  # of each segment
    bounds = cuts.gather(1, F.pad(number.cumsum(1), (1, 0)))  # [B, k + 1]
    begin, size = equal_spans(x, k)
    enough = sentences >= k
    return bounds[:, :-1].where(enough, begin), bounds.diff().where(enough, size)


def classifier(width: int, classes: int) -> nn.Sequential:
    """Return Linear, tanh, Linear on features [B, width]."""
    head = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, classes))
    init_linear(head)
    return head


def init_linear(head: nn.Module) -> None:
    """Draw the weights of linear layers with the deviation 0.02, as BERT, and set their biases to 0."""
    for module in head.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
