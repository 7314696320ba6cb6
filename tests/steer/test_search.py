"""Searches: which tokens count, what fires there, tokens, directions, attribution, fusion, filters."""

import copy
import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from saes import SAE, SAEConfig
from steer.errors import DataError, IndexMismatchError, ModelError, SiteError
from steer.files import claimed
from steer.index.labels import Label
from steer.index.read import FeatureIndex
from steer.index.synthetic import synthetic_index
from steer.models.chat import raw_text
from steer.models.decode import Sampling
from steer.models.site import Site
from steer.search.attribution import attributions
from steer.search.by_prompt import rank_fired
from steer.search.decoders import nearest
from steer.search.direction import along, read_direction
from steer.search.filters import allowed, parse_filter
from steer.search.firing import firing
from steer.search.fuse import fused
from steer.search.label_vectors import FOLDER, label_vectors
from steer.search.logits import promotes, token_id
from steer.search.meaning import load_embedder
from steer.search.parts import rows_of
from steer.search.policy import IndexPolicy
from steer.search.pooled import Fired
from steer.search.prompt_sets import distinct, read_conversation, read_prompts
from steer.search.query import AttributionQuery, ContrastQuery, MeansQuery, PromptQuery, Query
from steer.search.ranked import Ranking, best_first, rarity
from steer.search.run import search
from steer.search.token_text import token_meant, token_reading
from tests.conftest import D_MODEL, count_hooks, random_sae

SITE = Site(0, "resid_pre")
CHAT = [
    {"role": "system", "content": "be kind"},
    {"role": "user", "content": "hello"},
    {"role": "assistant", "content": "yes!"},
]


@pytest.fixture(scope="module")
def detecting(tiny):
    """A model and an SAE of whose latents each fires on one token, always at 4: known truth."""
    lm = copy.deepcopy(tiny("llama"))
    embeddings = lm.model.get_input_embeddings().weight
    with torch.no_grad():
        embeddings.copy_(4 * torch.nn.functional.normalize(embeddings, dim=-1))
    rows = embeddings.detach()
    config = SAEConfig(D_MODEL, len(rows), None, activation="jumprelu", model="tiny", site="0.resid_pre",
                       subtract_b_dec=False)  # fmt: skip
    tensors = {
        "W_dec": rows.clone(),
        "W_enc": (rows / 4).T.contiguous(),
        "b_enc": torch.zeros(len(rows)),
        "b_dec": torch.zeros(D_MODEL),
        "threshold": torch.full((len(rows),), 3.9),
    }
    return lm, SAE.from_tensors(config, tensors).requires_grad_(False)


@pytest.fixture(scope="module")
def index(detecting, tmp_path_factory):
    """An index of that SAE with drawn contents, every latent fires on a hundredth of its tokens; with a few labels."""
    lm, sae = detecting
    folder = synthetic_index(
        tmp_path_factory.mktemp("index") / "index", sae.config.d_sae, examples=4, window=8, tokens=3000, labels=False,
        sae=sae, lm=lm,
    )  # fmt: skip
    opened = FeatureIndex.open(folder, sae, lm)
    opened.add_column("density", np.full(opened.d_sae, 0.01, dtype=np.float32), {"by": "the test"})
    opened.add_column("max", np.full(opened.d_sae, 8.0, dtype=np.float32), {"by": "the test"})
    opened.add_column("steerability", np.linspace(0, 1, opened.d_sae), {"by": "the test"})
    opened.add_labels([Label(7, "refusal of requests", "me"), Label(9, "baking bread", "me")])
    return opened


def tokens_of(lm, text):
    return lm.encode([text])[0]


def fires(detecting, prompt, part):
    """Tokens on which something fires, in order."""
    lm, sae = detecting
    fired = firing(lm, sae, SITE, rows_of(lm, [prompt], part))[0]
    assert set(np.round(fired.values, 3)) == {4.0}
    return fired.latents.tolist()


def test_each_part_is_the_tokens_it_says(detecting):
    lm, _ = detecting
    text = lm.tokenizer.apply_chat_template(CHAT, tokenize=False)
    whole = lm.encode([text])[0]
    assert fires(detecting, CHAT, "whole") == whole[1:]  # never the first token
    for part, said in (
        ("system", "be kind"),
        ("user", "hello"),
        ("assistant", "yes!"),
        ("reply", "yes!"),
        ("1:3", "es"),
    ):
        assert fires(detecting, CHAT, part) == tokens_of(lm, said), part
    before = lm.encode([text[: text.index("yes!")]])[0]
    assert fires(detecting, CHAT, "prompt") == before[1:]
    assert fires(detecting, CHAT, "last") == before[-1:]


def test_a_prompt_without_a_reply_ends_where_it_begins(detecting):
    lm, _ = detecting
    ids = list(lm.prompt_ids(["hello"])[0])
    assert fires(detecting, "hello", "whole") == ids[1:]
    assert fires(detecting, "hello", "prompt") == ids[1:]
    assert fires(detecting, "hello", "last") == ids[-1:]
    assert fires(detecting, "hello", "user") == tokens_of(lm, "hello")
    assert fires(detecting, "hello", "1:3") == tokens_of(lm, "el")
    assert fires(detecting, "hello", "3:99") == tokens_of(lm, "lo")
    reply = lm.generate_ids(lm.prompt_ids(["hello"]), Sampling(32))[0]
    assert fires(detecting, "hello", "reply") == list(reply)
    raw = raw_text("a hello")
    assert fires(detecting, raw, "2:4") == tokens_of(lm, "he")


def test_what_fires_does_not_depend_on_the_batch(detecting):
    lm, sae = detecting
    prompts = ["hello there", "x", CHAT, "something longer than all of the others"]
    together = firing(lm, sae, SITE, rows_of(lm, prompts))
    for prompt, one in zip(prompts, together, strict=True):
        alone = firing(lm, sae, SITE, rows_of(lm, [prompt]))[0]
        assert (one.latents.tolist(), one.tokens.tolist(), one.length) == (
            alone.latents.tolist(), alone.tokens.tolist(), alone.length,
        )  # fmt: skip
    assert count_hooks(lm) == 0


@pytest.mark.parametrize(
    ("part", "match"), [("8:2", "FROM:TO"), ("replies", "expected one of whole"), ("system", "Prompt 1 has no token")]
)
def test_parts_that_are_none_are_refused(detecting, part, match):
    with pytest.raises(DataError, match=match):
        rows_of(detecting[0], ["hello"], part)


def test_a_search_by_prompt_finds_what_fires_on_the_part_and_says_so(detecting, index):
    lm, _ = detecting
    found = index.search(Query(prompt=PromptQuery("hello", "1:3"), limit=5))
    assert {hit.latent for hit in found.hits} == set(tokens_of(lm, "el"))
    (reason,) = found.hits[0].reasons
    text = "fires on 1 of 2 tokens, max 4 (50% of its maximum), most on 'e'; elsewhere on 1.00% of tokens"
    assert reason.text == text
    assert reason.score == pytest.approx(0.5 * 2 / 6)
    mean = index.search(Query(prompt=PromptQuery("hello", "user", "mean")))
    assert mean.hits[0].latent == tokens_of(lm, "l")[0]  # twice in five tokens


def test_a_contrast_finds_the_planted_latent(detecting, index):
    lm, _ = detecting
    rng = np.random.default_rng(0)
    letters = "abcdefghijkl"
    texts = ["".join(rng.choice(list(letters), rng.integers(8, 16))) for _ in range(48)]
    first, second = [text[:3] + "z" + text[4:] for text in texts[:24]], texts[24:]
    asked = ContrastQuery(first, [*second, second[0], first[0]], "user")
    found = index.search(Query(contrast=asked))
    assert [hit.latent for hit in found.hits] == tokens_of(lm, "z")
    text = found.hits[0].reasons[0].text
    assert "fires on 100% against 0% of prompts; held-out AUC 1.00" in text
    assert any("1 prompts are in both" in note for note in found.notes)
    assert any("more than once count once: 0 and 1" in note for note in found.notes)
    told = dict(found.about)["contrast"]
    assert told["latents_found"] == 1
    assert told["prompts_held_out"][0] > 0
    same = index.search(Query(contrast=ContrastQuery(texts[:24], texts[24:], "user")))
    assert same.hits == ()
    assert any("no latent tells the sets apart" in note for note in same.notes)
    assert json.dumps(same.data(), allow_nan=False)


def test_sets_that_are_empty_or_the_same_are_refused():
    with pytest.raises(DataError, match="got 0 and 1"):
        distinct([], ["a"])
    with pytest.raises(DataError, match="overlap in 1 prompts, which leaves 0 and 1"):
        distinct(["a"], ["a", "b"])


def test_promoted_tokens_are_those_of_the_logit_lens(lm, sae):
    """For every family: the cosine of decoder rows with the token's row, centred, times the final norm's weight."""
    lm = copy.deepcopy(lm)
    norm = lm.model.transformer.ln_f if hasattr(lm.model, "transformer") else lm.model.model.norm
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(-0.5, 1.5, D_MODEL))
    U = lm.model.get_output_embeddings().weight.detach().double()
    wanted = (U[70] - U.mean(0)) * (norm.weight.double() + (1 if "Gemma" in type(norm).__name__ else 0))
    if "LayerNorm" in type(norm).__name__:  # it takes off the mean of what it reads
        wanted = wanted - wanted.mean()
    rows = sae.W_dec.double()
    expected = rows @ wanted / (rows.norm(dim=1) * wanted.norm())
    assert torch.allclose(promotes(lm, sae, 70).double(), expected, atol=1e-5)


def test_searches_for_tokens_with_and_without_the_model(detecting, index):
    lm, sae = detecting
    found = index.search(Query(promotes="z", limit=3))
    best = int(promotes(lm, sae, token_id(lm, "z")).argmax())
    assert found.hits[0].latent == best
    assert "promotes 'z': cosine" in found.hits[0].reasons[0].text
    away = index.search(Query(suppresses="z", limit=3))
    assert away.hits[0].latent == int(promotes(lm, sae, token_id(lm, "z")).argmin())
    alone = FeatureIndex.open(index.folder)
    token = alone.card(5).promoted[0][0]
    listed = alone.search(Query(promotes=token, limit=300))
    assert [hit.latent for hit in listed.hits] == list(dict(alone.promoting(token, 300)))
    assert f"promotes {alone.renderer.text([token])!r}, which is among its strongest" in listed.hits[0].reasons[0].text
    by_text = alone.search(Query(promotes=alone.renderer.text([token]), limit=300))
    assert [hit.latent for hit in by_text.hits] == [hit.latent for hit in listed.hits]
    assert f"was taken for the token {alone.renderer.text([token])!r}, #{token}" in by_text.notes[0]
    with pytest.raises(DataError, match=r"reads 'zz', with or without a space .* begins with 'z' \(#\d+\)"):
        alone.search(Query(promotes="zz"))
    with pytest.raises(DataError, match=r"'zz' is 2 tokens .* #\d+"):
        index.search(Query(promotes="zz"))
    with pytest.raises(DataError, match="out of range"):
        index.search(Query(promotes=10**6))


def test_a_token_is_found_by_its_text_with_or_without_a_space(embedded):
    """Of an index alone by the tokens' bytes; of a model, where it is no single token without."""
    every = [b"help", b" help", b" sorry", b"a", b"a", b""]

    def reading(text):
        return token_reading(text, every, [1, 1, 1, 1, 2, 0].__getitem__)

    assert reading("help") == (0, "'help' was taken for the token 'help', #0; there is ' help' #1 too.")
    assert reading("sorry") == (2, "'sorry' was taken for the token ' sorry', #2.")
    assert reading(" help")[0] == 1
    assert reading(" sorry") == (2, "' sorry' was taken for the token ' sorry', #2.")
    assert reading("a")[0] == 4  # of two that read alike, the one that more latents list
    with pytest.raises(DataError, match=r"reads 'helpless', .* begins with 'help' \(#0\), ' help' \(#1\)\."):
        reading("helpless")
    with pytest.raises(DataError, match=r"Give a token by its #NUMBER"):
        reading("xyz")
    number = embedded.encode([" help"])[0][0]
    assert token_meant(embedded, " help") == (number, None)
    note = f"'help' is no single token of this model: taken for ' help', #{number}."
    assert token_meant(embedded, "help") == (number, note)
    with pytest.raises(DataError, match=r"'xyzzy' is \d tokens"):
        token_meant(embedded, "xyzzy")


def with_policy(index, **policy):
    """The index as one that was built with another policy."""
    provenance = {**index.info.provenance, "excluded_ids": [], "median_norm": 4.0, **policy}
    return replace(index, info=replace(index.info, provenance=provenance))


def test_tokens_that_did_not_count_in_the_index_do_not_count_in_a_search(detecting, index):
    lm, sae = copy.deepcopy(detecting[0]), detecting[1]
    sink, other = tokens_of(lm, "l")[0], tokens_of(lm, "h")[0]
    with torch.no_grad():
        lm.model.get_input_embeddings().weight[sink] *= 30  # norm 120, where the others have 4
    asked = Query(prompt=PromptQuery("hello", "user"))

    def found(**policy):
        result = search(with_policy(index, **policy), asked, lm, sae)
        return {hit.latent for hit in result.hits}, dict(result.about)["prompt"]

    everything, about = found(policy={"max_norm_ratio": None})
    assert sink in everything
    assert about == {"asked": "hello", "part": "user", "pool": "max", "tokens": 5, "tokens_left_out": 0}
    without, about = found(policy={"max_norm_ratio": 10.0}, excluded_ids=[other])
    assert without == set(tokens_of(lm, "eo"))
    assert about["tokens"] == 2
    assert about["tokens_left_out"] == 3
    none = with_policy(index, excluded_ids=tokens_of(lm, "helo"))
    with pytest.raises(DataError, match=r"Prompt 1 has no token that counts: .* all 5 of this part"):
        search(none, asked, lm, sae)
    last = Query(prompt=PromptQuery(raw_text("hel"), "last"))  # asked for by its place
    assert sink in {hit.latent for hit in search(with_policy(index), last, lm, sae).hits}
    row = lm.prompt_ids(["hello"])[0]
    ones = torch.ones(len(row), 2)
    ones[3] = 100
    assert IndexPolicy().mask(row, ones).tolist() == [
        place != 3 for place in range(len(row))
    ]  # by the row's own median


def test_attribution_leaves_out_what_the_policy_leaves_out(llama, sae):
    row = list(llama.prompt_ids(["hello there"])[0])
    x = llama.activations(llama.pad([row]), [Site(1)])[Site(1)][0]
    policy = IndexPolicy(frozenset(row[-3:]), ratio=None)
    found = attributions(llama, sae, Site(1), ["hello there", "x"], 90, 91, policy=policy)
    alone = [attributions(llama, sae, Site(1), [one], 90, 91, policy=policy) for one in ("hello there", "x")]
    assert np.allclose(found, np.mean(alone, axis=0), atol=1e-5)
    active = sae.encode(x[1:]).to_dense()[policy.mask(row, x)[1:]].sum(0).nonzero().flatten()
    assert set(np.flatnonzero(alone[0])) <= set(active.tolist())
    assert not np.allclose(alone[0], attributions(llama, sae, Site(1), ["hello there"], 90, 91))


def test_a_latent_that_never_fired_in_the_index_is_compared_by_a_usual_maximum():
    fired = Fired(np.array([0, 1, 2]), np.array([4.0, 4.0, 1.0]), np.array([0, 0, 1]), 2)
    columns = {"max": np.array([8.0, 0.0, 2.0, 4.0]), "density": np.array([0.01, 0.0, 0.01, 0.01])}
    found = rank_fired(fired, "max", columns, None, 10, str)
    assert found.latents.tolist() == [1, 0, 2]
    assert found.scores.tolist() == pytest.approx([4 / 4, 0.5 / 3, 0.5 / 3])  # the median of 8, 2 and 4
    assert found.says(0) == "fires on 1 of 2 tokens, max 4 (100% of a usual maximum), most on '0'; elsewhere on none"


def test_directions_are_cosines_with_decoder_rows(sae, tmp_path):
    direction = torch.randn(D_MODEL)
    expected = torch.nn.functional.cosine_similarity(sae.W_dec.double(), direction.double(), dim=1)
    assert torch.allclose(along(sae.W_dec, direction).double(), expected, atol=1e-6)
    assert torch.allclose(along(sae.W_dec, 1e-30 * direction).double(), expected, atol=1e-6)
    for bad in (torch.zeros(D_MODEL), torch.full((D_MODEL,), torch.nan), torch.ones(D_MODEL + 1)):
        with pytest.raises(DataError, match="direction"):
            along(sae.W_dec, bad)
    save_file({"direction.1": direction, "matrix": torch.zeros(2, 2)}, tmp_path / "one.safetensors")
    save_file({"a": direction, "b": direction.clone()}, tmp_path / "two.safetensors")
    (tmp_path / "not.safetensors").write_bytes(b"nothing of the kind")
    assert torch.equal(read_direction(tmp_path / "one.safetensors"), direction)
    assert torch.equal(read_direction(tmp_path / "two.safetensors", "b"), direction)
    for name, tensor, match in (
        ("two", None, "it holds a, b"),
        ("two", "c", "no vector 'c'"),
        ("not", None, "no safetensors"),
        ("absent", None, "cannot be read"),
    ):
        with pytest.raises(DataError, match=match):
            read_direction(tmp_path / f"{name}.safetensors", tensor)


def test_like_direction_and_means_agree(detecting, index, tmp_path):
    lm, sae = detecting
    like = index.search(Query(like=40, limit=5))
    save_file({"v": sae.W_dec[40].clone()}, tmp_path / "v.safetensors")
    by_file = index.search(Query(direction=str(tmp_path / "v.safetensors"), limit=6))
    named = index.search(Query(direction=f"{tmp_path / 'v.safetensors'}:v", limit=6))
    assert by_file.hits[0].latent == 40
    assert [hit.latent for hit in by_file.hits[1:]] == [hit.latent for hit in like.hits]
    assert [hit.latent for hit in named.hits] == [hit.latent for hit in by_file.hits]
    # raw texts that end in z against ones that end in y: the last token's activation is its embedding
    texts = [raw_text(text) for text in ("az", "bz", "cz")], [raw_text(text) for text in ("ay", "by", "cy")]
    means = index.search(Query(means=MeansQuery(*texts), limit=3))
    direction = sae.W_dec[token_id(lm, "z")] - sae.W_dec[token_id(lm, "y")]
    assert means.hits[0].latent == int(along(sae.W_dec, direction).argmax())
    assert dict(means.about)["means"]["site"] == "0.resid_pre"
    with pytest.raises(DataError, match="out of range"):
        index.search(Query(like=10**6))


def test_a_decoder_that_is_asked_again_gives_the_same_until_it_changes(detecting):
    sae = copy.deepcopy(detecting[1])
    direction = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(1))
    for _ in range(2):
        expected = torch.nn.functional.cosine_similarity(sae.W_dec.double(), direction.double(), dim=1)
        order = np.argsort(-expected.numpy(), kind="stable")
        order = order[expected.numpy()[order] > 0]
        allowed = np.arange(len(expected)) % 2 == 0
        for _ in range(3):  # computed whole, made ready, found ready
            for limit, mask, wanted in ((7, None, order), (3, allowed, order[allowed[order]]), (10**6, None, order)):
                latents, found = nearest(sae, direction, limit, mask)
                assert latents.tolist() == wanted[:limit].tolist()
                assert np.allclose(found, expected.numpy()[latents], atol=1e-6)
        with torch.no_grad():
            sae.W_dec[3] = -5 * direction


def test_a_search_takes_the_sae_and_model_of_the_index_alone(detecting, index):
    lm, sae = detecting
    alone = FeatureIndex.open(index.folder)
    assert alone.search(Query(like=1), lm, sae).hits == index.search(Query(like=1)).hits
    other = copy.deepcopy(sae)
    with torch.no_grad():
        other.W_dec[0] += 1
    with pytest.raises(IndexMismatchError, match="another SAE"):
        alone.search(Query(like=1), lm, other)
    changed = copy.deepcopy(lm)
    with torch.no_grad():
        changed.model.get_input_embeddings().weight.mul_(2)
    with pytest.raises(IndexMismatchError, match="another model"):
        alone.search(Query(prompt=PromptQuery("a")), changed, sae)


def metric(lm, rows, change=None):
    """logit(90) - logit(91) at the last token with ``change`` added at the site."""
    edits = {} if change is None else {Site(1): lambda x, at: x + change}
    with lm.edited(edits):
        logits = lm.forward(lm.pad(rows), keep=1)[:, -1]
    return logits[:, 90] - logits[:, 91]


def test_gradient_attribution_is_the_slope_along_each_latent(llama, sae):
    row = llama.prompt_ids(["hello there"])
    found = attributions(llama, sae, Site(1), ["hello there"], 90, 91)
    x = llama.activations(llama.pad(row), [Site(1)])[Site(1)]
    codes = sae.encode(x[0, 1:]).to_dense()
    for latent in np.argsort(-np.abs(found))[:4].tolist():
        change = torch.zeros_like(x)
        change[0, 1:] = 1e-2 * codes[:, latent, None] * sae.W_dec[latent]
        slope = (metric(llama, row, change) - metric(llama, row, -change)) / 2e-2
        assert found[latent] == pytest.approx(slope.item(), rel=2e-2)
    assert set(np.flatnonzero(found)) <= set(codes.sum(0).nonzero().flatten().tolist())
    assert count_hooks(llama) == 0


def test_integrated_gradients_add_up_to_what_the_latents_do(llama, sae):
    row = llama.prompt_ids(["hello there"])
    x = llama.activations(llama.pad(row), [Site(1)])[Site(1)]
    written = sae.encode(x).to_dense() @ sae.W_dec
    written[:, 0] = 0
    difference = (metric(llama, row) - metric(llama, row, -written)).item()
    sums = [attributions(llama, sae, Site(1), ["hello there"], 90, 91, steps).sum() for steps in (2, 64)]
    assert sums[1] == pytest.approx(difference, rel=0.01)
    assert abs(sums[1] - difference) < abs(sums[0] - difference)


@pytest.mark.parametrize("steps", [None, 3])
def test_attribution_is_the_mean_over_prompts_whatever_the_batch(llama, sae, steps):
    prompts = ["hello", "a longer prompt than the other", "x"]
    alone = [attributions(llama, sae, Site(1), [prompt], 90, 91, steps) for prompt in prompts]
    assert np.allclose(attributions(llama, sae, Site(1), prompts, 90, 91, steps), np.mean(alone, axis=0), atol=1e-4)


def test_attribution_that_cannot_be_is_refused(llama, sae):
    for arguments, match in (
        (([], 90, 91), "at least one prompt"),
        ((["a"], 90, 90), "two tokens that differ"),
        ((["a"], 90, 91, 0), "steps"),
        ((["a"], 90, 91, 10**11), "steps must be at most 10,000"),
    ):
        with pytest.raises(DataError, match=match):
            attributions(llama, sae, Site(1), *arguments)
    with pytest.raises(SiteError, match="out of range"):
        attributions(llama, sae, Site(9), ["a"], 90, 91)
    assert count_hooks(llama) == 0


def test_rankings_are_fused_by_reciprocal_ranks():
    def ranking(kind, latents):
        scores = np.linspace(1, 0.5, len(latents))
        return Ranking(kind, np.array(latents), scores, "score", lambda place: f"{kind} {latents[place]}", 10)

    hits = fused([ranking("words", [3, 1, 2]), ranking("like", [2, 4])], {"like": 2.0}, limit=3, k=60)
    assert [hit.latent for hit in hits] == [2, 4, 3]
    assert hits[0].score == pytest.approx(1 / 63 + 2 / 61)
    assert [(one.kind, one.rank, one.of, one.text) for one in hits[0].reasons] == [
        ("words", 3, 10, "words 2"),
        ("like", 1, 10, "like 2"),
    ]
    assert sum(one.share for one in hits[0].reasons) == pytest.approx(hits[0].score)
    tied = fused([ranking("words", [9, 5]), ranking("like", [5, 9])], {}, limit=2)
    assert [hit.latent for hit in tied] == [5, 9]


def test_the_best_are_chosen_whatever_ties_there_are():
    scores = np.array([0.0, 2.0, 1.0, 1.0, np.nan, -1.0, 1.0, np.inf])
    assert best_first(scores, None, 3).tolist() == [1, 2, 3]
    assert best_first(scores, np.arange(8) != 2, 10).tolist() == [1, 3, 6]


def test_rarity_goes_from_everywhere_to_one_in_a_million():
    assert np.allclose(rarity(np.array([1.0, 0.1, 1e-3, 1e-6, 0.0, np.nan])), [0, 1 / 6, 0.5, 1, 1, 0])


def test_filters_are_conditions_on_columns():
    columns = {"density": np.array([0.1, 0.01, np.nan, 1e-4]), "max": np.arange(4.0)}

    def passing(*filters):
        return np.flatnonzero(allowed(filters, columns, lambda: np.array([1, 2]), 4)).tolist()

    assert passing("density<0.05") == [1, 3]
    assert passing("density >= 1e-2", "max!=0") == [1]
    assert passing("1e-3<density<=0.1") == [0, 1]
    assert passing("label") == [1, 2]
    assert passing("no-label", "max=3") == [3]
    assert allowed((), columns, lambda: np.array([]), 4) is None
    with pytest.raises(DataError, match=r"no column 'densty'. Did you mean density\?"):
        passing("densty<1")
    with pytest.raises(DataError, match="Cannot read the filter"):
        parse_filter("density<<1")


def test_filters_hold_for_every_part_of_a_mixture(detecting, index):
    asked = Query(words="refusal bread", prompt=PromptQuery("hello"), like=3, by="steerability",
                  filters=["steerability<0.3"], limit=300)  # fmt: skip
    found = index.search(asked)
    assert found.hits
    assert all(index.columns["steerability"][hit.latent] < 0.3 for hit in found.hits)
    kinds = {reason.kind for hit in found.hits for reason in hit.reasons}
    assert kinds == {"words", "prompt", "like", "by"} or kinds == {"words", "like", "by"}
    words = index.search(Query(words="refusal"))
    assert words.hits[0].latent == 7
    assert "'refusal of requests'" in words.hits[0].reasons[0].text
    assert [hit.latent for hit in index.search(Query(by="-steerability", filters=["label"])).hits] == [7, 9]
    nothing = index.search(Query(words="refusal", filters=["density>0.5"]))
    assert nothing.hits == ()
    assert "no latent passes" in nothing.notes[0]


def test_weights_decide_between_parts(index):
    few = {"words": "refusal", "like": 3, "limit": 1}
    assert index.search(Query(**few, weights={"words": 5.0})).hits[0].latent == 7
    assert index.search(Query(**few, weights={"words": 0.0})).hits[0].latent != 7


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({}, "Nothing is asked for"),
        ({"words": "a", "limit": 0}, "limit"),
        ({"words": "a", "weights": {"word": 1.0}}, "Did you mean words"),
        ({"words": "a", "weights": {"words": -1.0}}, "negative"),
        ({"words": "a", "k": -1.0}, "negative"),
    ],
)
def test_queries_that_cannot_be_are_refused(given, match):
    with pytest.raises(DataError, match=match):
        Query(**given)


def test_what_a_search_lacks_is_named(index):
    alone = FeatureIndex.open(index.folder)
    for query, match in (
        (Query(prompt=PromptQuery("a")), "needs the (model|SAE)"),
        (Query(like=1), "needs the SAE"),
        (Query(meaning="a"), "needs an embedder"),
        (Query(words=" "), "needs one"),
        (Query(by="nothing"), "no column"),
    ):
        with pytest.raises(DataError, match=match):
            alone.search(query)
    with pytest.raises(DataError, match="the SAE 96"):
        search(alone, Query(words="a"), sae=random_sae())


def test_attribution_in_a_mixture(detecting, index):
    lm, sae = detecting
    found = index.search(Query(attribution=AttributionQuery(["hello"], "yes", "no", 4), limit=5))
    scores = attributions(lm, sae, SITE, ["hello"], tokens_of(lm, "y")[0], tokens_of(lm, "n")[0], 4)
    assert found.hits[0].latent == int(scores.argmax())
    assert found.hits[0].reasons[0].score == pytest.approx(scores.max())
    assert dict(found.about)["attribution"]["method"] == "integrated gradients"


def test_labels_are_found_by_meaning(index, tmp_path):
    words = ["[PAD]", "[UNK]", "refusal", "of", "requests", "baking", "bread", "loaf"]
    tokenizer = Tokenizer(WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(tmp_path)
    size = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=len(words), **size)).eval().save_pretrained(tmp_path)
    embed = load_embedder(tmp_path)
    vectors = embed(["bread", "baking bread loaf of requests"])
    assert np.allclose(vectors[0], embed(["bread"])[0], atol=1e-5)  # padding does not count
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1)
    with torch.no_grad():
        states = embed.model(input_ids=torch.tensor([[5, 6]])).last_hidden_state[0].mean(0)
    assert np.allclose(embed(["baking bread"])[0], torch.nn.functional.normalize(states, dim=0).numpy(), atol=1e-5)
    found = index.search(Query(meaning="baking bread"), embedder=embed)
    assert found.hits[0].latent == 9
    assert found.hits[0].reasons[0].score == pytest.approx(1, abs=1e-5)
    check_vectors_are_kept(index, embed, load_embedder(tmp_path))
    with pytest.raises(ModelError, match="no folder"):
        load_embedder(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_embedder(tmp_path / "empty")


def check_vectors_are_kept(index, embed, again):
    """Labels are read once by an embedder; another one, a new label and a damaged file are noticed."""
    (path,) = (index.folder / FOLDER).iterdir()
    assert path.name == f"{embed.digest}.safetensors"
    assert again.digest == embed.digest  # though the first has been called
    texts = ["baking bread", "refusal of requests"]
    kept = label_vectors(again, texts, index.folder)
    assert kept.computed == 0
    assert np.allclose(kept.vectors, again(texts), atol=1e-6)
    more = label_vectors(again, ["a loaf", *texts, "a loaf"], index.folder)
    assert more.computed == 1
    assert np.allclose(more.vectors, again(["a loaf", *texts, "a loaf"]), atol=1e-6)
    assert label_vectors(again, texts[::-1], index.folder).vectors.tolist() == kept.vectors[::-1].tolist()
    whole = path.read_bytes()
    for damaged in (whole[:100], whole[:-8], b""):
        path.write_bytes(damaged)
        mended = label_vectors(again, texts, index.folder)
        assert mended.computed == 2
        assert np.allclose(mended.vectors, kept.vectors, atol=1e-6)
    with claimed(index.folder / FOLDER):
        path.unlink()
        assert "not kept" in label_vectors(again, texts, index.folder).note
    with torch.no_grad():
        next(again.model.parameters()).add_(1.0)
    assert again.digest != embed.digest
    assert label_vectors(again, texts, index.folder).computed == 2


def test_prompts_and_conversations_from_files(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\n two \n", encoding="utf-8")
    assert read_prompts(tmp_path / "a.txt") == ["one", "two"]
    (tmp_path / "a.txt").write_text("one\ntwo", encoding="utf-8-sig")  # as editors on Windows write it
    assert read_prompts(tmp_path / "a.txt") == ["one", "two"]
    rows = [{"messages": CHAT}, {"prompt": "p"}, {"text": "t"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert read_prompts(tmp_path / "a.jsonl") == [CHAT, "p", "t"]
    (tmp_path / "c.json").write_text(json.dumps({"messages": CHAT}), encoding="utf-8")
    assert read_conversation(tmp_path / "c.json") == CHAT
    (tmp_path / "empty.txt").write_text("\n", encoding="utf-8")
    (tmp_path / "odd.jsonl").write_text('{"question": 1}\n', encoding="utf-8")
    (tmp_path / "latin.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "odd.json").write_text('{"a": 1}', encoding="utf-8")
    for name, match in (("empty.txt", "holds no prompt"), ("odd.jsonl", "line 1: expected"), ("latin.txt", "UTF-8"),
                        ("absent.txt", "cannot be read")):  # fmt: skip
        with pytest.raises(DataError, match=match):
            read_prompts(tmp_path / name)
    for name in ("odd.json", "absent.json", "a.txt"):
        with pytest.raises(DataError, match=name):
            read_conversation(tmp_path / name)


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ('{"prompt": ""}', "the prompt is empty"),
        ('{"text": " "}', "the text is empty"),
        ('{"messages": []}', "at least one message"),
        ('{"messages": [{"role": "tool", "content": "x"}]}', "needs a role"),
        ('{"messages": 5}', "must be a text or a list"),
        ("{", "not JSON"),
    ],
)
def test_a_malformed_prompt_is_named_by_its_file_and_line(tmp_path, row, match):
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "p"}\n\n' + row + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=rf"a\.jsonl, line 3: .*{match}"):
        read_prompts(path)
    (tmp_path / "c.json").write_text('[{"role": "tool", "content": "x"}]', encoding="utf-8")
    with pytest.raises(DataError, match=r"c\.json: .*needs a role"):
        read_conversation(tmp_path / "c.json")


def test_what_may_have_no_end_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    for path in ("/dev/zero", tmp_path / "pipe.jsonl"):
        for read in (read_prompts, read_conversation, read_direction):
            with pytest.raises(DataError, match="a device or a pipe"):
                read(path)
    for read in (read_prompts, read_conversation, read_direction):
        with pytest.raises(DataError, match="cannot be read"):
            read("a\0b")
