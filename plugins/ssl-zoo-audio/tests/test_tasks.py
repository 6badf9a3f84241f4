"""The tasks: what the papers say, by literal loops."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from audio_cases import (
    CAUSAL,
    CNN,
    MEL,
    SMALL_BYOL,
    SMALL_HUBERT,
    SMALL_WAV2VEC2,
    WAVE,
    built,
    noise,
)  # fmt: skip
from ssl_zoo_audio.augmentation import log_mixup, match_statistics, resized_crop
from ssl_zoo_audio.byol_a import BYOLA
from ssl_zoo_audio.clusters import PlaceClusters
from ssl_zoo_audio.cpc import CPCAudio
from ssl_zoo_audio.data2vec import Data2VecAudio, instance_norm
from ssl_zoo_audio.heads import CodePredictor, contrastive_scores, first_wins, future_scores
from ssl_zoo_audio.hubert import HuBERT
from ssl_zoo_audio.masks import draw_others, draw_spans
from ssl_zoo_audio.negatives import random_places, same_clip, same_place
from ssl_zoo_audio.quantiser import GumbelQuantiser, diversity_loss, mean_probabilities, perplexities
from ssl_zoo_audio.sound import Sound, within
from ssl_zoo_audio.spectra import SILENCE
from ssl_zoo_audio.wav2vec2 import Wav2Vec2
from torch import Tensor

from ssl_zoo import Unsuitable, UserError
from ssl_zoo.testing import Case
from ssl_zoo.tools.views import nearest
from ssl_zoo.views import Rng

# --- hidden spans, and others of a clip ---


@pytest.mark.parametrize(("share", "length", "expected"), [(0.065, 10, 0.49), (0.08, 10, 0.566)])
def test_spans_hide_as_much_as_in_the_papers(share: float, length: int, expected: float) -> None:
    hidden = draw_spans(Rng(0), torch.ones(400, 500, dtype=torch.bool), share, length)
    assert hidden.float().mean().item() == pytest.approx(expected, abs=0.005)
    assert expected == pytest.approx(1 - (1 - share) ** length, abs=0.005)
    ends = (hidden[:, :-1] & ~hidden[:, 1:]).sum()
    run = hidden.sum() / ends
    assert run.item() == pytest.approx(1 / share * ((1 - share) ** -length - 1), rel=0.05)


def test_first_and_last_places_are_hidden_as_often_as_others() -> None:
    hidden = draw_spans(Rng(0), torch.ones(20_000, 40, dtype=torch.bool), 0.08, 10)
    share = hidden.float().mean(0)
    assert share.min().item() == pytest.approx(0.566, abs=0.015)
    assert share.max().item() == pytest.approx(0.566, abs=0.015)


def test_what_is_drawn_does_not_depend_on_the_longest_clip_of_a_batch() -> None:
    valid = within(torch.tensor([30, 12, 20, 18]), 30)
    whole = draw_spans(Rng(0), valid, 0.08, 10, limit=40)
    others, _ = draw_others(Rng(0), whole, 5, limit=40)
    for rank, longest in enumerate((30, 20)):
        rng = Rng(0, "cpu", rank, 2)
        rows = slice(2 * rank, 2 * rank + 2)
        part = draw_spans(rng, valid[rows, :longest], 0.08, 10, limit=40)
        assert torch.equal(part, whole[rows, :longest])
        drawn, usable = draw_others(Rng(0, "cpu", rank, 2), part, 5, limit=40)
        assert torch.equal(drawn[usable], others[rows, :longest][usable])


def test_spans_lie_in_the_clip_and_every_clip_has_two_hidden_places() -> None:
    counts = torch.tensor([1, 2, 3, 30, 40] * 50)
    valid = within(counts, 40)
    hidden = draw_spans(Rng(1), valid, 0.01, 5)
    assert not hidden[~valid].any()
    assert torch.equal(hidden.sum(1).clamp(max=2), counts.clamp(max=2))
    assert len({tuple(row.tolist()) for row in hidden[3::5]}) > 20
    rare = draw_spans(Rng(1), valid, 1e-9, 5)
    assert rare.sum(1).tolist() == [1, 2, 2, 5, 5] * 50
    single = draw_spans(Rng(1), valid, 1e-9, 1)
    assert torch.equal(single.sum(1), counts.clamp(max=2))


def test_others_are_other_hidden_places_of_the_clip() -> None:
    mask = noise(6, 20) > 0
    mask[0] = False
    mask[1] = False
    mask[1, 4] = True
    others, usable = draw_others(Rng(0), mask, 500)
    assert not usable[:2].any()
    assert torch.equal(usable[2:], mask[2:])
    for b in range(2, 6):
        members = set(mask[b].nonzero().flatten().tolist())
        for t in members:
            drawn = others[b, t]
            assert set(drawn.tolist()) == members - {t}
            counts = drawn.bincount(minlength=20)[list(members - {t})]
            assert counts.min() > 500 / len(members) / 2  # about uniform


# --- HuBERT ---


def test_clusters_are_fitted_once_to_standardised_places() -> None:
    clusters, x = PlaceClusters(4, 3, rows=40), 5 * noise(2, 30, 3) + 7
    valid = within(torch.tensor([30, 10]), 30)
    clusters.train()
    fitted = []
    for _ in range(3):
        clusters.note_places(x, valid, 10)
        clusters.update()
        fitted.append(clusters.fitted)
    assert fitted == [False, True, True]
    assert torch.equal(clusters.sample[:10], x[0, 1::3])
    assert torch.equal(clusters.sample[10:20], x[1, :10])
    assert torch.allclose(clusters.mean, clusters.sample.mean(0))
    standardised = (x - clusters.sample.mean(0)) / clusters.sample.std(0)
    expected = torch.cdist(standardised, clusters.centroids.expand(2, -1, -1)).argmin(2)
    assert torch.equal(clusters.assign(x), expected)
    again = PlaceClusters(4, 3, rows=40)
    again.load_state_dict(clusters.state_dict())
    assert again.fitted
    assert not PlaceClusters(4, 3, rows=40, begun=False).begun


def test_hubert_begins_at_ln_k_and_predicts_hidden_places_alone() -> None:
    head = CodePredictor(32, 500, 64)
    logits = head(noise(2000, 32))
    loss = F.cross_entropy(logits, torch.arange(2000) % 500)
    assert math.log(500) < loss.item() < math.log(500) + 1  # cosines / 0.1 have a deviation of 1.25
    task, (x, hidden) = built(HuBERT, MEL, **SMALL_HUBERT)
    outputs: list[Tensor] = []

    def keep(module: Any, inputs: Any, output: Tensor) -> None:
        output.retain_grad()
        outputs.append(output)

    task.encoder.norm.register_forward_hook(keep)
    task.loss((x, hidden)).total.backward()
    gradient = outputs[0].grad
    assert gradient is not None
    assert not gradient[~hidden].any()
    assert gradient[hidden].abs().sum(1).all()


def test_hubert_clusters_its_own_features_after_a_third() -> None:
    case = Case.of(HuBERT, SMALL_HUBERT, MEL)
    task: Any = case.build()

    def go(progress: float, seed: int) -> Tensor:
        views = case.views(task, 8, seed, progress=progress)
        task.loss(views)
        task.after_step(progress)
        valid = task.encoder.valid(views[0])
        targets: Tensor = task.targets(views[0], valid)
        task.before_step(progress)
        return targets

    for seed in range(3):
        go(0.1, seed)
    assert task.acoustic.fitted
    assert not task.own.begun
    codes = task.head.codes.clone()
    with torch.no_grad():
        task.encoder.embed.weight.add_(0.1)
    go(0.4, 3)
    assert task.own.begun
    assert torch.equal(task.snapshot.embed.weight, task.encoder.embed.weight)
    assert torch.equal(task.head.codes, codes)
    for seed in range(4, 7):
        go(0.5, seed)
    assert task.own.fitted
    assert not torch.equal(task.head.codes, codes)
    assert not task.head.project.bias.any()
    with torch.no_grad():
        task.encoder.embed.weight.add_(0.1)  # targets are those of the snapshot
    assert torch.equal(go(0.6, 9), go(0.7, 9))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": 3}, r"^task\.layer: there are 2 layers \(3\); give 1 to 2$"),
        ({"clusters": 300}, r"sample is below the number of clusters, 300 \(256\); raise it"),
    ],
)
def test_hubert_refuses_what_would_end_it_later(options: dict[str, Any], message: str) -> None:
    case = Case.of(HuBERT, {**SMALL_HUBERT, **options}, MEL)
    with pytest.raises((UserError, ValueError), match=message):
        case.construct(case.data)


# --- wav2vec 2.0 ---


def test_scores_are_cosines_and_equal_codes_are_no_negatives() -> None:
    c, q, others = noise(2, 5, 3), noise(2, 5, 3, seed=1), torch.tensor([[[1, 2]] * 5, [[4, 0]] * 5])
    codes = torch.tensor([[0, 1, 0, 2, 3], [5, 5, 5, 1, 2]])
    scores = contrastive_scores(c, q, codes, others)
    for b in range(2):
        for t in range(5):
            for k, place in enumerate([t, *others[b, t].tolist()]):
                cosine = (c[b, t] @ q[b, place] / c[b, t].norm() / q[b, place].norm()).item()
                same = k > 0 and codes[b, t] == codes[b, place]
                assert scores[b, t, k].item() == (-math.inf if same else pytest.approx(cosine, abs=1e-5))
    loss, accuracy = first_wins(torch.tensor([[2.0, -math.inf, 1.0], [0.0, 3.0, -math.inf]]))
    expected = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(3))) / 2
    assert loss.item() == pytest.approx(expected)
    assert accuracy.item() == 0.5
    assert first_wins(torch.zeros(0, 3))[0].item() == 0
    assert first_wins(torch.zeros(4, 3))[1].item() == 0  # all scores are equal


def test_the_quantiser_takes_one_entry_of_each_group() -> None:
    torch.manual_seed(0)
    quantiser, z = GumbelQuantiser(6, 2, 5, 8), noise(3, 4, 6)
    gumbel = quantiser.noise(Rng(0), 3, 4)
    quantised = quantiser(z, gumbel, 2.0)
    logits = quantiser.logits(z).view(3, 4, 2, 5)
    chosen = (logits + gumbel).argmax(3)
    entries = torch.cat([quantiser.entries[g][chosen[..., g]] for g in range(2)], 2)
    assert torch.allclose(quantised.vectors, quantiser.project(entries), atol=1e-5)
    assert torch.equal(quantised.codes, chosen[..., 0] + 5 * chosen[..., 1])
    assert torch.allclose(quantised.probabilities, logits.softmax(3))
    quantised.vectors.square().sum().backward()
    gradient = quantiser.logits.weight.grad
    assert gradient is not None
    assert gradient.abs().sum() > 0  # straight through
    many = quantiser.noise(Rng(1), 100, 100)
    assert many.mean().item() == pytest.approx(0.5772, abs=0.02)


@pytest.mark.parametrize("width", [64, 512])
def test_features_and_not_the_noise_choose_the_codes_of_a_new_quantiser(width: int) -> None:
    torch.manual_seed(0)
    quantiser, z = GumbelQuantiser(width, 2, 320, 256), F.layer_norm(noise(8, 100, width), (width,))
    without, *drawn = (
        quantiser(z, gumbel, 2.0).codes
        for gumbel in (torch.zeros(8, 100, 2, 320), *(quantiser.noise(Rng(i), 8, 100) for i in (0, 1)))
    )
    for codes in drawn:  # both groups; by chance 1 / 320²
        assert (codes == without).float().mean() > 0.4
    assert (drawn[0] == drawn[1]).float().mean() > 0.3


def test_diversity_is_0_for_equal_use_and_greatest_for_one_code() -> None:
    assert diversity_loss(torch.full((2, 8), 1 / 8)).item() == pytest.approx(0, abs=1e-5)
    single = F.one_hot(torch.tensor([3, 5]), 8).float()
    assert diversity_loss(single).item() == pytest.approx((16 - 2) / 16, abs=1e-5)
    assert perplexities(single).tolist() == pytest.approx([1, 1], abs=1e-4)
    p, mask = noise(2, 3, 2, 8).softmax(3), torch.tensor([[True, False, True], [False, True, True]])
    assert torch.allclose(mean_probabilities(p, mask), p[mask].mean(0))


def test_wav2vec2_begins_at_chance_with_a_temperature_that_falls() -> None:
    task, views = built(Wav2Vec2, MEL, negatives=100, entries=320)
    losses = task.loss(views)
    assert losses.logs["contrastive"].item() == pytest.approx(math.log(101), abs=0.4)
    x, hidden, others, usable, noise = views
    local = task.encoder.local(x)
    output = task.project(task.encoder.context(local, hidden, task.token)[-1])
    vectors, codes, _ = task.quantiser(local.normed, noise, 2.0)
    scores = contrastive_scores(output, vectors, codes, others)[usable].double() / 0.1
    expected = (scores.exp().sum(1).log() - scores[:, 0]).mean().item()
    assert losses.logs["contrastive"].item() == pytest.approx(expected, rel=1e-4)
    assert 2 <= losses.logs["perplexity"] <= 640
    for progress, expected in ((0.0, 2.0), (0.35, 1.0), (0.7, 0.5), (1.0, 0.5)):
        task.progress = progress
        assert task.gumbel_temperature() == pytest.approx(expected)


def test_the_quantiser_sees_what_is_hidden_and_the_network_does_not() -> None:
    task, (x, hidden, *rest) = built(Wav2Vec2, MEL, **SMALL_WAV2VEC2)
    local = task.encoder.local(x)
    changed = local._replace(normed=torch.where(hidden[..., None], 0.0, local.normed))
    contexts = [task.encoder.context(part, hidden, task.token)[-1] for part in (local, changed)]
    assert torch.equal(*contexts)
    codes = [task.quantiser(part.normed, rest[2], 1.0).codes for part in (local, changed)]
    assert not torch.equal(*codes)
    penalty = task.loss((x, hidden, *rest)).logs["penalty"]
    assert penalty == 0  # a spectrum has no parameters
    on_waves, views = built(Wav2Vec2, WAVE, **SMALL_WAV2VEC2)
    raw, _, valid = on_waves.encoder.local(views[0])
    expected = raw[valid].square().mean().item()
    losses = on_waves.loss(views)
    assert losses.logs["penalty"].item() == pytest.approx(expected, rel=1e-4)
    small = built(Wav2Vec2, WAVE, **SMALL_WAV2VEC2, feature_penalty=0.0)[0]
    small.load_state_dict(on_waves.state_dict())
    difference = losses.total - small.loss(views).total
    assert difference.item() == pytest.approx(10 * expected, rel=1e-4)


# --- data2vec ---


def test_targets_are_the_mean_of_normalised_layers_of_the_whole_clip() -> None:
    task, (x, hidden) = built(Data2VecAudio, MEL, layers=2)
    with torch.no_grad():
        for i, parameter in enumerate(task.encoder.parameters()):  # the teacher is another network now
            parameter.add_(0.05 * noise(*parameter.shape, seed=i))
    local = task.encoder.local(x)
    targets, layers = task.targets(local), task.teacher[0].branches(local)
    for b in range(2):
        n = int(local.valid[b].sum())
        rows = [layer[b, :n] for layer in layers]
        normed = [(y - y.mean(0)) / (y.var(0, correction=0) + 1e-5).sqrt() for y in rows]
        assert torch.allclose(targets[b, :n], (normed[0] + normed[1]) / 2, atol=1e-4)
    error = (task.project(task.encoder.context(local, hidden, task.token)[-1]) - targets)[hidden]
    losses = task.loss((x, hidden))
    assert losses.total.item() == pytest.approx(error.square().mean().item(), rel=1e-4)
    assert losses.weight == hidden.sum()
    assert not instance_norm(layers[0], local.valid)[~local.valid].any()


@pytest.mark.parametrize("backbone", [MEL, {**WAVE, "options": {**WAVE["options"], "layers": 2}}])
def test_branches_are_what_feed_forward_networks_add(backbone: Any) -> None:
    task, (x, *_) = built(Wav2Vec2, backbone, **SMALL_WAV2VEC2)
    encoder = task.encoder.eval()
    with torch.no_grad():
        local = encoder.local(x)
        layers, branches = encoder.context(local), encoder.branches(local)
        assert len(branches) == len(layers) == 2
        for parameter in encoder.feed_forwards()[0].parameters():
            parameter.zero_()
        before = encoder.context(local)[0]
    added = (layers[0] - before)[local.valid]
    assert torch.allclose(branches[0][local.valid], added, atol=1e-5)
    assert added.abs().max() > 1e-3
    causal = built(CPCAudio, CAUSAL)[0].encoder
    assert all(map(torch.equal, causal.branches(causal.local(x)), causal.context(causal.local(x))))


def test_convolutional_positions_see_no_padding_and_no_number() -> None:
    options = {**MEL["options"], "positions": "convolution"}
    task, (x, *_) = built(Data2VecAudio, {**MEL, "options": options})
    with torch.no_grad():
        local = task.encoder.local(x)
        still = local._replace(normed=torch.ones_like(local.normed))
        out = task.encoder.context(still)[0][x.length.argmax()]
    inner = out[16 : int(local.valid.sum(1).max()) - 16]  # whose kernel reaches no end
    assert torch.allclose(inner, inner[:1].expand_as(inner), atol=1e-5)


# --- CPC ---


def test_random_places_are_of_all_clips_and_never_the_place_itself() -> None:
    prediction, z, step = noise(2, 6, 4), noise(2, 6, 4, seed=1), 2
    places = torch.tensor([[1, 3, 5], [0, 4, 4]])
    chosen = [(b, p) for b in range(2) for p in places[b].tolist()]
    scores = future_scores(prediction, z, *random_places(z, places), step)
    assert scores.shape == (2, 4, 1 + 6)
    for b in range(2):
        for t in range(4):
            expected = [(prediction[b, t] @ z[b, t + step]).item() / 2]
            for other in chosen:
                score = (prediction[b, t] @ z[other]).item() / 2
                expected.append(-math.inf if other == (b, t + step) else score)
            assert scores[b, t].tolist() == pytest.approx(expected, abs=1e-5)


def test_negatives_at_the_same_place_are_other_clips_that_have_not_ended() -> None:
    prediction, z, step = noise(3, 6, 4), noise(3, 6, 4, seed=1), 2
    lengths = [6, 4, 3]
    valid = within(torch.tensor(lengths), 6)
    scores = future_scores(prediction, z, *same_place(z, valid), step)
    assert scores.shape == (3, 4, 1 + 3)
    for b in range(3):
        for t in range(4):
            expected = [(prediction[b, t] @ z[b, t + step]).item() / 2]
            for other in range(3):
                score = (prediction[b, t] @ z[other, t + step]).item() / 2
                expected.append(score if other != b and t + step < lengths[other] else -math.inf)
            assert scores[b, t].tolist() == pytest.approx(expected, abs=1e-5)


def test_negatives_of_the_same_clip_are_its_other_places() -> None:
    prediction, z, step = noise(2, 6, 4), noise(2, 6, 4, seed=1), 2
    lengths = [6, 4]
    scores = future_scores(prediction, z, *same_clip(z, within(torch.tensor(lengths), 6)), step)
    assert scores.shape == (2, 4, 1 + 6)
    for b in range(2):
        for t in range(4):
            expected = [(prediction[b, t] @ z[b, t + step]).item() / 2]
            for other in range(6):
                score = (prediction[b, t] @ z[b, other]).item() / 2
                expected.append(score if other != t + step and other < lengths[b] else -math.inf)
            assert scores[b, t].tolist() == pytest.approx(expected, abs=1e-5)


def test_the_number_of_a_place_does_not_tell_it_from_others_at_the_same_place() -> None:
    z = noise(6, 4)[None].expand(3, -1, -1)  # what is there depends on the place alone
    valid = torch.ones(3, 6, dtype=torch.bool)
    scores = future_scores(10 * z.roll(-1, 1), z, *same_place(z, valid), 1)
    loss, accuracy = first_wins(scores.flatten(0, 1))
    assert loss.item() == pytest.approx(math.log(3), abs=1e-5)
    assert accuracy.item() == 0


@pytest.mark.parametrize("negatives", ["place", "clip", "clips"])
def test_cpc_begins_at_chance(negatives: str) -> None:
    task, views = built(CPCAudio, CAUSAL, negatives=negatives, per_clip=31)
    losses = task.loss(views)
    counts = task.encoder.valid(views[0]).sum(1)
    assert (views[1].amax(1) < counts).all()
    counts = counts.sort().values
    pairs = (counts[:, None] - torch.arange(1, task.options.steps + 1)).clamp(min=0).sum(1)
    number = {"place": len(counts), "clips": 1 + 31 * len(counts), "clip": counts}[negatives]
    expected = (torch.as_tensor(number).log() * pairs).sum() / pairs.sum()
    assert losses.total.item() == pytest.approx(expected.item(), abs=0.3)
    if negatives == "place":  # places that no other clip has are not counted
        counts[-1] = counts[-2]
    assert losses.weight == sum(max(0, n - k) for n in counts for k in range(1, 13))


@pytest.mark.parametrize("negatives", ["place", "clip", "clips"])
def test_cpc_on_clips_of_a_single_place_has_nothing_to_predict(negatives: str) -> None:
    task, _ = built(CPCAudio, CAUSAL, negatives=negatives)
    clips = Sound(noise(3, 200), torch.tensor([150, 100, 160]))
    views = task.views(clips, Rng(0))
    losses = task.loss(views)
    assert task.encoder.places(clips.length).tolist() == [1, 1, 1]
    assert (losses.total.item(), losses.weight, losses.logs["accuracy"].item()) == (0, 0, 0)
    losses.total.backward()
    gradients = [weight.grad for weight in task.parameters()]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)


def test_cpc_refuses_networks_that_look_ahead() -> None:
    with pytest.raises(Unsuitable, match="--backbone mel-gru"):
        Case.of(CPCAudio, {}, MEL).construct(Case.of(CPCAudio, {}, MEL).data)


# --- BYOL-A ---


def test_mixing_is_of_energies() -> None:
    a, b, share = noise(2, 3, 4), noise(2, 3, 4, seed=1), torch.tensor([0.3, 0.0]).view(2, 1, 1)
    expected = torch.log((1 - share) * a.exp() + share * b.exp())
    assert torch.allclose(log_mixup(a, b, share), expected, atol=1e-5)


def test_a_crop_of_all_is_the_spectrum_and_others_lie_within_the_canvas() -> None:
    x, whole = noise(3, 20, 16), torch.full((3,), 20)
    assert torch.allclose(resized_crop(x, whole, Rng(0), (1.0, 1.0), (1.0, 1.0), 1.0), x, atol=1e-5)
    many, bands = torch.full((200,), 20), torch.ones(200, 20, 16)
    bands[:, :, 8:] = 3
    wide = resized_crop(bands, many, Rng(0), (1.0, 1.0), (0.6, 1.5), 1.5)[:, :, :6]
    assert 0.6 < (wide < 1.001).float().mean() < 0.99
    assert wide.amax() == pytest.approx(2, abs=1e-4)  # beyond the ends in time it is the mean
    narrow = resized_crop(bands, many, Rng(0), (1.0, 1.0), (0.6, 1.0), 1.0)[:, :, :6]
    assert (narrow[:, 2:-2] < 1.001).all()
    ramp = torch.arange(16.0).expand(200, 20, 16)  # cropped in frequency, it rises less steeply
    rise = resized_crop(ramp, many, Rng(0), (0.6, 1.0), (1.0, 1.0), 1.0).diff(dim=2)[:, :, 2:-2]
    assert ((rise > 0.599) & (rise < 1.001)).all()


def test_padding_changes_neither_crops_nor_their_statistics() -> None:
    """What is behind a clip's end is as if it were not there: the network sees clips without it too."""
    x, frames = noise(3, 12, 16), torch.full((3,), 12)
    padded = torch.cat([x, torch.full((3, 8, 16), -1.6)], 1)
    ranges = ((0.6, 1.0), (0.6, 1.5), 1.5)
    alone = resized_crop(x, frames, Rng(0), *ranges)
    beside = resized_crop(padded, frames, Rng(0), *ranges)
    assert torch.allclose(beside[:, :11], alone[:, :11], atol=1e-5)  # the last is blended with 0 beyond
    assert (beside[:, 12:] == 0).all()
    (y,) = match_statistics([3 * padded + 1], padded - 2, frames)
    assert torch.equal(y[:, 12:], torch.zeros(3, 8, 16))
    assert torch.allclose(y[:, :12], x - 2, atol=1e-4)


def test_views_are_of_one_second_and_mixed_with_past_clips_alone() -> None:
    still = {"frequency_scale": (1.0, 1.0), "scale": (1.0, 1.0), "canvas": 1.0}
    case = Case.of(BYOLA, {**SMALL_BYOL, **still}, CNN)
    task: Any = case.build()
    a, b, crop, frames = case.views(task)
    real = within(frames, crop.shape[1])[..., None]
    assert torch.allclose(a, crop * real, atol=1e-4)  # nothing past yet
    assert torch.allclose(a, b, atol=1e-4)
    task.loss((a, b, crop, frames))
    task.after_step(0.1)
    past = task.bank.features[: len(crop)].unflatten(1, (task.options.frames, -1))
    assert torch.equal(past[:, : crop.shape[1]], crop)
    assert (past[:, crop.shape[1] :] == SILENCE).all()
    a, b, again, _ = case.views(task)
    assert torch.equal(again, crop)
    assert not torch.allclose(a, b, atol=1e-2)
    x = task.spec.prepare(case.data.batch(1))
    short = Sound(x.wave[:, :4000], torch.tensor([1200]))  # 6 frames, of which a view has no more
    prepared = task.spec.prepare(short)
    silence = task.encoder.spectrum(Sound(torch.zeros(1, 400), torch.tensor([400])))[0]
    *_, crop, frames = task.views(short, Rng(0))
    assert frames.tolist() == [6]
    assert torch.equal(crop[0, :6], task.encoder.spectrum(prepared)[0, :6])
    assert torch.allclose(crop[0, 6:], silence.expand_as(crop[0, 6:]), atol=1e-5)


@pytest.mark.parametrize(
    ("cls", "options", "backbone"),
    [
        (HuBERT, SMALL_HUBERT, MEL), (Wav2Vec2, SMALL_WAV2VEC2, MEL), (Data2VecAudio, {}, MEL),
        (CPCAudio, {}, CAUSAL), (BYOLA, SMALL_BYOL, CNN),
    ],
)  # fmt: skip
@pytest.mark.parametrize("seconds", [0.2, 3.0])
def test_a_run_is_evaluated_on_clips_of_any_length(
    cls: Any, options: dict[str, Any], backbone: dict[str, Any], seconds: float
) -> None:
    case = Case.of(cls, options, backbone)
    other = cls(case.data.encoder(), cls.Options(**options), replace(case.data.spec, seconds=seconds))
    other.load_state_dict(case.build().state_dict())


def test_still_views_are_what_evaluation_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without changes, the loss sees the features that a short clip has in a padded batch."""
    still = {"frequency_scale": (1.0, 1.0), "scale": (1.0, 1.0), "canvas": 1.0, "mixup": 0.0}
    case = Case.of(BYOLA, {**SMALL_BYOL, **still}, CNN)
    task: Any = case.build().eval()
    short = Sound(case.data.batch(2).wave, torch.tensor([1200, 2400]))
    seen: list[torch.Tensor] = []
    pooled = task.encoder.pooled_spectrum
    monkeypatch.setattr(task.encoder, "pooled_spectrum", lambda *x: seen.append(pooled(*x)) or seen[-1])
    with torch.no_grad():
        task.loss(task.views(short, Rng(0)))
        expected = task.encoder(task.spec.prepare(short))
    assert all(torch.allclose(features, expected, atol=1e-5) for features in seen[:2])


def test_pictures_show_which_views_are_nearest_by_the_projections_of_the_loss() -> None:
    case = Case.of(BYOLA, SMALL_BYOL, CNN)
    task: Any = case.build().eval()
    views = case.views(task, 5)
    a, b, _, frames = views
    columns = task.gallery(views)
    with torch.no_grad():
        answers = list(nearest(task, task.spec, columns).values())
        z, keys = (task.projector(task.encoder.pooled_spectrum(x, frames)) for x in (a, b))
    cosines = F.normalize(z) @ F.normalize(keys).T
    pictures = [picture.tobytes() for picture in task.spec.show(columns["view 2"])]
    for i, row in enumerate(cosines.argsort(dim=1, descending=True)[:, :3].tolist()):
        for column, j in zip(answers, row, strict=True):
            assert column[i].similarity == pytest.approx(float(cosines[i, j]), abs=1e-5)
            assert column[i].right == (i == j)
            assert column[i].shown.tobytes() == pictures[j]


def test_past_clips_are_drawn_from_a_bank_that_has_overflowed() -> None:
    case = Case.of(BYOLA, {**SMALL_BYOL, "bank": 3}, CNN)
    task: Any = case.build()
    for seed in range(3):
        task.loss(case.views(task, 4, seed))
        task.after_step(0.1)
    assert task.bank.pushed == 12
    case.views(task, 32, 3)


def test_byol_a_refuses_networks_without_a_spectrum() -> None:
    case = Case.of(BYOLA, SMALL_BYOL, WAVE)
    with pytest.raises(Unsuitable, match="--backbone mel-cnn"):
        case.construct(case.data)
