"""The gated method: what its gate computes, that the fit finds the minimum, and what it does on the shipped model."""

import json

import pytest
import torch

import steer
from saes.metrics.logistic import fit_logistic
from steer.errors import DataError, PlanError
from steer.evals.sample import Sample
from steer.evals.sets import load_prompts
from steer.methods.fitted import last_states
from steer.methods.gated_sae import (
    GatedSaeConfig,
    fit,
    prompt_features,
)
from steer.methods.probes import bounded_threshold, cross_scores, fit_probe, folds_of
from steer.models.site import Site
from steer.steering.directions import refusal_direction
from steer.steering.gates import Gate, Gated
from steer.steering.latents import Clamp
from steer.steering.pooled_probe import PooledProbe, pooled_latents
from steer.steering.scores import LatentScore
from steer.steering.window import Window
from tests.conftest import D_MODEL, PROMPTS, random_sae

UNSAFE, BENIGN = ("unsafe_seen", "unsafe_unseen"), ("safe", "arithmetic")


def weights(seed, total=96):
    generator = torch.Generator().manual_seed(seed)
    return {pool: torch.randn(total, generator=generator) for pool in ("max", "mean", "last")}


def test_pooled_latents_are_those_of_the_dense_codes():
    sae, x = random_sae(), torch.randn(3, 7, D_MODEL, generator=torch.Generator().manual_seed(1))
    counts = torch.tensor([[0, 0, 1, 1, 1, 1, 1], [0, 1, 1, 0, 1, 0, 0], [0] * 7]).bool()
    dense = sae.encode(x).to_dense() * counts.unsqueeze(-1)
    found = pooled_latents([sae], x, counts, ["max", "mean", "last"])
    assert torch.equal(found[:, 0], dense.amax(1))
    torch.testing.assert_close(found[:, 1], dense.sum(1) / counts.sum(-1, keepdim=True).clamp_min(1))
    assert torch.equal(found[:2, 2], torch.stack([dense[0, 6], dense[1, 4]]))
    assert not found[2].any()


def test_the_score_is_the_formula_and_several_saes_stand_one_after_another():
    first, second = random_sae(), random_sae(d_sae=40, seed=5)
    x = torch.randn(2, 5, D_MODEL, generator=torch.Generator().manual_seed(2))
    counts = torch.tensor([[0, 1, 1, 1, 1], [0, 0, 0, 0, 0]]).bool()
    probe = PooledProbe([first, second], weights(0, 136), bias=0.3)
    pooled = torch.cat([pooled_latents([one], x, counts, list(probe.weights)) for one in (first, second)], -1)
    expected = sum((pooled[0, i].double() * w.double()).sum() for i, w in enumerate(probe.weights.values())) + 0.3
    torch.testing.assert_close(probe.of_prompt(x, counts), torch.stack([expected, torch.zeros(())]).float())
    one_token = torch.stack([probe.of_prompt(x[:1, i : i + 1], torch.tensor([[True]])) for i in range(5)], -1)
    torch.testing.assert_close(probe.score(x[:1]), one_token)


def test_decisions_are_those_of_a_row_alone_with_and_without_a_cache(llama):
    sae = random_sae()
    alone = {}
    scores = prompt_features(llama, [sae], PROMPTS, ["max", "mean", "last"]).view(len(PROMPTS), 3, -1)
    values = (scores * torch.stack(list(weights(0).values()))).sum((1, 2))
    gate = Gate(PooledProbe([sae], weights(0)), values.median().item() + 1e-3, pool="own")
    gated = Gated(Clamp(sae, {3: 30.0}, window=Window("last")), gate)
    for prompt in PROMPTS:
        with steer.steered(llama, gated):
            alone[prompt] = llama.generate([prompt], steer.Sampling(6))[0]
    with steer.steered(llama, gated):
        assert llama.generate(PROMPTS, steer.Sampling(6)) == [alone[prompt] for prompt in PROMPTS]
    plain = llama.generate(PROMPTS, steer.Sampling(6))
    opened = values > gate.threshold
    assert 0 < opened.sum() < len(PROMPTS)
    for i, prompt in enumerate(PROMPTS):
        assert opened[i] or alone[prompt] == plain[i]
    ids = llama.prompt_ids(PROMPTS)
    with steer.steered(llama, gated):
        replies = llama.generate_ids(ids, steer.Sampling(3))
        for row, reply in zip(ids, replies, strict=True):  # the same reply read in one pass, without a cache
            tokens = llama.pad([[*row, *reply]])
            logits = llama.forward(tokens, prompt_tokens=torch.tensor([len(row)]))
            assert logits[0, len(row) - 1 : len(row) - 1 + len(reply)].argmax(-1).tolist() == reply


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda sae: PooledProbe([], {"max": torch.zeros(96)}), "no SAE"),
        (lambda sae: PooledProbe([sae, random_sae(site="2.resid_post")], {"max": torch.zeros(192)}), "one site"),
        (lambda sae: PooledProbe([sae], {}), "at least one pool"),
        (lambda sae: PooledProbe([sae], {"max": torch.zeros(95)}), r"shape \[96\]"),
        (lambda sae: PooledProbe([sae], {"max": torch.full((96,), torch.nan)}), "finite"),
        (lambda sae: Gate(LatentScore(sae, [1]), 0.0, pool="own"), "PooledProbe"),
        (lambda sae: Gate(PooledProbe([sae], weights(0)), 0.0, pool="own", decided="token"), "PooledProbe"),
        (lambda sae: GatedSaeConfig(folds=1), "folds"),
        (lambda sae: GatedSaeConfig(pools=()), "pools"),
    ],
)
def test_mistakes_are_named(make, message, sae):
    with pytest.raises(PlanError, match=message):
        make(sae)


def test_the_probe_is_the_minimum_that_newtons_method_finds():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 12, generator=generator, dtype=torch.float64) * torch.arange(1, 13)
    labels = x[:, 0] + 0.3 * x[:, 5] + torch.randn(200, generator=generator) > 1.0
    weight, bias = fit_probe(x, labels, 3.0)
    expected = fit_logistic(x, labels, balanced=True, penalty=3.0)
    torch.testing.assert_close(weight, expected.weight, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(bias, expected.bias, rtol=1e-4, atol=1e-6)


def sample(number, name, **tags):
    return Sample(f"{name}-{number}", name, ({"role": "user", "content": f"{number}?"},), "refusal", tags=tags)


def test_folds_keep_one_thing_together_and_scores_are_of_probes_that_have_not_seen_it():
    samples = [sample(i, "safe", object=f"thing {i % 7}") for i in range(40)]
    folds = folds_of(samples, 5)
    assert len(folds.unique()) > 1
    for i, one in enumerate(samples):
        assert all(folds[i] == folds[j] for j, other in enumerate(samples) if other.tags == one.tags)
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.arange(40) % 2 == 0
    scores = cross_scores(x, labels, folds, 1.0)
    inside = folds == folds[0]
    weight, bias = fit_probe(x[~inside], labels[~inside], 1.0)
    torch.testing.assert_close(scores[inside], x[inside] @ weight + bias)
    with pytest.raises(DataError, match="of one kind"):
        cross_scores(x, folds == folds[0], folds, 1.0)


def test_the_threshold_holds_for_every_benign_set():
    samples = [sample(i, name) for name in ("bad", "easy", "hard") for i in range(20)]
    scores = torch.arange(60).double()
    threshold = bounded_threshold(scores, samples, samples[20:], 0.1)
    assert (scores[40:] > threshold).sum() == 2
    assert not (scores[20:40] > threshold).any()


@pytest.fixture(scope="module")
def planted(embedded):
    """Random latents around the mean activation; latent 7 is the refusal direction."""
    harmful, harmless = ([one.messages for one in load_prompts(name, "dev", 60)] for name in ("unsafe_seen", "safe"))
    direction = refusal_direction(embedded, "1.resid_post", harmful, harmless)
    made = random_sae(embedded.d_model, 160, 24)
    with torch.no_grad():
        made.b_dec.copy_(last_states(embedded, [Site(1)], [*harmful, *harmless])[0, :, 0].mean(0))
        made.b_enc.zero_()
        made.W_enc.div_(made.W_enc.norm(dim=0))
        made.W_dec.div_(made.W_dec.norm(dim=1, keepdim=True))
        made.W_enc[:, 7], made.W_dec[7] = 3 * direction, direction
    return made


def test_the_method_refuses_more_and_leaves_benign_prompts_alone(embedded, planted):
    unsafe, benign = ([one for name in names for one in load_prompts(name, "dev", 40)] for names in (UNSAFE, BENIGN))
    config = GatedSaeConfig(
        least_prompts=2,
        first_strength=8.0,
        strengths=(6.0, 8.0),
        finalists=1,
        first_prompts=2,
        tried_prompts=8,
        max_new_tokens=12,
    )
    tokens = embedded.pad(embedded.prompt_ids([benign[0].messages]))
    before = embedded.forward(tokens)
    fitted = fit(embedded, planted, unsafe, benign, config=config)
    assert torch.equal(embedded.forward(tokens), before)
    record = json.loads(json.dumps(fitted.record))
    assert record["chosen"]["latent"] == 7
    assert all(record["gate"]["opened_on_unseen_content"][name] <= config.false_positive_rate for name in BENIGN)
    held = [one for name in ("unsafe_unseen", "arithmetic") for one in load_prompts(name, "test", 20)]
    plain = steer.evaluate(embedded, held, 12)
    with steer.steered(embedded, *fitted.interventions):
        found = steer.evaluate(embedded, held, 12)
    assert sum(one.score.value for one in found[:20]) > sum(one.score.value for one in plain[:20]) + 4
    assert [one.reply for one in found[20:]] == [one.reply for one in plain[20:]]


def test_what_cannot_be_fitted_is_said(embedded, planted):
    unsafe, benign = load_prompts("unsafe_seen", "dev", 6), load_prompts("safe", "dev", 6)
    with pytest.raises(DataError, match="Give some benign"):
        fit(embedded, planted, unsafe, [])
    with pytest.raises(DataError, match="least_prompts"):
        fit(embedded, planted, unsafe, benign, config=GatedSaeConfig(least_prompts=100))
