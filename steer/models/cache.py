"""A KV cache whose layers have room to grow: a new token is written in place, and finished rows leave cheaply."""

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

ROOM = 64  # tokens that a layer's memory grows by


class RoomyLayer(DynamicLayer):
    """Keys and values of one layer, as views of memory that is longer than they are.

    The layer that it stands in for copies everything at each token, which is most of the time that a small model
    spends on a long prompt.
    """

    def update(
        self,
        key_states: Float[Tensor, "batch head new d_head"],
        value_states: Float[Tensor, "batch head new d_head"],
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Float[Tensor, "batch head seq d_head"], Float[Tensor, "batch head seq d_head"]]:
        """Append the new tokens; returns all."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._memory = key_states[..., :0, :], value_states[..., :0, :]
        rows, before = len(key_states), self.get_seq_length()
        after = before + key_states.shape[-2]
        if self._memory[0].shape[-2] < after:
            keys, values = self._memory
            self._memory = _longer(keys[:rows, :, :before], after), _longer(values[:rows, :, :before], after)
        for memory, new in zip(self._memory, (key_states, value_states), strict=True):
            memory[:rows, :, before:after] = new
        self.keys, self.values = (memory[:rows, :, :after] for memory in self._memory)
        return self.keys, self.values

    def batch_select_indices(self, indices: Int[Tensor, " kept"]) -> None:
        """Keep these rows, in this order; only rows that change their place are copied."""
        length, rows = self.get_seq_length(), len(indices)
        if not length:
            return
        moved = (indices != indices.new_tensor(range(rows))).nonzero().squeeze(-1)
        for memory in self._memory:
            memory[moved, :, :length] = memory[indices[moved], :, :length]
        self.keys, self.values = (memory[:rows, :, :length] for memory in self._memory)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Hold each row ``repeats`` times: [a, b] becomes [a, a, b, b]."""
        if self.keys is not None and self.values is not None:
            self._memory = self.keys.repeat_interleave(repeats, 0), self.values.repeat_interleave(repeats, 0)
            self.keys, self.values = self._memory


def _longer(states: Float[Tensor, "batch head seq d_head"], length: int) -> Float[Tensor, "batch head room d_head"]:
    """Memory for ``length`` tokens and some more, which begins with ``states``."""
    batch, heads, seq, width = states.shape
    memory = states.new_empty(batch, heads, length + ROOM, width)
    memory[:, :, :seq] = states
    return memory


def roomy_cache(model: nn.Module) -> DynamicCache:
    """The cache that ``model`` asks for, with room in its plain layers; layers of other kinds stay as they are."""
    cache = DynamicCache(config=getattr(model, "config", None))
    cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    if cache.layer_class_to_replicate is DynamicLayer:
        cache.layer_class_to_replicate = RoomyLayer
    return cache
