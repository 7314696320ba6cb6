"""What holds for tiny random models holds for trained ones: the embedded model, and stories260K where it is present."""

import pytest
import torch

from steer.models.decode import Sampling
from steer.models.load import load_model
from steer.models.site import Site
from steer.steering.latents import Clamp
from steer.steering.steered import steered
from tests.conftest import count_hooks, folder_or_skip, random_sae

SITE = Site(1)
SAMPLING = Sampling(max_new_tokens=16)
NO_CACHE = Sampling(max_new_tokens=16, use_cache=False)
PROMPTS = ["Once upon a time there was a little dog", "Hi", "How do I bake a cake for a friend?"]


@pytest.fixture(scope="module")
def stories():
    return load_model(folder_or_skip("models/stories260K") / "hf")


@pytest.fixture(params=["embedded", "stories"])
def real(request):
    lm = request.getfixturevalue(request.param)
    yield lm
    assert count_hooks(lm) == 0
    assert lm.attachments == []


def clamp(lm):
    """A clamp about as long as the residual stream."""
    x = lm.activations(lm.pad(lm.prompt_ids(PROMPTS)), [SITE])[SITE]
    return Clamp(random_sae(d_in=lm.d_model), {3: x.norm(dim=-1).median().item()})


def test_generation_with_a_cache_equals_generation_without(real):
    rows = real.prompt_ids(PROMPTS)
    with steered(real, clamp(real)):
        cached, uncached = real.generate_ids(rows, SAMPLING), real.generate_ids(rows, NO_CACHE)
    assert cached == uncached
    assert cached != real.generate_ids(rows, SAMPLING), "the steering changed nothing"


def test_a_batch_equals_its_rows_one_by_one(real):
    rows = real.prompt_ids(PROMPTS)
    with steered(real, clamp(real)):
        assert real.generate_ids(rows, SAMPLING) == [real.generate_ids([row], SAMPLING)[0] for row in rows]


def test_left_padding_does_not_change_the_activations_of_a_row(real):
    rows, last = real.prompt_ids(PROMPTS), Site(real.n_layers - 1)
    with steered(real, clamp(real)):
        padded = real.activations(real.pad(rows), [last])[last]
        for row, x in zip(rows, padded, strict=True):
            alone = real.activations(real.pad([row]), [last])[last][0]
            torch.testing.assert_close(x[-len(row) :], alone, rtol=1e-4, atol=1e-4)


def test_a_value_that_equals_the_activation_changes_nothing(real):
    """Also of an active latent: of a row of two tokens, only the second is acted on."""
    tokens = real.pad([row[:2] for row in real.prompt_ids(PROMPTS)[:1]])
    sae = random_sae(d_in=real.d_model)
    codes = sae.encode(real.activations(tokens, [SITE])[SITE][0, 1])
    active, value = codes.indices[codes.values.argmax()].item(), codes.values.max().item()
    assert value > 0
    before = real.forward(tokens)
    with steered(real, Clamp(sae, {active: value})):
        torch.testing.assert_close(real.forward(tokens), before, rtol=1e-5, atol=1e-5)
    with steered(real, Clamp(sae, {active: 3 * value})):
        assert not torch.allclose(real.forward(tokens), before, rtol=1e-5, atol=1e-5)


def test_a_clamp_leaves_what_the_sae_cannot_explain_untouched(real):
    tokens, one = real.pad(real.prompt_ids(PROMPTS)), clamp(real)
    x = real.activations(tokens, [SITE])[SITE]
    with steered(real, one):
        change = real.activations(tokens, [SITE])[SITE] - x
    row = one.sae.W_dec[3]
    torch.testing.assert_close(change, (change @ row).unsqueeze(-1) * row, rtol=1e-3, atol=1e-3)
    assert change.norm(dim=-1).max() > 1e-2


def test_the_model_is_as_before_after_an_exception(real):
    tokens = real.pad(real.prompt_ids(PROMPTS))
    before = real.forward(tokens)
    with pytest.raises(ZeroDivisionError), steered(real, clamp(real)):
        real.forward(tokens)
        raise ZeroDivisionError
    assert torch.equal(real.forward(tokens), before)
