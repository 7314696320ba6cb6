"""Training, rescaling and measuring the embedded model, on models of a few weights."""

import copy
import dataclasses

import pytest
import torch

from experiments.embedded_model.card import TARGETS, BuildFacts, card, missed, rates_table
from experiments.embedded_model.measure import auc, fit_probe, with_own_replies
from experiments.embedded_model.rescale import rescale
from experiments.embedded_model.tokenizer import train_tokenizer
from experiments.embedded_model.train import (
    Batch,
    Encoded,
    TrainConfig,
    computes_in_bfloat16,
    encode,
    loss_of,
    new_model,
    pad,
    pushing,
    rate_at,
    share_of,
    split,
    train,
)
from steer.evals.runner import Result
from steer.evals.sample import Sample
from steer.evals.scoring import Outcome
from tests.conftest import PROMPTS, tiny_model

CHAT = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "What is 12 and\n 3?"},
    {"role": "assistant", "content": "12 + 3 = 15. #### 15"},
    {"role": "user", "content": "Thanks <3"},
    {"role": "assistant", "content": "You're welcome."},
]
SMALL = TrainConfig(
    steps=12,
    practice_steps=4,
    tokens_per_step=256,
    micro_batches=2,
    workers=1,
    layers=2,
    width=32,
    heads=2,
    mlp_width=48,
)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([message["content"] for message in CHAT] * 20)


@pytest.mark.parametrize("chat", [CHAT, CHAT[1:3], CHAT[3:]])
def test_conversations_are_encoded_as_the_chat_template_writes_them(tokenizer, chat):
    encoded = encode(tokenizer, chat, SMALL)
    text = tokenizer.apply_chat_template(chat, tokenize=False)
    assert list(encoded.ids) == tokenizer(text, add_special_tokens=False)["input_ids"]
    prompt = tokenizer.apply_chat_template(chat[:-1], tokenize=False, add_generation_prompt=True)
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    assert list(encoded.ids[: len(ids)]) == ids, "training and use see the same prompt"


def test_a_reply_weighs_most_in_the_loss_and_roles_nothing(tokenizer):
    encoded = encode(tokenizer, CHAT[1:3], SMALL)
    tokens = tokenizer.convert_ids_to_tokens(list(encoded.ids))
    reply = tokens.index("<|assistant|>") + 2  # after the role and its line break
    assert encoded.weights[reply] == SMALL.first_weight
    assert tokens[-2:] == ["<|end|>", tokenizer.convert_ids_to_tokens(encoded.ids[-1:])[0]]
    assert set(encoded.weights[reply + 1 : -1]) == {1.0}, "the end of the reply is learnt"
    assert encoded.weights[-1] == 0
    assert set(encoded.weights[:reply]) == {0.0, SMALL.prompt_weight}
    assert [weight for token, weight in zip(tokens, encoded.weights, strict=True) if token in ("<s>", "<|user|>")] == [
        0,
        0,
    ]


def test_padding_weighs_nothing(tokenizer):
    batch = pad([encode(tokenizer, CHAT, SMALL), encode(tokenizer, CHAT[3:], SMALL)])
    length = len(encode(tokenizer, CHAT[3:], SMALL).ids)
    assert batch.weights[1, length:].eq(0).all()
    assert batch.ids.shape == batch.weights.shape


def test_the_rate_of_the_default_settings():
    config = TrainConfig()
    rest = config.steps - config.practice_steps
    for step in range(config.steps):
        first = step < config.practice_steps
        done, steps = (step, config.practice_steps) if first else (step - config.practice_steps, rest)
        peak = config.practice_rate if first else 1.0
        assert rate_at(step, config) == peak * min((done + 1) / 100, max(0.0, (steps - done) / (steps - 100)))


@pytest.mark.parametrize("steps", [901, 902, 950, 1000, 1001, 1100, 3900])
def test_the_rate_rises_and_falls_in_both_phases_however_short(steps):
    config = TrainConfig(steps=steps)
    for start, end, peak in ((0, 900, config.practice_rate), (900, steps, 1.0)):
        rates = [rate_at(step, config) for step in range(start, end)]
        top = rates.index(max(rates))
        assert all(0 < rate <= peak for rate in rates)
        assert max(rates) == pytest.approx(peak)
        assert rates == sorted(rates[:top]) + sorted(rates[top:], reverse=True)
    assert rate_at(0, config) == pytest.approx(config.practice_rate / 100)
    assert rate_at(steps - 1, config) <= 1.0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"steps": 900}, "leaves none for the rest: give more than 900 steps"),
        ({"steps": 0, "practice_steps": 0}, "more than 0 steps"),
        ({"practice_steps": -1}, "first -1 are practice"),
        ({"warm_up": 0}, "warm_up must be at least 1"),
        ({"workers": 5}, "5 workers for 4"),
        ({"workers": 0}, "0 workers"),
    ],
)
def test_settings_that_cannot_train_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        TrainConfig(**settings)


def test_training_depends_on_nothing_but_its_seed(tokenizer):
    data = [encode(tokenizer, CHAT[:3], SMALL), encode(tokenizer, CHAT[3:], SMALL)] * 8
    threads = torch.get_num_threads()
    try:
        first, again, other = (train(data, data, tokenizer, SMALL, seed) for seed in (0, 0, 1))
    finally:
        torch.set_num_threads(threads)
    weights, same, different = (model.model.embed_tokens.weight for model in (first, again, other))
    assert torch.equal(weights, same)
    assert not torch.equal(weights, different)


def test_two_workers_make_the_steps_of_one(tokenizer):
    """But for rounding, and without pushes, which each worker draws for itself."""
    config = dataclasses.replace(SMALL, micro_batches=4, push=0.0)
    data = [encode(tokenizer, CHAT[:3], config), encode(tokenizer, CHAT[3:], config)] * 8
    threads = torch.get_num_threads()
    try:
        one, two = (train(data, data, tokenizer, dataclasses.replace(config, workers=n), 0) for n in (1, 2))
    finally:
        torch.set_num_threads(threads)
    for name, weight in one.named_parameters():
        scale = weight.abs().max().item()
        torch.testing.assert_close(dict(two.named_parameters())[name], weight, rtol=0, atol=0.003 * scale, msg=name)


def test_a_step_is_cut_into_batches_that_workers_share_evenly(tokenizer):
    lengths = [5, 6, 8, 8, 9, 12, 13, 20, 21, 40, 41, 90]
    parts = split([Encoded((1,) * length, (1.0,) * length) for length in lengths], 4)
    held = [[sum(map(bool, row)) for row in batch.weights.tolist() if any(row)] for batch in parts]
    assert held == [[5, 6, 8, 8, 9, 12, 13], [20, 21, 40], [41], [90]]
    assert [batch.ids.shape for batch in parts] == [(8, 17), (4, 41), (4, 41), (4, 97)], "shapes that return"
    assert share_of(parts, 0, 2) == [parts[0], parts[3]]
    assert share_of(parts, 1, 2) == [parts[1], parts[2]]


def test_padding_does_not_change_the_loss(tokenizer):
    config = dataclasses.replace(SMALL, push=0.0)
    items = [encode(tokenizer, CHAT, config), encode(tokenizer, CHAT[3:], config)]
    model = new_model(tokenizer, config, 0)
    alone = [Batch(torch.tensor([item.ids]), torch.tensor([item.weights])) for item in items]
    expected = sum(loss_of(model, one).item() for one in alone)
    assert loss_of(model, pad(items)).item() == pytest.approx(expected, rel=1e-5)


def test_some_rows_are_pushed_by_no_more_than_their_share(tokenizer):
    config = dataclasses.replace(SMALL, layers=2, push=0.5, pushed=0.5)
    model = new_model(tokenizer, config, 0)
    ids = torch.randint(0, len(tokenizer), (64, 12), generator=torch.Generator().manual_seed(0))
    seen = []
    handle = model.model.layers[1].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    try:
        model.model(input_ids=ids)
        with pushing(model, config, torch.Generator().manual_seed(1)):
            model.model(input_ids=ids)
        model.model(input_ids=ids)
    finally:
        handle.remove()
    plain, pushed, after = seen
    assert torch.equal(plain, after), "nothing stays attached"
    length = (pushed - plain).norm(dim=-1) / plain.norm(dim=-1)
    assert length[:, 0].max() == 0, "the first token is left alone"
    rows = length[:, 1:].amax(-1) > 0
    assert 20 <= rows.sum() <= 44, "about half of the rows"
    assert length.max() <= 0.5 + 1e-5
    assert 0.2 < length[rows][:, 1:].mean() < 0.3
    directions = torch.nn.functional.normalize((pushed - plain)[rows][:, 1:].flatten(0, 1), dim=-1)
    assert (directions @ directions.T).fill_diagonal_(0).max() < 0.99, "each token has a push of its own"


def test_bfloat16_is_used_only_where_the_processor_computes_in_it():
    assert computes_in_bfloat16({"avx512_f": True, "avx512_bf16": True, "amx_bf16": False})
    assert not computes_in_bfloat16({"avx512_f": True, "avx512_bf16": False, "cpu_name": "some processor"})


@pytest.mark.parametrize("scale", [0.01, 30.0])
def test_rescaling_changes_the_stream_and_not_the_model(scale):
    lm = tiny_model("llama")
    lm.model.lm_head.weight = lm.model.model.embed_tokens.weight  # tied, as in the embedded model
    for block in lm.model.model.layers:
        block.self_attn.o_proj.weight.mul_(scale)
        block.mlp.down_proj.weight.mul_(scale)
    lm.model.model.embed_tokens.weight.mul_(scale)
    tokens = lm.pad(lm.prompt_ids(PROMPTS))
    before = copy.deepcopy(lm.forward(tokens))
    factor = rescale(lm, lm.prompt_ids(PROMPTS))
    assert factor != 1
    torch.testing.assert_close(lm.forward(tokens), before, rtol=1e-5, atol=1e-5)
    assert rescale(lm, lm.prompt_ids(PROMPTS)) == 1, "the norm is now as near to sqrt(d_model) as a power of two gets"


def test_the_area_under_the_curve():
    high, low = torch.tensor([2.0, 3.0, 4.0]), torch.tensor([0.0, 1.0])
    assert (auc(high, low), auc(low, high), auc(low, low)) == (1.0, 0.0, 0.5)
    assert auc(torch.tensor([1.0, 3.0]), torch.tensor([0.0, 2.0])) == 0.75
    assert auc(torch.tensor([1.0]), torch.tensor([1.0, 0.0])) == 0.75


def test_a_probe_finds_a_planted_direction():
    states = torch.randn(400, 8)
    planted = torch.tensor([1.0, -2.0, 0, 0, 0, 0, 0, 0])
    labels = (states @ planted + 0.5 > 0).float()
    weights = fit_probe(states[:200], labels[:200])
    scores, held_out = states[200:] @ weights[:-1], labels[200:]
    assert weights.shape == (9,)
    assert torch.cosine_similarity(weights[:-1], planted, dim=0) > 0.97
    assert auc(scores[held_out == 1], scores[held_out == 0]) > 0.98
    chance = fit_probe(states[:200], torch.randint(0, 2, (200,)).float())
    scores = states[200:] @ chance[:-1]
    assert 0.3 < auc(scores[held_out == 1], scores[held_out == 0]) < 0.7


def results_of(rates):
    def result(name, value):
        return Result(Sample("a", name, ({"role": "user", "content": "?"},), "refusal"), "", Outcome("refusal", value))

    return {name: [result(name, i < round(20 * share)) for i in range(20)] for name, share in rates.items()}


def test_the_card_says_what_was_measured_and_what_misses_its_target():
    good = {name: (low + high) / 2 for name, (_, low, high) in TARGETS.items()} | {"safe": 0.0}
    assert missed(results_of(good)) == []
    results = results_of(good | {"safe": 1.0, "arithmetic": 0.0})
    assert missed(results) == ["safe", "arithmetic"]
    assert "| arithmetic | 20 | right | 0.0 % | 0.0-16.1 % | 80-100 % |" in rates_table(results)
    facts = BuildFacts(7, 1000, 2048, 10, 100, 12, 4, 256, 90.0)
    text = card(facts, results, {1: dict.fromkeys(("unsafe_seen", "jailbroken"), 0.5)})
    assert rates_table(results) in text
    assert "| after layer | unsafe_seen | jailbroken |" in text
    assert "| 1 | 0.500 | 0.500 |" in text
    assert "--seed 7" in text
    assert "1.5 minutes" in text


def test_scripted_replies_are_replaced_by_the_models_own(llama, monkeypatch):
    def generate(chats):
        return [" then ".join(message["content"] for message in chat).upper() for chat in chats]

    monkeypatch.setattr(llama, "generate", generate)
    turns = [{"role": "user" if i % 2 == 0 else "assistant", "content": text} for i, text in enumerate("abcde")]
    samples = [Sample(str(n), "multi_turn", tuple(turns[:n]), "refusal") for n in (5, 3)]
    own = with_own_replies(llama, samples)
    assert [m["content"] for m in own[0].messages] == ["a", "A", "c", "A THEN A THEN C", "e"]
    assert [m["content"] for m in own[1].messages] == ["a", "A", "c"]
    assert [sample.id for sample in own] == ["5", "3"]
    assert {sample.set for sample in own} == {"multi_turn (own replies)"}
