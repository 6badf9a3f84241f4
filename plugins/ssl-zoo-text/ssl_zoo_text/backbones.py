"""Networks of the library transformers, built from configurations, as encoders of texts."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ssl_zoo import Encoder, Unsuitable
from ssl_zoo.config.errors import SettingError
from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo.text import did_you_mean, error_line
from ssl_zoo_text.spec import Text, TextSpec
from ssl_zoo_text.tokenizer import CLS, PAD, SEP

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

SIZES = {
    "tiny": (128, 2, 2),
    "micro": (128, 4, 4),
    "mini": (256, 4, 4),
    "small": (512, 4, 8),
    "medium": (512, 8, 8),
    "base": (768, 12, 12),
}
"""Width, layers and heads; but for micro, those of Turc et al. 2019, arXiv:1908.08962."""

FAMILIES = {
    "bert": ("BertConfig", "BertModel"),
    "gpt2": ("GPT2Config", "GPT2Model"),
    "xlnet": ("XLNetConfig", "XLNetModel"),
    "modernbert": ("ModernBertConfig", "ModernBertModel"),
    "electra": ("ElectraConfig", "ElectraModel"),
}
"""The classes of transformers for the configuration and the network of each family.

A backbone is named FAMILY-SIZE.
"""

DROPOUTS = {
    "bert": ("hidden_dropout_prob", "attention_probs_dropout_prob"),
    "gpt2": ("resid_pdrop", "embd_pdrop", "attn_pdrop"),
    "xlnet": ("dropout",),
    "modernbert": ("attention_dropout", "embedding_dropout", "mlp_dropout"),
    "electra": ("hidden_dropout_prob", "attention_probs_dropout_prob"),
}
"""The names of the dropout rates of each family, which the option ``dropout`` sets; by default 0."""

OWN_OPTIONS = frozenset({"dropout", "layer"})
"""The options that are no arguments of a configuration."""


def classes(family: str) -> tuple[type[PretrainedConfig], type[PreTrainedModel]]:
    """Return the configuration and the network of a family; transformers takes seconds to import."""
    import transformers

    config, network = FAMILIES[family]
    return getattr(transformers, config), getattr(transformers, network)


def configure(family: str, size: str, spec: TextSpec, options: Mapping[str, Any]) -> PretrainedConfig:
    """Return the configuration of a network.

    Args:
        family: one of `FAMILIES`.
        size: one of `SIZES`.
        spec: the description of the texts.
        options: ``dropout``, ``layer``, and arguments of the configuration's class, which override the
            size's.

    Raises:
        SettingError: an option is unknown, or the class refuses it.
    """
    width, layers, heads = SIZES[size]
    dropout = options.get("dropout", 0.0)
    values: dict[str, Any] = {
        "vocab_size": spec.vocabulary,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "pad_token_id": PAD,
        "bos_token_id": CLS,
        "eos_token_id": SEP,
        **dict.fromkeys(DROPOUTS[family], dropout),
    }
    if family != "xlnet":
        values["max_position_embeddings"] = spec.length
    if family in ("bert", "electra"):
        values["intermediate_size"] = 4 * width
    if family == "electra":
        values["embedding_size"] = width
    if family == "modernbert":
        values |= {"intermediate_size": 3 * width // 2, "cls_token_id": CLS, "sep_token_id": SEP}
    if family == "xlnet":
        values |= {"d_inner": 4 * width, "d_head": width // heads}
    if family in ("gpt2", "xlnet"):
        values["use_cache" if family == "gpt2" else "use_mems_eval"] = False
    cls, _ = classes(family)
    known = {*cls().to_dict(), *cls.attribute_map, *OWN_OPTIONS}
    for name in options:
        if name not in known:
            hint = did_you_mean(name, known)
            raise SettingError(f"backbone.options.{name}", f"is not an option of {cls.__name__}.{hint}")
    try:
        return cls(**{**values, **{n: v for n, v in options.items() if n not in OWN_OPTIONS}})
    except Exception as error:  # huggingface_hub's validators raise errors of their own
        raise SettingError(
            "backbone.options", f"{cls.__name__} refuses them: {error_line(error)}"
        ) from error


class TransformersEncoder(Encoder):
    """A network of transformers; the features of a text are the mean over its ordinary tokens.

    Args:
        network: the network without a head.
        length: the number of positions T; padding behind them has the last position.
        layer: the layer whose output is evaluated, from 1; None for the last.
    """

    finetune_lr = 3e-4

    def __init__(self, network: PreTrainedModel, length: int, layer: int | None = None) -> None:
        super().__init__()
        self.network, self.length, self.layer = network, length, layer
        self.width: int = network.config.hidden_size

    @property
    def family(self) -> str:
        """The family of the network, such as ``"bert"``."""
        return str(self.network.config.model_type)

    @property
    def causal(self) -> bool:
        """True if a place sees those before it alone."""
        return self.family == "gpt2"

    @property
    def embedding(self) -> nn.Embedding:
        """The embedding of tokens [V, e], to which heads tie their output."""
        embedding = self.network.get_input_embeddings()
        assert isinstance(embedding, nn.Embedding)
        return embedding

    def require(self, task: str, *families: str) -> None:
        """Raise unless the network is of one of these families.

        Raises:
            Unsuitable: it is of another one.
        """
        if self.family not in families:
            names = " or ".join(f"{family}-micro" for family in families)
            raise Unsuitable(
                f"{task} cannot train a network of the family {self.family}; choose {names}"
            )

    def set_dropout(self, rate: float) -> None:
        """Set the rate of all dropout of the network.

        ModernBERT has none behind its attention if it was built without; its other rates are set.

        Args:
            rate: the probability, in [0, 1).
        """
        for module in self.network.modules():
            if isinstance(module, nn.Dropout):
                module.p = rate
            elif hasattr(module, "attention_dropout"):  # ModernBERT's attention keeps the number alone
                module.attention_dropout = rate

    def tokens(
        self,
        x: Text,
        visible: Tensor | None = None,
        attend: Tensor | None = None,
        prefix: bool = False,
        **inputs: Tensor,
    ) -> Tensor:
        """Return the last hidden states [B, T, d] of all places; no place sees padding.

        Args:
            x: the texts.
            visible: must be None.
            attend: must be None.
            prefix: of no effect, as [CLS] is a place of the text.
            inputs: further inputs of the network's `forward`, such as ``token_type_ids``. With
                ``target_mapping`` XLNet returns the states of its query stream, [B, K, d].

        Raises:
            Unsuitable: some places are to be left out, or may not look at each other.
        """
        if visible is not None or attend is not None:
            raise Unsuitable("transformers' networks see all places of a text; leave tokens out of it")
        states: Tensor = self._run(x, **inputs).last_hidden_state
        return states

    def _run(self, x: Text, **inputs: Any) -> Any:
        """Return the network's output for texts."""
        if self.family != "xlnet":
            places = torch.arange(x.ids.shape[1], device=x.ids.device).clamp(max=self.length - 1)
            inputs["position_ids"] = places.expand_as(x.ids)
        mask = x.valid()
        return self.network(
            input_ids=x.ids,
            attention_mask=mask.float() if self.family == "xlnet" else mask.long(),
            **inputs,
        )

    def forward(self, x: Text) -> Tensor:
        """Return the features [B, D]: the mean over ordinary tokens; over [CLS] and [SEP] if none."""
        if self.layer is None:
            return self.pool(self.tokens(x), x)
        return self.pool(self._run(x, output_hidden_states=True).hidden_states[self.layer], x)

    def pool(self, states: Tensor, x: Text) -> Tensor:
        """Return the mean of states [B, T, d] over ordinary tokens, [B, d]."""
        some = x.ordinary()
        real = torch.where(some.any(1, keepdim=True), some, x.valid())[..., None]
        return (states * real).sum(1) / real.sum(1).clamp(min=1)

    def feature_map(self, x: Text, hidden: Tensor | None = None, token: Tensor | None = None) -> Tensor:
        """Return the features of all places [B, d, T].

        Raises:
            Unsuitable: places are to be hidden; hide tokens by [MASK] instead.
        """
        if hidden is not None:
            raise Unsuitable("transformers' networks hide tokens by [MASK]; put it into the ids")
        return self.tokens(x).transpose(1, 2)

    def valid(self, x: Text) -> Tensor:
        """Return which places are no padding, bool [B, T]."""
        return x.valid()

    @property
    def exported_network(self) -> nn.Module:
        """The network of transformers."""
        network: nn.Module = self.network
        return network

    def parameter_layers(self) -> list[list[nn.Parameter]]:
        """Return the parameters of the embeddings, of each layer, and of what follows."""
        number = self.network.config.num_hidden_layers
        lists = (m for m in self.network.modules() if isinstance(m, nn.ModuleList) and len(m) == number)
        layers = [list(layer.parameters()) for layer in next(lists)]
        inner = {id(p) for layer in layers for p in layer}
        first = {id(p) for p in self.embedding.parameters()}
        outer = [p for n, p in self.network.named_parameters() if id(p) not in inner]
        begin = [p for p in outer if id(p) in first or p.ndim > 1]
        chosen = {id(p) for p in begin}
        return [begin, *layers, [p for p in outer if id(p) not in chosen]]


def create(family: str, size: str, config: BackboneConfig, spec: TextSpec) -> TransformersEncoder:
    """Build a network with random weights.

    Raises:
        Unsuitable: the data are no texts.
        SettingError: an option of the network is wrong.
    """
    if not isinstance(spec, TextSpec):
        raise Unsuitable(f"{config.name} takes texts, and the data is {spec.modality} data")
    settings = configure(family, size, spec, config.options)
    _, cls = classes(family)
    extra = {"add_pooling_layer": False} if family == "bert" else {}
    network = cls(settings, **extra)
    depth, layer = network.config.num_hidden_layers, config.options.get("layer")
    if layer is not None and (type(layer) is not int or not 1 <= layer <= depth):
        reason = f"there are {depth} layers ({layer}); give 1 to {depth}"
        raise SettingError("backbone.options.layer", reason)
    for name, parameter in network.named_parameters():
        if name.endswith(("rel_attn.seg_embed", "rel_attn.r_s_bias")):
            parameter.requires_grad_(False)  # XLNet's, for texts of several segments; never used
    return TransformersEncoder(network, spec.length, None if layer == depth else layer)


def backbones() -> dict[str, Any]:
    """Return the factory of each backbone by its name, FAMILY-SIZE."""
    return {f"{family}-{size}": partial(create, family, size) for family in FAMILIES for size in SIZES}
