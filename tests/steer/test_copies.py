"""Several ways of steering in one call: below the first site a prompt is run once, every way gets its own replies."""

import pytest
import torch

from steer.errors import DataError, PlanError
from steer.models.decode import Sampling
from steer.models.site import Site
from steer.steering.branches import branched
from steer.steering.direction_edits import DirectionEdit
from steer.steering.gates import Gate, Gated
from steer.steering.latents import Clamp, LatentEdit
from steer.steering.rows import OnRows
from steer.steering.scores import LatentScore, ProbeScore
from steer.steering.steered import steered
from steer.steering.window import Window
from tests.conftest import D_MODEL, PROMPTS, count_hooks

SAMPLING = Sampling(max_new_tokens=10)
DIRECTION = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(1))


def ways(sae, site):
    """Strengths of a clamp, another latent, directions, gates, and nothing at all."""
    gate = Gate(ProbeScore(Site(0, "resid_pre"), DIRECTION), 0.0, "mean")
    return [
        [],
        [Clamp(sae, {3: 4.0}, site)],
        [Clamp(sae, {3: 14.0}, site)],
        [LatentEdit(sae, {40: 9.0}, site, "add"), DirectionEdit(site, DIRECTION, 3.0)],
        [DirectionEdit(site, DIRECTION, 9.0, window=Window("generated"))],
        [DirectionEdit(site, DIRECTION, -9.0, window=Window("generated"))],
        [Gated(Clamp(sae, {3: 14.0}, site), gate)],
    ]


def each_alone(lm, steerings, run):
    found = []
    for one in steerings:
        with steered(lm, *one):
            found.append(run())
    return [found[way][prompt] for prompt in range(len(PROMPTS)) for way in range(len(steerings))]


@pytest.mark.parametrize("site", [Site(0, "resid_pre"), Site(0), Site(1, "attn_out"), Site(1)], ids=str)
def test_ways_of_steering_that_share_a_call_give_what_each_gives_alone(lm, sae, site):
    rows, steerings = lm.prompt_ids(PROMPTS), ways(sae, site)
    alone = each_alone(lm, steerings, lambda: lm.generate_ids(rows, SAMPLING))
    with steered(lm, *branched(steerings, len(rows))):
        together = lm.generate_ids(rows, SAMPLING, copies=len(steerings))
    assert together == alone
    assert len({tuple(reply) for reply in together[: len(steerings)]}) > 3, "most ways change the first reply"
    assert count_hooks(lm) == 0


@pytest.mark.parametrize("sampling", [Sampling(6, use_cache=False), Sampling(10, 1.0, 0.9, seed=3)])
def test_ways_share_a_call_without_a_cache_and_when_sampling(llama, sae, sampling):
    rows, steerings = llama.prompt_ids(PROMPTS), ways(sae, Site(1))
    alone = each_alone(llama, steerings, lambda: llama.generate_ids(rows, sampling))
    with steered(llama, *branched(steerings, len(rows))):
        assert llama.generate_ids(rows, sampling, copies=len(steerings)) == alone


@pytest.mark.parametrize("lengths", [(1, 1), (1, 3)])
def test_ways_share_the_scoring_of_choices(lm, sae, lengths):
    rows, steerings = lm.prompt_ids(PROMPTS), ways(sae, Site(1))
    options = [[[30 + row + place] * length for place, length in enumerate(lengths)] for row in range(len(rows))]
    alone = each_alone(lm, steerings, lambda: lm.choice_logprobs(rows, options))
    with steered(lm, *branched(steerings, len(rows))):
        together = lm.choice_logprobs(rows, options, len(steerings))
    torch.testing.assert_close(torch.tensor(together), torch.tensor(alone), rtol=1e-4, atol=1e-4)


def test_layers_below_the_first_site_run_once_for_all(llama, sae):
    seen = {}
    hooks = [
        block.register_forward_hook(lambda module, args, output, number=number: seen.update({number: len(output)}))
        for number, block in enumerate(llama.layout.blocks)
    ]
    rows, steerings = llama.prompt_ids(PROMPTS), [[Clamp(sae, {3: value}, Site(1))] for value in (1.0, 2.0, 3.0)]
    try:
        with steered(llama, *branched(steerings, len(rows))):
            llama.forward(llama.pad(rows), copies=3)
    finally:
        for hook in hooks:
            hook.remove()
    assert seen == {0: len(rows), 1: 3 * len(rows), 2: 3 * len(rows)}


def test_strengths_of_one_latent_become_one_intervention(sae):
    together = branched([[Clamp(sae, {3: value})] for value in (1.0, 2.0)], 3)
    assert [type(one) for one in together] == [LatentEdit]
    assert together[0].latents[3].tolist() == [1.0, 2.0] * 3
    apart = branched([[], [Clamp(sae, {3: 1.0})], [Clamp(sae, {4: 1.0})]], 2)
    assert [type(one) for one in apart] == [OnRows, OnRows]
    assert [one.rows for one in apart] == [(1, 4), (2, 5)]


def test_a_gate_is_decided_for_each_way_by_itself(llama, sae):
    gate = Gate(LatentScore(sae, [3], Site(1)), 0.0)
    steerings = [
        [
            Gated(DirectionEdit(Site(1), DIRECTION, 9.0, window=Window("generated")), gate),
            Clamp(sae, {3: 5.0}, Site(0)),
        ],
        [Gated(DirectionEdit(Site(1), DIRECTION, 9.0, window=Window("generated")), gate)],
    ]
    rows = llama.prompt_ids(PROMPTS)
    alone = each_alone(llama, steerings, lambda: llama.generate_ids(rows, SAMPLING))
    with steered(llama, *branched(steerings, len(rows))):
        assert llama.generate_ids(rows, SAMPLING, copies=2) == alone


def test_what_cannot_be_branched_is_refused(llama, sae):
    with pytest.raises(PlanError, match="at least one way"):
        branched([], 3)
    with pytest.raises(PlanError, match="values for each row"):
        branched([[Clamp(sae, {3: torch.tensor([1.0, 2.0])})]], 1)
    with pytest.raises(DataError, match="copies"):
        llama.generate_ids(llama.prompt_ids(PROMPTS), SAMPLING, copies=0)
    with pytest.raises(PlanError, match="rows"), steered(llama, *branched([[], [Clamp(sae, {3: 1.0})]], 2)):
        llama.generate_ids(llama.prompt_ids(PROMPTS)[:1], SAMPLING, copies=2)
