"""Export of an encoder of transformers to a folder that `AutoModel.from_pretrained` reads."""

from __future__ import annotations

from pathlib import Path

from transformers import Wav2Vec2FeatureExtractor

from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo_audio.encoders.huggingface import TransformersEncoder
from ssl_zoo_audio.spec import SoundSpec


def write_folder(encoder: TransformersEncoder, spec: SoundSpec, config: BackboneConfig, to: Path) -> str:
    """Write the model and what prepares waves for it; return the Python that computes features.

    The model's output of the evaluated layer, averaged over places, is the features of the run's
    evaluation.

    Args:
        encoder: the encoder.
        spec: the description of clips.
        config: the section ``backbone``.
        to: the folder.
    """
    encoder.model.save_pretrained(to)
    Wav2Vec2FeatureExtractor(
        sampling_rate=spec.rate, do_normalize=True, return_attention_mask=True
    ).save_pretrained(to)
    number = encoder.model.config.num_hidden_layers
    layer = encoder.layer % number + 1
    output = "last_hidden_state" if layer == number else f"hidden_states[{layer}]"
    pooled = "places.mean(1)"
    if encoder.deviation:
        pooled = "torch.cat([places.mean(1), (places.var(1, correction=0) + 1e-6).sqrt()], 1)"
    return f"""\
import torch
from transformers import AutoFeatureExtractor, AutoModel

model = AutoModel.from_pretrained({str(to)!r}).eval()
extract = AutoFeatureExtractor.from_pretrained({str(to)!r})


def features(wave):
    \"\"\"Return the features [1, {encoder.width}] of a wave [T] of {spec.rate} samples per second.\"\"\"
    x = extract(wave, sampling_rate={spec.rate}, return_tensors="pt")
    with torch.no_grad():
        places = model(x.input_values, output_hidden_states=True).{output}
    return {pooled}"""
