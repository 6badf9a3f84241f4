"""Clips, spectra and MFCC against references, the spec, and the bundled syllables."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.fft import dct
from ssl_zoo_audio.data.syllables import INITIALS, read_name
from ssl_zoo_audio.sound import Sound, masked_statistics, pad_clips, standardise
from ssl_zoo_audio.spec import SoundSpec, log_mel_on
from ssl_zoo_audio.spectra import FLOOR, MFCC, LogMel, at_places, mel_filters, slope
from torch import Tensor
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from ssl_zoo import UserError
from ssl_zoo.config.schema import DataConfig
from ssl_zoo.data import DataSet
from ssl_zoo.runs.build import load_data
from ssl_zoo.testing import Check, parametrize_with_source_checks


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def sounds(*lengths: int, seed: int = 0) -> Sound:
    return pad_clips([noise(n, seed=seed + n) for n in lengths], max(lengths))


@parametrize_with_source_checks("syllables")
def test_syllables_conform(check: Check) -> None:
    check()


def opened(**options: object) -> DataSet:
    config = DataConfig(source="syllables", options=options)
    return load_data(config, torch.device("cpu"), "audio")


def test_base_syllables_are_on_one_side_whatever_the_label() -> None:
    initial, tone = opened(), opened(label="tone")
    assert initial.train.names == tone.train.names
    assert initial.test is not None
    bases = [
        {name.rstrip("234") for name in split.names or ()} for split in (initial.train, initial.test)
    ]
    assert not bases[0] & bases[1]
    assert len(initial.train) + len(initial.test) == 1147
    assert 0.2 < len(initial.test) / 1147 < 0.3
    assert initial.train.labels is not None
    assert tone.train.labels is not None
    for name, first, number in zip(
        initial.train.names or (), initial.train.labels.tolist(), tone.train.labels.tolist(), strict=True
    ):
        assert (INITIALS[first] == name[0]) if first < 21 else name[0] not in INITIALS
        assert str(number + 1) == (name[-1] if name[-1].isdigit() else "1")


def test_the_name_of_a_syllable_tells_its_consonant_and_tone() -> None:
    assert read_name("ㄅㄚ") == ("ㄅㄚ", "ㄅ", "1")
    assert read_name("ㄕ4") == ("ㄕ", "ㄕ", "4")
    assert read_name("ㄩㄢ2") == ("ㄩㄢ", "none", "2")
    assert read_name("ㄇㄚ1") is None  # in the neutral tone


def test_another_rate_has_as_many_seconds() -> None:
    low, high = opened(rate=8000), opened()
    assert low.spec.longest == pytest.approx(high.spec.longest / 2, abs=1)  # type: ignore[attr-defined]
    a, b = (data.train.batch(torch.arange(5)) for data in (low, high))
    assert torch.allclose(a.length * 2.0, b.length.float(), atol=1)
    assert torch.allclose(a.wave.square().sum(1) * 2, b.wave.square().sum(1), rtol=0.2)


def test_standardised_clips_have_variance_one_over_their_own_samples() -> None:
    x = sounds(700, 1000)
    x = Sound(3 * x.wave + 2 * x.valid(), x.length)
    y = standardise(x)
    for row, n in zip(y.wave, y.length.tolist(), strict=True):
        assert row[:n].mean().item() == pytest.approx(0, abs=1e-5)
        assert row[:n].var(correction=0).item() == pytest.approx(1, rel=1e-4)
        assert not row[n:].any()
    assert standardise(Sound(torch.ones(1, 9), torch.tensor([9]))).wave.abs().max() == 0


def test_the_spectrum_is_that_of_transformers() -> None:
    filters = mel_filter_bank(201, 80, 0.0, 8000.0, 16000, norm=None, mel_scale="htk")
    ours = mel_filters(201, 80, 16000).numpy()
    # theirs rounds the highest frequency to 8000 Hz in another way
    np.testing.assert_allclose(ours, filters, atol=1e-6)
    wave = noise(4000).double()
    expected = spectrogram(
        wave.numpy(),
        window_function(400, "hann", periodic=True),
        400,
        160,
        power=2.0,
        center=False,
        mel_filters=filters,
        mel_floor=0.0,
        dtype=np.float64,
    )
    log_mel = LogMel()(wave[None].float())[0]
    assert log_mel.shape == (1 + (4000 - 400) // 160, 80)
    np.testing.assert_allclose(log_mel.numpy(), np.log(expected.T + FLOOR), atol=1e-4)


def test_mfcc_are_the_dct_of_the_spectrum_with_slopes() -> None:
    mfcc, x = MFCC(), sounds(3000, 4000)
    features = mfcc(x.wave, x.length)
    assert features.shape == (2, 23, 39)
    spectrum = mfcc.log_mel(x.wave)[1].double().numpy()
    static = dct(spectrum, norm="ortho")[:, :13]
    np.testing.assert_allclose(features[1, :, :13].numpy(), static, atol=1e-3)
    padded = np.pad(static, ((2, 2), (0, 0)), mode="edge")
    n = len(static)
    first = (padded[3 : n + 3] - padded[1 : n + 1] + 2 * (padded[4:] - padded[:n])) / 10
    np.testing.assert_allclose(features[1, :, 13:26].numpy(), first, atol=1e-3)


def test_slopes_end_with_the_clip() -> None:
    x = torch.arange(8.0).expand(2, 8)[..., None].clone()
    x[0, 5:] = 99
    slopes = slope(x, torch.tensor([4, 7]))
    assert slopes[0, :5, 0].tolist() == pytest.approx([0.5, 0.8, 1.0, 0.8, 0.5])
    assert slopes[1, 2:6, 0].tolist() == pytest.approx([1.0] * 4)


@pytest.mark.parametrize("hop", [160, 320])
def test_what_is_said_of_a_place_moves_with_the_clip(hop: int) -> None:
    mfcc, wave = MFCC(), noise(1, 8000)
    length, frames = torch.tensor([8000]), 8000 // hop - 2
    valid = torch.ones(1, frames, dtype=torch.bool)
    whole = at_places(mfcc(wave, length), valid, hop, 160)
    shifted = at_places(mfcc(wave[:, hop:], length - hop), valid, hop, 160)
    inner = slice(4, frames - 5)  # slopes near the ends see these
    assert torch.allclose(whole[:, 5 : frames - 4], shifted[:, inner], atol=1e-4)


@pytest.mark.parametrize("rate", [16000, 22050, 44100])
def test_a_place_of_a_wave_network_has_the_frame_of_its_time(rate: int) -> None:
    hop = LogMel(rate).hop
    frames = torch.arange(200.0)[None, :, None]
    found = at_places(frames, torch.ones(1, 60, dtype=torch.bool), 320, hop)[0, :, 0]
    assert found.tolist() == [int(320 * place / hop) for place in range(60)]


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100])
@pytest.mark.parametrize("mels", [8, 80, 128, 256])
def test_no_band_is_empty_and_its_level_does_not_depend_on_the_transform(rate: int, mels: int) -> None:
    log_mel = LogMel(rate, mels)
    assert (log_mel.filters.sum(0) > 0).all()
    highest = 2595 * np.log10(1 + rate / 2 / 700)
    low, high = (700 * (10 ** ((mels + i) / (mels + 1) * highest / 2595) - 1) for i in (-1, 1))
    area = (high - low) / 2 / (rate / log_mel.window)  # of the last triangle, in bins of the window
    assert log_mel.filters[:, -1].sum().item() == pytest.approx(area, rel=0.1)


def test_a_batch_is_padded_to_its_own_longest_clip() -> None:
    spec, x = SoundSpec(seconds=1.0), sounds(1600, 1200)
    padded = spec.pad(x, 40)
    assert torch.equal(spec.prepare(padded).wave, spec.prepare(x).wave)
    assert spec.prepare(padded).wave.shape == (2, 1600)


def test_spectra_on_two_devices_do_not_disturb_each_other() -> None:
    spec, x = SoundSpec(seconds=0.25), sounds(4000, 2400)
    before = spec.raw(x)
    assert log_mel_on(16000, torch.device("meta")).basis.device.type == "meta"
    assert torch.equal(spec.raw(x), before)
    assert len(spec.show(x)) == 2


def test_frames_never_see_padding() -> None:
    log_mel, x = LogMel(), sounds(1999, 4000)
    alone = log_mel(x.wave[:1, :1999])
    n = int(log_mel.frames(x.length)[0])
    assert alone.shape[1] == n
    assert torch.allclose(log_mel(x.wave)[:1, :n], alone, atol=1e-5)
    assert log_mel.frames(torch.tensor([0, 1, 400, 559, 560])).tolist() == [1, 1, 1, 1, 2]


def test_statistics_are_over_real_places() -> None:
    x, valid = noise(2, 5, 3), torch.tensor([[True] * 3 + [False] * 2, [True] * 5])
    statistics = masked_statistics(x, valid)
    assert torch.allclose(statistics[0, :3], x[0, :3].mean(0))
    assert torch.allclose(statistics[0, 3:], x[0, :3].std(0, correction=0), atol=1e-4)


def test_varied_clips_are_parts_with_noise() -> None:
    spec, x = SoundSpec(seconds=0.1), sounds(1600, 1200)
    varied = spec.vary(x, torch.Generator().manual_seed(0))
    again = spec.vary(x, torch.Generator().manual_seed(0))
    assert torch.equal(varied.wave, again.wave)
    assert (varied.length <= x.length).all()
    assert (varied.length >= 0.8 * x.length).all()
    assert not varied.wave[~varied.valid()].any()
    for row, n, clip in zip(varied.wave, varied.length.tolist(), spec.prepare(x).wave, strict=True):
        cosine = [
            torch.nn.functional.cosine_similarity(row[:n], clip[i : i + n], dim=0).item()
            for i in range(len(clip) - n + 1)
        ]
        assert 0.98 < max(cosine) < 0.99999


def test_pictures_have_a_column_for_10_ms_and_dark_spans() -> None:
    spec, x = SoundSpec(seconds=0.25), sounds(4000, 2400)
    hidden = torch.zeros(2, 23, dtype=torch.bool)
    hidden[:, 5:9] = True
    plain, dark = spec.show(x), spec.spectrograms(x, hidden)
    assert [p.size for p in plain] == [(4 * 23, 160), (4 * 13, 160)]
    a, b = (np.asarray(p[0]).astype(int).sum((0, 2))[::4] for p in (plain, dark))
    assert ((b < a) == hidden[0].numpy()).all()


def test_a_network_takes_clips_of_other_lengths_at_its_rate() -> None:
    ours = SoundSpec(rate=16000, seconds=2.0, classes=3)
    assert ours.adopt(SoundSpec(seconds=9.0)) == SoundSpec(seconds=9.0, classes=3)
    with pytest.raises(UserError, match="rate=8000"):
        ours.adopt(SoundSpec(rate=8000))
    assert SoundSpec.from_header(ours.to_header()) == ours
