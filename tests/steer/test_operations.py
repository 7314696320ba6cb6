"""Operations on latents and directions against their formulas, in float64 where it can be."""

import dataclasses
import math

import pytest
import torch

from saes import SAE, SAEConfig
from steer.errors import PlanError
from steer.models.decode import Sampling
from steer.models.passes import Pass
from steer.models.site import Site
from steer.steering.collisions import check_set_once
from steer.steering.direction_edits import DirectionEdit
from steer.steering.gates import Gate, Gated
from steer.steering.intervention import changed
from steer.steering.latents import LatentEdit
from steer.steering.scores import ProbeScore
from steer.steering.steered import steered
from steer.steering.window import EVERYWHERE, Window
from tests.conftest import D_MODEL, count_hooks, random_sae

SITE = Site(1)


def untyped(kind, **values):
    """As a user makes it, without the run-time type checks of the tests."""
    made = object.__new__(kind)
    for one in dataclasses.fields(kind):
        if one.init:
            object.__setattr__(made, one.name, values.get(one.name, one.default))
    made.__post_init__()
    return made


def at(batch=2, seq=7, prompt=(4, 3), pads=(0, 2)):
    """A pass over left-padded rows of which a part was generated."""
    places = torch.arange(seq).expand(batch, seq)
    left = torch.tensor(pads).unsqueeze(-1)
    positions, lengths = (places - left).clamp_min(0), torch.tensor(prompt)
    tokens = torch.arange(100, 100 + seq).expand(batch, seq)
    return Pass(
        places >= left, positions, positions >= lengths.unsqueeze(-1), tokens, lengths, torch.arange(batch), batch
    )


def stream(batch=2, seq=7):
    return torch.randn(batch, seq, D_MODEL, generator=torch.Generator().manual_seed(1))


BY_HAND = {
    "set": lambda a, c: c,
    "set_if_active": lambda a, c: c if a > 0 else a,
    "at_least": max,
    "at_most": min,
    "scale": lambda a, c: a * c,
    "add": lambda a, c: a + c,
    "ablate": lambda a, c: 0.0,
}


@pytest.mark.parametrize("operation", BY_HAND)
@pytest.mark.parametrize("activation", ["topk", "relu", "jumprelu"])
def test_each_operation_is_its_formula(operation, activation):
    sae = random_sae() if activation == "topk" else threshold_sae(activation)
    x, latents = stream(), {5: 0.7, 9: 2.0, 40: 0.3}
    edit = LatentEdit(sae, latents, SITE, operation)
    codes = sae.encode(x).to_dense().detach()
    edited = codes[..., list(latents)]
    assert 0 < (edited > 0).sum() < edited.numel(), "silent and active latents are both edited"
    expected = x.double()
    for latent, value in latents.items():
        target = codes[..., latent].double().apply_(lambda a, c=value: BY_HAND[operation](a, c))
        expected = expected + (target - codes[..., latent].double()).unsqueeze(-1) * sae.W_dec[latent].double()
    torch.testing.assert_close((x + edit.change(x, at())).double(), expected.detach(), rtol=1e-5, atol=1e-5)


def threshold_sae(activation):
    sae = SAE(SAEConfig(d_in=D_MODEL, d_sae=96, k=None, activation=activation, site="1.resid_post"))
    drawn = random_sae()
    with torch.no_grad():
        sae.W_enc.copy_(drawn.W_enc)
        sae.W_dec.copy_(drawn.W_dec)
        if activation == "jumprelu":
            sae.threshold.fill_(0.2)
    return sae


@pytest.mark.parametrize(("operation", "value"), [("scale", 1.0), ("add", 0.0), ("at_least", 0.0)])
def test_an_operation_that_asks_for_what_is_there_changes_no_bit(operation, value):
    x, sae = stream(), random_sae()
    edited = changed([LatentEdit(sae, {5: value, 9: value}, SITE, operation)], x, at())
    assert torch.equal(edited, x)


def test_values_may_be_multiples_of_the_largest_activation():
    x, sae = stream(), random_sae()
    multiple = LatentEdit(sae, {5: 2.0, 9: torch.tensor([1.0, 3.0])}, SITE, maxima={5: 4.0, 9: 0.5, 11: 1.0})
    raw = LatentEdit(sae, {5: 8.0, 9: torch.tensor([0.5, 1.5])}, SITE)
    assert torch.equal(multiple.change(x, at()), raw.change(x, at()))
    assert torch.equal(multiple.raw_values[5], torch.tensor([8.0, 8.0]))
    assert multiple.latents[5] == 2.0


def test_replacing_keeps_k_latents_active_and_takes_the_weakest():
    sae, x = random_sae(), stream()
    k = sae.config.k
    edit = LatentEdit(sae, {5: 3.0, 9: 2.0}, SITE, membership="replace")
    codes = sae.encode(x).to_dense().detach()
    after = codes.clone()
    for row in after.flatten(0, 1):
        row[5], row[9] = 3.0, 2.0
        others = [i for i in row.nonzero().flatten().tolist() if i not in (5, 9)]
        weakest = sorted(others, key=lambda i, row=row: row[i].item())
        row[weakest[: max(0, len(others) + 2 - k)]] = 0
    assert ((after > 0).sum(-1) <= k).all()
    expected = x + (after - codes) @ sae.W_dec.detach()
    torch.testing.assert_close(x + edit.change(x, at()), expected, rtol=1e-5, atol=1e-5)


def test_dropping_the_error_term_gives_the_decoded_latents():
    sae, x = random_sae(), stream()
    codes = sae.encode(x).to_dense()
    codes[..., 5] = 3.0
    expected = codes @ sae.W_dec + sae.b_dec
    edit = LatentEdit(sae, {5: 3.0}, SITE, error="drop")
    torch.testing.assert_close(x + edit.change(x, at()), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(PlanError, match="drop the SAE's error term, which would be taken out as often"):
        check_set_once([edit, LatentEdit(sae, {6: 1.0}, SITE, error="drop")])


def direction(seed=0):
    return torch.randn(D_MODEL, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("unit", ["raw", "residual_norm"])
@pytest.mark.parametrize("operation", ["add", "project_out", "project_set", "project_cap"])
def test_each_direction_operation_is_its_formula(operation, unit):
    x = stream()
    edit = DirectionEdit(SITE, direction(), 0.4, operation, unit)
    u, exact = (direction() / direction().norm()).double(), x.double()
    c = 0.4 * (exact.norm(dim=-1, keepdim=True) if unit == "residual_norm" else torch.ones(2, 7, 1).double())
    p = (exact @ u).unsqueeze(-1)
    moved = {"add": c, "project_out": -p, "project_set": c - p, "project_cap": torch.minimum(p, c) - p}[operation]
    torch.testing.assert_close((x + edit.change(x, at())).double(), exact + moved * u, rtol=1e-5, atol=1e-5)


def test_rotation_turns_within_the_plane_and_keeps_all_lengths():
    x, second = stream(), direction(1)
    edit = DirectionEdit(SITE, direction(), 30.0, "rotate", second=second)
    after = x + edit.change(x, at())
    u = direction() / direction().norm()
    w = second - (second @ u) * u
    w = w / w.norm()
    p, q = after @ u, after @ w
    torch.testing.assert_close(after.norm(dim=-1), x.norm(dim=-1))
    torch.testing.assert_close(torch.atan2(q, p), torch.full((2, 7), math.radians(30.0)), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.hypot(p, q), torch.hypot(x @ u, x @ w), rtol=1e-4, atol=1e-4)
    rest = after - p.unsqueeze(-1) * u - q.unsqueeze(-1) * w
    torch.testing.assert_close(rest, x - (x @ u).unsqueeze(-1) * u - (x @ w).unsqueeze(-1) * w, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("window", "first", "second"),
    [
        (Window(), [0, 1, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1, 1]),
        (Window(first_token=True), [1, 1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1, 1]),
        (Window("prompt"), [0, 1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 0, 0]),
        (Window("generated"), [0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 0, 1, 1]),
        (Window("last"), [0, 0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 1, 0, 0]),
        (Window("generated", start=1), [0, 0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 0, 0, 1]),
        (Window("generated", stop=1), [0, 0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 1, 0]),
        (Window(start=2, stop=4), [0, 0, 1, 1, 0, 0, 0], [0, 0, 0, 0, 1, 1, 0]),
        (Window(exclude_ids=frozenset({103, 105})), [0, 1, 1, 0, 1, 0, 1], [0, 0, 0, 0, 1, 0, 1]),
        (Window("generated", decay=0.5), [0, 0, 0, 0, 0.5, 0.25, 0.125], [0, 0, 0, 0, 0, 0.5, 0.25]),
    ],
)
def test_windows_count_from_each_rows_own_prompt(window, first, second):
    assert window.weights(at()).tolist() == [first, second]
    x, edit = stream(), DirectionEdit(SITE, direction(), 2.0, window=window)
    weights = torch.tensor([first, second]).unsqueeze(-1)
    u = direction() / direction().norm()
    torch.testing.assert_close(changed([edit], x, at()), x + 2.0 * weights * u)
    untouched = (weights == 0).expand_as(x)
    assert torch.equal(changed([edit], x, at())[untouched], x[untouched])


def test_edits_of_one_latent_on_other_tokens_do_not_collide():
    sae = random_sae()
    prompt, generated = (LatentEdit(sae, {5: 1.0}, SITE, window=Window(phase)) for phase in ("prompt", "generated"))
    check_set_once([prompt, generated])
    early, late = Window("generated", stop=4), Window("generated", start=4)
    check_set_once([dataclasses.replace(generated, window=window) for window in (early, late)])
    user, assistant = (Window(roles=frozenset({role})) for role in ("user", "assistant"))
    check_set_once([dataclasses.replace(generated, window=window) for window in (user, assistant)])
    with pytest.raises(PlanError, match="Latent 5 is set twice"):
        check_set_once([dataclasses.replace(generated, window=one) for one in (early, Window("generated", start=3))])
    for other in (EVERYWHERE, Window("last")):
        with pytest.raises(PlanError, match="Latent 5 is set twice"):
            check_set_once([prompt, dataclasses.replace(generated, window=other)])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: untyped(LatentEdit, sae=random_sae(), latents={5: 1.0}, operation="clamp"),
            "operation must be one of set, set_if_active",
        ),
        (
            lambda: untyped(LatentEdit, sae=random_sae(), latents={5: 1.0}, error="no"),
            "error must be one of keep, drop",
        ),
        (lambda: LatentEdit(threshold_sae("relu"), {5: 1.0}, SITE, membership="replace"), "this SAE has no k"),
        (lambda: LatentEdit(random_sae(), {5: 1.0}, SITE, maxima={6: 1.0}), "that of latent 5 is not given"),
        (lambda: LatentEdit(random_sae(), {5: 1.0}, SITE, maxima={5: 0.0}), "must be above 0"),
        (lambda: DirectionEdit(SITE, direction(), 1.0, "rotate"), "needs a second direction"),
        (lambda: DirectionEdit(SITE, direction(), 1.0, "rotate", second=-2 * direction()), "parallel"),
        (lambda: DirectionEdit(SITE, direction(), 1.0, second=direction(1)), "and no other operation"),
        (lambda: untyped(Window, phase="reply"), "phase must be one of all, prompt, generated, last"),
        (lambda: Window(start=3, stop=3), "holds no token"),
        (lambda: Window(stop=1), "give first_token=True too"),
        (lambda: Window("prompt", stop=1), "give first_token=True too"),
        (lambda: Window("generated", decay=0.0), "nothing is left at the first generated token"),
        (lambda: untyped(Window, first_token="no"), "first_token must be True or False"),
        (lambda: untyped(Window, exclude_ids=5), "exclude_ids must be a set of token ids"),
        (lambda: untyped(Window, exclude_ids={"a"}), "must be a whole number of at least 0, got 'a'"),
        (lambda: Window(exclude_ids=frozenset({2**70})), "less than 2\\^62"),
        (
            lambda: untyped(LatentEdit, sae=random_sae(), latents={5: 1.0}, where=SITE, window="prompt"),
            "window must be a Window",
        ),
        (
            lambda: untyped(DirectionEdit, where=SITE, direction=direction(), strength=1.0, window="prompt"),
            "window must be a Window",
        ),
        (lambda: LatentEdit(random_sae(), {5: 1e30}, SITE), "at most 1e\\+18 in size, got 1e\\+30"),
        (lambda: LatentEdit(random_sae(), {5: 1e10}, SITE, maxima={5: 1e10}), "at most 1e\\+18 in size, got 1e\\+20"),
        (lambda: DirectionEdit(SITE, direction(), -1e30), "at most 1e\\+18 in size"),
        (
            lambda: untyped(DirectionEdit, where=SITE, direction=direction() * 1j, strength=1.0),
            "real numbers, got torch.complex64",
        ),
        (lambda: Window("last", start=1), "The last token of the prompt is one token"),
        (lambda: Window(decay=1.5), "decay must be"),
        (lambda: Window(decay=-0.5), "decay must be between 0 and 1"),
    ],
)
def test_what_cannot_work_is_refused(make, words):
    with pytest.raises(PlanError, match=words):
        make()


@pytest.mark.parametrize(
    "one",
    [
        DirectionEdit(SITE, torch.ones(D_MODEL), 5.0, window=Window("prompt")),
        DirectionEdit(SITE, torch.ones(D_MODEL), 5.0, window=Window("generated")),
        Gated(DirectionEdit(SITE, torch.ones(D_MODEL), 5.0), Gate(ProbeScore(SITE, torch.ones(D_MODEL)), 0.0)),
    ],
)
def test_a_prompt_that_is_read_in_parts_is_not_taken_for_a_reply(llama, one):
    tokens = llama.pad(llama.prompt_ids(["a prompt of some length"]))
    options = {"attention_mask": tokens.mask, "max_new_tokens": 4, "do_sample": False}
    with steered(llama, one):
        expected = llama.generate_ids(llama.prompt_ids(["a prompt of some length"]), Sampling(4))
        whole = llama.model.generate(tokens.ids, **options)[0, tokens.ids.shape[1] :].tolist()
        assert [token for token in whole if token != llama.tokenizer.eos_token_id] == expected[0]
    with pytest.raises(PlanError, match="Several tokens came with a filled cache"), steered(llama, one):
        llama.model.generate(tokens.ids, prefill_chunk_size=4, **options)
    assert count_hooks(llama) == 0
    everywhere = DirectionEdit(SITE, torch.ones(D_MODEL), 5.0)
    with steered(llama, everywhere):
        whole = llama.model.generate(tokens.ids, **options)
        assert torch.equal(llama.model.generate(tokens.ids, prefill_chunk_size=4, **options), whole)


def test_a_window_after_the_prompt_needs_to_know_where_that_ends():
    nobody_said = dataclasses.replace(at(), prompt_tokens=None)
    with pytest.raises(PlanError, match="nobody said where that is"):
        Window("generated", start=1).weights(nobody_said)
    assert Window("generated").weights(nobody_said).tolist() == Window("generated").weights(at()).tolist()
    with pytest.raises(PlanError, match="given embeddings"):
        Window(exclude_ids=frozenset({1})).weights(dataclasses.replace(at(), tokens=None))
