"""The KV cache with room holds what the library's own holds, also when rows leave."""

import torch
from transformers import DynamicCache, Gemma2Config, LlamaConfig
from transformers.cache_utils import DynamicSlidingWindowLayer

from steer.models.cache import ROOM, RoomyLayer, roomy_cache
from steer.models.decode import _closed_up


class Model(torch.nn.Module):
    def __init__(self, config=None):
        super().__init__()
        self.config = config


def draw(rows, new, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 2, new, 4, generator=generator), torch.randn(rows, 2, new, 4, generator=generator)


def test_it_holds_what_the_librarys_cache_holds():
    ours, theirs = roomy_cache(Model()), DynamicCache()
    rows = 6
    for step in range(ROOM + 10):
        keys, values = draw(rows, 5 if step == 0 else 1, step)
        found, expected = ours.update(keys, values, 0), theirs.update(keys, values, 0)
        assert all((a == b).all() for a, b in zip(found, expected, strict=True))
        assert ours.get_seq_length() == theirs.get_seq_length() == 5 + step
        if step in (0, 3, 4, ROOM + 3):
            kept = _closed_up(torch.arange(rows) != step % rows)
            ours.batch_select_indices(kept)
            theirs.batch_select_indices(kept)
            rows -= 1


def test_the_memory_grows_seldom():
    cache = roomy_cache(Model())
    places = set()
    for step in range(ROOM):
        keys, _ = cache.update(*draw(3, 1, step), 0)
        places.add(keys.data_ptr())
    assert len(places) == 1


def test_layers_of_other_kinds_stay_as_they_are():
    plain = roomy_cache(Model(LlamaConfig(num_hidden_layers=2)))
    assert [type(layer) for layer in plain.layers] == [RoomyLayer, RoomyLayer]
    mixed = roomy_cache(Model(Gemma2Config(num_hidden_layers=2, sliding_window=8)))
    assert {type(layer) for layer in mixed.layers} == {DynamicSlidingWindowLayer, RoomyLayer}


def test_rows_that_go_on_close_up_and_few_change_their_place():
    going = torch.tensor([True, False, True, True, False, True])
    kept = _closed_up(going)
    assert sorted(kept.tolist()) == [0, 2, 3, 5]
    assert kept.tolist() == [0, 5, 2, 3]
    assert _closed_up(torch.tensor([False, False])).tolist() == []
