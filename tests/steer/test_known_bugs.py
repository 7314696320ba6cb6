"""What other steering libraries got wrong: state between calls, edits in place, order of hooks, padding, precision."""

import pytest
import torch

from saes import SAE, SAEConfig
from steer.errors import SiteError
from steer.models.decode import Sampling
from steer.models.site import Site
from steer.steering.direction_edits import AddDirection, DirectionEdit
from steer.steering.latents import Clamp
from steer.steering.steered import steered
from steer.steering.window import Window
from tests.conftest import D_MODEL, PROMPTS, count_hooks, random_sae, tiny_model

SITE, LATENT, VALUE = Site(1), 3, 9.0
DIRECTION = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(1))


def normed(input_norm):
    sae = SAE(SAEConfig(D_MODEL, 96, 6, site="1.resid_post", input_norm=input_norm), seed=3)
    return sae.requires_grad_(False)


@pytest.mark.parametrize("input_norm", ["layer_norm", "constant_norm"])
def test_codes_carry_their_own_normalisation_through_calls_in_between(input_norm):
    sae = normed(input_norm)
    small, large = torch.randn(2, 5, D_MODEL), 50 * torch.randn(2, 5, D_MODEL)
    alone = [sae(small), sae(large)]
    first, second = sae.encode(small), sae.encode(large)
    assert torch.equal(sae.decode(first), alone[0])
    assert torch.equal(sae.decode(second), alone[1])
    assert torch.equal(sae.decode(first), alone[0]), "decoded twice"


@pytest.mark.parametrize("input_norm", ["layer_norm", "constant_norm"])
def test_requests_in_turns_on_one_normalising_sae_are_answered_as_if_alone(llama, input_norm):
    """Two replies, each with a cache of its own, a token of one and a token of the other in turns."""
    sae = normed(input_norm)
    rows = llama.prompt_ids([PROMPTS[0], PROMPTS[2]])
    edits = (Clamp(sae, {LATENT: 30.0}), Clamp(sae, {5: 20.0}, "0.resid_post"))
    with steered(llama, *edits):
        expected = [llama.generate_ids([row], Sampling(6))[0] for row in rows]
        given, caches, replies = [torch.tensor([row]) for row in rows], [None, None], [[], []]
        for _ in range(6):
            for request in (0, 1):
                output = llama.model(input_ids=given[request], past_key_values=caches[request], use_cache=True)
                given[request], caches[request] = output.logits[:, -1:].argmax(-1), output.past_key_values
                replies[request].append(given[request].item())
    assert [reply[: len(one)] for reply, one in zip(replies, expected, strict=True)] == expected
    assert all(expected)
    assert expected != [llama.generate_ids([row], Sampling(6))[0] for row in rows]


@pytest.mark.parametrize("site", [Site(1), Site(1, "resid_pre"), Site(1, "mlp_out"), Site(1, "attn_out")], ids=str)
def test_activations_that_were_read_before_are_not_changed_by_steering(llama, site):
    """Own hooks that stand before ours keep the very tensors that the model passes on."""
    tokens = llama.pad(llama.prompt_ids(PROMPTS))
    module, kept = llama.layout.module(site), []
    if site.part == "resid_pre":
        own = module.register_forward_pre_hook(lambda module, args: kept.append(args[0]))
    else:
        own = module.register_forward_hook(
            lambda module, args, output: kept.append(output[0] if isinstance(output, tuple) else output)
        )
    earlier = llama.activations(tokens, [site])[site]
    before = earlier.clone()
    with steered(llama, AddDirection(site, DIRECTION, 5.0)):
        steered_logits = llama.forward(tokens)
        after = llama.activations(tokens, [site])[site]
    own.remove()
    assert (steered_logits - llama.forward(tokens)).abs().max() > 0.1
    assert len(kept) == 3, "the passes of the two readings and of forward"
    assert all(torch.equal(one, before) for one in kept)
    assert torch.equal(earlier, before)
    assert (after - before).abs().max() > 0.1
    assert count_hooks(llama) == 0


def test_own_hooks_see_steering_if_they_were_registered_after_it():
    lm = tiny_model("llama")
    ids, layer, seen = torch.tensor(lm.prompt_ids(PROMPTS[:1])), lm.layout.module(SITE), {}
    plain = lm.activations(lm.pad(ids.tolist()), [SITE])[SITE]

    def keep(name):
        return lambda module, args, output: seen.update({name: output})

    first = layer.register_forward_hook(keep("before"))
    with steered(lm, AddDirection(SITE, DIRECTION, 5.0)):
        second = layer.register_forward_hook(keep("after"))
        lm.model(ids)
    first.remove(), second.remove()
    torch.testing.assert_close(seen["before"], plain)
    change = torch.zeros_like(plain)
    change[:, 1:] = 5.0 * DIRECTION / DIRECTION.norm()
    torch.testing.assert_close(seen["after"] - plain, change, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("asked_before", [False, True], ids=["steered_first", "asked_first"])
def test_hidden_states_show_steering_only_if_they_were_first_asked_for_after_it_was_put_on(asked_before):
    """As docs/hooks.md says; what ``activations`` reads is steered in any order."""
    lm = tiny_model("llama")  # of its own: transformers leaves its recording hooks on a model
    rows = lm.prompt_ids(PROMPTS[:1])
    ids, after = torch.tensor(rows), Site(1)
    plain = tiny_model("llama").model(ids, output_hidden_states=True).hidden_states
    if asked_before:
        earlier = lm.model(ids, output_hidden_states=True).hidden_states
    with steered(lm, AddDirection(after, DIRECTION, 5.0), AddDirection("1.resid_pre", DIRECTION, 2.0)):
        output = lm.model(ids, output_hidden_states=True)
        found = lm.activations(lm.pad(rows), [Site(1, "resid_pre"), after])
    states = output.hidden_states
    torch.testing.assert_close(states[1], plain[1], msg="an edit of resid_pre is never among them")
    shift = 5.0 * DIRECTION / DIRECTION.norm()
    recorded = states[2] + (shift * (torch.arange(ids.shape[1]) > 0).unsqueeze(-1) if asked_before else 0)
    torch.testing.assert_close(recorded, found[after], rtol=1e-4, atol=1e-4)
    assert (found[Site(1, "resid_pre")] - plain[1])[:, 1:].norm(dim=-1).sub(2.0).abs().max() < 1e-3
    assert (states[3] - plain[3]).abs().max() > 0.01, "what comes later is steered in any case"
    if asked_before:
        assert all(torch.equal(one, other) for one, other in zip(earlier, plain, strict=True))


def test_generate_of_transformers_on_a_left_padded_batch_is_steered_like_ours(lm, sae):
    rows = lm.prompt_ids([PROMPTS[1], PROMPTS[2]])
    batch = lm.pad(rows)
    assert batch.mask[0, 0] == 0
    edits = (
        Clamp(sae, {LATENT: 19.0}, window=Window(stop=6)),
        AddDirection("1.resid_pre", DIRECTION, 9.0, window=Window("generated")),
        DirectionEdit("0.resid_post", DIRECTION, 4.0, window=Window("prompt", start=2)),
    )
    plain = lm.generate_ids(rows, Sampling(8))
    with steered(lm, *edits):
        ours = lm.generate_ids(rows, Sampling(8))
        theirs = lm.model.generate(
            batch.ids, attention_mask=batch.mask, max_new_tokens=8, do_sample=False, pad_token_id=0
        )
    new = theirs[:, batch.ids.shape[1] :].tolist()
    assert [row[: len(reply)] for row, reply in zip(new, ours, strict=True)] == ours
    assert ours != plain


def test_a_padded_tensor_without_a_mask_is_steered_as_the_model_reads_it(llama, sae):
    """Nobody says what is padding, so it is text: to the model, which attends to it, and to windows."""
    rows = llama.prompt_ids(PROMPTS[:2])
    batch = llama.pad(rows)
    clamp = Clamp(sae, {LATENT: VALUE})
    with steered(llama, clamp):
        unmasked = llama.model(batch.ids).logits
        as_text = llama.model(batch.ids, attention_mask=torch.ones_like(batch.mask)).logits
        masked = llama.model(batch.ids, attention_mask=batch.mask).logits
        alone = llama.model(torch.tensor(rows[1:])).logits[0]
    length = len(rows[1])
    assert torch.equal(unmasked, as_text)
    torch.testing.assert_close(masked[1, -length:], alone, rtol=0, atol=1e-5)
    assert (unmasked[1, -length:] - alone).abs().max() > 0.1


def test_texts_packed_into_one_row_and_masks_of_four_dimensions_are_refused(llama):
    """As continuous batching and static caches have them: windows would count from the first text's beginning."""
    rows = llama.prompt_ids(PROMPTS[:2])
    batch, packed = llama.pad(rows), torch.tensor([rows[0] + rows[1]])
    bounds = torch.tensor([0, len(rows[0]), packed.shape[1]], dtype=torch.int32)
    plain = llama.model(batch.ids, attention_mask=batch.mask).logits
    with steered(llama, AddDirection(SITE, DIRECTION, 5.0)):
        with pytest.raises(SiteError, match="several texts packed into one row"):
            llama.model(packed, cu_seq_lens_q=bounds, cu_seq_lens_k=bounds)
        with pytest.raises(SiteError, match="attention mask of shape"):
            llama.model.generate(
                batch.ids, attention_mask=batch.mask, max_new_tokens=2, do_sample=False, cache_implementation="static"
            )
    assert count_hooks(llama) == 0
    assert torch.equal(llama.model(batch.ids, attention_mask=batch.mask).logits, plain)


def ulp(x):
    """The distance of neighbouring bfloat16 numbers (8 bits of significand) at x, in float64."""
    return 2.0 ** (x.abs().clamp_min(2.0**-126).log2().floor() - 7)


def by_hand(kind, x, sae):
    """What a token's activations become, in float64."""
    unit = DIRECTION.double() / DIRECTION.double().norm()
    if kind == "add":
        return x + 5.0 * unit
    if kind == "residual_norm":
        return x + 0.5 * x.norm(dim=-1, keepdim=True) * unit
    if kind == "project_out":
        return x - (x @ unit).unsqueeze(-1) * unit
    pre = ((x - sae.b_dec.double()) @ sae.W_enc.double() + sae.b_enc.double()).relu()
    member = pre[..., LATENT] >= pre.topk(6, dim=-1).values[..., -1]
    return x + (VALUE - pre[..., LATENT] * member).unsqueeze(-1) * sae.W_dec[LATENT].double()


@pytest.mark.parametrize("kind", ["clamp", "add", "residual_norm", "project_out"])
def test_a_bfloat16_model_with_a_massive_dimension_is_steered_to_the_last_bit(kind):
    """One dimension is 1000 times the others: the change is made in float32 and cast once, at every token."""
    sae, lm = random_sae(), tiny_model("llama")
    with torch.no_grad():
        lm.model.model.embed_tokens.weight[:, 7] = 240.0
    lm.model.to(torch.bfloat16)
    edit = {
        "clamp": Clamp(sae, {LATENT: VALUE}),
        "add": AddDirection(SITE, DIRECTION, 5.0),
        "residual_norm": DirectionEdit(SITE, DIRECTION, 0.5, unit="residual_norm"),
        "project_out": DirectionEdit(SITE, DIRECTION, 0.0, "project_out"),
    }[kind]
    pairs = {"before": [], "after": []}

    def kept(name):
        def watch(x, at):
            pairs[name].append((x, at.positions))
            return x

        return watch

    with lm.edited({SITE: kept("before")}), steered(lm, edit), lm.edited({SITE: kept("after")}):
        lm.generate_ids(lm.prompt_ids(PROMPTS[:1]), Sampling(5))
    assert len(pairs["after"]) >= 4, "a prompt, and tokens one by one"
    for (x, positions), (found, _) in zip(pairs["before"], pairs["after"], strict=True):
        assert found.dtype == torch.bfloat16
        steered_ones = positions > 0
        x, found = x[steered_ones].double(), found[steered_ones].double()
        others = torch.arange(D_MODEL) != 7
        assert x[:, 7].abs().min() > 800 * x[:, others].abs().median()
        exact = by_hand(kind, x, sae)
        assert (found - x).abs().max() > 0.01
        assert ((found - exact).abs() <= ulp(exact)).all()
