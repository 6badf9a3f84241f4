"""A trained network in other hands: a folder for transformers, and `load_backbone`."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import OPTIONS, SmallTexts, small_data, small_spec
from safetensors.torch import load_file
from ssl_zoo_text.tokenizer import read_tokenizer
from transformers import PreTrainedModel

import ssl_zoo
from ssl_zoo.backbones.build import create_encoder
from ssl_zoo.config.load import load_config
from ssl_zoo.runs.backbone import write_backbone
from ssl_zoo.runs.build import load_data
from ssl_zoo.runs.run import Run

TEXTS = [
    "And God said, Let there be light:  and there was light.",
    "Jesus wept.",
    "a " * 99,
    "",
    "the [MASK] was, [SEP] and",
]


FAMILIES = ("bert", "gpt2", "xlnet", "modernbert", "electra")


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with each family's backbone, and its features without ssl-zoo."""
    folder = tmp_path_factory.mktemp("exported")
    program = 'import sys\nsys.modules["ssl_zoo"] = sys.modules["ssl_zoo_text"] = None\n'
    for family in FAMILIES:
        data = SmallTexts(f"{family}-tiny")
        torch.manual_seed(0)
        file = folder / f"{family}.safetensors"
        write_backbone(file, data.encoder(), data.config, small_spec())
        program += f"{ssl_zoo.export(file, folder / family)}\n"
        program += f"torch.save(features({TEXTS!r}), {str(folder / f'{family}.pt')!r})\n"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_gives_the_same_features_without_ssl_zoo(family: str, read: Path) -> None:
    torch.manual_seed(0)
    encoder: Any = SmallTexts(f"{family}-tiny").encoder().eval()
    with torch.no_grad():
        expected = torch.cat([encoder(small_spec().preprocess(text)) for text in TEXTS])
    torch.testing.assert_close(torch.load(read / f"{family}.pt"), expected, rtol=1e-4, atol=1e-5)

    model: Any = ssl_zoo.load_backbone(read / f"{family}.safetensors")
    assert isinstance(model, PreTrainedModel)
    x = model.ssl_zoo_preprocess(TEXTS[0])
    with torch.no_grad():
        states = model(input_ids=x.ids, attention_mask=x.valid().long()).last_hidden_state
        torch.testing.assert_close(states[0, 1:10].mean(0), encoder.tokens(x)[0, 1:10].mean(0))


@pytest.mark.parametrize("family", ["gpt2", "xlnet", "modernbert"])
def test_features_of_another_layer_are_those_of_the_export(family: str, tmp_path: Path) -> None:
    data = SmallTexts(f"{family}-tiny", layer=1)
    torch.manual_seed(0)
    encoder: Any = data.encoder().eval()
    file = tmp_path / "backbone.safetensors"
    write_backbone(file, encoder, data.config, small_spec())
    namespace: dict[str, Any] = {}
    exec(ssl_zoo.export(file, tmp_path / "model"), namespace)
    with torch.no_grad():
        expected = torch.cat([encoder(small_spec().preprocess(text)) for text in TEXTS])
        encoder.layer = None
        last = torch.cat([encoder(small_spec().preprocess(text)) for text in TEXTS])
    torch.testing.assert_close(namespace["features"](TEXTS), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(expected, last, atol=1e-2)


@pytest.mark.parametrize("layer", [0, 3, "last"])
def test_a_layer_that_is_not_there_is_refused(layer: Any) -> None:
    message = rf"^backbone\.options\.layer: there are 2 layers \({layer}\); give 1 to 2$"
    with pytest.raises(ssl_zoo.UserError, match=message):
        SmallTexts(layer=layer).encoder()


def test_other_texts_are_read_with_the_tokenizer_of_the_network() -> None:
    spec = small_spec()
    again = type(spec).from_header(spec.to_header())
    assert again.tokenizer == spec.tokenizer
    assert again.show(again.preprocess(TEXTS[1])) == [TEXTS[1]]
    assert spec.data_settings()["options"]["tokenizer"] == spec.tokenizer
    assert spec.adopt(small_data().spec) == spec


def test_a_network_begins_with_the_weights_of_another_run(tmp_path: Path) -> None:
    data, file = SmallTexts(), tmp_path / "backbone.safetensors"
    trained: Any = data.encoder()
    write_backbone(file, trained, data.config, small_spec())
    config = data.config.model_copy(update={"weights": str(file)})
    begun: Any = create_encoder(config, small_spec())
    for name, value in trained.state_dict().items():
        assert begun.state_dict()[name].equal(value), name


def test_training_that_starts_from_a_run_takes_its_tokenizer(tmp_path: Path) -> None:
    data, file = SmallTexts(), tmp_path / "backbone.safetensors"
    write_backbone(file, data.encoder(), data.config, small_spec())
    other = tmp_path / "other.txt"
    other.write_text("".join(f"Line {i} of other texts, with words of its own.\n" for i in range(40)))
    settings = {"task.name": "bert", "backbone.weights": str(file), "data.source": str(other)}
    config = load_config(None, settings)
    assert config.data.options == {"length": OPTIONS.length, "tokenizer": str(file)}
    spec: Any = load_data(config.data, torch.device("cpu"), "text").spec
    assert spec.tokenizer == small_spec().tokenizer
    begun: Any = create_encoder(config.backbone, spec)
    words = load_file(file)["embeddings.word_embeddings.weight"]
    assert begun.embedding.weight.equal(words)

    config = load_config(None, {**settings, "data.options": {"tokenizer": "bpe", "vocabulary": 300}})
    another = load_data(config.data, torch.device("cpu"), "text").spec
    with pytest.raises(
        ssl_zoo.UserError, match=r"^backbone\.weights: .* has another tokenizer than the"
    ):
        create_encoder(config.backbone, another)


def test_a_run_keeps_the_tokenizer_that_it_started_with(tmp_path: Path) -> None:
    data, first = SmallTexts(), tmp_path / "first"
    first.mkdir()
    write_backbone(first / "backbone.safetensors", data.encoder(), data.config, small_spec())
    other = tmp_path / "other.txt"
    other.write_text("".join(f"Line {i} of other texts, with words of its own.\n" for i in range(40)))
    settings = {"task.name": "bert", "backbone.weights": str(first), "data.source": str(other)}
    config = load_config(None, settings)
    spec: Any = load_data(config.data, torch.device("cpu"), "text").spec
    run = Run.make(tmp_path / "run", config)
    run.begin(config, spec)
    shutil.rmtree(first)
    run = Run.open(run.path.rename(tmp_path / "moved"))
    assert run.config().data == config.data
    kept: Any = load_data(run.with_inputs(run.config()).data, torch.device("cpu"), "text").spec
    assert kept == spec
    run.discard()
    assert not run.path.exists()


def test_a_tokenizer_is_read_from_a_run_on_text_alone(tmp_path: Path) -> None:
    data, file = SmallTexts(), tmp_path / "backbone.safetensors"
    write_backbone(file, data.encoder(), data.config, small_spec())
    assert read_tokenizer(tmp_path) == read_tokenizer(file) == small_spec().tokenizer
    with pytest.raises(ssl_zoo.UserError, match=r"^data\.options\.tokenizer: .*does not exist"):
        read_tokenizer(tmp_path / "none.safetensors")
