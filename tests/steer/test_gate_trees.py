"""Gates of several scores, and gates that a classifier of texts decides before the model runs."""

import dataclasses

import pytest
import torch

from steer.errors import PlanError
from steer.models.decode import Sampling
from steer.models.site import Site
from steer.steering.gate_trees import AllOf, AnyOf
from steer.steering.gates import Gate, Gated
from steer.steering.latents import Clamp
from steer.steering.rows import OnRows
from steer.steering.scores import LatentScore, ProbeScore
from steer.steering.steered import steered
from steer.steering.text_gate import TextGate, what_is_said
from tests.conftest import PROMPTS, count_hooks
from tests.steer.test_gates import EARLY, LATE, NO_CACHE, SAMPLING, by_prompt, pooled_alone
from tests.steer.test_operations import at, direction, stream, untyped


def replies(lm, intervention, rows, sampling=SAMPLING):
    with steered(lm, intervention):
        return lm.generate_ids(rows, sampling)


@pytest.mark.parametrize(("kind", "combined", "opened"), [(AllOf, all, 3), (AnyOf, any, 1)])
def test_gates_at_different_sites_are_combined_row_by_row(lm, sae, kind, combined, opened):
    first, one = by_prompt(lm, pool="max")
    second = by_prompt(lm, Site(1, "resid_pre"), pool="last")[0]
    values = torch.stack([pooled_alone(lm, second, row) for row in lm.prompt_ids(PROMPTS)])
    least = values.sort(descending=True).values[opened - 1 : opened + 1].mean().item()
    second, other = dataclasses.replace(second, threshold=least), (values > least).tolist()
    opens = [combined(pair) for pair in zip(one, other, strict=True)]
    assert len(set(opens)) == 2
    rows = lm.prompt_ids(PROMPTS)
    plain = lm.generate_ids(rows, SAMPLING)
    always = replies(lm, Clamp(sae, {3: 19.0}), rows)
    gated = Gated(Clamp(sae, {3: 19.0}), kind([first, kind([second, first])]))
    got = replies(lm, gated, rows)
    assert got == [s if goes else p for goes, s, p in zip(opens, always, plain, strict=True)]
    assert replies(lm, gated, rows, NO_CACHE) == got
    assert [replies(lm, gated, [row])[0] for row in rows] == got


def test_a_decision_for_the_reply_and_one_at_each_token_go_together(sae):
    x, here = stream(), at()
    by_row = Gate(ProbeScore(LATE, direction()), 0.9, pool="max")
    by_token = Gate(ProbeScore(LATE, direction()), 0.3, decided="token")
    clamp = Clamp(sae, {3: 9.0})
    rows = [Gated(clamp, one) for one in (by_row, by_token, AllOf([by_row, by_token]), AnyOf([by_token, by_row]))]
    for one in rows:
        one.listen(x, here, LATE)
    change = clamp.change(x, here)
    row, token, both, either = ((one.change(x, here) != 0).any(-1) for one in rows)
    assert torch.equal(both, row & token)
    assert torch.equal(either, row | token)
    assert 0 < both.sum() < either.sum()
    assert torch.equal(rows[2].change(x, here)[both], change[both])


def test_dynamic_guardrails_are_two_gates_on_one_score(llama, sae):
    """arXiv 2504.08192: if any of the latents fires at a large enough share of a prompt's positions, all are set where
    one of them fires, and nowhere else."""
    rows, site = llama.prompt_ids(PROMPTS), Site.parse(sae.config.site)
    x = [llama.activations(llama.pad([row]), [site])[site][0, 1:] for row in rows]  # the first position is left out
    active = [sae.encode(one).to_dense() > 0 for one in x]
    latents = (
        torch.cat(active).float().mean(0).sub(0.2).abs().argsort(stable=True)[:3].tolist()
    )  # neither rare nor usual
    clamp = Clamp(sae, dict.fromkeys(latents, -5.0))
    fires = [one[:, latents].any(-1) for one in active]
    shares = torch.stack([one.float().mean() for one in fires])
    tau = shares.sort().values[1:3].mean().item()
    assert 0 < (shares > tau).sum() < len(rows)
    assert any(0 < one.sum() < len(one) for one, share in zip(fires, shares, strict=True) if share > tau)
    score = LatentScore(sae, latents)
    gate = AllOf([Gate(score, tau, "share"), Gate(score, 0.0, decided="token")])
    with steered(llama, Gated(clamp, gate)):
        tokens = llama.pad(rows)
        got = llama.activations(tokens, [site])[site]
    for row, (before, fired, share) in enumerate(zip(x, fires, shares, strict=True)):
        now = sae.encode(before).to_dense()[:, latents].double()
        change = (-5.0 - now) @ sae.W_dec[latents].double() * fired.unsqueeze(-1) * (share > tau)
        after = got[row, 1 - len(rows[row]) :].double()
        torch.testing.assert_close(after, before.double() + change, rtol=0, atol=1e-5)


def test_a_classifier_decides_before_the_model_runs_for_each_row(llama, sae):
    asked = []

    def long(texts):
        asked.append(list(texts))
        return [len(text) / 20 for text in texts]

    gated = Gated(Clamp(sae, {3: 19.0}), TextGate(long))
    plain, always = llama.generate(PROMPTS, SAMPLING), None
    with steered(llama, Clamp(sae, {3: 19.0})):
        always = llama.generate(PROMPTS, SAMPLING)
    with steered(llama, gated):
        got = llama.generate(PROMPTS, SAMPLING)
        assert list(map(sorted, asked)) == [sorted(PROMPTS)]
        assert llama.generate(PROMPTS, SAMPLING, batch_size=1) == got
    assert got == [s if len(p) > 10 else one for p, s, one in zip(PROMPTS, always, plain, strict=True)]
    with steered(llama, OnRows(gated, [1, 2])):
        assert llama.generate(PROMPTS, SAMPLING) == [plain[0], plain[1], always[2], plain[3]]


def test_what_a_classifier_reads_is_what_user_and_assistant_say():
    turns = [("system", "a"), ("user", "b"), ("assistant", "c"), ("user", "d")]
    assert what_is_said([{"role": role, "content": text} for role, text in turns]) == "b\n\nc\n\nd"


@pytest.mark.parametrize(
    ("classifier", "words"),
    [
        (lambda texts: [0.0], "one finite number for each of 4 texts, got "),
        (lambda texts: [float("nan")] * len(texts), "one finite number"),
        (lambda texts: 1 / 0, "has failed .ZeroDivisionError: division by zero"),
    ],
)
def test_a_classifier_that_fails_stops_before_the_first_pass(llama, sae, classifier, words):
    tokens = llama.pad(llama.prompt_ids(PROMPTS))
    before = llama.forward(tokens)
    with pytest.raises(PlanError, match=words):
        with steered(llama, Gated(Clamp(sae, {3: 9.0}), TextGate(classifier))) as steering:
            try:
                llama.generate(PROMPTS, SAMPLING)
            finally:
                assert steering.attachment.passes == 0
    assert count_hooks(llama) == 0
    assert torch.equal(llama.forward(tokens), before)


def test_bare_token_ids_and_a_model_run_by_itself_say_nothing(llama, sae):
    gated = Gated(Clamp(sae, {3: 9.0}), TextGate(lambda texts: [1.0] * len(texts)))
    rows = [list(row) for row in llama.prompt_ids(PROMPTS)]
    with pytest.raises(PlanError, match="nobody said it: the model was given bare token ids"):
        with steered(llama, gated):
            llama.generate_ids(rows, Sampling(2))
    with pytest.raises(PlanError, match="nobody said it: the model was run by itself"):
        with steered(llama, gated):
            llama.model(input_ids=torch.tensor([rows[0]]))
    assert count_hooks(llama) == 0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda sae: untyped(TextGate, classifier=None), "needs a classifier"),
        (lambda sae: TextGate(len, float("nan")), "threshold must be a finite number"),
        (lambda sae: AllOf([]), "at least one gate"),
        (lambda sae: untyped(AnyOf, gates=[LatentScore(sae, [3])]), "got LatentScore"),
        (
            lambda sae: Gated(Clamp(sae, {3: 1.0}, EARLY), AnyOf([Gate(LatentScore(sae, [3]), 0.0)])),
            "it is too late",
        ),
    ],
)
def test_gates_that_cannot_work_are_refused(sae, make, words):
    with pytest.raises(PlanError, match=words):
        make(sae)


def test_a_gate_of_another_width_is_refused_inside_of_others(llama, sae):
    wrong = AnyOf([AllOf([Gate(ProbeScore(EARLY, torch.ones(33)), 0.0)])])
    with pytest.raises(PlanError, match="33 weights"):
        steered(llama, Gated(Clamp(sae, {3: 1.0}), wrong))
    assert count_hooks(llama) == 0


def test_decisions_are_of_one_call_of_one_model(tiny, sae):
    """A gate's state in class attributes, shared by all models, is a bug of another library (CAST's)."""
    one, other = tiny("llama"), tiny("phi3")
    first, opens = by_prompt(one)
    gated = Gated(Clamp(sae, {3: 19.0}), AnyOf([first, TextGate(lambda texts: [0.0] * len(texts))]))
    rows = one.prompt_ids(PROMPTS)
    alone, elsewhere = replies(one, gated, rows), replies(other, gated, rows)
    with steered(one, gated), steered(other, gated):
        assert one.generate_ids(rows[:1], SAMPLING) == alone[:1]
        assert other.generate_ids(rows, SAMPLING) == elsewhere
        assert one.generate_ids(rows, SAMPLING) == alone
        assert one.generate_ids(rows[::-1], SAMPLING) == alone[::-1]
    assert len(set(opens)) == 2
