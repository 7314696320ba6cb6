"""The logit lens: which tokens a latent's decoder row pushes up and down, read through the final norm's weight."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from steer.errors import ModelError
from steer.models.model import LanguageModel

_NORMS = ("norm", "final_layer_norm", "final_layernorm", "ln_f", "ln_final", "norm_f")
_MOST = 2**25  # logits held at once


@dataclass(frozen=True)
class Lens:
    """The map from a direction of the residual stream to logits."""

    unembedding: Float[Tensor, "vocab d_model"]
    """The output embedding, each column times the final norm's weight."""
    centred: bool
    """Whether the norm takes off the mean of what it reads."""
    about: str
    """What was found, in words."""

    @classmethod
    def of(cls, lm: LanguageModel) -> "Lens":
        """The lens of a model.

        The weight of the norm is measured, not read: some models keep it less one. A norm's output is linear in its
        weight, and on a vector of ones of alternating sign every kind of norm gives back weight times sign, plus bias.

        Raises:
            ModelError: the model tells no output embedding.
        """
        head = getattr(lm.model, "get_output_embeddings", lambda: None)()
        weight = getattr(head, "weight", None)
        if not isinstance(weight, Tensor) or weight.ndim != 2 or weight.shape[1] != lm.d_model:
            raise ModelError(f"{lm.name} tells no output embedding of width {lm.d_model}, so it has no logit lens.")
        name, norm = _final_norm(lm)
        unembedding = weight.detach().float()
        if norm is None:
            return cls(unembedding, False, "the output embedding alone: no final norm was found")
        gain, centred = _gain(norm, lm.d_model, weight)
        about = f"the output embedding times the weight of the final norm ({name})"
        return cls(unembedding * gain, centred, about + (", directions less their mean" if centred else ""))

    def logits(self, directions: Float[Tensor, "n d_model"]) -> Float[Tensor, "n vocab"]:
        """Change of each token's logit per unit of a direction, where the norm of the stream is one."""
        x = directions.detach().to(self.unembedding.device, torch.float32)
        x = x - x.mean(dim=-1, keepdim=True) if self.centred else x
        return x @ self.unembedding.T

    def raising(self, token: int) -> Float[Tensor, " d_model"]:
        """The direction along which a token's logit rises most above the average of all tokens.

        A direction's dot product with it is the change of the token's logit less the mean change.
        """
        found = self.unembedding[token] - self.unembedding.mean(0)
        return found - found.mean() if self.centred else found

    def extremes(self, directions: Float[Tensor, "n d_model"], count: int, none: int) -> tuple[Tensor, Tensor]:
        """Ids and logits, [n, 2 count]: the largest first, then the smallest first; of fewer tokens, ids ``none``."""
        most = min(count, len(self.unembedding))
        ids = torch.full((len(directions), 2 * count), none, dtype=torch.int64)
        values = torch.zeros(len(directions), 2 * count)
        for rows in torch.arange(len(directions)).split(max(1, _MOST // len(self.unembedding))):
            logits = self.logits(directions[rows.to(directions.device)])
            for first, found in ((0, logits.topk(most)), (count, (-logits).topk(most))):
                ids[rows, first : first + most] = found.indices.cpu()
                values[rows, first : first + most] = found.values.cpu() * (-1 if first else 1)
        return ids, values


def _final_norm(lm: LanguageModel) -> tuple[str, nn.Module | None]:
    """The module beside the list of layers that is named as final norms are."""
    for path, module in lm.layout.root.named_modules():
        if any(child is lm.layout.blocks for child in module.children()):
            for name in _NORMS:
                if isinstance(norm := getattr(module, name, None), nn.Module):
                    return f"{path}.{name}".lstrip("."), norm
    return "", None


@torch.no_grad()
def _gain(norm: nn.Module, width: int, like: Tensor) -> tuple[Float[Tensor, " d_model"], bool]:
    """The weight of a norm, and whether it takes off the mean."""
    sign = torch.ones(width, device=like.device, dtype=like.dtype)
    sign[1::2] = -1
    above, below = norm(sign[None])[0].float(), norm(-sign[None])[0].float()
    gain = (above - below) / 2 * sign.float()
    shifted = norm(sign[None] + 3)[0].float()
    return gain, bool(torch.allclose(shifted, above, rtol=1e-2, atol=1e-2 * float(gain.abs().mean())))
