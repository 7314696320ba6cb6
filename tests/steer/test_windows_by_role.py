"""Windows by who says what: the same tokens with and without a cache, alone and in a batch."""

import copy

import pytest
import torch

from steer.errors import PlanError
from steer.models.decode import Sampling
from steer.models.roles import PromptIds
from steer.models.site import Site
from steer.steering.branches import branched
from steer.steering.direction_edits import AddDirection
from steer.steering.gates import Gated
from steer.steering.latents import LatentEdit
from steer.steering.rows import OnRows
from steer.steering.steered import steered
from steer.steering.text_gate import TextGate
from steer.steering.window import Window
from tests.conftest import count_hooks
from tests.steer.test_operations import direction

SITE = Site(0)
CONVERSATIONS = [
    [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello there"}],
    [
        {"role": "user", "content": "user"},
        {"role": "assistant", "content": "assistant says"},
        {"role": "user", "content": "why?"},
    ],
    [{"role": "user", "content": "x"}],
]
WINDOWS = {
    "user": Window(roles=frozenset({"user"})),
    "assistant": Window(roles=frozenset({"assistant"})),
    "system and user": Window("prompt", roles=frozenset({"system", "user"})),
    "no template": Window(template=False),
    "generated": Window("generated", roles=frozenset({"assistant"}), template=False),
}


def add(window):
    return AddDirection(SITE, direction(), 30.0, window=window)


def moved(lm, window, rows):
    """Text of the tokens whose activations are changed, row by row."""
    tokens = lm.pad(rows)
    before = lm.activations(tokens, [SITE])[SITE]
    with steered(lm, add(window)):
        changed = ((lm.activations(tokens, [SITE])[SITE] - before).abs().amax(-1) > 1e-3) & tokens.mask.bool()
    return [lm.tokenizer.decode(ids[own]) for ids, own in zip(tokens.ids, changed, strict=True)]


def test_a_window_by_role_is_what_that_role_says(llama):
    rows = llama.prompt_ids(CONVERSATIONS)
    assert moved(llama, WINDOWS["user"], rows) == ["hello there", "userwhy?", "x"]
    assert moved(llama, WINDOWS["assistant"], rows) == ["", "assistant says", ""]
    assert moved(llama, WINDOWS["system and user"], rows) == ["be briefhello there", "userwhy?", "x"]
    assert moved(llama, WINDOWS["no template"], rows) == ["be briefhello there", "userassistant sayswhy?", "x"]


@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS)
def test_cached_is_uncached_and_a_row_in_a_batch_is_that_row_alone(lm, window):
    rows = lm.prompt_ids(CONVERSATIONS)
    with steered(lm, add(window)):
        together = lm.generate_ids(rows, Sampling(8))
        assert lm.generate_ids(rows, Sampling(8, use_cache=False)) == together
        assert [lm.generate_ids([row], Sampling(8))[0] for row in rows] == together
        texts = lm.generate(CONVERSATIONS, Sampling(8), batch_size=2)
        assert texts == [lm.tokenizer.decode(one, skip_special_tokens=True).strip() for one in together]
        many = [[[5, 6], [7]]] * 3
        alone = [lm.choice_logprobs([row], many[:1])[0] for row in rows]
        torch.testing.assert_close(torch.tensor(lm.choice_logprobs(rows, many)), torch.tensor(alone))
    assert together != lm.generate_ids(rows, Sampling(8))


def test_prompts_are_lists_that_remember_their_conversation(llama):
    row = llama.prompt_ids(CONVERSATIONS)[0]
    assert isinstance(row, PromptIds)
    assert row == list(row)
    assert row.conversation == CONVERSATIONS[0]
    assert type(row[1:]) is list


def test_bare_token_ids_are_nobodys(llama):
    rows = [list(row) for row in llama.prompt_ids(CONVERSATIONS)]
    plain = llama.forward(llama.pad(rows))
    for window in (WINDOWS["user"], WINDOWS["no template"]):
        with pytest.raises(PlanError, match=r"bare token ids\. Give texts or conversations to generate"):
            with steered(llama, add(window)):
                llama.generate_ids(rows, Sampling(4))
    with steered(llama, add(WINDOWS["generated"])):
        llama.generate_ids(llama.prompt_ids(CONVERSATIONS), Sampling(4))
    assert count_hooks(llama) == 0
    assert torch.equal(llama.forward(llama.pad(rows)), plain)


def test_a_template_that_changes_what_is_said_is_refused(llama):
    lm = copy.deepcopy(llama)
    lm.tokenizer.chat_template = "{% for m in messages %}<|user|>{{ m.content | upper }}{% endfor %}"
    with pytest.raises(PlanError, match=r"changes what a message of the user says.*Give a window without roles"):
        with steered(lm, add(WINDOWS["user"])):
            lm.generate(["hello"], Sampling(2))
    assert count_hooks(lm) == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"roles": {"users"}}, "roles must be a set of some of system, user, assistant"),
        ({"roles": frozenset()}, "or None for all"),
        ({"phase": "generated", "roles": frozenset({"user"})}, "Generated tokens are the assistant's"),
        ({"phase": "last", "roles": frozenset({"user"})}, "give no roles with it"),
    ],
)
def test_windows_that_contradict_themselves(options, words):
    with pytest.raises(PlanError, match=words):
        Window(**{**options, "roles": frozenset(options["roles"])})


def test_prompts_that_are_answered_in_several_ways_at_once_keep_their_roles_and_texts(llama, sae):
    rows, sampling = llama.prompt_ids(CONVERSATIONS), Sampling(8)
    long = TextGate(lambda texts: [len(text) > 5 for text in texts])
    ways = [[], [add(WINDOWS["user"])], [Gated(add(Window()), long)]]
    alone = []
    for way in ways:
        with steered(llama, *way):
            alone.append(llama.generate_ids(rows, sampling))
    with steered(llama, *branched(ways, len(rows))):
        got = llama.generate_ids(rows, sampling, copies=len(ways))
    assert got == [alone[way][row] for row in range(len(rows)) for way in range(len(ways))]
    fractions = [[LatentEdit(sae, {latent: 0.5}, unit="residual_norm")] for latent in (3, 40)]
    each = [OnRows(one, [row]) for row, (one,) in enumerate(fractions)]
    with steered(llama, *each):
        together = llama.forward(llama.pad(rows[:2]))
    for row, (one,) in enumerate(fractions):
        with steered(llama, one):
            torch.testing.assert_close(llama.forward(llama.pad(rows[:2]))[row], together[row], rtol=1e-4, atol=1e-4)
