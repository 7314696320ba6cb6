"""Gates: what they score, when they open, and that a row's decision is its own."""

import dataclasses
import inspect

import pytest
import torch

from steer.errors import PlanError
from steer.models.decode import Sampling
from steer.models.site import Site
from steer.steering.direction_edits import AddDirection
from steer.steering.gates import Gate, Gated, fit_threshold
from steer.steering.latents import Clamp, LatentEdit
from steer.steering.rows import OnRows
from steer.steering.scores import ConditionScore, LatentScore, ProbeScore
from steer.steering.steered import steered
from steer.steering.window import Window
from tests.conftest import D_MODEL, PROMPTS, count_hooks, random_sae
from tests.steer.test_operations import at, direction, stream, untyped

SAMPLING, NO_CACHE = Sampling(10), Sampling(10, use_cache=False)
EARLY, LATE = Site(0), Site(1)


def gate():
    return Gate(ProbeScore(EARLY, direction()), 0.0)


def gated_twice(one):
    inner = Gated(one, gate())
    return Gated(OnRows(inner, one.rows) if isinstance(one, OnRows) else inner, gate())


def by_prompt(lm, site=EARLY, **options):
    """A gate on a direction that opens for some of PROMPTS and not for others."""
    score = ProbeScore(site, direction())
    values = torch.stack([pooled_alone(lm, Gate(score, 0.0, **options), row) for row in lm.prompt_ids(PROMPTS)])
    threshold = values.sort().values[1:3].mean().item()
    opens = (values > threshold).tolist()
    assert sorted(opens) == [False, False, True, True]
    return Gate(score, threshold, **options), opens


def pooled_alone(lm, gate, row):
    """The prompt's pooled score, by hand: all tokens but the first."""
    x = lm.activations(lm.pad([row]), [gate.score.site])[gate.score.site][0, 1:].float()
    scores = x @ gate.score.weights
    return {
        "last": scores[-1],
        "mean": scores.mean(),
        "max": scores.max(),
        "share": (scores > gate.token_threshold).float().mean(),
    }[gate.pool]


@pytest.mark.parametrize("pool", ["last", "mean", "max"])
def test_a_row_is_steered_if_its_own_prompt_opens_the_gate(lm, sae, pool):
    gate, opens = by_prompt(lm, pool=pool)
    rows = lm.prompt_ids(PROMPTS)
    plain = lm.generate_ids(rows, SAMPLING)
    with steered(lm, Clamp(sae, {3: 19.0})):
        always = lm.generate_ids(rows, SAMPLING)
    with steered(lm, Gated(Clamp(sae, {3: 19.0}), gate)):
        gated = lm.generate_ids(rows, SAMPLING)
        uncached = lm.generate_ids(rows, NO_CACHE)
        alone = [lm.generate_ids([row], SAMPLING)[0] for row in rows]
    assert gated == [
        steered if opened else unsteered for opened, steered, unsteered in zip(opens, always, plain, strict=True)
    ]
    assert uncached == gated == alone
    assert count_hooks(lm) == 0


def test_a_gate_may_read_where_it_acts_and_after_it(lm, sae):
    rows = lm.prompt_ids(PROMPTS)
    for site, window in ((LATE, Window()), (Site(1, "resid_pre"), Window()), (LATE, Window("generated"))):
        gate, opens = by_prompt(lm, site)
        edit = LatentEdit(sae, {3: 19.0}, EARLY if window.phase == "generated" else LATE, window=window)
        with steered(lm, edit):
            always = lm.generate_ids(rows, SAMPLING)
        plain = lm.generate_ids(rows, SAMPLING)
        with steered(lm, Gated(edit, gate)):
            gated, uncached = lm.generate_ids(rows, SAMPLING), lm.generate_ids(rows, NO_CACHE)
        for opened, got, steered_reply, plain_reply in zip(opens, gated, always, plain, strict=True):
            assert got == (steered_reply if opened else plain_reply)
        if window.phase == "all":
            assert uncached == gated


def test_each_row_may_have_a_gate_of_its_own(llama, sae):
    gate, opens = by_prompt(llama)
    rows = llama.prompt_ids(PROMPTS)
    shut = opens.index(False)
    for decided in ("prompt", "token"):
        way = Gated(Clamp(sae, {3: 19.0}), dataclasses.replace(gate, decided=decided))
        turned = Gated(Clamp(sae, {40: 19.0}), dataclasses.replace(gate, decided=decided, below=True))
        with steered(llama, OnRows(way, [opens.index(True)]), OnRows(turned, [shut])):
            together = llama.generate_ids(rows, SAMPLING)
        for row, one in ((opens.index(True), way), (shut, turned)):
            with steered(llama, one):
                assert llama.generate_ids([rows[row]], SAMPLING)[0] == together[row]


def test_a_gate_that_decides_at_each_token_acts_where_its_score_says():
    sae, x = random_sae(), stream()
    gate = Gate(ProbeScore(LATE, direction()), 0.3, decided="token")
    gated, here = Gated(Clamp(sae, {3: 9.0}), gate), at()
    gated.listen(x, here, LATE)
    opened = (x @ direction() > 0.3).unsqueeze(-1)
    assert 0 < opened.sum() < opened.numel()
    assert torch.equal(gated.change(x, here), Clamp(sae, {3: 9.0}).change(x, here) * opened)


def test_scores_are_their_formulas():
    sae, x = random_sae(), stream()
    codes = sae.encode(x).to_dense()
    torch.testing.assert_close(LatentScore(sae, [3, 40]).score(x), codes[..., [3, 40]].amax(-1))
    weights = torch.randn(96, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(ProbeScore(LATE, weights, 0.5, sae).score(x), codes @ weights + 0.5)
    few = ProbeScore(LATE, weights[:2], 0.5, sae, [3, 40])
    torch.testing.assert_close(few.score(x), codes[..., [3, 40]] @ weights[:2] + 0.5)
    c = direction().double()
    projection = torch.outer(c, c) / (c @ c)  # CAST, eq. 4
    condition = torch.tanh(x.double() @ projection)
    expected = torch.nn.functional.cosine_similarity(x.double(), condition, dim=-1)
    torch.testing.assert_close(ConditionScore(LATE, direction()).score(x).double(), expected, rtol=1e-5, atol=1e-6)


def test_pools_count_neither_padding_nor_the_first_token():
    scores = torch.tensor([[9.0, 1.0, -2.0, 4.0, 0.5], [9.0, 9.0, 9.0, 2.0, -1.0]])
    counts = torch.tensor([[0, 1, 1, 1, 1], [0, 0, 0, 1, 1]]).bool()
    score = ProbeScore(LATE, direction())
    for pool, expected in {
        "last": [0.5, -1.0],
        "mean": [0.875, 0.5],
        "max": [4.0, 2.0],
        "share": [0.5, 0.5],
    }.items():
        gate = Gate(score, 0.0, pool, token_threshold=0.7)
        assert gate.pooled(scores, counts).tolist() == expected
        assert gate.pooled(scores[:1], torch.zeros(1, 5).bool()).tolist() == [0.0]


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.05, 0.5, 1.0])
def test_a_threshold_keeps_to_its_false_positive_rate_and_is_the_least_that_does(rate):
    benign = torch.randn(200, generator=torch.Generator().manual_seed(0))
    threshold = fit_threshold(benign, rate)
    assert (benign > threshold).double().mean().item() <= rate
    if rate < 1:
        lower = benign[benign < threshold].max()
        assert (benign > lower).double().mean().item() > rate


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda sae: Gated(Clamp(sae, {3: 1.0}, EARLY), Gate(ProbeScore(LATE, direction()), 0.0)), "it is too late"),
        (
            lambda sae: Gated(
                LatentEdit(sae, {3: 1.0}, EARLY, window=Window("generated")),
                Gate(ProbeScore(LATE, direction()), 0.0, decided="token"),
            ),
            "cannot decide at each token",
        ),
        (lambda sae: LatentScore(sae, []), "at least one latent"),
        (lambda sae: LatentScore(sae, [96]), "Latent 96 is out of range"),
        (lambda sae: ProbeScore(LATE, direction(), 0.0, sae), "has 32 weights for 96 latents"),
        (lambda sae: ProbeScore(LATE, direction(), 0.0, None, [3]), "needs their SAE"),
        (lambda sae: ProbeScore(LATE, torch.full((D_MODEL,), float("nan"))), "must be a finite tensor"),
        (lambda sae: ConditionScore(LATE, torch.zeros(D_MODEL)), "must not be zero"),
        (lambda sae: Gate(ProbeScore(LATE, direction()), float("nan")), "threshold must be a finite number"),
        (lambda sae: OnRows(Clamp(sae, {3: 1.0}), []), "at least one"),
        (lambda sae: OnRows(Clamp(sae, {3: 1.0}), [-1]), "from 0 on"),
        (lambda sae: untyped(Gate, score=direction(), threshold=0.0), "A gate decides by a score"),
        (lambda sae: untyped(Gated, intervention=direction(), gate=gate()), "put before an intervention"),
        (lambda sae: gated_twice(Clamp(sae, {3: 1.0})), "one gate, and this has one already"),
        (lambda sae: gated_twice(OnRows(Clamp(sae, {3: 1.0}), [0])), "one gate, and this has one already"),
        (lambda sae: inspect.unwrap(fit_threshold)([0.1], 0.1), "given as a tensor, got list"),
        (lambda sae: fit_threshold(torch.zeros(0), 0.1), "got 0 scores"),
        (lambda sae: fit_threshold(torch.zeros(3), -0.1), "between 0 and 1"),
    ],
)
def test_what_cannot_work_is_refused(sae, make, words):
    with pytest.raises(PlanError, match=words):
        make(sae)


def test_a_gate_of_another_width_is_refused_before_any_hook(llama, sae):
    wrong = Gated(Clamp(sae, {3: 1.0}), Gate(ProbeScore(EARLY, torch.ones(D_MODEL + 1)), 0.0))
    with pytest.raises(PlanError, match="33 weights"):
        steered(llama, wrong)
    with (
        pytest.raises(PlanError, match="Row 7 is to be steered, but only 4 rows"),
        steered(llama, OnRows(AddDirection(LATE, direction(), 1.0), [7])),
    ):
        llama.generate_ids(llama.prompt_ids(PROMPTS), SAMPLING)
    assert count_hooks(llama) == 0
