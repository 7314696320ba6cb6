"""Names of places in a model, where another library's name and ours mean the same; all others are kept as they are."""

import re

UNKNOWN = "unknown"
"""Where a transcoder writes, if its files do not tell."""

_LENS = re.compile(r"blocks\.(\d+)\.hook_(resid_pre|resid_post|attn_out|mlp_out)")
_LAYER = re.compile(r"(?:model\.|transformer\.|gpt_neox\.)?(?:layers|h)\.(\d+)(?:\.output)?")
_NORM_AFTER = re.compile(r"model\.layers\.(\d+)\.post_feedforward_layernorm\.output")
_OURS = re.compile(r"(\d+)\.(resid_pre|resid_post|attn_out|mlp_out)")


def our_name(hook: str | None) -> str | None:
    """``blocks.3.hook_mlp_out`` is ``3.mlp_out``; ``layers.3`` (its output) is ``3.resid_post``; others stay."""
    if hook is None:
        return None
    if match := _LENS.fullmatch(hook):
        return f"{int(match[1])}.{match[2]}"
    if match := _LAYER.fullmatch(hook):
        return f"{int(match[1])}.resid_post"
    if match := _NORM_AFTER.fullmatch(hook):  # a layer with this norm adds the norm's output to the stream
        return f"{int(match[1])}.mlp_out"
    return hook


def lens_name(site: str | None) -> str | None:
    """The name in TransformerLens of one of our sites; others stay."""
    match = _OURS.fullmatch(site or "")
    return f"blocks.{int(match[1])}.hook_{match[2]}" if match else site
