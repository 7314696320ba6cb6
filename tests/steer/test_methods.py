"""Methods against the formulas of their papers, in float64 on small random data; and what they do on a tiny model."""

import inspect
import json

import numpy as np
import pytest
import torch

from steer.errors import DataError, PlanError
from steer.evals.sample import Sample
from steer.methods import conditional, correlated_latents, direction, null_space
from steer.methods.conditional import ConditionalConfig, best_threshold, condition_vector, similarity
from steer.methods.correlated_latents import CorrelatedConfig, Correlation
from steer.methods.direction import DirectionConfig, mean_kl, refusal_score
from steer.methods.fitted import last_states, mean_states
from steer.methods.null_space import NullSpaceConfig, projection, steering_matrix
from steer.models.decode import Sampling
from steer.models.site import Site
from steer.steering.direction_edits import AddDirection
from steer.steering.gates import Gate, Gated
from steer.steering.latents import Clamp
from steer.steering.null_space import NullSpaceEdit
from steer.steering.scores import ConditionScore
from steer.steering.steered import steered
from steer.steering.window import Window
from tests.conftest import D_MODEL, PROMPTS, count_hooks, random_sae, tiny_model
from tests.steer.test_operations import at, stream

SAMPLING = Sampling(8)
HARMFUL = [f"{verb} {thing}" for verb in ("burn", "steal") for thing in ("a car", "the safe", "his hat", "it", "x y z")]
HARMLESS = [f"{verb} a {thing}" for verb in ("bake", "paint", "buy") for thing in ("cake", "fence", "chair", "pie")]
LAST = Site(2)


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# activations that methods are fitted on


def test_states_are_those_of_each_prompt_alone(lm):
    sites = [Site(0, "resid_pre"), Site(1)]
    last, means = last_states(lm, sites, PROMPTS, 2), mean_states(lm, sites, PROMPTS)
    for row, ids in enumerate(lm.prompt_ids(PROMPTS)):
        alone = lm.activations(lm.pad([ids]), sites)
        for place, site in enumerate(sites):
            x = alone[site][0].double()
            torch.testing.assert_close(last[place, row], x[-2:], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(means[place, row], x[1:].mean(0), rtol=1e-4, atol=1e-5)


# direction


def test_refusal_score_and_divergence_are_their_formulas():
    before, after = random(6, 20), random(6, 20, seed=1)
    p = before.softmax(-1)[:, [3, 7]].sum(-1)
    assert refusal_score(before, [3, 7]) == pytest.approx((p / (1 - p)).log().mean().item(), rel=1e-6)
    expected = (before.softmax(-1) * (before.softmax(-1) / after.softmax(-1)).log()).sum(-1).mean()
    assert mean_kl(before, after) == pytest.approx(expected.item(), rel=1e-12)
    assert mean_kl(before, before) == 0.0
    before[0, 3] = -torch.inf
    assert np.isfinite(mean_kl(before, after))


def test_the_chosen_direction_is_the_published_selection(llama):
    config = DirectionConfig(positions=2, refusal_starts=("b", "t"), max_kl=50.0, least_induced=-50.0)
    fitted = direction.fit(llama, HARMFUL, HARMLESS, config)
    rows = fitted.record["candidates"]
    passed = [row for row in rows if row["kl"] < 50.0 and row["added"] > -50.0]
    assert fitted.record["chosen"] == min(passed, key=lambda row: row["ablated"])
    assert {row["layer"] for row in rows} <= {0, 1}, "layers below 80 % of the depth alone"
    # the figures of the chosen one, by hand
    chosen = fitted.record["chosen"]
    site = Site(chosen["layer"], "resid_pre")
    bad, good = HARMFUL[:8], HARMLESS[:10]
    means = [last_states(llama, [site], prompts, 2)[0, :, chosen["position"]].mean(0) for prompts in (bad, good)]
    r = means[0] - means[1]
    assert chosen["norm"] == pytest.approx(r.norm().item())
    (edit,) = fitted.interventions
    torch.testing.assert_close(edit.change(stream(), at()), r.float().expand_as(stream()), rtol=1e-4, atol=1e-5)
    starts = [ids[0] for ids in llama.encode(["b", "t"])]
    held = llama.pad(llama.prompt_ids(HARMLESS[10:12]))
    plain = llama.forward(held)[:, -1]
    with steered(llama, edit):
        assert refusal_score(llama.forward(held)[:, -1], starts) == pytest.approx(chosen["added"], abs=1e-4)
    with steered(llama, *direction.ablation(llama, r)):
        assert mean_kl(plain, llama.forward(held)[:, -1]) == pytest.approx(chosen["kl"], abs=1e-4)
        bad_held = llama.forward(llama.pad(llama.prompt_ids(HARMFUL[8:10])))[:, -1]
        assert refusal_score(bad_held, starts) == pytest.approx(chosen["ablated"], abs=1e-4)


def test_ablation_leaves_nothing_of_the_direction_in_the_stream(lm):
    r = random(D_MODEL).float()
    seen = {}
    sites = [Site(layer) for layer in range(lm.n_layers)]

    def keep(site):
        return lambda x, at: seen.__setitem__(site, x) or x

    with steered(lm, *direction.ablation(lm, r)), lm.edited({site: keep(site) for site in sites}):
        lm.forward(lm.pad(lm.prompt_ids(PROMPTS[:1])))
    for x in seen.values():
        assert (x @ (r / r.norm())).abs().max() < 1e-3 * x.norm(dim=-1).max()


def test_the_filters_leave_out_candidates_and_say_so(llama):
    for options, words in (
        ({"max_kl": 0.0}, "0 have a divergence below 0.0"),
        ({"max_kl": 50.0, "least_induced": 1e3}, "0 induce refusal above"),
    ):
        with pytest.raises(DataError, match=words):
            direction.fit(llama, HARMFUL, HARMLESS, DirectionConfig(positions=1, **options))
    assert count_hooks(llama) == 0


def test_positions_are_the_templates_tokens_after_the_users_words(llama):
    # <|end|> and <|assistant|>
    assert direction.template_tokens(llama) == 2


# conditional (CAST)


def test_the_condition_is_eq_4_and_the_gate_decides_by_it(llama):
    c, h = random(D_MODEL), random(5, D_MODEL, seed=1)
    P = torch.outer(c, c) / (c @ c)
    expected = torch.stack([torch.cosine_similarity(row, torch.tanh(P @ row), dim=0) for row in h])
    torch.testing.assert_close(similarity(h, c), expected)
    site = Site(1, "resid_pre")
    means = mean_states(llama, [site], PROMPTS)[0]
    scores = similarity(means, c)
    gate = Gate(ConditionScore(site, c.float()), 0.0, "mean_state")
    tokens = llama.pad(llama.prompt_ids(PROMPTS))
    x = llama.activations(tokens, [site])[site]
    counts = tokens.mask.bool() & (tokens.mask.cumsum(-1) > 1)
    torch.testing.assert_close(gate.of_prompt(x, counts).double(), scores, rtol=1e-3, atol=1e-4)
    assert gate.of_prompt(x[:1], torch.zeros_like(counts[:1])).tolist() == [0.0]


def test_the_vector_is_the_first_component_of_pairs_less_their_centres():
    harmful, harmless = random(7, 6) + 1.0, random(9, 6, seed=1)
    found = condition_vector(harmful, harmless, "pca_pairwise")
    centre = (harmful + harmless[:7]) / 2
    rows = torch.stack([harmful - centre, harmless[:7] - centre], dim=1).reshape(-1, 6)
    values, vectors = torch.linalg.eigh(torch.cov(rows.T))
    torch.testing.assert_close(found.abs(), vectors[:, values.argmax()].abs())
    difference = harmful.mean(0) - harmless.mean(0)
    assert found @ difference > 0
    mean = condition_vector(harmful, harmless, "mean_difference")
    torch.testing.assert_close(mean, difference / difference.norm())


def test_the_threshold_has_the_best_f1_of_all():
    harmful, harmless = random(20) * 2 + 0.7, random(30, seed=1)
    threshold, comparator, f1, margin = best_threshold(harmful, harmless, ("above", "below"))

    def by_hand(t, above):
        hits, false = ((harmful > t) == above).sum().item(), ((harmless > t) == above).sum().item()
        return 2 * hits / (2 * hits + false + len(harmful) - hits) if hits else 0.0

    assert f1 == pytest.approx(by_hand(threshold, comparator == "above"))
    values = torch.cat([harmful, harmless]).sort().values
    assert f1 == pytest.approx(max(by_hand(t - 1e-9, above) for t in values[1:] for above in (True, False)))
    assert (values - threshold).abs().min().item() == pytest.approx(margin)


def test_the_comparator_is_the_side_on_which_the_gate_opens(llama):
    """CAST calls it "larger" where the similarity is below the threshold; here it says where the similarity is."""
    low, high = torch.tensor([-0.5, -0.4, -0.3]).double(), torch.tensor([0.2, 0.3]).double()
    assert best_threshold(high, low, ("above", "below"))[1:3] == ("above", 1.0)
    assert best_threshold(low, high, ("above", "below"))[1:3] == ("below", 1.0)
    assert best_threshold(low, high, ("above",))[2] < 1.0
    assert best_threshold(low[:1], low[:1], ("above",)) is None
    for bad, good in ((HARMFUL, HARMLESS), (HARMLESS, HARMFUL)):
        behaviour = [Clamp(random_sae(site="2.resid_post"), {3: 19.0})]
        for comparator in ("above", "below"):
            config = ConditionalConfig(comparators=(comparator,))
            fitted = conditional.fit(llama, bad, good, behaviour, config)
            gate = fitted.interventions[0].gate
            assert fitted.record["chosen"]["comparator"] == comparator
            assert gate.below == (comparator == "below")


def fitted_condition(lm):
    behaviour = [Clamp(random_sae(site="2.resid_post"), {3: 19.0})]
    return conditional.fit(lm, HARMFUL, HARMLESS, behaviour, ConditionalConfig(layers=(1, 2)))


def test_every_row_is_conditioned_by_its_own_prompt(llama):
    """CAST's release conditions and steers the first row of a batch alone."""
    fitted = fitted_condition(llama)
    rows = [*HARMFUL, *HARMLESS]
    plain = llama.generate(rows, SAMPLING)
    with steered(llama, *(one.intervention for one in fitted.interventions)):
        always = llama.generate(rows, SAMPLING)
    with steered(llama, *fitted.interventions):
        together = llama.generate(rows, SAMPLING)
        turned = llama.generate(rows[::-1], SAMPLING)[::-1]
        alone = [llama.generate([row], SAMPLING)[0] for row in rows]
    assert together == turned == alone
    gate = fitted.interventions[0].gate
    condition = similarity(mean_states(llama, [gate.score.site], rows)[0], gate.score.direction.double())
    opened = [(value < gate.threshold) if gate.below else (value > gate.threshold) for value in condition.tolist()]
    assert 0 < sum(opened) < len(rows)
    assert together == [yes if is_open else no for is_open, yes, no in zip(opened, always, plain, strict=True)]


def test_two_models_in_a_process_do_not_share_what_a_gate_decided(llama):
    """CAST's release keeps it in class attributes."""
    other = tiny_model("llama")
    with torch.no_grad():
        other.model.lm_head.weight.mul_(-1.0)
    fitted = fitted_condition(llama)
    rows, turned = [HARMFUL[0], HARMLESS[0]], [HARMLESS[1], HARMFUL[1]]
    with steered(llama, *fitted.interventions):
        expected = llama.generate(rows, SAMPLING)
    with steered(other, *fitted.interventions):
        expected_other = other.generate(turned, SAMPLING)
    with steered(llama, *fitted.interventions), steered(other, *fitted.interventions):
        assert other.generate(turned, SAMPLING) == expected_other
        assert llama.generate(rows, SAMPLING) == expected
        assert other.generate(turned, SAMPLING) == expected_other


# null space (AlphaSteer)


def test_the_projection_is_on_what_benign_activations_use_least():
    benign = random(40, 6) @ random(6, 10, seed=1)  # of rank 6 in 10 dimensions
    P = projection(benign, 0.4)
    torch.testing.assert_close(P @ P, P)
    torch.testing.assert_close(P, P.T)
    assert P.trace().item() == pytest.approx(4.0)
    assert (benign @ P).abs().max() < 1e-8


def test_the_steering_matrix_is_the_ridge_solution():
    P, malicious, r = projection(random(30, 10), 0.5), random(25, 10, seed=2), random(10, seed=3)
    M = steering_matrix(P, malicious, r, 10.0)
    X, R = malicious @ P, r.expand(25, -1)
    D = torch.linalg.pinv(X.T @ X + 10.0 * P.T @ P) @ X.T @ R
    torch.testing.assert_close(M, P @ D)

    def loss(D):
        return (malicious @ P @ D - R).square().sum() + 10.0 * (P @ D).square().sum()

    variable = D.clone().requires_grad_()
    loss(variable).backward()
    assert variable.grad.norm() < 1e-8 * loss(D)
    weak = steering_matrix(P, malicious[:3], r, 1e-9)
    torch.testing.assert_close(malicious[:3] @ weak, R[:3], rtol=1e-5, atol=1e-5)


def test_the_edit_is_its_formula_and_leaves_alone_what_it_should(llama):
    M, x = random(D_MODEL, D_MODEL), stream()
    edit = NullSpaceEdit(LAST, M.float(), 0.3)
    torch.testing.assert_close(edit.change(x, at()).double(), 0.3 * x.double() @ M, rtol=1e-4, atol=1e-4)
    rows = llama.prompt_ids(PROMPTS)
    plain = llama.generate_ids(rows, SAMPLING)
    logits = llama.forward(llama.pad(rows))
    for none in (NullSpaceEdit(LAST, M.float(), 0.0), NullSpaceEdit(LAST, 0.0 * M.float())):
        with steered(llama, none):
            assert torch.equal(llama.forward(llama.pad(rows)), logits)
    with steered(llama, edit):
        cached = llama.generate_ids(rows, SAMPLING)
        assert llama.generate_ids(rows, Sampling(8, use_cache=False)) == cached
        assert [llama.generate_ids([row], SAMPLING)[0] for row in rows] == cached
    assert cached != plain


def test_prompts_of_one_token_are_steered_and_generated_tokens_are_not(llama):
    """AlphaSteer's release takes a pass of several tokens for the prompt, so it misses prompts of one."""
    edit = NullSpaceEdit(LAST, random(D_MODEL, D_MODEL).float(), 1.0, Window("prompt", first_token=True))
    seen = []
    with steered(llama, edit), llama.edited({LAST: lambda x, at: (seen.append(x.clone()), x)[1]}):
        llama.generate_ids([[5]], Sampling(3))
    before = llama.activations(llama.pad([[5]]), [LAST])[LAST]
    torch.testing.assert_close(seen[0], before + before @ edit.matrix, rtol=1e-4, atol=1e-4)
    with llama.edited({LAST: lambda x, at: (seen.append(x.clone()), x)[1]}):
        plain = llama.generate_ids([[5]], Sampling(1))
    with steered(llama, edit):
        first, second, *_ = llama.generate_ids([[5]], Sampling(3))[0]
    # the second token sees the first's cached keys, changed above the last layer by nothing: fed alone it is unsteered
    x = llama.activations(llama.pad([[5, first]]), [LAST])[LAST][0, 1]
    torch.testing.assert_close(seen[1][0, 0], x, rtol=1e-4, atol=1e-4)
    assert plain
    assert second is not None


def test_fitted_maps_move_malicious_prompts_more_than_benign_ones(llama):
    fitted = null_space.fit(llama, HARMLESS, HARMFUL, config=NullSpaceConfig(layers=(1, 2), share=0.6, ridge=0.1))
    assert [one.site for one in fitted.interventions] == [Site(1, "resid_pre"), Site(2, "resid_pre")]
    for row in fitted.record["layers"]:
        assert row["malicious_moved"] > 3 * row["benign_moved"]
    good, bad = (last_states(llama, [Site(1, "resid_pre")], prompts)[0, :, 0] for prompts in (HARMLESS, HARMFUL))
    M = steering_matrix(projection(good, 0.6), bad, bad.mean(0) - good.mean(0), 0.1)
    torch.testing.assert_close(fitted.interventions[0].matrix, M.float())


# correlated latents (CorrSteer)


@pytest.mark.parametrize("sizes", [[200], [1, 50, 149], [100, 100]])
def test_the_streamed_correlation_is_pearsons(sizes):
    activations = random(200, 8) * 3 + 1e3
    right = activations[:, 2] + random(200, seed=5) > 1e3
    activations[:, 6] = 4.0
    stream, start = Correlation(8), 0
    for size in sizes:
        stream.add(activations[start : start + size], right[start : start + size])
        start += size
    expected = [np.corrcoef(activations[:, i], right.double())[0, 1] if i != 6 else 0.0 for i in range(8)]
    np.testing.assert_allclose(stream.pearson(), expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(stream.mean_where_right(), activations[right].mean(0))
    assert (stream.n, stream.right) == (200, int(right.sum()))


def asked():
    return [Sample(str(i), "s", ({"role": "user", "content": text},), "refusal") for i, text in enumerate(HARMFUL)]


def begins_early(result):
    return result.reply[:1] < "n"


@pytest.mark.parametrize("pooling", ["max", "mean"])
def test_the_chosen_latent_is_the_one_that_goes_with_right_replies(llama, pooling):
    saes = [random_sae(), random_sae(site="2.resid_post", seed=5)]
    config = CorrelatedConfig(max_new_tokens=6, pooling=pooling, strength=2.0)
    fitted = correlated_latents.fit(llama, saes, asked(), config, begins_early)
    prompts = llama.prompt_ids([sample.messages for sample in asked()])
    replies = llama.generate_ids(prompts, Sampling(6))
    right = torch.tensor([llama.tokenizer.decode(ids).strip()[:1] < "n" for ids in replies]).double()
    for sae, edit, row in zip(saes, fitted.interventions, fitted.record["best"], strict=True):
        site = edit.site
        pooled = []
        for prompt, reply in zip(prompts, replies, strict=True):
            x = llama.activations(llama.pad([[*prompt, *reply]]), [site])[site][0, len(prompt) :]
            dense = sae.encode(x).to_dense().double()
            pooled.append(dense.amax(0) if pooling == "max" else dense.mean(0))
        pooled = torch.stack(pooled)
        with np.errstate(invalid="ignore"):
            pearson = np.nan_to_num(np.corrcoef(pooled.T, right[None])[-1, :-1])
        assert row["correlation"] == pytest.approx(pearson.max(), abs=1e-4)
        assert pearson[row["latent"]] == pytest.approx(pearson.max(), abs=1e-4)
        coefficient = pooled[right.bool(), row["latent"]].mean().item()
        assert row["coefficient"] == pytest.approx(coefficient, abs=1e-4)
        assert edit.latents == {row["latent"]: pytest.approx(2.0 * coefficient, abs=1e-3)}
        assert (edit.operation, edit.window.phase) == ("add", "generated")


def test_variants_take_one_latent_of_all_or_those_that_help(llama):
    saes = [random_sae(), random_sae(site="2.resid_post", seed=5)]
    fitted = correlated_latents.fit(llama, saes, asked(), CorrelatedConfig("single", max_new_tokens=6), begins_early)
    assert len(fitted.interventions) == 1
    best = max(fitted.record["best"], key=lambda row: row["correlation"])
    assert fitted.record["chosen"] == [best]
    pruned = CorrelatedConfig("pruned", max_new_tokens=6, strength=2.0, window=Window("all"))
    found = correlated_latents.fit(llama, saes, asked(), pruned, begins_early, asked())
    told = found.record["validation"]
    helping = [number > told["right_before"] for number in told["right_with_each"]]
    assert sum(helping) == len(found.interventions) > 0


# what cannot work


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda lm: direction.fit(lm, [], HARMLESS), DataError, "Give some harmful prompts"),
        (lambda lm: direction.fit(lm, HARMFUL[:1], HARMLESS), DataError, "at least two prompts of each kind"),
        (lambda lm: DirectionConfig(strength=float("inf")), PlanError, "strength must be a finite number"),
        (lambda lm: DirectionConfig(depth=0.0), PlanError, "share of the layers"),
        (lambda lm: DirectionConfig(refusal_starts=()), PlanError, "a text that refusals begin with"),
        (lambda lm: conditional.fit(lm, HARMFUL, [], [clamp()]), DataError, "Give some harmless prompts"),
        (lambda lm: conditional.fit(lm, HARMFUL[:3], HARMLESS, [clamp()]), DataError, "needs 4 prompts of each kind"),
        (lambda lm: conditional.fit(lm, HARMFUL, HARMLESS, []), PlanError, "needs a behaviour"),
        (
            lambda lm: conditional.fit(lm, HARMFUL, HARMLESS, [clamp()], ConditionalConfig(layers=(2,))),
            PlanError,
            "acts before layer 2 is read",
        ),
        (lambda lm: conditional.fit(lm, HARMFUL[:1] * 8, HARMFUL[:1] * 8, [clamp()]), DataError, "all are alike"),
        (lambda lm: null_space.fit(lm, HARMFUL, HARMFUL[::-1]), DataError, "do not differ at 1.resid_pre"),
        (
            lambda lm: inspect.unwrap(conditional.fit)(lm, HARMFUL, HARMLESS, clamp()),
            PlanError,
            "as a list of interventions",
        ),
        (lambda lm: null_space.fit(lm, [], HARMFUL), DataError, "Give some benign prompts"),
        (lambda lm: NullSpaceConfig(share=0.0), PlanError, "share lies in"),
        (lambda lm: NullSpaceConfig(strength=float("nan")), PlanError, "strength must be a finite number"),
        (lambda lm: NullSpaceEdit(LAST, torch.full((4, 4), float("nan"))), PlanError, "finite in float32"),
        (lambda lm: NullSpaceEdit(LAST, torch.eye(4), float("inf")), PlanError, "strength must be a finite"),
        (lambda lm: steered(lm, NullSpaceEdit(LAST, torch.eye(4))), PlanError, "width of 4, the model has 32"),
        (lambda lm: correlated_latents.fit(lm, [], asked()), PlanError, "give at least one"),
        (lambda lm: correlated_latents.fit(lm, [random_sae()], []), DataError, "Give some samples"),
        (lambda lm: correlated_latents.fit(lm, [random_sae()] * 2, asked()), PlanError, "One SAE for each site"),
        (lambda lm: correlated_latents.fit(lm, [random_sae(d_in=8)], asked()), PlanError, "width 8"),
        (lambda lm: correlated_latents.fit(lm, [random_sae()], asked()), DataError, "0 of 10 replies are right"),
    ],
)
def test_what_cannot_work_is_refused_and_changes_nothing(llama, call, error, words):
    before = llama.forward(llama.pad(llama.prompt_ids(PROMPTS)))
    with pytest.raises(error, match=words):
        call(llama)
    assert count_hooks(llama) == 0
    assert torch.equal(llama.forward(llama.pad(llama.prompt_ids(PROMPTS))), before)


def clamp():
    return Clamp(random_sae(), {3: 1.0})


def test_records_are_json_and_name_the_prompts(llama):
    fitted = null_space.fit(llama, HARMLESS, HARMFUL)
    again = null_space.fit(llama, HARMLESS, HARMFUL[::-1])
    assert json.loads(json.dumps(fitted.record)) == fitted.record
    assert fitted.record["prompts"]["benign"] == again.record["prompts"]["benign"]
    assert fitted.record["prompts"]["malicious"] != again.record["prompts"]["malicious"]
    gated = conditional.fit(llama, HARMFUL, HARMLESS, [AddDirection(LAST, torch.ones(D_MODEL), 1.0)])
    assert json.loads(json.dumps(gated.record)) == gated.record
    assert isinstance(gated.interventions[0], Gated)
