"""Where the layers of a model are: one description for Hugging Face modules and for TransformerLens objects."""

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
_NORMS_AFTER = {"attn_out": "post_attention_layernorm", "mlp_out": "post_feedforward_layernorm"}  # Gemma 2 and 3
_SUBLAYERS = {
    "attn_out": ("self_attn", "attn", "attention", "self_attention"),
    "mlp_out": ("mlp", "block_sparse_moe", "feed_forward"),
}


@dataclass(frozen=True)
class Layout:
    """A model's root module, its decoder layers in order, and the width of its residual stream."""

    root: nn.Module
    blocks: nn.ModuleList
    d_model: int

    def module(self, site: Site) -> nn.Module:
        """The module to hook for ``site``.

        Raises:
            SiteError: the layer is out of range, or the layer has no such part.
        """
        if site.layer >= len(self.blocks):
            raise SiteError(
                f"Layer {site.layer} is out of range: the model has {len(self.blocks)} layers, "
                f"so the valid range is 0 to {len(self.blocks) - 1}."
            )
        block = self.blocks[site.layer]
        if site.part in ("resid_pre", "resid_post"):
            return block
        if hasattr(block, "pre_feedforward_layernorm"):  # what is added to the stream is normalised once more
            return getattr(block, _NORMS_AFTER[site.part])
        for name in _SUBLAYERS[site.part]:
            if isinstance(child := getattr(block, name, None), nn.Module):
                return child
        children = ", ".join(name for name, _ in block.named_children())
        raise SiteError(f"No module for {site.part} in layer {site.layer}: it has {children}.")


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
