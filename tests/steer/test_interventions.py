"""Interventions: what they do to activations, in numbers, in every way a model can be run."""

import pytest
import torch

from steer.errors import PlanError, SiteError
from steer.models.decode import Sampling
from steer.models.passes import Pass
from steer.models.site import Site
from steer.steering.direction_edits import AddDirection, DirectionEdit
from steer.steering.each_row import EachRow, clamp_each_row, together
from steer.steering.latents import Clamp, LatentEdit
from steer.steering.rows import OnRows
from steer.steering.steered import steered
from steer.steering.window import Window
from tests.conftest import D_MODEL, FAMILIES, PROMPTS, count_hooks, random_sae

SAMPLING = Sampling(max_new_tokens=8)  # two more than the longest window of generated tokens
NO_CACHE = Sampling(max_new_tokens=8, use_cache=False)


def one_pass(x):
    """A pass over unpadded rows."""
    batch, seq = x.shape[:2]
    real = torch.ones(batch, seq, dtype=torch.bool)
    tokens, prompt = torch.zeros(batch, seq, dtype=torch.long), torch.full((batch,), seq)
    return Pass(real, torch.arange(seq).expand(batch, seq), ~real, tokens, prompt, torch.arange(batch), batch)


def interventions():
    direction = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(1))
    return {
        "clamp": lambda sae: Clamp(sae, {3: 9.0}),
        "two latents": lambda sae: Clamp(sae, {3: 9.0, 40: 0.0}),
        "direction": lambda sae: AddDirection(Site(1), direction, 6.0),
        "another site": lambda sae: Clamp(sae, {3: 9.0}, Site(0, "resid_pre")),
        "attention output": lambda sae: Clamp(sae, {3: 9.0}, Site(1, "attn_out")),
        "added": lambda sae: LatentEdit(sae, {3: 4.0, 40: 9.0}, operation="add"),
        "k stay active": lambda sae: LatentEdit(sae, {3: 9.0, 40: 5.0}, membership="replace"),
        "prompt": lambda sae: LatentEdit(sae, {3: 19.0}, window=Window("prompt")),
        "last": lambda sae: LatentEdit(sae, {3: 30.0}, window=Window("last")),
        "generated": lambda sae: LatentEdit(sae, {3: 9.0}, window=Window("generated", start=1, stop=6, decay=0.9)),
        "projected out": lambda sae: DirectionEdit(Site(1), direction, 0.0, "project_out"),
        "turned": lambda sae: DirectionEdit(
            Site(1), direction, 120.0, "rotate", second=torch.arange(float(D_MODEL)), window=Window("generated")
        ),
        "one row": lambda sae: OnRows(Clamp(sae, {3: 9.0}), [0, 2]),
    }


@pytest.fixture(scope="module")
def unsteered(tiny):
    """What every tiny model says to the prompts, by family."""
    return {family: tiny(family).generate_ids(tiny(family).prompt_ids(PROMPTS), SAMPLING) for family in FAMILIES}


@pytest.mark.parametrize("name", interventions())
def test_generation_with_a_cache_equals_generation_without(lm, sae, name, unsteered):
    with steered(lm, interventions()[name](sae)):
        cached = lm.generate_ids(lm.prompt_ids(PROMPTS), SAMPLING)
        uncached = lm.generate_ids(lm.prompt_ids(PROMPTS), NO_CACHE)
    assert cached == uncached
    assert cached != unsteered[lm.name.removeprefix("tiny-")], "the steering changed nothing"


@pytest.mark.parametrize("name", [name for name in interventions() if name != "one row"])
def test_a_batch_equals_its_rows_one_by_one(lm, sae, name):
    rows = lm.prompt_ids(PROMPTS)
    with steered(lm, interventions()[name](sae)):
        together = lm.generate_ids(rows, SAMPLING)
        alone = [lm.generate_ids([row], SAMPLING)[0] for row in rows]
    assert together == alone


def test_left_padding_does_not_change_the_activations_of_a_row(lm, sae):
    rows = lm.prompt_ids(PROMPTS)
    last = Site(lm.n_layers - 1)
    with steered(lm, Clamp(sae, {3: 9.0})):
        padded = lm.activations(lm.pad(rows), [last])[last]
        for row, x in zip(rows, padded, strict=True):
            alone = lm.activations(lm.pad([row]), [last])[last][0]
            torch.testing.assert_close(x[-len(row) :], alone, rtol=1e-4, atol=1e-4)


def test_every_row_of_a_batch_may_have_its_own_value(lm, sae):
    rows = lm.prompt_ids(PROMPTS)
    values = [0.0, 4.0, 9.0, 15.0]
    with steered(lm, Clamp(sae, {3: torch.tensor(values)})):
        together = lm.generate_ids(rows, SAMPLING)
    for row, value, reply in zip(rows, values, together, strict=True):
        with steered(lm, Clamp(sae, {3: value})):
            assert lm.generate_ids([row], SAMPLING)[0] == reply


def test_every_row_of_a_batch_may_have_its_own_latent(lm, sae):
    rows = lm.prompt_ids(PROMPTS)
    latents = [3, 40, 77, 12]
    with steered(lm, clamp_each_row(sae, latents, 9.0)):
        together = lm.generate_ids(rows, SAMPLING)
    for row, latent, reply in zip(rows, latents, together, strict=True):
        with steered(lm, Clamp(sae, {latent: 9.0})):
            assert lm.generate_ids([row], SAMPLING)[0] == reply


def test_every_row_of_a_batch_may_be_steered_in_its_own_way(lm, sae):
    rows, ways = lm.prompt_ids(PROMPTS), [*interventions()][3:7]
    plans = [interventions()[name](sae) for name in ways]
    with steered(lm, *(OnRows(plan, [row]) for row, plan in enumerate(plans[:-1]))):
        together = lm.generate_ids(rows, SAMPLING)
    for row, plan, reply in zip(rows[:-1], plans[:-1], together[:-1], strict=True):
        with steered(lm, plan):
            assert lm.generate_ids([row], SAMPLING)[0] == reply
    assert together[-1] == lm.generate_ids(rows[-1:], SAMPLING)[0], "the last row is steered by none"


def test_rows_with_latents_of_their_own_are_edited_in_one_go(lm, sae):
    rows = lm.prompt_ids(PROMPTS)
    edits = [Clamp(sae, {3: 9.0}), Clamp(sae, {40: 5.0, 77: 3.0}), LatentEdit(sae, {12: 4.0}, operation="add")]
    plans = [OnRows(edits[0], [0]), OnRows(edits[1], [3, 2]), OnRows(edits[2], [1])]
    made = together([*plans, OnRows(edits[0], [2])])
    assert [type(one) for one in made] == [EachRow, OnRows, OnRows], "one operation on rows that do not overlap"
    with steered(lm, *plans):
        found = lm.generate_ids(rows, SAMPLING)
    for row, edit in enumerate([edits[0], edits[2], edits[1], edits[1]]):
        with steered(lm, edit):
            assert lm.generate_ids([rows[row]], SAMPLING)[0] == found[row]
    with pytest.raises(PlanError, match="Row 3 is to be steered, but only 2"), steered(lm, *plans):
        lm.generate_ids(rows[:2], SAMPLING)
    plain = lm.generate_ids(rows[3:], SAMPLING)[0]
    with steered(lm, OnRows(edits[0], [0]), OnRows(edits[1], [1])):
        assert lm.generate_ids(rows, SAMPLING)[3] == plain, "rows beyond the last that is steered are left alone"


def test_rows_that_finish_early_do_not_disturb_the_others(llama, sae):
    rows = llama.prompt_ids(PROMPTS)
    free = llama.generate_ids(rows, SAMPLING)
    stop = free[0][2]  # pretend that what the first row says third ends a reply
    stopping = [reply[: reply.index(stop)] if stop in reply else reply for reply in free]
    assert len({len(reply) for reply in stopping}) > 1
    llama.model.generation_config.eos_token_id = stop
    try:
        assert llama.generate_ids(rows, SAMPLING) == stopping
    finally:
        llama.model.generation_config.eos_token_id = 2


def test_our_generation_equals_that_of_transformers(lm):
    tokens = lm.pad(lm.prompt_ids(PROMPTS))
    theirs = lm.model.generate(
        tokens.ids, attention_mask=tokens.mask, max_new_tokens=SAMPLING.max_new_tokens, do_sample=False, pad_token_id=0
    )[:, tokens.ids.shape[1] :]
    for ours, row in zip(lm.generate_ids(lm.prompt_ids(PROMPTS), SAMPLING), theirs.tolist(), strict=True):
        assert ours == (row[: row.index(2)] if 2 in row else row)


def test_sampling_depends_on_the_seed_and_not_on_the_other_rows(llama):
    rows = llama.prompt_ids(PROMPTS[:2])

    def sampled(seed):
        return llama.generate_ids(rows, Sampling(12, temperature=1.0, top_p=0.9, seed=seed))

    assert sampled(1) == sampled(1)
    assert sampled(1) != sampled(2)
    second = llama.generate_ids(rows[1:], Sampling(12, temperature=1.0, top_p=0.9, seed=2))  # row i draws with seed + i
    assert second[0] == sampled(1)[1]
    hot = llama.generate_ids(rows, Sampling(12, temperature=50.0, seed=1))
    assert hot != sampled(1)
    tight = llama.generate_ids(rows, Sampling(SAMPLING.max_new_tokens, temperature=1.0, top_p=1e-6))
    assert tight == llama.generate_ids(rows, SAMPLING), "the smallest nucleus holds the likeliest token only"


def test_a_value_that_equals_the_activation_changes_nothing(lm, sae):
    tokens = lm.pad(lm.prompt_ids(["hello"]))
    site = Site(1)
    codes = sae.encode(lm.activations(tokens, [site])[site])
    inactive = sorted(set(range(96)) - set(codes.indices.unique().tolist()))[0]
    with steered(lm, Clamp(sae, {inactive: 0.0})):
        steered_logits = lm.forward(tokens)
    assert torch.equal(steered_logits, lm.forward(tokens))

    x = torch.randn(1, 1, D_MODEL)
    one = sae.encode(x)
    latent, value = one.indices[0, 0, 0].item(), one.values[0, 0, 0].item()
    assert torch.equal(Clamp(sae, {latent: value}).change(x, one_pass(x)), torch.zeros_like(x))


def test_a_clamp_does_by_hook_what_it_does_by_hand_and_keeps_the_error_term(lm, sae):
    tokens, site = lm.pad(lm.prompt_ids(PROMPTS)), Site(1)
    x = lm.activations(tokens, [site])[site]
    with steered(lm, Clamp(sae, {3: 9.0})):
        got = lm.activations(tokens, [site])[site]

    dense = sae.encode(x).to_dense()
    error = x - (dense @ sae.W_dec + sae.b_dec)
    dense[..., 3] = 9.0
    by_hand = dense @ sae.W_dec + sae.b_dec + error
    moved = tokens.mask.bool() & (tokens.mask.cumsum(-1) > 1)
    torch.testing.assert_close(got[moved], by_hand[moved], rtol=1e-4, atol=1e-4)
    assert torch.equal(got[~moved], x[~moved]), "padding and the first token are left alone"
    change = got - x
    torch.testing.assert_close(  # the change lies along one decoder row, so what the SAE cannot explain is untouched
        change, (change @ sae.W_dec[3]).unsqueeze(-1) * sae.W_dec[3], rtol=1e-4, atol=1e-4
    )


def test_interventions_at_one_site_add_up(llama, sae):
    tokens, site = llama.pad(llama.prompt_ids(["hello"])), Site(1)
    x = llama.activations(tokens, [site])[site]
    direction = torch.ones(D_MODEL)
    pair = (Clamp(sae, {3: 9.0}), AddDirection(site, direction, 2.0))
    changes = []
    for interventions in ([pair[0]], [pair[1]], pair, pair[::-1]):
        with steered(llama, *interventions):
            changes.append(llama.activations(tokens, [site])[site] - x)
    torch.testing.assert_close(changes[0] + changes[1], changes[2], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(changes[2], changes[3])
    torch.testing.assert_close(changes[1][0, -1].norm(), torch.tensor(2.0), rtol=1e-4, atol=1e-4)


def test_a_bfloat16_model_is_steered_in_float32_and_stays_bfloat16(sae):
    from tests.conftest import tiny_model

    lm = tiny_model("llama")
    lm.model.to(torch.bfloat16)
    tokens, site = lm.pad(lm.prompt_ids(["hello"])), Site(1)
    x = lm.activations(tokens, [site])[site]
    with steered(lm, Clamp(sae, {3: 9.0})):
        got = lm.activations(tokens, [site])[site]
        lm.generate(["hello"], SAMPLING)
    assert got.dtype == torch.bfloat16
    exact = x.float() + Clamp(sae, {3: 9.0}).change(x.float(), one_pass(x))
    assert torch.equal(got[:, 1:], exact.to(torch.bfloat16)[:, 1:])


def test_the_handle_form_steers_until_it_is_removed(llama, sae):
    plain = llama.generate(PROMPTS, SAMPLING)
    handle = steered(llama, Clamp(sae, {3: 9.0}))
    changed = llama.generate(PROMPTS, SAMPLING)
    handle.remove()
    handle.remove()
    assert changed != plain
    assert llama.generate(PROMPTS, SAMPLING) == plain
    assert count_hooks(llama) == 0


def test_the_model_is_as_before_after_an_exception(lm, sae):
    tokens = lm.pad(lm.prompt_ids(PROMPTS))
    before = lm.forward(tokens)
    with pytest.raises(ZeroDivisionError), steered(lm, Clamp(sae, {3: 9.0})):
        lm.forward(tokens)
        raise ZeroDivisionError
    assert torch.equal(lm.forward(tokens), before)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda sae: Clamp(sae, {96: 1.0}), "valid range is 0 to 95"),
        (lambda sae: Clamp(sae, {-1: 1.0}), "valid range is 0 to 95"),
        (lambda sae: Clamp(sae, {}), "at least one latent"),
        (lambda sae: Clamp(sae, {3: float("nan")}), "must be finite"),
        (lambda sae: AddDirection(Site(1), torch.zeros(D_MODEL), 1.0), "must not be zero"),
        (lambda sae: AddDirection(Site(1), torch.ones(D_MODEL), float("inf")), "strength must be finite"),
        (lambda sae: AddDirection(Site(1), torch.ones(D_MODEL + 1), 1.0), "33 dimensions, the model 32"),
        (lambda sae: Clamp(random_sae(d_in=16), {3: 1.0}), r"width 16 \(d_in\).*32 wide"),
        (lambda sae: Clamp(random_sae(site=None), {3: 1.0}), "does not say which site"),
        (lambda sae: clamp_each_row(sae, [3, 96], 1.0), "Latent 96 is out of range"),
    ],
)
def test_interventions_that_cannot_work_are_refused_before_anything_is_attached(llama, sae, make, words):
    with pytest.raises(PlanError, match=words):
        steered(llama, make(sae))
    assert count_hooks(llama) == 0


def test_a_layer_out_of_range_is_refused(llama, sae):
    with pytest.raises(SiteError, match="valid range is 0 to 2"):
        steered(llama, Clamp(sae, {3: 1.0}, Site(3)))
    assert count_hooks(llama) == 0


def test_values_per_row_find_their_row_after_others_have_left(llama, sae):
    """Rows leave the batch when they finish; the rest keep their own latents."""
    rows = llama.prompt_ids(PROMPTS)
    latents = [3, 40, 77, 12]
    with steered(llama, clamp_each_row(sae, latents, 9.0)):
        free = llama.generate_ids(rows, SAMPLING)
    stop = free[0][2]
    llama.model.generation_config.eos_token_id = stop
    try:
        with steered(llama, clamp_each_row(sae, latents, 9.0)):
            together = llama.generate_ids(rows, SAMPLING)
    finally:
        llama.model.generation_config.eos_token_id = 2
    assert len({len(reply) for reply in together}) > 1
    assert together == [reply[: reply.index(stop)] if stop in reply else reply for reply in free]


def test_values_per_row_are_values_per_sample_in_an_evaluation(llama, sae):
    from steer.evals.runner import evaluate
    from steer.evals.sample import Sample

    texts = ["a longer question than the others", "b", "cc", "a middle one", "e"]
    samples = [Sample(t, "s", ({"role": "user", "content": t},), "refusal") for t in texts]
    samples.append(
        Sample("c", "s", ({"role": "user", "content": "?"},), "choice", {"choices": ["yes", "no!!"], "answer": 0})
    )
    values = torch.tensor([0.0, 4.0, 9.0, 15.0, 20.0, 7.0])
    with steered(llama, Clamp(sae, {3: values})):
        together = evaluate(llama, samples, max_new_tokens=6, batch_size=2)
    for sample, value, result in zip(samples, values.tolist(), together, strict=True):
        with steered(llama, Clamp(sae, {3: value})):
            assert evaluate(llama, [sample], max_new_tokens=6) == [result]


@pytest.mark.parametrize("count", [2, 3, 5])
def test_values_for_another_number_of_rows_are_refused(llama, sae, count):
    with pytest.raises(PlanError, match=f"values for {count} rows, but 4 rows are run"):
        with steered(llama, Clamp(sae, {3: torch.ones(count)})):
            llama.generate(PROMPTS, SAMPLING)
    with pytest.raises(PlanError, match="equally many"):
        Clamp(sae, {3: torch.ones(count), 4: torch.ones(count + 1)})


def test_an_sae_elsewhere_is_copied_and_the_callers_stays_where_it_is(sae):
    clamp = Clamp(sae, {3: 1.0})
    moved = clamp.to(torch.device("meta"))
    assert {moved.sae.W_dec.device.type, moved._index.device.type, moved._values.device.type} == {"meta"}
    assert sae.W_dec.device.type == "cpu"
    assert clamp.to(torch.device("cpu")).sae is sae


def test_a_positional_mask_is_read_like_a_named_one(llama, sae):
    tokens = llama.pad(llama.prompt_ids(PROMPTS))
    with steered(llama, Clamp(sae, {3: 9.0})):
        named = llama.model(input_ids=tokens.ids, attention_mask=tokens.mask).logits
        positional = llama.model(tokens.ids, tokens.mask).logits
        with pytest.raises(SiteError, match="mask of shape"):
            llama.model(input_ids=tokens.ids, attention_mask=tokens.mask[:, None, None].bool())
    assert torch.equal(named, positional)


def test_an_edit_of_generated_tokens_acts_alike_with_and_without_a_cache(lm):
    def mirror(x, at):
        return torch.where(at.generated.unsqueeze(-1), x.flip(-1), x)

    rows = lm.prompt_ids(PROMPTS)
    with lm.edited({Site(1): mirror}):
        cached, uncached = lm.generate_ids(rows, SAMPLING), lm.generate_ids(rows, NO_CACHE)
    assert cached == uncached
    assert [reply[:1] for reply in cached] == [reply[:1] for reply in lm.generate_ids(rows, SAMPLING)]
    assert cached != lm.generate_ids(rows, SAMPLING)


def test_activations_can_be_learned_from(llama):
    x = llama.activations(llama.pad(llama.prompt_ids(["hello"])), [Site(1)])[Site(1)]
    probe = torch.zeros(D_MODEL, requires_grad=True)
    (x @ probe).sum().backward()
    assert probe.grad.abs().sum() > 0


def test_prompts_beyond_the_context_are_refused(lm):
    from steer.errors import DataError

    with pytest.raises(DataError, match="context is 128 tokens"):
        lm.generate(["word " * 60])
    with pytest.raises(DataError, match="context is 128 tokens"):
        lm.generate(["hello"], Sampling(max_new_tokens=128))
    assert lm.generate([]) == []
