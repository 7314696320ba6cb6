"""Models of more families, and TransformerLens objects handed in: steered alike in every way they can be run."""

import copy
import warnings

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GPTNeoXConfig,
    MistralConfig,
    MixtralConfig,
    Qwen2Config,
)

from steer.errors import ModelError
from steer.models.decode import Sampling
from steer.models.load import load_model
from steer.models.model import LanguageModel
from steer.models.site import Site
from steer.steering.branches import branched
from steer.steering.direction_edits import DirectionEdit
from steer.steering.latents import Clamp
from steer.steering.rows import OnRows
from steer.steering.steered import steered
from tests.conftest import D_MODEL, PROMPTS, SMALL, byte_tokenizer, count_hooks, random_sae

SAMPLING, NO_CACHE = Sampling(max_new_tokens=8), Sampling(max_new_tokens=8, use_cache=False)
KINDS = {
    "mistral": lambda size: MistralConfig(**size, sliding_window=16),
    "gemma": lambda size: GemmaConfig(**size, head_dim=8),
    "gemma3": lambda size: Gemma3TextConfig(**size, head_dim=8, sliding_window=16),
    "qwen2": lambda size: Qwen2Config(**size),
    "gpt_neox": lambda size: GPTNeoXConfig(**{k: v for k, v in size.items() if k != "num_key_value_heads"}),
    "mixtral": lambda size: MixtralConfig(**size, num_local_experts=4, num_experts_per_tok=2),
}


@pytest.fixture(scope="module", params=KINDS)
def other(request):
    """A tiny model of another family."""
    tokenizer = byte_tokenizer()
    torch.manual_seed(0)
    config = KINDS[request.param]({**SMALL, "vocab_size": len(tokenizer), "num_hidden_layers": 3})
    model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2 and "layers" in name:  # embeddings that are tied, and large, repeat the last token
            parameter.mul_(12.0)
    return LanguageModel(model, tokenizer, request.param)


def edits(sae):
    direction = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(1))
    return [Clamp(sae, {3: 19.0}), DirectionEdit(Site(1, "resid_pre"), direction, 9.0)]


def test_every_family_is_steered_with_and_without_a_cache_alone_and_in_a_batch(other, sae):
    rows = other.prompt_ids(PROMPTS)
    plain = other.generate_ids(rows, SAMPLING)
    for edit in edits(sae):
        with steered(other, edit):
            together = other.generate_ids(rows, SAMPLING)
            assert together == other.generate_ids(rows, NO_CACHE)
            assert together == [other.generate_ids([row], SAMPLING)[0] for row in rows]
        assert together != plain
    assert other.generate_ids(rows, SAMPLING) == plain
    assert count_hooks(other) == 0


def test_every_family_is_steered_row_by_row_and_in_several_ways_at_once(other, sae):
    rows, ways = other.prompt_ids(PROMPTS), [[], *([edit] for edit in edits(sae))]
    alone = []
    for way in ways:
        with steered(other, *way):
            alone.append(other.generate_ids(rows, SAMPLING))
    with steered(other, *branched(ways, len(rows))):
        found = other.generate_ids(rows, SAMPLING, copies=len(ways))
    assert found == [alone[way][row] for row in range(len(rows)) for way in range(len(ways))]
    with steered(other, OnRows(ways[1][0], [0]), OnRows(ways[2][0], [1])):
        assert other.generate_ids(rows, SAMPLING)[:3] == [alone[1][0], alone[2][1], alone[0][2]]


def bridge_over(lm):
    from transformer_lens.model_bridge.sources import _bridge_builder as builder

    model = copy.deepcopy(lm.model)
    return builder.build_bridge_from_module(
        model, type(model).__name__, hf_config=model.config, tokenizer=None, model_name="tiny"
    )


def test_a_bridge_is_steered_in_its_own_generate_and_in_ours(llama, sae):
    rows = llama.prompt_ids(PROMPTS)
    with steered(llama, Clamp(sae, {3: 9.0})):
        expected = llama.generate_ids(rows, SAMPLING)
    bridge = bridge_over(llama)
    lm = LanguageModel(bridge, llama.tokenizer, "bridge")
    ids = torch.tensor(rows[:1])
    how = {"do_sample": False, "stop_at_eos": False, "verbose": False, "return_type": "tokens"}
    bridge.generate(ids, max_new_tokens=2, **how)  # which leaves hooks of the bridge's own
    own_hooks = count_hooks(lm)
    with steered(lm, Clamp(sae, {3: 9.0})) as steering:
        assert lm.generate_ids(rows, SAMPLING) == expected
        assert (
            bridge.generate(ids, max_new_tokens=8, **how)[0, len(rows[0]) :].tolist()[: len(expected[0])] == expected[0]
        )
        assert steering.attachment.fired[Site(1)] > 8, "ours and the bridge's"
    assert count_hooks(lm) == own_hooks


def test_a_hooked_transformer_is_steered_in_its_own_generate(llama, sae):
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    config = HookedTransformerConfig(
        n_layers=3, d_model=D_MODEL, n_ctx=64, d_head=8, n_heads=4, d_vocab=262, act_fn="gelu", d_mlp=64, seed=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated, and still in use
        model = HookedTransformer(config)
    lm = LanguageModel(model, llama.tokenizer, "hooked")
    ids = torch.tensor(llama.prompt_ids(PROMPTS[:1]))
    how = {"max_new_tokens": 6, "do_sample": False, "verbose": False, "stop_at_eos": False}
    plain = model.generate(ids, **how).tolist()
    seen = []

    def watch(x, at):
        seen.append((x.shape[1], at.positions[0, -1].item(), at.generated[0, -1].item()))
        return x

    def clamped(x, hook):
        change = (60.0 - sae.activations_of(x, torch.tensor([3]))) @ sae.W_dec[[3]]
        change[:, 0] = 0  # the first token is left alone
        return x + change

    with steered(lm, Clamp(sae, {3: 60.0})):
        with lm.edited({Site(0): watch}):
            found = model.generate(ids, **how).tolist()
        logits = model(ids)
        with pytest.raises(ModelError, match="its own generate"):
            lm.generate_ids(ids.tolist(), SAMPLING)
    length = ids.shape[1]
    assert seen == [(length, length - 1, False), *((1, length + step, True) for step in range(5))]
    assert found != plain
    expected = model.run_with_hooks(ids, fwd_hooks=[("blocks.1.hook_resid_post", clamped)])
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    assert model.generate(ids, **how).tolist() == plain
    assert "forward" not in vars(model)


def test_models_that_accelerate_dispatches_are_steered_alike(llama, sae, tmp_path):
    import accelerate

    rows = llama.prompt_ids(PROMPTS)
    with steered(llama, Clamp(sae, {3: 9.0})):
        expected = llama.generate_ids(rows, SAMPLING)
    offloaded, dispatched = copy.deepcopy(llama.model), copy.deepcopy(llama.model)
    accelerate.cpu_offload(offloaded, execution_device=torch.device("cpu"))
    places = dict.fromkeys(("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"), "cpu")
    places |= {"model.layers.0": "cpu", "model.layers.1": "disk", "model.layers.2": "cpu"}
    accelerate.dispatch_model(dispatched, places, main_device="cpu", offload_dir=str(tmp_path), force_hooks=True)
    for model in (offloaded, dispatched):
        lm = LanguageModel(model, llama.tokenizer, "dispatched")
        with steered(lm, Clamp(sae, {3: 9.0})):
            assert lm.generate_ids(rows, SAMPLING) == expected
        assert count_hooks(lm) == 0


def test_weights_that_bitsandbytes_quantises_are_steered_alike(embedded, tmp_path):
    """4-bit weights, handed in and read from a folder that says so in its config; steering itself stays in float32."""
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    from transformers import BitsAndBytesConfig

    embedded.model.save_pretrained(tmp_path / "plain")
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "plain", quantization_config=config, device_map="cpu")
    assert model.model.layers[0].mlp.gate_proj.weight.dtype == torch.uint8
    model.save_pretrained(tmp_path / "quantised")
    embedded.tokenizer.save_pretrained(tmp_path / "quantised")
    quantised = LanguageModel(model.eval(), embedded.tokenizer, "quantised")
    sae = random_sae(embedded.d_model)
    prompts, site = quantised.prompt_ids(PROMPTS), Site(1)
    before = quantised.activations(quantised.pad(prompts), [site])[site]
    with steered(quantised, Clamp(sae, {3: 30.0})):
        together = quantised.generate_ids(prompts, Sampling(6))
        assert [quantised.generate_ids([one], Sampling(6))[0] for one in prompts] == together
        assert quantised.generate_ids(prompts, Sampling(6, use_cache=False)) == together
    assert together != quantised.generate_ids(prompts, Sampling(6))
    assert torch.equal(quantised.activations(quantised.pad(prompts), [site])[site], before)
    read = load_model(tmp_path / "quantised")
    with steered(read, Clamp(sae, {3: 30.0})):
        assert read.generate_ids(prompts, Sampling(6)) == together
