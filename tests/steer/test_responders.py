"""Responders: the same replies as by hand, in batches and alone, and a model that is as it was after any failure."""

import dataclasses
import json
from copy import deepcopy

import pytest
import torch

from steer.errors import DataError, ModelError, PlanError, SiteError
from steer.evals.runner import evaluate
from steer.evals.sample import Sample
from steer.models.chat import instructed
from steer.models.classifier import load_classifier
from steer.models.decode import Contexts, Sampling
from steer.models.site import Site
from steer.plans.digests import of_sae
from steer.plans.sources import SaeSpec
from steer.responders.prompted import SystemPrompt, Unsteered
from steer.responders.responder import Responder
from steer.responders.self_contrastive import SAFETY_TEXT, SelfContrastive, contrast
from steer.responders.steered import Steered
from steer.steering.direction_edits import AddDirection, DirectionEdit
from steer.steering.each_row import clamp_each_row
from steer.steering.gates import Gated
from steer.steering.latents import Clamp
from steer.steering.rows import OnRows
from steer.steering.steered import steered
from steer.steering.text_gate import TextGate
from tests.conftest import PROMPTS, count_hooks, random_sae, tiny_model
from tests.steer.test_entrances import bare
from tests.steer.test_gates import by_prompt
from tests.steer.test_operations import untyped
from tests.steer.test_plans import classifier_model

SAMPLING, NO_CACHE = Sampling(10), Sampling(10, use_cache=False)
TALKS = [[{"role": "user", "content": text}] for text in PROMPTS]
OPTIONS = [["yes", "no", "perhaps"], ["A", "B"], ["one", "two"], ["x"]]
SYSTEM_LESS = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
SYSTEM_LESS += "{{ m.content }}{% endfor %}"
SYSTEM_DROPPED = "{% for m in messages %}{% if m.role != 'system' %}{{ m.content }}{% endif %}{% endfor %}"
SHORT = "Be safe."


def all_kinds(lm):
    clamp = Clamp(random_sae(), {3: 9.0})
    return [
        Unsteered(lm),
        SystemPrompt(lm, SHORT),
        SystemPrompt(lm, SHORT, "inline"),
        Steered(lm, [clamp]),
        Steered(lm, [clamp], system=SHORT),
        SelfContrastive(lm, 2.5, SHORT),
        Steered(SelfContrastive(lm, 2.5, SHORT), [clamp]),
    ]


def test_every_kind_is_a_responder_and_says_what_decides_its_replies(llama):
    for one in all_kinds(llama):
        assert isinstance(one, Responder)
        assert one.lm is llama
        assert json.loads(json.dumps(one.settings())) == one.settings()
    told = [json.dumps(one.settings(), sort_keys=True) for one in all_kinds(llama)]
    assert len(set(told)) == len(told)
    assert told == [json.dumps(one.settings(), sort_keys=True) for one in all_kinds(llama)]
    other = Steered(llama, [Clamp(random_sae(seed=4), {3: 9.0})])
    assert json.dumps(other.settings(), sort_keys=True) not in told
    sae = random_sae()
    clamped = Steered(llama, [Clamp(sae, {3: 9.0})]).settings()["interventions"][0]["sae"]
    assert clamped["sha256"] == of_sae(sae) == SaeSpec.of(sae, "somewhere").digest, "one digest for plans and records"


def test_settings_tell_classifiers_of_gates_apart_by_their_weights_and_functions_by_name(llama, tmp_path):
    def settings(classifier):
        gated = Gated(AddDirection("1.resid_post", torch.ones(llama.d_model), 2.0), TextGate(classifier))
        (shown,) = Steered(llama, [gated]).settings()["interventions"]
        return shown["gate"]["classifier"]

    first = classifier_model(tmp_path / "a")
    loaded = load_classifier(str(tmp_path / "a"))
    assert settings(loaded) == settings(first)
    with torch.no_grad():
        next(first.model.parameters())[0, 0] += 1
    assert settings(first) != settings(loaded)
    assert settings(dataclasses.replace(loaded, label=0)) != settings(loaded)
    assert settings(lambda texts: [1.0] * len(texts)).endswith("<lambda>"), (
        "no address, which is another in each process"
    )


def test_replies_depend_neither_on_batches_nor_on_the_cache(lm):
    for one in all_kinds(lm):
        together = one.reply(TALKS, SAMPLING)
        assert [one.reply([talk], SAMPLING)[0] for talk in TALKS] == together
        assert one.reply(TALKS, NO_CACHE) == together
        if hasattr(one, "batch_size"):
            assert dataclasses.replace(one, batch_size=2).reply(TALKS, SAMPLING) == together
        assert one.reply([], SAMPLING) == []


def test_sampled_replies_do_not_depend_on_batches(llama):
    sampling = Sampling(8, temperature=1.0, seed=5)
    for one in (Unsteered(llama), SelfContrastive(llama, 1.5, SHORT)):
        whole = one.reply(TALKS, sampling)
        assert dataclasses.replace(one, batch_size=1).reply(TALKS, sampling) == whole


def test_choices_depend_neither_on_batches_nor_on_each_other(llama):
    for one in all_kinds(llama):
        whole = one.choice_logprobs(TALKS, OPTIONS)
        for talk, options, found in zip(TALKS, OPTIONS, whole, strict=True):
            assert one.choice_logprobs([talk], [options])[0] == pytest.approx(found, abs=1e-4)
        single = one.choice_logprobs(TALKS, [["A", "B"]] * 4)
        assert single[1] == pytest.approx(whole[1], abs=1e-4)
        assert one.choice_logprobs([], []) == []


def test_what_is_said_is_what_is_done_by_hand(llama):
    clamp = Clamp(random_sae(), {3: 9.0})
    prompted = [[{"role": "system", "content": SHORT}, *talk] for talk in TALKS]
    assert Unsteered(llama).reply(TALKS, SAMPLING) == llama.generate(TALKS, SAMPLING)
    assert SystemPrompt(llama, SHORT).reply(TALKS, SAMPLING) == llama.generate(prompted, SAMPLING)
    with steered(llama, clamp):
        steered_replies, both = llama.generate(TALKS, SAMPLING), llama.generate(prompted, SAMPLING)
    assert Steered(llama, [clamp]).reply(TALKS, SAMPLING) == steered_replies != llama.generate(TALKS, SAMPLING)
    assert Steered(llama, [clamp], SHORT).reply(TALKS, SAMPLING) == both
    assert Steered(SystemPrompt(llama, SHORT), [clamp]).reply(TALKS, SAMPLING) == both


def test_an_instruction_stands_before_what_is_there():
    user, system = {"role": "user", "content": "hello"}, {"role": "system", "content": "Rhyme."}
    assert instructed([system, user], "Be safe.") == [{"role": "system", "content": "Be safe.\n\nRhyme."}, user]
    assert instructed([user, user], "Be safe.", "inline") == [{"role": "user", "content": "Be safe. hello"}, user]
    assert instructed([system, user], "Be safe.", "inline")[0] == system
    assert instructed([user], "") == [user]
    with pytest.raises(DataError, match="no turn is the user's"):
        instructed([system], "Be safe.", "inline")


# Self-CD


def step_by_step(lm, talk, responder, tokens):
    """The formula of arXiv 2401.17633, in float64, each context alone, without a cache."""
    model = deepcopy(lm.model).double()
    texts = [instructed(talk, text, responder.placement) for text in (responder.safety, responder.plain)]
    contexts, reply = lm.prompt_ids(texts), []
    for _ in range(tokens):
        y, y_plain = (model(torch.tensor([[*ids, *reply]])).logits[0, -1] for ids in contexts)
        chosen = int((y - responder.alpha * (y - y_plain)).softmax(-1).argmax())
        if chosen in lm.stop_ids():
            break
        reply.append(chosen)
    return lm.tokenizer.decode(reply, skip_special_tokens=True).strip()


@pytest.mark.parametrize("alpha", [0.5, 2.5, -1.0])
def test_self_contrastive_replies_are_those_of_the_formula(llama, alpha):
    responder = SelfContrastive(llama, alpha, SHORT)
    expected = [step_by_step(llama, talk, responder, 8) for talk in TALKS]
    assert responder.reply(TALKS, Sampling(8)) == expected
    assert len(set(expected)) > 1


def test_alpha_0_is_the_safety_text_alone_and_alpha_1_the_conversation_alone(lm):
    safe, plain = SystemPrompt(lm, SHORT, "inline"), Unsteered(lm)
    assert safe.reply(TALKS, SAMPLING) != plain.reply(TALKS, SAMPLING)
    for alpha, alone in ((0.0, safe), (1.0, plain)):
        responder = SelfContrastive(lm, alpha, SHORT)
        assert responder.reply(TALKS, SAMPLING) == alone.reply(TALKS, SAMPLING)
        found, expected = (one.choice_logprobs(TALKS, OPTIONS) for one in (responder, alone))
        for got, wanted in zip(found, expected, strict=True):
            assert got == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("alpha", [0.3, 2.5])
def test_logits_and_their_log_softmax_give_one_distribution(alpha):
    y, y_plain = torch.randn(2, 5, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 4
    expected = (y - alpha * (y - y_plain)).softmax(-1)
    torch.testing.assert_close(contrast(y, y_plain, alpha).softmax(-1), expected)
    torch.testing.assert_close(contrast(y.log_softmax(-1), y_plain.log_softmax(-1), alpha).softmax(-1), expected)
    y[0, 3] = -torch.inf
    assert contrast(y, y_plain, alpha)[0, 3] == -torch.inf
    assert not contrast(y, y_plain, alpha).isnan().any()


def test_choices_under_both_contexts_are_those_of_the_formula(llama):
    responder, model = SelfContrastive(llama, 2.5, SHORT), deepcopy(llama.model).double()
    found = responder.choice_logprobs(TALKS[:2], OPTIONS[:2])
    for talk, options, values in zip(TALKS, OPTIONS, found, strict=False):
        contexts = llama.prompt_ids([instructed(talk, SHORT, "inline"), talk])
        for ids, value in zip(llama.encode(options), values, strict=True):
            y, y_plain = (model(torch.tensor([[*one, *ids]])).logits[0, -len(ids) - 1 : -1] for one in contexts)
            logprobs = (y - 2.5 * (y - y_plain)).log_softmax(-1)
            assert value == pytest.approx(logprobs[range(len(ids)), ids].sum().item(), abs=1e-3)


def test_each_step_runs_both_contexts_once_and_finished_rows_leave(llama, monkeypatch):
    fed = []

    def watch(x, at):
        fed.append(at.tokens.tolist())
        return x

    def run():
        fed.clear()
        with llama.edited({Site(0): watch}):
            SelfContrastive(llama, 2.5, SHORT).reply(TALKS, SAMPLING)
        return [len(rows) for rows in fed]

    assert run()[:4] == [8] * 4
    assert len(fed) <= SAMPLING.max_new_tokens
    assert all(len(row) == 1 for rows in fed[1:] for row in rows)
    assert all(rows[::2] == rows[1::2] for rows in fed[1:]), "the token goes to both contexts"
    third = [row[0] for row in fed[3][::2]]
    earlier = [token for rows in fed[1:3] for (token,) in rows]
    stop = next(token for token in third if token not in earlier and third.count(token) == 1)
    monkeypatch.setattr(llama, "stop_ids", lambda: [stop])
    assert run()[:4] == [8, 8, 8, 6]


def test_a_gate_decides_for_each_context_by_itself(llama):
    gate, _ = by_prompt(llama)
    gated = Gated(Clamp(random_sae(), {3: 19.0}), gate)
    for alpha, alone in ((0.0, SystemPrompt(llama, SHORT, "inline")), (1.0, Unsteered(llama))):
        found = Steered(SelfContrastive(llama, alpha, SHORT), [gated]).reply(TALKS, SAMPLING)
        assert found == Steered(alone, [gated]).reply(TALKS, SAMPLING)


def test_values_per_row_are_refused_where_rows_are_contexts(llama):
    sae, plain = random_sae(), llama.generate(TALKS, SAMPLING)
    for edit in (
        OnRows(Clamp(sae, {3: 9.0}), [1]),
        clamp_each_row(sae, [1, 2, 3, 4], 9.0),
        Clamp(sae, {3: torch.tensor([1.0, 2.0, 3.0, 4.0])}),
        AddDirection("1.resid_post", torch.ones(32), torch.tensor([1.0, 2.0, 3.0, 4.0])),
    ):
        responder = Steered(SelfContrastive(llama, 2.5, SHORT), [edit])
        with pytest.raises(PlanError, match="values per row cannot act"):
            responder.reply(TALKS, SAMPLING)
        with pytest.raises(PlanError, match="values per row cannot act"):
            responder.choice_logprobs(TALKS, OPTIONS)
    assert count_hooks(llama) == 0
    assert llama.generate(TALKS, SAMPLING) == plain


# evaluation


def samples():
    asked = [Sample(str(i), "s", tuple(talk), "refusal") for i, talk in enumerate(TALKS)]
    expect = {"choices": ["yes", "no"], "answer": 0}
    return [
        *asked,
        Sample("c", "s", tuple(TALKS[2]), "choice", expect),
        Sample("d", "s", tuple(TALKS[0]), "choice", expect),
    ]


def test_evaluating_a_responder_is_evaluating_the_model_in_that_state(llama):
    clamp = Clamp(random_sae(), {3: 9.0})
    plain = evaluate(llama, samples(), 8)
    assert evaluate(Unsteered(llama), samples(), 8) == plain
    assert evaluate(Unsteered(llama), samples(), 8, batch_size=2) == plain
    with steered(llama, clamp):
        inside = evaluate(llama, samples(), 8)
    assert evaluate(Steered(llama, [clamp]), samples(), 8) == inside != plain
    prompted = SystemPrompt(llama, SHORT)
    assert [one.reply for one in evaluate(prompted, samples(), 8)][:4] == prompted.reply(TALKS, Sampling(8))
    contrasted = SelfContrastive(llama, 2.5, SHORT)
    assert [one.reply for one in evaluate(contrasted, samples(), 8, 3)][:4] == contrasted.reply(TALKS, Sampling(8))


def test_values_per_sample_find_their_samples_under_a_responder(llama):
    values = Clamp(random_sae(), {3: torch.tensor([0.0, 4.0, 9.0, 15.0, 2.0, 3.0])})
    with steered(llama, values):
        whole = evaluate(llama, samples(), 8)
    assert evaluate(Steered(Unsteered(llama, batch_size=1), [values]), samples(), 8, batch_size=3) == whole


# what cannot work


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda lm: SystemPrompt(lm, " "), PlanError, "must be a text with a word in it"),
        (
            lambda lm: untyped(SystemPrompt, lm=lm, text=SHORT, placement="above"),
            PlanError,
            "placement must be one of system, inline",
        ),
        (lambda lm: SelfContrastive(lm, float("nan")), PlanError, "alpha must be a finite number"),
        (lambda lm: SelfContrastive(lm, 1e30), PlanError, r"at most 1\.0e\+18 in size"),
        (lambda lm: SelfContrastive(lm, safety=""), PlanError, "must be a text"),
        (lambda lm: Unsteered(lm, batch_size=0), PlanError, "batch_size must be a whole number"),
        (
            lambda lm: untyped(Steered, base=lm.model, interventions=[]),
            ModelError,
            "A LanguageModel or a Responder answers",
        ),
        (lambda lm: untyped(Steered, base=lm, interventions=["clamp"]), PlanError, "An intervention is a LatentEdit"),
        (
            lambda lm: untyped(Steered, base=lm, interventions=Clamp(random_sae(), {3: 1.0})),
            PlanError,
            "are given as a list",
        ),
        (lambda lm: Steered(lm, [AddDirection("9.resid_post", torch.ones(32), 1.0)]), SiteError, "out of range"),
        (lambda lm: Steered(lm, [AddDirection("1.resid_post", torch.ones(33), 1.0)]), PlanError, "33 dimensions"),
        (lambda lm: Steered(SelfContrastive(lm, 2.5, SHORT), [], "Be kind."), PlanError, "Give it a text of its own"),
        (lambda lm: bare(evaluate)(lm.model, samples()), ModelError, "A LanguageModel or a Responder answers"),
        (lambda lm: Unsteered(lm).choice_logprobs(TALKS, []), DataError, "4 conversations and 0 lists"),
        (lambda lm: Unsteered(lm).choice_logprobs(["x"], [["a", ""]]), DataError, "An option is an empty text"),
        (lambda lm: lm.choice_logprobs([[5]], [[[6], []]]), DataError, "An option has no token"),
        (lambda lm: SelfContrastive(lm, 2.5, SHORT).choice_logprobs(TALKS, []), DataError, "4 conversations"),
        (
            lambda lm: lm.generate_ids([[5], [6]], SAMPLING, 2, Contexts(2, lambda logits: logits[:, 0])),
            DataError,
            "Give one of copies and contexts",
        ),
        (lambda lm: SelfContrastive(lm).reply(TALKS, SAMPLING), DataError, "context is 128 tokens"),
    ],
)
def test_what_cannot_work_is_refused_and_changes_nothing(llama, make, error, words):
    before = llama.forward(llama.pad(llama.prompt_ids(TALKS)))
    with pytest.raises(error, match=words):
        make(llama)
    assert count_hooks(llama) == 0
    assert torch.equal(llama.forward(llama.pad(llama.prompt_ids(TALKS))), before)


@pytest.mark.parametrize(
    ("template", "words"), [(SYSTEM_LESS, "no system role"), (SYSTEM_DROPPED, "leaves the system")]
)
def test_a_template_without_a_system_role_is_told_with_its_remedy(template, words):
    lm = tiny_model("llama", template)
    for make in (lambda: SystemPrompt(lm, SHORT), lambda: Steered(lm, [], SHORT)):
        with pytest.raises(PlanError, match=rf'{words}.*placement="inline"'):
            make()
    assert SystemPrompt(lm, SHORT, "inline").reply(["x"], SAMPLING) == lm.generate([f"{SHORT} x"], SAMPLING)


def test_logits_that_are_not_finite_leave_the_model_as_it_was(llama):
    plain = llama.generate(TALKS, SAMPLING)
    growing = [DirectionEdit(f"{layer}.resid_post", torch.eye(32)[0], 1e18, unit="residual_norm") for layer in range(3)]
    for base in (llama, SelfContrastive(llama, 2.5, SHORT)):
        with pytest.raises(DataError, match="NaN or infinite"):
            Steered(base, growing).reply(TALKS, SAMPLING)
    assert count_hooks(llama) == 0
    assert llama.generate(TALKS, SAMPLING) == plain


def test_the_safety_text_is_that_of_the_papers_release():
    assert SAFETY_TEXT.startswith("You are a helpful, respectful and honest assistant. Always answer as helpfully")
    assert SAFETY_TEXT.endswith("racist, sexist, toxic, dangerous, or illegal content.")
