"""Where the layers of a model are: one description for Hugging Face modules and for TransformerLens objects."""

import re
from dataclasses import dataclass

from torch import nn

from steer.errors import ModelError, SiteError
from steer.models.site import Site

_BLOCKS = (  # paths to the list of decoder layers, most specific first
    "original_model.model.layers",  # TransformerBridge over a Llama-like model
    "original_model.transformer.h",
    "original_model.gpt_neox.layers",
    "model.language_model.layers",
    "language_model.layers",
    "model.decoder.layers",
    "model.layers",
    "transformer.h",
    "gpt_neox.layers",
    "blocks",  # HookedTransformer
)
_SUBLAYERS = {"attn_out": ("self_attn", "linear_attn", "attn", "attention"), "mlp_out": ("mlp", "block_sparse_moe")}
# The norms of a layer tell what is added to the stream. With these, it is what the sublayers return:
_NORMS_BEFORE = [
    {"input_layernorm", "post_attention_layernorm"},  # Llama, Mistral, Phi-3, Qwen, GPT-NeoX
    {"input_layernorm"},  # Cohere, Phi: both sublayers read the same
    {"attention_layernorm", "feedforward_layernorm"},  # Apertus
    {"ln_1", "ln_2"},  # GPT-2
    {"ln_1"},  # GPT-J
    {"ln1", "ln2"},  # TransformerLens
    {"ln1"},
]
# and with these, it is what the norms after the sublayers return
_NORMS_AFTER = {"attn_out": "post_attention_layernorm", "mlp_out": "post_feedforward_layernorm"}
_NORMS_AROUND = [
    {*_NORMS_AFTER.values()},  # OLMo 2, EXAONE 4
    {*_NORMS_AFTER.values(), "input_layernorm", "pre_feedforward_layernorm"},  # Gemma 2 and 3
]
_IS_NORM = re.compile(r"ln|.*norm")
_IS_FACTOR = re.compile(r".*(scal|multiplier|alpha|beta|factor)")


@dataclass(frozen=True)
class Layout:
    """A model's root module, its decoder layers in order, and the width of its residual stream."""

    root: nn.Module
    blocks: nn.ModuleList
    d_model: int

    def module(self, site: Site) -> nn.Module:
        """The module to hook for ``site``.

        Raises:
            SiteError: the layer is out of range, or it is not known which module of the layer computes the part.
        """
        if site.layer >= len(self.blocks):
            raise SiteError(
                f"Layer {site.layer} is out of range: the model has {len(self.blocks)} layers, "
                f"so the valid range is 0 to {len(self.blocks) - 1}."
            )
        block = self.blocks[site.layer]
        if site.part in ("resid_pre", "resid_post"):
            return block
        block = getattr(block, "_original_component", block)  # what a TransformerBridge wraps
        return getattr(block, _added(block, site))


def _added(block: nn.Module, site: Site) -> str:
    """Name of the child whose output is added to the stream just as it is.

    Decided by everything that a layer is made of, so that a layer of another make is refused rather than misread.
    """
    children = [name for name, child in block.named_children() if _IS_NORM.match(name) or _has_weights(child)]
    norms = {name for name in children if _IS_NORM.match(name)}
    sublayers = {part: [name for name in names if name in children] for part, names in _SUBLAYERS.items()}
    known = norms.union(*sublayers.values())
    strange = [name for name in children if name not in known] + _own_factors(block)
    if not strange and all(len(names) == 1 for names in sublayers.values()):
        if norms in _NORMS_BEFORE:
            return sublayers[site.part][0]
        if norms in _NORMS_AROUND:
            return _NORMS_AFTER[site.part]
    raise SiteError(
        f"What is added to the residual stream as {site.part} is not known for layer {site.layer}, a "
        f"{type(block).__name__} of {', '.join([*children, *_own_factors(block)])}. Use resid_pre or resid_post."
    )


def _has_weights(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _own_factors(block: nn.Module) -> list[str]:
    """Names of a layer's own tensors and factors, by which it may multiply what it adds."""
    numbers = [name for name, value in vars(block).items() if isinstance(value, int | float) and _IS_FACTOR.match(name)]
    return [*numbers, *block._parameters, *block._buffers]


def find_layout(model: nn.Module) -> Layout:
    """Find the decoder layers of a model.

    Raises:
        ModelError: no list of decoder layers was found where known architectures have it.
    """
    config = getattr(model, "config", None) or getattr(model, "cfg", None)
    text = getattr(config, "text_config", None) or config
    width = getattr(text, "hidden_size", None) or getattr(text, "n_embd", None) or getattr(text, "d_model", None)
    for path in _BLOCKS:
        found = _follow(model, path)
        if isinstance(found, nn.ModuleList) and len(found) and isinstance(width, int):
            return Layout(model, found, width)
    raise ModelError(
        f"Cannot find the decoder layers of {type(model).__name__}: looked at {', '.join(_BLOCKS)}. "
        "Name the layers yourself: LanguageModel(model, tokenizer, name, layout=Layout(root, blocks, d_model))."
    )


def _follow(module: nn.Module, path: str) -> object:
    found: object = module
    for name in path.split("."):
        found = getattr(found, name, None)
    return found
