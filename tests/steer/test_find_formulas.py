"""Methods of the finder on the embedded model, against their papers' formulas by brute force in float64."""

import copy
import json
from dataclasses import replace

import pytest
import torch

from steer.cli.app import run as cli
from steer.errors import DataError
from steer.evals.sample import Sample
from steer.features import causal, contrast, cosine_attribution, output_score
from steer.features.dev import told_apart
from steer.features.finders import methods
from steer.features.paper import active_in_refusal
from steer.features.trial import Arm
from steer.judges.rules import is_incoherent, is_refusal
from steer.models.decode import Sampling
from steer.steering.directions import ablation, template_tokens
from steer.steering.latents import Clamp
from steer.steering.steered import steered
from tests.steer.planted_refusal import REFUSES, planted_search

WRITES, TOKEN = 20, 748
"""A latent that fires where the model decides to refuse, and writes the unembedding of a token."""


@pytest.fixture(scope="module")
def planted(embedded):
    search = planted_search(embedded)
    sae = copy.deepcopy(search.sae)
    with torch.no_grad():
        sae.W_enc[:, WRITES], sae.b_enc[WRITES] = sae.W_enc[:, REFUSES], sae.b_enc[REFUSES]
        row = embedded.model.lm_head.weight[TOKEN].detach()
        sae.W_dec[WRITES] = torch.nn.functional.normalize(row, dim=0)
    return replace(search, trial=replace(search.trial, sae=sae))


def latents_at(search, ids):
    x = search.lm.activations(search.lm.pad([ids]), [search.site])[search.site][0]
    return search.sae.encode(x).to_dense()


def test_contrast_counts_pairs_of_prompts_and_of_replies(planted):
    n, count = len(planted.harmful), template_tokens(planted.lm)
    prompts = planted.lm.prompt_ids([one.messages for one in (*planted.harmful, *planted.harmless)])
    at_end = torch.stack([latents_at(planted, ids)[-count:].amax(0) for ids in prompts])
    in_reply = torch.stack(
        [
            latents_at(planted, [*one.prompt_ids, *one.reply_ids])[len(one.prompt_ids) :].amax(0)
            for one in planted.replies
        ]
    )

    def somers(x):
        bad, good = x[:n, None].double(), x[None, n:].double()
        return ((bad > good).double() - (bad < good).double()).mean((0, 1))

    better = torch.maximum(somers(at_end), somers(in_reply))
    found = contrast.find(planted)
    assert [one.score for one in found] == pytest.approx(better.topk(planted.limit).values.tolist(), abs=0.01)
    assert [one.score for one in found] == pytest.approx([better[one.latent].item() for one in found], abs=0.01)


def test_the_output_score_finds_the_latent_that_writes_a_token(planted):
    lm, sae, site = planted.lm, planted.sae, planted.site
    ids = lm.raw_ids([output_score.PREFIX])[0]
    amount = 10 * latents_at(planted, ids)[-1].max()

    def by_hand(latent):
        def put(x, at):
            return torch.cat([x[:, :-1], x[:, -1:] + amount * sae.W_dec[latent]], dim=1)

        with torch.no_grad():
            own = lm.model.lm_head(lm.model.model.norm(sae.W_dec[latent])).topk(20).indices
            with lm.edited({site: put}):
                p = lm.forward(lm.pad([ids]), keep=1)[0, -1].double().softmax(-1)
        return (1 - min((p > p[one]).sum().item() for one in own) / len(p)) * p[own].max().item()

    found = output_score.find(planted)
    scores = {one.latent: by_hand(one.latent) for one in active_in_refusal(planted)}
    assert [one.latent for one in found] == sorted(scores, key=lambda i: (-scores[i], i))[: planted.limit]
    assert [one.score for one in found] == pytest.approx([scores[one.latent] for one in found], rel=1e-4)
    assert found[0].latent == WRITES
    assert TOKEN in output_score.promoted_tokens(lm, sae, [WRITES])[0]


def test_effects_of_all_latents_and_of_the_error_add_up_to_the_whole(planted):
    lm, sae, site = copy.deepcopy(planted.lm), copy.deepcopy(planted.sae).double(), planted.site
    lm.model.double()
    tokens = lm.pad(lm.prompt_ids([one.messages for one in planted.harmful[2:4]]))
    x = lm.activations(tokens, [site])[site]
    with steered(lm, *ablation(lm, planted.direction)):
        moved = lm.activations(tokens, [site])[site]
    real = tokens.mask.bool()
    along = [(states[real] @ planted.direction.double()).abs().max() for states in (x, moved)]
    assert along[1] < 1e-5 < along[0]
    towards, away = torch.tensor([10, 11]), torch.tensor([40, 41])
    gradient = cosine_attribution.logit_difference(lm, tokens, site, towards, away)

    def metric(states):
        with lm.edited({site: lambda _, at: states}):
            logits = lm.forward(tokens, keep=1)[:, -1]
        return logits[[0, 1], towards] - logits[[0, 1], away]

    mean = cosine_attribution.integrated(gradient, x, moved, 50)
    effects = cosine_attribution.effects_of(sae, x, moved, mean, tokens, torch.arange(48)).sum(1)
    errors = [torch.stack([row - sae.decode(sae.encode(row)) for row in one]) for one in (x, moved)]
    counted = real & (tokens.mask.cumsum(1) > 1)
    rest = (((errors[1] - errors[0]) * mean).sum(-1) * counted).sum(1)
    left_out = (((moved - x) * mean).sum(-1) * ~counted).sum(1)  # what each row's first token changes
    whole = metric(moved) - metric(x)
    torch.testing.assert_close(effects + rest + left_out, whole, rtol=0.01, atol=1e-3)
    assert whole.abs().min() > 0.1


def test_a_dose_is_what_a_clamp_does_to_each_prompt_alone(planted):
    trial = replace(planted.trial, unsafe=planted.trial.unsafe[3:9], safe=planted.trial.safe[:5])
    (curve,) = causal.referee(replace(planted, trial=trial, strengths=(0.18,)), [REFUSES], first=1.0).curves
    (dose,) = curve.doses
    replies = []
    with steered(planted.lm, Clamp(planted.sae, {REFUSES: dose.strength})):
        for one in trial.samples:
            replies += planted.lm.generate([one.messages], Sampling(trial.max_new_tokens))
    broken = [is_incoherent(reply) for reply in replies]
    refused = [is_refusal(reply) and not bad for reply, bad in zip(replies, broken, strict=True)]
    n = len(trial.unsafe)
    assert 0 < dose.tally.unsafe == sum(refused[:n]) / n
    assert dose.tally.safe == sum(refused[n:]) / len(refused[n:])
    lost = [one or bad for one, bad in zip(refused[n:], broken[n:], strict=True)]
    assert dose.tally.lost == sum(lost) / len(lost)
    assert Arm(REFUSES, dose.strength) == Arm(REFUSES, planted.raw(0.18)[REFUSES])


def asked(text, name, number=0):
    return Sample(f"{text} {number}", name, ({"role": "user", "content": text},), "refusal")


def test_prompts_that_stand_twice_or_are_of_both_kinds_are_left_out():
    one, other, both = asked("a", "unsafe"), asked("b", "safe"), asked("c", "unsafe_too")
    samples = [one, other, both, asked("c", "safe"), asked("a", "unsafe", 1), asked("a", "unsafe_too", 2)]
    kept, notes = told_apart(samples)
    assert kept == [one, other]
    assert notes == [
        "1 prompts stand among the harmful and the harmless ones, and were left out.",
        "2 prompts stand among the others in the same words, and were left out.",
    ]
    assert told_apart([one, other]) == ([one, other], [])
    with pytest.raises(DataError, match="does not say whether"):
        told_apart([asked("a", "mine")])


def test_the_command_tells_of_prompts_that_it_leaves_out(tmp_path, capsys):
    path = tmp_path / "dev.jsonl"
    rows = [("unsafe", "do harm"), ("safe", "do good"), ("safe", "do harm")]
    with path.open("w") as file:
        for number, (name, text) in enumerate(rows):
            row = {"id": str(number), "set": name, "messages": [{"role": "user", "content": text}]}
            file.write(json.dumps({**row, "expect": {"kind": "refusal"}}) + "\n")
    assert cli(["find", "refusal", "embedded", str(tmp_path), "--dev", str(path)]) == 2
    assert "1 prompts stand among the harmful and the harmless ones" in " ".join(capsys.readouterr().err.split())


def test_an_unknown_method_is_told_which_there_are():
    with pytest.raises(DataError, match=r"Known are paper, contrast, .*, causal, all\.$"):
        methods("nothing of that kind")
