"""Several blocks, handles, passes and threads on one model."""

import copy
import inspect
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from steer.errors import PlanError, SiteError
from steer.models.decode import Sampling
from steer.models.site import Site
from steer.steering.direction_edits import AddDirection
from steer.steering.latents import Clamp
from steer.steering.steered import steered
from tests.conftest import D_MODEL, PROMPTS, count_hooks


@pytest.fixture
def tokens(llama):
    return llama.pad(llama.prompt_ids(PROMPTS))


def test_nested_blocks_do_what_one_block_does_in_any_order(llama, sae, tokens):
    a, b = Clamp(sae, {3: 9.0}), Clamp(sae, {40: 7.0})
    c = AddDirection(Site(1), torch.randn(D_MODEL), 5.0)
    with steered(llama, a, b, c):
        flat = llama.forward(tokens)
    for order in ((a, b, c), (c, b, a), (b, c, a)):
        with steered(llama, order[0]), steered(llama, order[1]), steered(llama, order[2]):
            torch.testing.assert_close(llama.forward(tokens), flat, rtol=1e-4, atol=1e-4)


def test_the_inner_steering_goes_on_when_the_outer_is_removed_first(llama, sae, tokens):
    with steered(llama, Clamp(sae, {40: 7.0})):
        alone = llama.forward(tokens)
    outer, inner = steered(llama, Clamp(sae, {3: 9.0})), steered(llama, Clamp(sae, {40: 7.0}))
    outer.remove()
    assert torch.equal(llama.forward(tokens), alone)
    inner.remove()


def test_a_latent_is_set_once_in_nested_blocks_too(llama, sae, tokens):
    with steered(llama, Clamp(sae, {3: 9.0})):
        expected, hooks = llama.forward(tokens), count_hooks(llama)
        with pytest.raises(PlanError, match=r"Latent 3 is set twice at 1\.resid_post"):
            steered(llama, Clamp(sae, {3: 4.0}))
        assert count_hooks(llama) == hooks
        assert torch.equal(llama.forward(tokens), expected)


def test_a_handle_serves_one_block(llama, sae):
    used, removed = steered(llama, Clamp(sae, {3: 9.0})), steered(llama, Clamp(sae, {4: 9.0}))
    removed.remove()
    with used, pytest.raises(PlanError, match="used or removed before"), used:
        pass
    for handle in (used, removed):
        with pytest.raises(PlanError, match=r"Call steered\(\.\.\.\) anew"), handle:
            pass
    assert llama.attachments == []


def test_a_class_is_no_intervention(llama):
    with pytest.raises(PlanError, match="got type"):
        inspect.unwrap(steered)(llama, Clamp)


def test_edits_that_did_not_see_the_pass_are_an_error(llama, sae, tokens):
    original = llama.model
    try:
        with steered(llama, Clamp(sae, {3: 9.0})):
            llama.model = copy.deepcopy(original)
            for module in llama.model.modules():
                module._forward_hooks.clear()
                module._forward_pre_hooks.clear()
            with pytest.raises(SiteError, match="did not see the pass"):
                llama.forward(tokens)
            with pytest.raises(SiteError, match="did not see the pass"):
                llama.generate(PROMPTS, Sampling(2))
        with pytest.raises(SiteError, match=r"Nothing was read at 1\.resid_post"):
            llama.activations(tokens, [Site(1)])
    finally:
        llama.model = original


def test_a_reading_that_stops_below_the_steered_layer_is_no_silence(llama, sae, tokens):
    with steered(llama, Clamp(sae, {3: 9.0})) as steering:
        llama.activations(tokens, [Site(0)])
    assert (steering.attachment.passes, steering.attachment.fired) == (0, {Site(1): 0})


def test_threads_take_turns_on_a_steered_model(llama, sae):
    batches = [llama.pad(llama.prompt_ids([prompt] * (1 + place))) for place, prompt in enumerate(PROMPTS)]
    with steered(llama, Clamp(sae, {3: 9.0})):
        expected = [llama.forward(batch) for batch in batches]
        with ThreadPoolExecutor(2) as pool:
            jobs = [pool.submit(llama.forward, batches[turn % 4]) for turn in range(60)]
            got = [job.result() for job in jobs]
    assert all(torch.equal(logits, expected[turn % 4]) for turn, logits in enumerate(got))
