"""Export to a folder that `transformers.AutoModel.from_pretrained` reads, with the tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers import PreTrainedTokenizerFast
from transformers.utils import logging

from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo.errors import Unwritable
from ssl_zoo.tools.export import Exporter
from ssl_zoo_text.backbones import TransformersEncoder
from ssl_zoo_text.spec import TextSpec
from ssl_zoo_text.tokenizer import CLS, MASK, PAD, SEP, SPECIALS, UNK, parse

USAGE = '''import torch
from transformers import AutoModel, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({folder!r})
model = AutoModel.from_pretrained({folder!r}).eval()


def features(texts):
    """Return the features [B, D] of texts: the mean over the tokens without [CLS] and [SEP].

    Libraries whose mean is over all tokens, such as sentence-transformers, give other features.
    """
    texts = [" ".join(text.split()) for text in texts]
    x = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    special = torch.tensor([tokenizer.pad_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id])
    real = ~torch.isin(x["input_ids"], special)
    real = torch.where(real.any(1, keepdim=True), real, x["attention_mask"] > 0)[..., None]
    with torch.no_grad():
        output = model(
            input_ids=x["input_ids"], attention_mask=x["attention_mask"], output_hidden_states=True
        )
    states = output.{states}
    return (states * real).sum(1) / real.sum(1)'''


def tokenizer_of(spec: TextSpec) -> PreTrainedTokenizerFast:
    """Return the tokenizer as transformers', which cuts texts at the length of the samples.

    The names of special tokens in a text are text to it, as in training.
    """
    return PreTrainedTokenizerFast(
        tokenizer_object=parse(spec.tokenizer),
        model_max_length=spec.length,
        pad_token=SPECIALS[PAD],
        unk_token=SPECIALS[UNK],
        cls_token=SPECIALS[CLS],
        sep_token=SPECIALS[SEP],
        mask_token=SPECIALS[MASK],
        model_input_names=["input_ids", "attention_mask"],
        split_special_tokens=True,
    )


def write_folder(encoder: TransformersEncoder, spec: TextSpec, config: BackboneConfig, to: Path) -> str:
    """Write the network and the tokenizer into a folder; return the Python that loads them.

    Raises:
        Unwritable: the folder cannot be written.
    """
    try:
        with _without_progress_bars():
            encoder.network.save_pretrained(to)
        tokenizer_of(spec).save_pretrained(to)
    except OSError as error:
        reason = error.strerror or str(error)
        raise Unwritable(f"--to: cannot write {to}", path=to, reason=reason) from error
    states = "last_hidden_state" if encoder.layer is None else f"hidden_states[{encoder.layer}]"
    return USAGE.format(folder=str(to), states=states)


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    """Temporarily switch the progress bars of transformers off."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


FOLDER = Exporter(write_folder, "", "text", TransformersEncoder, library="transformers")
"""The format of `ssl-zoo export --to FOLDER/`."""
