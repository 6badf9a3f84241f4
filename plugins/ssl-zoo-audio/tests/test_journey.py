"""The outputs of a run on sound: scores, the loaded backbone, and the exported folder."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from ssl_zoo_audio.data.decoding import read_clip

import ssl_zoo
from ssl_zoo.comparison import open_sweep
from ssl_zoo.config.load import load_config
from ssl_zoo.runs.backbone import load_encoder
from ssl_zoo.tools.export import export
from ssl_zoo.training import train

TINY = {"width": 16, "layers": 2, "heads": 2}
WAVE = {"backbone.name": "hubert-mini", "backbone.options": {**TINY, "channels": 16, "layer": 1}}
HUBERT = {"task.name": "hubert", "task.clusters": 8, "task.sample": 128, "task.layer": 2}
SETTINGS = {
    "train.epochs": 0.2,
    "train.batch_size": 16,
    "train.device": "cpu",
    "train.precision": "fp32",
}
RECORDS = Path(__file__).parents[3] / "results" / "audio"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a short run of HuBERT on the encoder of transformers."""
    out = tmp_path_factory.mktemp("audio") / "run"
    train(load_config(None, {**HUBERT, **WAVE, **SETTINGS}), out=out, protocol=["knn"])
    return out


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Return a file with a second of noise at another rate."""
    wave = 0.1 * np.random.default_rng(0).standard_normal(22050)
    soundfile.write(tmp_path / "clip.wav", wave, 22050)
    return tmp_path / "clip.wav"


def test_scores_stand_beside_raw_and_untrained(run: Path) -> None:
    scores = json.loads((run / "results.json").read_text())["scores"]
    assert scores.keys() == {"hubert", "log-mel statistics", "random-init"}


def test_the_loaded_backbone_is_the_model_of_transformers(run: Path, clip: Path) -> None:
    model: Any = ssl_zoo.load_backbone(run)
    assert type(model).__name__ == "HubertModel"
    x = model.ssl_zoo_preprocess(clip)
    assert x.wave.shape == (1, 16000)
    encoder, _ = load_encoder(run)
    with torch.no_grad():
        places = model(x.wave, output_hidden_states=True).hidden_states[1]
        assert torch.allclose(places.mean(1), encoder(x), atol=1e-5)


def test_the_exported_folder_has_the_same_features(run: Path, clip: Path, tmp_path: Path) -> None:
    code = export(run, tmp_path / "model")
    assert {"config.json", "model.safetensors", "preprocessor_config.json"} <= {
        file.name for file in (tmp_path / "model").iterdir()
    }
    namespace: dict[str, Any] = {}
    exec(code, namespace)  # that it does without ssl_zoo is shown by the test of the command
    features = namespace["features"](read_clip(clip, 16000).numpy())
    encoder, spec = load_encoder(run)
    with torch.no_grad():
        expected = encoder(spec.preprocess(clip))
    np.testing.assert_allclose(features.numpy(), expected.numpy(), atol=1e-4)


def test_a_network_of_ours_has_no_folder(tmp_path: Path) -> None:
    settings = {**HUBERT, "backbone.name": "mel-mini", "backbone.options": TINY, **SETTINGS}
    train(load_config(None, settings), out=tmp_path / "run", protocol=[])
    with pytest.raises(ssl_zoo.UserError) as refused:
        export(tmp_path / "run", tmp_path / "model")
    assert str(refused.value) == (
        f"--to {tmp_path / 'model'}: mel-mini is no network of transformers, whose format this is; its "
        "name must end in .safetensors or .onnx or .pt2, or train a network of transformers (--backbone)"
    )


def test_listing_tasks_imports_no_torch() -> None:
    code = "import sys, ssl_zoo_audio.plugin; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_licence_of_the_data_is_named() -> None:
    root = Path(__file__).parents[1]
    for file in (root / "README.md", root / "LICENSES" / "syllables.txt"):
        text = file.read_text(encoding="utf-8")
        assert "ChionMeilin" in text
        assert re.search(r"CC BY 3\.0|Creative Commons Attribution 3\.0", text)


@pytest.mark.skipif(not RECORDS.is_dir(), reason="the distribution is tested without the records")
def test_the_records_of_the_comparison_are_gone_on_with(tmp_path: Path) -> None:
    """Defaults that have changed are no reason to refuse the command that the page prints."""
    file = Path(__file__).parents[1] / "compare.yaml"
    open_sweep(file, tmp_path, record=RECORDS).write()
    assert (tmp_path / "compare.yaml").is_file()
