"""TransformerLens bridges that hold SAEs of their own, name sites twice, and tokenise and pad texts themselves."""

import pytest
import torch
from transformers import AutoTokenizer

import saes
from steer.models.decode import Sampling
from steer.models.model import LanguageModel
from steer.models.site import Site
from steer.steering.latents import Clamp
from steer.steering.steered import steered
from steer.steering.window import Window
from tests.conftest import D_MODEL, PROMPTS, count_hooks, random_sae, tiny_model

sae_lens = pytest.importorskip("sae_lens")
from sae_lens.analysis.sae_transformer_bridge import SAETransformerBridge

LATENT, VALUE = 3, 9.0
NAMES = ("blocks.1.hook_resid_post", "blocks.1.hook_out", "1.resid_post")
ALL_TOKENS = Window(first_token=True)  # what a hook of sae-lens changes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tokenizer's folder: a bridge takes none that was made in memory."""
    path = tmp_path_factory.mktemp("tokenizer")
    tiny_model("llama").tokenizer.save_pretrained(path)
    return path


def booted(folder, side="right"):
    """A bridge over a tiny Llama of its own."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    bridge = SAETransformerBridge.boot_transformers(
        "tiny", hf_model=tiny_model("llama").model, tokenizer=tokenizer, device="cpu"
    )
    bridge.tokenizer.padding_side = side
    return bridge, LanguageModel(bridge, tiny_model("llama").tokenizer, "bridge")


def of_sae_lens(sae, path):
    saes.save(sae, path, "saelens")
    return sae_lens.SAE.load_from_disk(path)


@pytest.mark.parametrize("name", NAMES)
def test_steering_is_right_before_while_and_after_a_bridge_holds_an_sae(llama, sae, folder, tmp_path, name):
    bridge, lm = booted(folder)
    theirs = of_sae_lens(sae, tmp_path / "sae")
    rows = llama.prompt_ids(PROMPTS[:1])
    ids = torch.tensor(rows)
    clamp = Clamp(sae, {LATENT: VALUE}, name)
    with steered(llama, clamp):
        expected, replies = llama.forward(llama.pad(rows)), llama.generate_ids(rows, Sampling(4))
    plain = bridge(ids)

    def check():
        with steered(lm, clamp) as steering:
            torch.testing.assert_close(bridge(ids), expected, rtol=0, atol=1e-5)
            assert lm.generate_ids(rows, Sampling(4)) == replies
            assert steering.attachment.fired == {Site(1): 1 + max(4, len(replies[0]))}
        torch.testing.assert_close(bridge(ids), plain, rtol=0, atol=1e-5)

    assert (plain - expected).abs().max() > 0.1
    check()
    with bridge.saes([theirs], use_error_term=True):
        assert list(bridge.acts_to_saes) == ["blocks.1.hook_resid_post"]
        check()
    check()


@pytest.mark.parametrize("kind", ["topk", "relu", "layer_norm"])
def test_a_clamp_gives_the_logits_of_sae_lens_own_that_keeps_the_error_term(llama, folder, tmp_path, kind):
    sae = random_sae()
    if kind != "topk":
        norm = "none" if kind == "relu" else kind
        config = saes.SAEConfig(
            D_MODEL, 96, None, activation="relu", model="tiny", site="1.resid_post", input_norm=norm
        )
        sae = saes.SAE(config, seed=3).requires_grad_(False)
    bridge, _ = booted(folder)
    theirs = of_sae_lens(sae, tmp_path / "sae")
    ids = torch.tensor(llama.prompt_ids(PROMPTS[2:3]))

    def clamp(activations, hook):
        return activations.index_fill(-1, torch.tensor([LATENT]), VALUE)

    with bridge.saes([theirs], use_error_term=True):
        with bridge.hooks(fwd_hooks=[(bridge.get_sae_hook_name(theirs), clamp)]):
            expected = bridge(ids)
    with steered(llama, Clamp(sae, {LATENT: VALUE}, window=ALL_TOKENS)):
        found = llama.model(ids).logits
    assert (found - llama.model(ids).logits).abs().max() > 0.1
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_texts_that_a_bridge_tokenises_and_pads_are_steered_like_each_alone(llama, sae, folder, side):
    bridge, lm = booted(folder, side)
    tokens = bridge.to_tokens(PROMPTS)
    rows = [row[row != 0].tolist() for row in tokens]  # 0 pads
    assert len({len(row) for row in rows}) > 1
    clamp = Clamp(sae, {LATENT: VALUE})
    with steered(lm, clamp) as steering:
        logits = bridge(PROMPTS)
        assert steering.attachment.fired == {Site(1): 1}
        how = {"do_sample": False, "verbose": False, "stop_at_eos": False, "return_type": "tokens"}
        replies = bridge.generate(PROMPTS, max_new_tokens=4, **how)[:, -4:].tolist()
    with steered(llama, clamp):
        alone = [llama.forward(llama.pad([row]))[0] for row in rows]
        expected = llama.generate_ids(rows, Sampling(4))
    for of_row, row_alone in zip(logits, alone, strict=True):
        n = len(row_alone)
        torch.testing.assert_close(of_row[-n:] if side == "left" else of_row[:n], row_alone, rtol=0, atol=1e-5)
    assert [reply[: len(one)] for reply, one in zip(replies, expected, strict=True)] == expected
    assert count_hooks(llama) == 0


@pytest.mark.parametrize("side", ["left", "right"])
def test_windows_from_the_prompt_end_need_padding_on_the_left_or_a_mask(llama, sae, folder, side):
    """As docs/steering.md says: with texts that it pads on the right, a bridge gives no mask, and padding is text."""
    bridge, lm = booted(folder, side)
    tokens = bridge.to_tokens(PROMPTS)
    mask = (tokens != 0).long()  # 0 pads
    ends = tokens.shape[1] - 1 - mask.flip(-1).argmax(-1)
    last, every = Clamp(sae, {LATENT: VALUE}, window=Window("last")), torch.arange(len(PROMPTS))
    with steered(llama, last):
        alone = [
            llama.forward(llama.pad([row[real.bool()].tolist()]))[0, -1] for row, real in zip(tokens, mask, strict=True)
        ]
    with steered(lm, last):
        of_texts, masked = bridge(PROMPTS), bridge(tokens, attention_mask=mask)
        as_text = bridge(tokens, attention_mask=torch.ones_like(mask))
    torch.testing.assert_close(masked[every, ends], torch.stack(alone), rtol=0, atol=1e-5)
    torch.testing.assert_close(of_texts, masked if side == "left" else as_text, rtol=0, atol=1e-5)
