"""The six methods of the finder, on planted latents and against what their papers' formulas give by hand."""

import copy
import math
from collections import Counter
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from steer.errors import DataError, PlanError
from steer.evals.sample import Sample
from steer.features import causal, contrast, correlation, cosine_attribution, output_score, paper
from steer.features.columns import COLUMNS, columns
from steer.features.damage import Damage, damage
from steer.features.dev import divided, embedded_dev
from steer.features.finders import FINDERS, methods, run
from steer.features.halving import halve, rounds
from steer.features.outcomes import Known, Outcome, Outcomes, Tally, outcome, repetition
from steer.features.search import without_refusals
from steer.features.states import latents_of
from steer.features.trial import Arm, Trial, replies_under
from steer.models.decode import Sampling
from steer.models.passes import positions_of
from steer.models.site import Site
from steer.steering.directions import ablation
from steer.steering.each_row import edit_each_row
from steer.steering.latents import Clamp, LatentEdit
from steer.steering.steered import steered
from steer.steering.window import Window
from tests.conftest import count_hooks, random_sae
from tests.steer.planted_refusal import REFUSES, SAYS, planted_search


@pytest.fixture(scope="module")
def planted(embedded):
    return planted_search(embedded)


def asked(text, name):
    return Sample(text, name, ({"role": "user", "content": text},), "refusal")


def small_trial(lm, sae, count=5, tokens=4, **settings):
    unsafe = [asked(f"harm number {i}", "unsafe") for i in range(count)]
    safe = [asked(f"help number {i}", "safe") for i in range(count)]
    return Trial(lm, sae, Site(1), unsafe, safe, tokens, **settings)


# planted latents


@pytest.mark.parametrize(
    ("method", "first"),
    [
        ("paper", [REFUSES]),
        ("contrast", [SAYS, REFUSES]),  # in the reply, and before it
        ("cosine_attribution", [REFUSES]),
        ("correlation", [SAYS]),
    ],
)
def test_a_method_ranks_the_planted_latent_first(planted, method, first):
    found = FINDERS[method](planted)
    assert [one.latent for one in found[: len(first)]] == first
    assert 1 <= len(found) <= planted.limit
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    assert all(one.why for one in found)
    assert count_hooks(planted.lm) == 0


def test_the_referee_finds_the_planted_latent_among_all_that_were_named(planted):
    whole, halved = Known(), Known()
    latents = [4, 6, REFUSES, 9, SAYS]
    grid = causal.referee(planted, latents, first=1.0, known=whole)
    found = causal.referee(planted, latents, finalists=1, known=halved)
    assert grid.curves[0].latent == found.curves[0].latent == REFUSES
    assert grid.generations == len(latents) * 3 * len(planted.trial.samples)
    assert sum(arm is not None for arm, *_ in halved.outcomes) == found.generations < grid.generations / 2
    best = found.curves[0]
    assert best.steerability > 0.2
    assert [one.strength for one in best.doses] == pytest.approx([value * planted.norm for value in planted.strengths])
    assert [best.in_norms(one.strength) for one in best.doses] == pytest.approx(planted.strengths)
    assert best.in_maxima(best.maximum) == 1.0
    full = causal.referee(planted, latents, finalists=3, known=halved).curves
    all_prompts = len(planted.trial.samples)
    assert sum({one.tally.prompts for one in curve.doses} == {all_prompts} for curve in full) == 3
    seen = [one.tally.prompts for curve in found.curves for one in curve.doses]
    assert min(seen) == 3 < max(seen) == len(planted.trial.samples)  # some were given up after a prompt of each set


def test_all_methods_together_and_as_columns(planted):
    report = run(planted, ["contrast", "cosine_attribution", "causal"])
    assert [one.method for one in report.rankings] == ["contrast", "cosine_attribution", "causal"]
    assert report.latents == [one.latent for one in report.refereed.curves]
    assert [one.latent for one in report.rankings[-1].found] == report.latents[: planted.limit]
    assert REFUSES in report.latents
    named = {one.latent for ranking in report.rankings[:-1] for one in ranking.found}
    assert {one.latent for one in report.refereed.curves} == named
    prompts = len(planted.trial.samples)
    assert report.rankings[0].generations == len(planted.harmful) + len(planted.harmless)
    assert report.rankings[1].generations == 0
    # the unsteered replies to the prompts that are clamped on count too, and those that maxima are read from do not
    assert report.rankings[2].generations == report.refereed.generations + prompts
    figures = columns(report.refereed, planted.sae.config.d_sae)
    assert set(figures) == {f"refusal_{name}" for name in COLUMNS}
    for values in figures.values():
        assert values.shape == (48,)
        assert values.dtype == np.float32
    known = set(np.flatnonzero(~np.isnan(figures["refusal_steerability"])).tolist())
    assert known == named
    assert figures["refusal_steerability"][REFUSES] == pytest.approx(
        next(one.steerability for one in report.refereed.curves if one.latent == REFUSES)
    )
    without = run(planted, ["cosine_attribution"])
    assert without.refereed is None
    assert without.latents == [one.latent for one in without.rankings[0].found]


# each method against its formula


def test_the_papers_candidates_are_clamped_at_strengths_in_residual_norms(planted):
    lm, site = planted.lm, planted.site
    states = [lm.activations(lm.pad([text]), [site])[site][0, 1:] for text in planted.texts]
    by_hand = torch.cat(states).double().norm(dim=-1).mean().item()
    assert planted.norm == pytest.approx(by_hand, rel=1e-5)
    assert planted.raw(0.5)[3] == pytest.approx(0.5 * by_hand / planted.sae.W_dec[3].norm().item(), rel=1e-5)
    assert {one.latent for one in paper.active_in_refusal(planted)} >= {one.latent for one in paper.find(planted)}


def test_separation_counts_pairs():
    generator = torch.Generator().manual_seed(0)
    harmful = torch.randint(0, 4, (9, 6), generator=generator).float() + torch.tensor([2.0, 0, 0, 0, 0, 0])
    harmless = torch.randint(0, 4, (7, 6), generator=generator).float()
    harmful[:, 5] = harmless[:, 5] = 3.0
    d, q = contrast.separation(harmful, harmless)
    above = (harmful[:, None] > harmless[None]).double() + 0.5 * (harmful[:, None] == harmless[None]).double()
    torch.testing.assert_close(d, 2 * above.mean((0, 1)) - 1)
    assert d[0] == d.max()
    assert q[0] == q.min()
    assert (d[5], q[5]) == (0.0, 1.0)


@pytest.fixture(scope="module")
def exact():
    """A tiny Llama and an SAE on it, in float64."""
    from tests.conftest import tiny_model

    lm = tiny_model("llama")
    lm.model.double()
    return lm, random_sae(site="1.resid_post").double()


def brute_force(lm, site, tokens, x, moved, towards, away, change):
    """The metric with a change of the activations at the site, one row after another."""

    def metric(states):
        with lm.edited({site: lambda _, at: states}):
            logits = lm.forward(tokens, keep=1)[:, -1]
        rows = torch.arange(len(logits))
        return logits[rows, towards] - logits[rows, away]

    return metric(x + change) - metric(x)


@pytest.mark.parametrize("linear", [True, False])
def test_attribution_is_what_ablation_by_brute_force_gives(exact, linear):
    lm, sae = copy.deepcopy(exact[0]), exact[1]
    site = Site(2) if linear else Site(1)
    if linear:  # behind the last layer, without its norm, logits are a matrix times the activations
        lm.model.model.norm = torch.nn.Identity()
    prompts = lm.prompt_ids(["harm", "a longer one of harm"])
    tokens = lm.pad(prompts)
    direction = torch.nn.functional.normalize(torch.randn(32), dim=0)
    x = lm.activations(tokens, [site])[site]
    with steered(lm, *ablation(lm, direction)):
        moved = lm.activations(tokens, [site])[site]
    if not linear:  # so near that slopes do not change much on the way
        moved = x + 0.02 * (moved - x)
    towards, away = torch.tensor([10, 11]), torch.tensor([40, 41])
    metric = cosine_attribution.logit_difference(lm, tokens, site, towards, away)
    latents = torch.arange(0, 96, 4)
    gradient = cosine_attribution.integrated(metric, x, moved)
    whole = brute_force(lm, site, tokens, x, moved, towards, away, moved - x)
    torch.testing.assert_close(((moved - x) * gradient).sum((1, 2)), whole, rtol=2e-3, atol=1e-6)
    found = cosine_attribution.effects_of(sae, x, moved, gradient, tokens, latents)
    counted = (tokens.mask.bool() & (positions_of(tokens.mask) > 0)).unsqueeze(-1)
    before, after = (torch.stack([latents_of(sae, row) for row in one]) for one in (x, moved))
    by_hand = torch.stack(
        [
            brute_force(
                lm,
                site,
                tokens,
                x,
                moved,
                towards,
                away,
                (after - before)[..., i : i + 1] * counted * sae.W_dec[i],
            )
            for i in latents.tolist()
        ],
        dim=1,
    )
    if linear:
        torch.testing.assert_close(found, by_hand)
    else:
        together = torch.stack([found.flatten(), by_hand.flatten()])
        assert torch.corrcoef(together)[0, 1] > 0.99
    assert by_hand.abs().max() > 1e-4


def test_attribution_of_a_batch_is_the_mean_of_prompts_alone(planted):
    lm = planted.lm
    prompts = lm.prompt_ids([one.messages for one in planted.harmful[2:5]])
    latents = torch.tensor([REFUSES, 3, SAYS])
    several = cosine_attribution.attributed(lm, planted.sae, planted.site, prompts, planted.direction, latents)
    alone = [
        cosine_attribution.attributed(lm, planted.sae, planted.site, [one], planted.direction, latents)
        for one in prompts
    ]
    assert several[1] == sum(count for _, count in alone) == 3
    torch.testing.assert_close(several[0], torch.stack([one for one, _ in alone]).mean(0), rtol=1e-3, atol=1e-4)
    nowhere = torch.nn.functional.normalize(torch.randn(lm.d_model), dim=0)
    calm = lm.prompt_ids(["What is a young sheep called?"])
    with pytest.raises(DataError, match="changes how none of 1 replies begins"):
        cosine_attribution.attributed(lm, planted.sae, planted.site, calm, nowhere, latents)


def test_the_output_score_is_the_papers(llama):
    sae = random_sae(site="1.resid_post")
    latents = [5, 9, 31]
    promoted = output_score.promoted_tokens(llama, sae, latents)
    lens = llama.model.lm_head(llama.model.model.norm(sae.W_dec[latents]))
    assert promoted.tolist() == lens.topk(20).indices.tolist()
    found = output_score.output_scores(llama, sae, Site(1), latents, promoted)
    prefix = llama.raw_ids([output_score.PREFIX])
    x = llama.activations(llama.pad(prefix), [Site(1)])[Site(1)][0, -1]
    amount = 10 * sae.encode(x[None]).to_dense().max().item()
    for latent, tokens, score in zip(latents, promoted.tolist(), found.tolist(), strict=True):
        window = Window("last", first_token=True)
        with steered(llama, LatentEdit(sae, {latent: amount}, Site(1), "add", window)):
            p = llama.forward(llama.pad(prefix), keep=1)[0, -1].double().softmax(-1)
        order = p.argsort(descending=True).tolist()
        by_hand = (1 - min(order.index(one) for one in tokens) / len(p)) * max(p[one].item() for one in tokens)
        assert score == pytest.approx(by_hand, rel=1e-4)


def test_a_latent_that_writes_a_token_has_the_highest_output_score(llama):
    sae = random_sae(site="2.resid_post")
    with torch.no_grad():
        sae.W_dec[5] = 100 * torch.nn.functional.normalize(llama.model.lm_head.weight[70], dim=0)
        sae.W_dec[9] *= 1e-3
    promoted = output_score.promoted_tokens(llama, sae, [5, 9])
    scores = output_score.output_scores(llama, sae, Site(2), [5, 9], promoted)
    assert promoted[0, 0] == 70
    assert scores[0] > 2 * scores[1]


def test_the_correlation_is_that_of_numpy(planted):
    found = correlation.find(planted)
    refused = np.array([one.refused for one in planted.replies], float)
    for one in found:
        largest = []
        for reply in planted.replies:
            tokens = planted.lm.pad([[*reply.prompt_ids, *reply.reply_ids]])
            x = planted.lm.activations(tokens, [planted.site])[planted.site][0, len(reply.prompt_ids) :]
            largest.append(planted.sae.encode(x).to_dense()[:, one.latent].max().item())
        assert one.score == pytest.approx(np.corrcoef(largest, refused)[0, 1], abs=1e-3)


# what is measured under clamps


def test_replies_of_arms_together_are_those_of_arms_alone(llama, sae):
    trial = small_trial(llama, sae, batch_size=3)
    arms = [Arm(5, 2.0), Arm(5, 4.0), Arm(31, 3.0)]
    jobs = list(product(arms, range(4)))
    together = replies_under(trial, trial.samples, jobs, str)
    for (arm, place), reply in zip(jobs, together, strict=True):
        with steered(llama, Clamp(sae, {arm.latent: arm.strength})):
            (alone,) = llama.generate([trial.samples[place].messages], Sampling(4))
        assert reply.strip() == alone
    assert len(set(together)) > 4


def test_damage_is_the_divergence_and_the_loss_by_hand(llama, sae):
    texts = [llama.encode([text])[0] for text in ("a first text", "the second, longer text of all")]
    arms = [Arm(5, 9.0), Arm(31, 20.0), Arm(5, 0.5)]
    together = damage(small_trial(llama, sae), texts, arms)
    for arm, found in zip(arms, together, strict=True):
        kl = loss = tokens = 0.0
        for text in texts:
            plain = llama.forward(llama.pad([text]))[0, :-1].double().log_softmax(-1)
            with steered(llama, Clamp(sae, {arm.latent: arm.strength})):
                moved = llama.forward(llama.pad([text]))[0, :-1].double().log_softmax(-1)
            kl += (plain.exp() * (plain - moved)).sum().item()
            at = torch.tensor(text[1:]).unsqueeze(-1)
            loss += (plain.gather(-1, at) - moved.gather(-1, at)).sum().item()
            tokens += len(text) - 1
        assert found.kl == pytest.approx(kl / tokens, rel=1e-3, abs=1e-5)
        assert found.loss == pytest.approx(loss / tokens, rel=1e-3, abs=1e-5)
    assert damage(small_trial(llama, sae), texts, []) == []


def test_steerability_discounts_gains_by_perplexity_but_not_losses():
    plain = Tally(10, 0.2, 0.1, 0.1, 0.0, 0.0)
    good = Tally(10, 0.9, 0.2, 0.3, 0.1, 0.0)
    assert causal.effect_of(good, plain, Damage(0.5, 0.0)) == pytest.approx(0.7 - 0.2)
    assert causal.effect_of(good, plain, Damage(0.5, math.log(2))) == pytest.approx(0.25)
    assert causal.effect_of(good, plain, Damage(0.5, -1.0)) == pytest.approx(0.5)  # better prediction earns nothing
    bad = Tally(10, 0.2, 0.1, 0.5, 0.4, 0.0)
    assert causal.effect_of(bad, plain, Damage(0.5, 9.0)) == pytest.approx(-0.4)


def test_the_largest_safe_strength_is_below_the_first_that_breaks_too_much():
    limits, plain = causal.Limits(), Tally(40, 0.2, 0.1, 0.1, 0.0, 0.0)
    calm = Tally(40, 0.5, 0.1, 0.1, 0.05, 0.05)
    assert causal.is_safe(calm, plain, Damage(0.1, 0.2), limits)
    assert not causal.is_safe(calm, plain, Damage(0.1, math.log(1.5) + 0.01), limits)
    assert not causal.is_safe(replace(calm, broken=0.1), plain, Damage(0.1, 0.2), limits)
    assert causal.is_safe(replace(calm, prompts=8, broken=0.125), plain, Damage(0.1, 0.2), limits)  # a single reply
    assert not causal.is_safe(replace(calm, repetition=0.2), plain, Damage(0.1, 0.2), limits)

    def dose(strength, effect, safe, prompts=40):
        return causal.Dose(strength, replace(calm, prompts=prompts), Damage(0, 0), effect, 0.1, safe)

    doses = (dose(1.0, 0.1, True), dose(2.0, 0.4, True), dose(3.0, 0.3, False), dose(4.0, 0.9, True, prompts=8))
    curve = causal.Curve(3, doses, 0.5, 0.1)
    assert (curve.safe_strength, curve.steerability, curve.best.strength) == (2.0, 0.4, 2.0)
    assert (curve.in_maxima(2.0), curve.in_norms(2.0)) == (4.0, 0.2)
    assert math.isnan(replace(curve, maximum=0.0).in_maxima(2.0))
    assert replace(curve, doses=(dose(1.0, -0.2, False),)).steerability == 0.0
    assert replace(curve, doses=(dose(1.0, -0.2, False),)).safe_strength == 0.0


def test_repetition_is_the_share_of_runs_that_have_stood_before():
    assert repetition("one two three four") == 0.0
    assert repetition("a b c a b c") == pytest.approx(1 - 3 / 4)
    assert repetition("two words") == repetition("") == 0.0
    assert outcome("I'm sorry, but I cannot help with that.") == Outcome(True, False, 0.0)
    assert outcome("") == Outcome(False, True, 0.0)


# halving


def test_rounds_double():
    assert rounds(120, 1 / 16) == [8, 16, 32, 64, 120]
    assert rounds(10, 1 / 16, least=4) == [4, 8, 10]
    assert rounds(3, 1.0) == [3]
    for first in (0.0, 1.5, float("nan")):
        with pytest.raises(DataError, match="first"):
            rounds(10, first)


def known_outcomes(trial, arms, rates):
    """Outcomes drawn beforehand: an arm refuses each unsafe prompt with its rate, and no safe one."""
    generator = np.random.default_rng(0)
    known = Known()
    for one in trial.samples:
        known.outcomes[None, one.set, one.id] = Outcome(False, False, 0.0)
        for arm, rate in zip(arms, rates, strict=True):
            refused = one.set == "unsafe" and generator.random() < rate
            known.outcomes[arm, one.set, one.id] = Outcome(bool(refused), False, 0.0)
    return known


def test_halving_finds_the_winner_of_the_whole_grid_with_a_third_of_the_replies(llama, sae):
    trial = small_trial(llama, sae, count=60)
    arms = [Arm(latent, strength) for latent in range(12) for strength in (1.0, 2.0, 3.0, 4.0)]
    rates = [0.85 if arm == Arm(7, 3.0) else 0.5 * arm.latent / 12 for arm in arms]
    known = known_outcomes(trial, arms, rates)

    def winner(first, seed):
        outcomes = Outcomes(trial, seed, known)

        def effect(arm):
            return causal.effect_of(outcomes.tally(arm), outcomes.plain(outcomes.measured(arm)), Damage(0, 0))

        return halve(outcomes, arms, effect, first, 2)[0], outcomes.generations

    best, whole = winner(1.0, 0)
    assert (best, whole) == (Arm(7, 3.0), len(arms) * 120)
    found = [winner(1 / 16, seed) for seed in range(10)]
    assert Counter(arm for arm, _ in found)[best] == 10
    assert all(replies <= whole / 3 for _, replies in found)


def test_prompts_of_all_sets_come_in_equal_shares_and_each_seed_has_its_order(llama, sae):
    trial = small_trial(llama, sae, count=6)
    known = known_outcomes(trial, [Arm(0, 1.0)], [0.5])
    one, other = Outcomes(trial, 0, known), Outcomes(trial, 1, known)
    assert [sample.set for sample in one.samples] == ["unsafe", "safe"] * 6
    assert sorted(sample.id for sample in one.samples) == sorted(sample.id for sample in other.samples)
    assert [sample.id for sample in one.samples] != [sample.id for sample in other.samples]
    for place, refused in enumerate((True, False, False, False)):
        known.outcomes[Arm(0, 1.0), one.samples[place].set, one.samples[place].id] = Outcome(refused, False, 0.0)
    one.measure([Arm(0, 1.0)], 4)
    assert (one.measured(Arm(0, 1.0)), one.generations, one.tally(Arm(0, 1.0)).prompts) == (4, 4, 4)
    one.measure([Arm(0, 1.0)], 4)
    assert one.generations == 4
    assert one.error(Arm(0, 1.0)) == pytest.approx(math.sqrt(0.5 / 2))  # one of two unsafe prompts, none of two safe


# prompts, and what cannot work


def test_prompts_are_divided_so_that_none_is_read_and_clamped_on():
    own = divided(embedded_dev(), 24, 20)
    assert [len(one) for one in (own.harmful, own.harmless, own.unsafe, own.safe)] == [60, 40, 72, 48]
    assert not {one.id for one in (*own.harmful, *own.harmless)} & {one.id for one in (*own.unsafe, *own.safe)}
    assert divided(embedded_dev(), 24, 20) == own != divided(embedded_dev(), 24, 20, seed=1)
    few = divided([asked(str(i), "harmful_mine") for i in range(5)])
    assert (len(few.unsafe), len(few.harmful)) == (2, 3)


def test_texts_that_decline_something_are_not_neutral(embedded):
    rows = embedded.encode(["A cat sat down.", "Sure. I can't help with that.", "It rains."])
    assert without_refusals(embedded, rows) == [rows[0], rows[2]]


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda s: replace(s, harmful=s.harmful[:4]), DataError, "at least 5 prompts of each kind.*got 4 harmful"),
        (lambda s: replace(s, trial=replace(s.trial, safe=s.trial.safe[:1])), DataError, "1 safe. Give more safe"),
        (lambda s: replace(s, harmless=[*s.harmless, s.harmful[0]]), DataError, "among the harmful and the harmless"),
        (
            lambda s: replace(s, trial=replace(s.trial, safe=[*s.trial.safe, s.trial.safe[0]])),
            DataError,
            "of the set 'safe' stands twice",
        ),
        (lambda s: replace(s, texts=[]), DataError, "neutral texts"),
        (lambda s: edit_each_row(s.sae, [1, 2], [0.5], "add"), PlanError, "got 2 latents and 1 values"),
        (lambda s: replace(s, strengths=()), DataError, "different values"),
        (lambda s: replace(s, strengths=(0.2, -0.1)), DataError, "above 0"),
        (lambda s: replace(s, limit=0), DataError, "limit must be a whole number"),
        (lambda s: replace(s, trial=replace(s.trial, sae=random_sae())), PlanError, "activations of width 32"),
        (
            lambda s: paper.find(replace(s, archetype="What is a young sheep called?")),
            DataError,
            "does not refuse the archetypal",
        ),
        (lambda s: causal.referee(s, []), DataError, "no candidate"),
        (lambda s: causal.referee(s, [48]), PlanError, "Latent 48 is out of range"),
        (lambda s: methods("papr"), DataError, "Did you mean paper"),
        (lambda s: methods("paper,paper"), DataError, "stands twice"),
        (lambda s: divided([asked("x", "mine")] * 4), DataError, "'mine' does not say whether"),
        (
            lambda s: run(replace(s, harmful=s.harmless[:6], harmless=s.harmless[6:12]), ["correlation"]),
            DataError,
            "Method correlation: 0 of 12 replies are refusals",
        ),
    ],
)
def test_what_cannot_work_is_refused(planted, call, error, words):
    with pytest.raises(error, match=words):
        call(planted)
    assert count_hooks(planted.lm) == 0


def test_methods_are_asked_by_name_and_the_referee_comes_last():
    assert methods("all")[-1] == "causal"
    assert set(methods("all")) == set(FINDERS)
    assert methods("causal,paper") == ["paper", "causal"]
