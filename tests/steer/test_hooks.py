"""Hooks: they read what transformers itself reports, edit what they should, and never stay behind."""

import copy

import pytest
import torch

from steer.errors import SiteError
from steer.models.hooks import attached, reading
from steer.models.site import PARTS, Site
from tests.conftest import PROMPTS, count_hooks, folder_or_skip


def test_residual_activations_equal_the_hidden_states_of_transformers(lm):
    tokens = lm.pad(lm.prompt_ids(PROMPTS))
    positions = (tokens.mask.cumsum(-1) - 1).clamp_min(0)
    states = copy.deepcopy(lm.model)(  # a copy: transformers leaves its own recording hooks on the model
        input_ids=tokens.ids, attention_mask=tokens.mask, position_ids=positions, output_hidden_states=True
    ).hidden_states
    real = tokens.mask.bool()
    for layer in range(lm.n_layers):
        before, after = Site(layer, "resid_pre"), Site(layer)
        found = lm.activations(tokens, [before, after])
        torch.testing.assert_close(found[before][real], states[layer][real])
        if layer < lm.n_layers - 1:  # the last hidden state is taken after the final norm
            torch.testing.assert_close(found[after][real], states[layer + 1][real])


def test_every_part_can_be_read(lm):
    tokens = lm.pad(lm.prompt_ids(PROMPTS[:2]))
    sites = [Site(1, part) for part in PARTS]
    found = lm.activations(tokens, sites)
    assert set(found) == set(sites)
    assert all(x.shape == (*tokens.ids.shape, lm.d_model) for x in found.values())


def test_activations_equal_those_of_transformer_lens(llama, tmp_path):
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoTokenizer

    llama.tokenizer.save_pretrained(tmp_path)  # the bridge takes only tokenizers that come from a folder
    from steer.models.layout import find_layout

    tokens = llama.pad(llama.prompt_ids(PROMPTS[:1]))
    ours = llama.activations(tokens, [Site(1), Site(2, "resid_pre"), Site(2, "mlp_out")])
    bridge = TransformerBridge.boot_transformers(
        "tiny", hf_model=copy.deepcopy(llama.model), tokenizer=AutoTokenizer.from_pretrained(tmp_path), device="cpu"
    )
    _, cache = bridge.run_with_cache(tokens.ids)
    for site, x in ours.items():
        torch.testing.assert_close(cache[site.lens_name], x, rtol=1e-4, atol=1e-4)
        assert Site.parse(site.lens_name) == site
    with reading(find_layout(bridge), [Site(1), Site(2, "mlp_out")]) as found:
        bridge(tokens.ids)
    for site, x in found.items():
        torch.testing.assert_close(x, ours[site], rtol=1e-4, atol=1e-4)


def test_no_hook_is_left_after_an_exception_in_an_edit(llama):
    def broken(x, at):
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"), llama.edited({Site(0): broken}):
        llama.generate(["hello"])
    assert count_hooks(llama) == 0
    assert llama.attachments == []


def test_no_hook_is_left_by_a_registration_that_fails_half_way(llama):
    with pytest.raises(SiteError, match="valid range is 0 to 2"):
        attached(llama.layout, {Site(0): lambda x, at: x, Site(9): lambda x, at: x})
    assert count_hooks(llama) == 0


def test_a_site_that_is_never_reached_is_an_error(llama):
    from torch import nn

    from steer.models.layout import Layout

    elsewhere = Layout(llama.model, nn.ModuleList([nn.Linear(4, 4)]), llama.d_model)
    with pytest.raises(SiteError, match=r"0\.resid_post: the edit there did nothing"):
        with attached(elsewhere, {Site(0): lambda x, at: x}):
            llama.generate(["hello"])
    assert count_hooks(llama) == 0


def test_firings_are_counted_per_site(llama):
    with llama.edited({Site(0): lambda x, at: x, Site(2): lambda x, at: x}) as attachment:
        llama.forward(llama.pad(llama.prompt_ids(PROMPTS)))
    assert attachment.fired == {Site(0): 1, Site(2): 1}


def test_positions_and_padding_are_right_with_and_without_a_cache(lm):
    seen = []

    def watch(x, at):
        seen.append(at)
        return x

    from steer.models.decode import Sampling

    rows = lm.prompt_ids(["hello there", "x"])
    for use_cache in (True, False):
        seen.clear()
        with lm.edited({Site(1): watch}):
            lm.generate_ids(rows, Sampling(max_new_tokens=3, use_cache=use_cache))
        lengths = [len(row) for row in rows]
        gap = lengths[0] - lengths[1]
        first, last = seen[0], seen[-1]
        assert not first.generated.any()
        assert last.generated[:, -1].all()
        assert last.generated.sum() == (2 if use_cache else 4)
        assert last.n_rows == 2
        assert first.real.tolist() == [[True] * lengths[0], [False] * gap + [True] * lengths[1]]
        assert first.positions[1, gap:].tolist() == list(range(lengths[1]))
        assert last.positions[:, -1].tolist() == [lengths[0] + 1, lengths[1] + 1]
        assert last.rows.tolist() == [0, 1]


@pytest.mark.parametrize(
    "name", ["1.resid_post", "blocks.1.hook_resid_post", "blocks.1.hook_out", "model.layers.1", "layers.1"]
)
def test_names_of_a_site(name):
    assert Site.parse(name) == Site(1, "resid_post")
    assert Site.parse("blocks.1.hook_in") == Site(1, "resid_pre")


@pytest.mark.parametrize("name", ["", "resid_post", "1.resid", "blocks.1.hook_q", "-1.resid_post", "blocks.x.y"])
def test_names_that_are_no_site(name):
    with pytest.raises(SiteError):
        Site.parse(name)


def test_a_real_pretrained_model_is_read_and_left_as_it_was():
    from steer.models.load import load_model

    lm = load_model(folder_or_skip("models/stories260K") / "hf")
    assert (lm.n_layers, lm.d_model, lm.has_chat_template) == (5, 64, False)
    rows = lm.encode(["Once upon a time", "The little dog"])
    tokens = lm.pad([[1, *row] for row in rows])
    before = lm.forward(tokens)
    x = lm.activations(tokens, [Site(2)])[Site(2)]
    states = lm.model(input_ids=tokens.ids, attention_mask=tokens.mask, output_hidden_states=True).hidden_states
    torch.testing.assert_close(x[tokens.mask.bool()], states[3][tokens.mask.bool()])
    assert torch.equal(lm.forward(tokens), before)


def test_a_pass_that_does_not_go_through_the_root_is_refused_also_after_one_that_did(llama):
    ids = llama.pad(llama.prompt_ids(["hello"])).ids
    with llama.edited({Site(1): lambda x, at: x}):
        llama.model(ids)
        with pytest.raises(SiteError, match="outside a forward pass"):
            llama.model.model(ids)


def test_layers_can_be_named_by_hand(llama):
    from torch import nn

    from steer.errors import ModelError
    from steer.models.layout import Layout, find_layout
    from steer.models.model import LanguageModel

    with pytest.raises(ModelError, match="Cannot find the decoder layers"):
        find_layout(nn.Linear(2, 2))
    layout = Layout(llama.model, llama.model.model.layers, llama.d_model)
    assert LanguageModel(llama.model, llama.tokenizer, "by hand", layout).layout is layout
