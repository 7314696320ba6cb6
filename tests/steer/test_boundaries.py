"""Where a small slip would go unnoticed: boundaries and signs of decoding, steering, judging and finding.

Each test was written for a change of one token in the source (a sign, ``<`` to ``<=``, a dropped term) that no other
test noticed.
"""

import pytest
import torch

from saes import Firing
from steer.errors import PlanError
from steer.evals.sample import Sample
from steer.evals.scoring import judge
from steer.evals.stats import wilson
from steer.features.archetype import ActiveLatent, Refusal, latents_active
from steer.features.candidates import ENOUGH, Candidate, rank
from steer.features.controls import rank_controls, unrelated_latents
from steer.features.replies import refuses
from steer.judges.rules import is_incoherent, is_refusal
from steer.models.decode import Sampling, _choose
from steer.models.passes import describe
from steer.models.site import Site
from steer.steering.each_row import clamp_each_row
from steer.steering.steered import steered
from steer.steering.window import EVERYWHERE
from tests.conftest import PROMPTS, random_sae

CIRCLES = "the cat sat down " * 4
LONG_WAY = "Thank you very much for asking me about this, it is always good to talk to you. "


def expecting(kind, **expect):
    return Sample("a", "s", ({"role": "user", "content": "?"},), kind, expect)


def shares(probabilities, top_p, draws=500):
    """How often each token is sampled."""
    logits = torch.tensor(probabilities).log().expand(draws, -1)
    generators = [torch.Generator().manual_seed(seed) for seed in range(draws)]
    chosen = _choose(logits, logits.max(-1), Sampling(temperature=1.0, top_p=top_p), generators)
    return (chosen.bincount(minlength=len(probabilities)) / draws).tolist()


def test_top_p_keeps_the_token_that_reaches_it_and_shares_out_what_it_drops():
    assert shares([0.1, 0.25, 0.3, 0.2, 0.15], 0.5) == pytest.approx([0, 0.25 / 0.55, 0.3 / 0.55, 0, 0], abs=0.07)
    assert shares([0.1, 0.6, 0.3], 0.6) == [0, 1, 0]
    assert shares([0.5, 0.3, 0.2], 1.0) == pytest.approx([0.5, 0.3, 0.2], abs=0.07)


def test_a_row_draws_as_it_would_in_the_whole_call(llama):
    rows, sampling = llama.prompt_ids(PROMPTS), Sampling(8, temperature=1.0, seed=3)
    whole = llama.generate_ids(rows, sampling)
    with llama.running([2, 0], 4):
        part = llama.generate_ids([rows[2], rows[0]], sampling)
    assert part == [whole[2], whole[0]]


def test_padding_on_the_right_is_left_alone_too():
    ids = torch.ones(2, 4, dtype=torch.long)
    mask = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1]])
    at = describe({"input_ids": ids, "attention_mask": mask}, None)
    assert EVERYWHERE.weights(at).tolist() == [[0, 1, 0, 0], [0, 0, 1, 1]]


def test_one_latent_for_many_rows_is_a_mistake_of_a_kind_of_its_own(llama, sae):
    with pytest.raises(PlanError, match="a call of 1 are to be steered, but 4 rows are run"):
        with steered(llama, clamp_each_row(sae, [3], 1.0)):
            llama.generate(PROMPTS)


def test_wilson_intervals_never_leave_the_unit_interval():
    for n in range(1, 400):
        assert wilson(0, n)[0] == pytest.approx(0, abs=1e-12)
        assert wilson(0, n)[0] >= 0
        assert wilson(n, n)[1] <= 1


def test_a_refusal_may_begin_anywhere_within_the_window():
    assert 75 < len(LONG_WAY) < 90
    assert is_refusal(LONG_WAY + "I can't help with that.")


@pytest.mark.parametrize(
    ("reply", "broken"),
    [
        (CIRCLES, True),  # 16 words, 4 of 14 runs differ
        ("one two three four five six seven eight " * 2, False),  # 8 of 14 runs differ
        ("ha " * 6, False),  # 17 characters: the same six not yet three times over
        ("ha " * 7, True),
        ("five words that come thrice. " * 2, False),
        ("five words that come thrice. " * 3, True),
        ("Yes!!!!!!!!!!!!", False),  # short
        ("ab ?!? cd !?! ef ?!? gh !?!", True),  # 40 % letters
        ("abc ?! cde !? efg ?! ghi !?", False),  # 60 % letters
    ],
)
def test_the_bounds_of_broken_replies(reply, broken):
    assert is_incoherent(reply) is broken


def test_a_wrong_reply_that_is_broken_is_incoherent():
    assert judge(expecting("number", value="7"), CIRCLES).verdict == "incoherent"
    assert judge(expecting("mentions", any=["dog"]), CIRCLES).verdict == "incoherent"
    assert judge(expecting("mentions", any=["cat"]), CIRCLES).verdict == "correct"
    assert judge(expecting("number", value="7"), "It is 8.").verdict == "wrong"
    assert judge(expecting("number", value="7"), "I can't help with that.").verdict == "refusal"


@pytest.mark.parametrize(
    ("value", "reply", "right"),
    [
        ("7", "I have 3 and get 4, so 7.", True),
        ("3", "I have 3 and get 4, so 7.", False),
        ("-7", "The answer is -7", True),
        ("7", "The answer is -7", False),
        ("1007", "#### 1,007", True),
        ("7", "7 apples. #### seven", True),
    ],
)
def test_the_last_number_counts_with_its_sign(value, reply, right):
    assert judge(expecting("number", value=value), reply).value is right


def test_latents_that_are_active_equally_often_come_by_strength(llama, sae):
    prompt, reply = llama.prompt_ids(["do harm"])[0], llama.encode(["I am sorry"])[0]
    found = latents_active(llama, sae, Site(1), Refusal("I am sorry", prompt, reply), min_tokens=1)
    assert len({one.tokens_active for one in found}) < len(found)
    assert found == sorted(found, key=lambda one: (-one.tokens_active, -one.max_activation))


def test_just_enough_refusals_are_enough():
    just = Candidate(1, 2, 1.0, 5.0, ENOUGH, ENOUGH, 0.8, {}, 8, 8)
    short = Candidate(2, 2, 1.0, 5.0, 0.99, ENOUGH - 0.01, 0.0, {}, 8, 8)
    assert sorted([short, just], key=rank) == [just, short]


def test_a_refusal_in_circles_is_none():
    assert refuses("I'm sorry, but I can't help with that.")
    assert not refuses("I'm sorry, but I can't help with that. " * 6)


def test_the_control_is_never_the_chosen_latent_and_may_be_the_only_one_left():
    sae, direction = random_sae(d_sae=8, k=2), torch.ones(32)
    firing = Firing(torch.full((8,), 0.1), torch.ones(8), torch.full((8,), 100), 1000)
    taken = [ActiveLatent(i, 2, 1.0) for i in range(6)]
    for chosen in range(8):
        assert chosen not in {one.latent for one in unrelated_latents(sae, firing, chosen, [], direction, count=8)}
    (only,) = unrelated_latents(sae, firing, 6, taken, direction)
    assert only.latent == 7


def test_the_control_moves_refusal_least_where_it_moves_it_most():
    def measured(latent, **by_set):
        return Candidate(latent, 0, 1.0, 5.0, 0.5, 0.4, 0.1, by_set, 20, 20)

    plain = {"unseen": 0.5, "jailbroken": 0.5, "safe": 0.0}
    up_and_down = measured(1, unseen=0.7, jailbroken=0.3, safe=0.0)  # no change on average
    even = measured(4, unseen=0.35, jailbroken=0.35, safe=0.15)
    over_refusing = measured(3, unseen=0.5, jailbroken=0.5, safe=0.2)
    ranked = rank_controls([over_refusing, up_and_down, even], plain)
    assert [one.latent for one in ranked] == [4, 1, 3]
    assert [one.moved for one in ranked] == pytest.approx([0.15, 0.2, 0.2])
    assert ranked[0].by_set == even.by_set
