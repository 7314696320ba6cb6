"""Commands of ``steer explore`` as functions: what they show is what model, SAE and plan compute."""

import copy
import json
from io import StringIO

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file

import steer
from steer.errors import DataError, PlanError, SiteError
from steer.explore.bench import Bench
from steer.explore.clamps import parse
from steer.explore.control import control_latents
from steer.explore.divergence import divergence, kl
from steer.explore.firing import fires
from steer.explore.loop import replay
from steer.explore.replies import prompt_ids
from steer.explore.state import State
from steer.index.read import FeatureIndex
from steer.index.synthetic import synthetic_index
from steer.models.decode import Sampling
from steer.models.roles import token_roles
from steer.models.site import Site
from steer.search.meaning import Embedder
from steer.search.query import (
    PARTS_OF_A_QUERY,
    AttributionQuery,
    ContrastQuery,
    MeansQuery,
    PromptQuery,
    Query,
)
from steer.steering.latents import LatentEdit
from steer.steering.steered import steered
from tests.conftest import count_hooks, random_sae
from tests.steer.explore_data import Typed

PROMPT = "how are you?"
SHORT = "/set max_new_tokens=6"


@pytest.fixture
def bench(llama, sae):
    made = Bench(llama, sae, "tiny/sae")
    yield made
    assert count_hooks(llama) == 0


@pytest.fixture
def typed(bench):
    return Typed(bench)


@pytest.fixture
def index(llama, sae, tmp_path):
    folder = synthetic_index(tmp_path / "index", 96, 6, 16, tokens=4096, sae=sae, lm=llama)
    return FeatureIndex.open(folder, sae, llama)


def conversation(text, system=None):
    said = [{"role": "user", "content": text}]
    return said if system is None else [{"role": "system", "content": system}, *said]


def test_a_prompt_shows_what_the_sae_encodes(typed, llama, sae):
    typed("/system be kind", PROMPT)
    ids = llama.prompt_ids([conversation(PROMPT, "be kind")])[0]
    x = llama.activations(llama.pad([ids]), [Site.parse("1.resid_post")])[Site.parse("1.resid_post")][0]
    dense = sae.encode(x).to_dense()
    dense[0] = 0  # the first token is unlike all others
    share = dense * sae.W_dec.norm(dim=-1) / x.norm(dim=-1, keepdim=True)
    strip, table = typed.strips[0], typed.tables[0]
    assert "".join(strip.tokens) == llama.tokenizer.decode(ids)
    strongest = [
        ", ".join(f"{one} {dense[t, one]:.3g}" for one in share[t].topk(3).indices.tolist()) for t in range(1, len(ids))
    ]
    assert list(strip.notes) == ["", *strongest]
    assert strip.spelled
    # the table is of what is said: the template fires the same latents in every prompt
    said = np.array([bool(roles) for roles in token_roles(llama.tokenizer, ids.conversation, ids.text, True)])
    assert 0 < said.sum() < len(ids)
    dense[~said] = share[~said] = 0
    best = share.amax(0).argsort(descending=True)[:10].tolist()
    assert [int(row[0]) for row in table.rows] == best
    for row in table.rows:
        own = dense[:, int(row[0])]
        place = int(share[:, int(row[0])].argmax())
        assert row[1:4] == [f"{own[place]:.3g}", f"{share[place, int(row[0])]:.0%}", str(place)]
        assert row[5] == str(int((own > 0).sum()))
    assert typed.state.prompt == PROMPT


def test_with_an_index_latents_are_compared_by_the_share_of_their_largest_activation(llama, sae, index):
    typed = Typed(Bench(llama, sae, "tiny/sae", index=index))
    typed(PROMPT)
    firing = fires(typed.bench, prompt_ids(typed.bench, typed.state, PROMPT))
    tops = index.columns["max"][firing.fired.latents]
    np.testing.assert_allclose(firing.shares, firing.fired.values / tops, rtol=1e-6)
    table = typed.tables[0]
    assert table.columns == ["latent", "activation", "of max", "at", "token", "tokens", "density", "label"]
    assert [row[-1] for row in table.rows] == [index.labels(int(row[0]))[0].text for row in table.rows]


def test_ask_gives_the_reply_of_the_plan_and_undo_that_of_the_model(typed, llama, sae):
    sampling = Sampling(6, temperature=0.8, seed=5)
    typed("/set max_new_tokens=6 temperature=0.8 seed=5", "/clamp 3=9 7=scale:0.5", f"/ask {PROMPT}")
    ids = llama.prompt_ids([PROMPT])
    with steered(llama, LatentEdit(sae, {3: 9.0}), LatentEdit(sae, {7: 0.5}, operation="scale")):
        expected = llama.generate_ids(ids, sampling)
    assert typed.replies == expected
    assert [one.who for one in typed.said] == ["steered"]
    typed("/unclamp", "/ask")
    assert typed.replies == llama.generate_ids(ids, sampling)
    assert typed.said[0].who == "unsteered"
    typed("/undo", "/ask")
    assert typed.replies == expected


def test_more_goes_on_with_what_was_asked(typed, llama, sae):
    typed(SHORT, "/system be kind", "/clamp 3=9", f"/ask {PROMPT}", "something else", "/more and you?")
    reply = typed.session.steps[-3].replies[0]
    turns = [
        *conversation(PROMPT, "be kind"),
        {"role": "assistant", "content": llama.tokenizer.decode(reply, skip_special_tokens=True).strip()},
        {"role": "user", "content": "and you?"},
    ]
    with steered(llama, LatentEdit(sae, {3: 9.0})):
        assert typed.replies == llama.generate_ids(llama.prompt_ids([turns]), Sampling(6))
    assert typed.state.prompt == "something else"
    after = typed.state.said
    assert [message["role"] for message in after] == ["user", "assistant"] * 2
    typed("/unclamp", "/more and now?")
    assert len(typed.state.said) == 6
    typed("/undo", "/undo")
    assert typed.state.said == after
    typed("/ask")  # begins anew
    assert len(typed.state.said) == 2
    typed("/undo")
    assert typed.state.said == after
    typed("/undo")
    assert typed.state.said == after[:2]
    with pytest.raises(DataError, match="needs what is said next"):
        typed("/more")
    with pytest.raises(DataError, match="Nothing was asked"):
        Typed(typed.bench)("/more hi")


def test_a_reply_is_told_of_as_it_grows(typed, llama):
    grown = []
    typed.bench.watch = grown.append
    typed(SHORT, f"/ask {PROMPT}")
    whole = typed.replies[0]
    expected = [llama.tokenizer.decode(whole[:n], skip_special_tokens=True).strip() for n in range(1, len(whole))]
    assert grown == expected


def test_diff_in_float64(typed, llama, sae):
    """Against the model itself with ``x + (9 - a) W_dec[3]`` written out, and sums over the vocabulary."""
    typed(SHORT, "/clamp 3=9", f"/diff {PROMPT}")
    plain, reply = typed.replies
    ids = llama.prompt_ids([PROMPT])[0]
    assert plain == llama.generate_ids([ids], Sampling(6))[0]
    tokens, norms, changes = llama.pad([[*ids, *reply]]), [], []

    def clamp(x, at):
        change = (9 - sae.encode(x).to_dense()[..., 3:4]) * sae.W_dec[3]
        change[:, 0] = 0
        norms.append(change.norm(dim=-1)[0])
        changes.append((change.norm(dim=-1) / x.norm(dim=-1))[0])
        return x + change

    with llama.edited({"1.resid_post": clamp}):
        ours = llama.forward(tokens)[0, len(ids) - 1 : -1].double().log_softmax(-1)
    theirs = llama.forward(tokens)[0, len(ids) - 1 : -1].double().log_softmax(-1)
    control, matched = control_latents([3], 0, typed.bench)
    assert not matched
    assert len(set(control) - {3}) == 5
    apart = divergence(llama, typed.bench.bind(typed.state.plan), ids, reply, sae.W_dec[control])
    torch.testing.assert_close(apart.kl, (ours.exp() * (ours - theirs)).sum(-1), rtol=1e-4, atol=1e-6)
    picked = torch.tensor(reply).unsqueeze(-1)
    torch.testing.assert_close(apart.logprob, ours.gather(-1, picked)[:, 0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(apart.logprob_unsteered, theirs.gather(-1, picked)[:, 0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(apart.change, changes[0], rtol=1e-4, atol=1e-6)
    for row, latent in enumerate(control):
        unit = sae.W_dec[latent] / sae.W_dec[latent].norm()
        with llama.edited({"1.resid_post": lambda x, at, unit=unit: x + norms[0].unsqueeze(-1) * unit}):
            other = llama.forward(tokens)[0, len(ids) - 1 : -1].double().log_softmax(-1)
        torch.testing.assert_close(apart.control[row], (other.exp() * (other - theirs)).sum(-1), rtol=1e-4, atol=1e-6)
    means = apart.control.mean(-1)
    told = f"Control: KL mean {means.median():.4f} ({means.min():.4f} to {means.max():.4f})"
    assert any(line.startswith(told) for line in typed.lines)
    table = typed.tables[0]
    assert [row[2] for row in table.rows] == [f"{one:.4f}" for one in apart.kl]
    acted = f"on {len(ids) - 1} of {len(ids)} tokens of the prompt"
    assert acted in typed.lines[-1]
    assert f"on {len(reply)} of {len(reply)} tokens of the reply" in typed.lines[-1]


def test_what_changes_nothing_diverges_by_nothing(typed):
    typed(SHORT, "/clamp 3=scale:1", f"/diff {PROMPT}")
    assert typed.replies[0] == typed.replies[1]
    assert {row[2] for row in typed.tables[0].rows} == {"0.0000"}
    assert any("Control: KL mean 0.0000 (0.0000 to 0.0000)" in line for line in typed.lines)
    assert "on 0 of" in typed.lines[-1]


def test_controls_fire_about_as_often_and_are_not_edited(llama, sae, index, monkeypatch):
    bench = Bench(llama, sae, "tiny/sae", index=index)
    density = np.linspace(0.001, 0.1, 96)
    density[[50, 52]] = 0
    index.add_column("density", density, {})
    monkeypatch.setattr("steer.explore.control.NEAR", 6)
    for seed in range(4):
        control, matched = control_latents([49, 51, 95], seed, bench)
        assert matched
        assert len(control) == 5
        assert set(control) <= {46, 47, 48, 53, 54, 55, 56}  # 51 is the median; 50 and 52 never fire
        assert control_latents([49, 51, 95], seed, bench)[0] == control


def test_kl_of_distributions_that_rule_tokens_out():
    p, q = torch.tensor([0.5, 0.5, 0.0, 0.0]).double(), torch.tensor([0.25, 0.25, 0.5, 0.0]).double()
    assert kl(p.log(), q.log()).item() == pytest.approx(np.log(2))
    assert kl(q.log(), p.log()).item() == np.inf
    assert kl(p.log(), p.log()).item() == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("262=10", (262, "set", 10.0, "raw")),
        ("15=scale:0.5", (15, "scale", 0.5, "raw")),
        ("15=ablate", (15, "ablate", 0.0, "raw")),
        ("3=-1.5e-2", (3, "set", -0.015, "raw")),
        ("3=2max", (3, "set", 2.0, "max_activation")),
        ("3=add:0.3norm", (3, "add", 0.3, "residual_norm")),
    ],
)
def test_edits_as_they_are_typed(text, expected):
    typed = parse(text)
    assert (typed.latent, typed.operation, typed.value, typed.unit) == expected


@pytest.mark.parametrize(
    "text",
    [
        "3",
        "3=",
        "=4",
        "3=x",
        "3=1_0",
        "-3=1",
        "3=nope:1",
        "3=1fish",
        "3=set:",
        "٣=1",
        "3=1:2",
        "3=nan",
        "3=-inf",
        "3=1e999",
        "3=add:1e999max",
    ],
)
def test_what_is_no_edit_is_refused(text):
    with pytest.raises(DataError, match=r"Expected LATENT=VALUE.*finite|Expected LATENT=VALUE|no operation|the unit"):
        parse(text)


def test_clamps_are_edits_of_a_plan(typed):
    typed("/clamp 3=9 4=2", "/clamp 3=scale:2 5=ablate")
    edits = {edit.operation: dict(edit.values) for edit in typed.state.plan.edits}
    assert edits == {"set": {4: 2.0}, "scale": {3: 2.0}, "ablate": {5: 0.0}}
    typed("/unclamp 4 5")
    assert [dict(edit.values) for edit in typed.state.plan.edits] == [{3: 2.0}]
    typed("/clamp 3=0.2norm")
    assert [(edit.unit, dict(edit.values)) for edit in typed.state.plan.edits] == [("residual_norm", {3: 0.2})]
    assert typed.state.plan.bind(typed.bench.lm, saes={"sae": typed.bench.sae}).interventions


def test_multiples_of_the_largest_activation(llama, sae, index):
    typed = Typed(Bench(llama, sae, "tiny/sae", index=index))
    latent = int(np.argmax(index.columns["max"]))
    typed(f"/clamp {latent}=0.5max")
    (edit,) = typed.state.plan.edits
    assert edit.maxima == {latent: pytest.approx(float(index.columns["max"][latent]))}
    with pytest.raises(DataError, match="need an index"):
        Typed(Bench(llama, sae, "tiny/sae"))("/clamp 3=1max")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/clamp", "needs at least one edit"),
        ("/clamp 96=1", "valid range is 0 to 95"),
        ("/clamp 3=1 3=2", "given twice"),
        ("/clamp 3=1e400", "plan|finite|values"),
        ("/unclamp", "Nothing is done"),
        ("/unclamp 3", "is not edited"),
        ("/ask", "no prompt yet"),
        ("/diff x", "Nothing steers"),
        ("/show", "one latent"),
        ("/show x", "whole number"),
        ("/search", "Nothing is asked"),
        ("/search refusal", "start with --index"),
        ("/search like=3 like=4", "given twice"),
        ("/search nope=3", "nothing that can be given"),
        ("/search where=density<1", "give words, or one of meaning=, promotes=,"),
        ("/search meaning=saying", "start with --index"),
        ("/search like=3 part=last", "part is of prompt or contrast"),
        ("/search attribute=a", "two with a comma between"),
        ("/search attribute=a,b", "no prompt yet"),
        ("/search means=a.txt,a.txt", "a.txt twice"),
        ("/search means=a.txt,b.txt", "a.txt cannot be read"),
        ("/search like=3 steps=4", "steps is of attribute"),
        ("/search like=3 weight=like", "weight needs a part"),
        ("/search like=3 weight=nope=2", "No part of a query"),
        ("/contrast a.txt", "two files"),
        ("/contrast a.txt b.txt", "a.txt cannot be read"),
        ("/plan no.toml", "no.toml cannot be read"),
        ("/plan no.txt", "ends in .json or .toml"),
        ("/load no.json", "no.json cannot be read"),
        ("/load ~nobody-of-this-name/a.json", "nobody's home"),
        ("/save ~nobody-of-this-name/a.json", "nobody's home"),
        ("/plan ~nobody-of-this-name/a.toml", "nobody's home"),
        ("/load /dev/zero", "device or a pipe"),  # which has no end
        ("/set nope=1", "No setting"),
        ("/set seed=1.5", "seed needs a whole number"),
        ("/set temperature=-1", "not be negative"),
        ("/set max_new_tokens=0", "max_new_tokens"),
        ("/set top=0", "top must be"),
        ("/set seed", "seed needs a whole number"),
        ('/show "3', "closing quotation"),
        ("/nope", "No command"),
        ("/undo", "nothing to undo"),
        ("/undo 3", "takes nothing behind it"),
        ("/quit now", "takes nothing behind it"),
        ("/redo", "nothing to do again"),
        ("/save x.txt", "ends in .json"),
        ("\udcff", "not valid Unicode"),
        ("x" * 200, "context is 128"),
    ],
)
def test_a_command_that_cannot_be_done_changes_nothing(typed, line, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = typed.session
    with pytest.raises((DataError, PlanError), match=message):
        typed(line)
    assert typed.session is before
    assert list(tmp_path.iterdir()) == []


def test_undo_and_redo_walk_through_the_changes(typed):
    typed("/clamp 3=9", "/show 3", "/system be kind", "/set seed=4")
    states = [typed.state]
    for undone in ("/set seed=4", "/system be kind", "/clamp 3=9"):
        typed("/undo")
        assert typed.lines[0] == f"Undone: {undone}"
        states.append(typed.state)
    assert typed.state == Typed(typed.bench).state
    for expected in (states[2], states[1], states[0]):
        typed("/redo")
        assert typed.state == expected
    typed("/undo", "/clamp 4=1")
    with pytest.raises(DataError, match="nothing to do again"):
        typed("/redo")


def test_settings_are_typed_as_they_are_shown(typed):
    typed('/set stop="the end" temperature=0.5 use_cache=false top=3')
    assert typed.state.sampling == Sampling(temperature=0.5, use_cache=False, stop=("the end",))
    shown = typed.lines[0]
    typed("/set stop= temperature=0", f"/set {shown}")
    assert typed.state.sampling == Sampling(temperature=0.5, use_cache=False, stop=("the end",))
    assert typed.state.top == 3


def test_a_plan_from_a_file_with_vectors(typed, llama, tmp_path):
    direction = torch.randn(32, generator=torch.Generator().manual_seed(1))
    plan = steer.plan_of(llama, [steer.AddDirection("1.resid_post", direction, 30.0)], sampling=Sampling(6, seed=2))
    steer.write_plan(plan, tmp_path / "plan.toml")
    typed(f"/plan {tmp_path / 'plan.toml'}", f"/ask {PROMPT}")
    with steered(llama, steer.AddDirection("1.resid_post", direction, 30.0)):
        assert typed.replies == llama.generate_ids(llama.prompt_ids([PROMPT]), Sampling(6))
    assert typed.state.sampling.seed == 2
    assert len(typed.session.steps[0].files) == 2
    typed("/clamp 3=4", f"/save {tmp_path / 'both.toml'}")
    again = steer.read_plan(tmp_path / "both.toml")
    assert again.edits == typed.state.plan.edits
    assert again.sampling.sampling() == typed.state.sampling


def test_a_plan_that_sets_a_latent_and_a_clamp_of_it(typed, sae, tmp_path):
    """One latent has one value: a window of the plan's own is not overwritten by what is typed."""
    edits = [{"kind": "latents", "sae": "mine", "values": {3: 4.0}, "window": {"phase": "generated"}}]
    spec = {"source": "tiny/sae", "site": "1.resid_post", "digest": typed.bench.sae_digest}
    steer.write_plan(steer.SteeringPlan(saes={"mine": spec}, edits=edits), tmp_path / "plan.json")
    typed(f"/plan {tmp_path / 'plan.json'}", "/clamp 4=1")
    assert [edit.sae for edit in typed.state.plan.edits] == ["mine", "mine"]
    with pytest.raises(PlanError, match="3"):
        typed("/clamp 3=1")
    typed("/unclamp 3")
    assert [dict(edit.values) for edit in typed.state.plan.edits] == [{4: 1.0}]


def test_show_without_an_index(typed, llama, sae):
    typed(PROMPT, "/show 5")
    _, lens, near = typed.tables
    row = sae.W_dec[5]
    logits = (row * llama.model.model.norm.weight) @ llama.model.get_output_embeddings().weight.T
    assert [float(one[1]) for one in lens.rows] == pytest.approx(logits.topk(10).values.tolist(), abs=1e-3)
    assert [float(one[3]) for one in lens.rows] == pytest.approx((-logits).topk(10).values.neg().tolist(), abs=1e-3)
    cosines = torch.nn.functional.cosine_similarity(sae.W_dec, row[None])
    cosines[5] = -1
    assert [int(one[0]) for one in near.rows] == cosines.topk(5).indices.tolist()
    assert typed.strips[0].title.startswith("On the last prompt")


def test_show_with_an_index(llama, sae, index):
    typed = Typed(Bench(llama, sae, "tiny/sae", index=index))
    latent = int(np.argmax(index.columns["max"]))
    index.add_note(latent, "looks odd")
    typed(f"/show {latent}")
    card = index.card(latent)
    assert typed.lines[:3] == [
        f"Latent {latent}",
        f"label: {card.labels[0].text} (by synthetic)",
        "note: looks odd",
    ]
    assert len(typed.strips) == min(5, len(card.windows))
    peak = typed.strips[0].strengths.index(max(typed.strips[0].strengths))
    assert (
        typed.strips[0].tokens[peak]
        == typed.bench.renderer.pieces(card.windows[0].token_ids.tolist())[card.windows[0].peak]
    )
    assert ["max", f"{card.columns['max']:.4g}"] in typed.tables[0].rows
    assert any("activations from" in line for line in typed.lines)


def test_search_without_and_with_an_index(typed, llama, sae, index):
    typed("/search like=5 limit=3")
    cosines = torch.nn.functional.cosine_similarity(sae.W_dec, sae.W_dec[5][None])
    cosines[5] = -1
    assert [int(row[0]) for row in typed.tables[0].rows] == cosines.topk(3).indices.tolist()
    typed(PROMPT, "/search prompt= pool=max limit=4")
    assert "fires on" in typed.tables[0].rows[0][-1]
    other = Typed(Bench(llama, sae, "tiny/sae", index=index))
    word = index.labels(7)[0].text.split()[0]
    other(f"/search {word} where=density<1 limit=2")
    hits = index.search(steer.search.query.Query(words=word, filters=("density<1",), limit=2)).hits
    assert [int(row[0]) for row in other.tables[0].rows] == [hit.latent for hit in hits]
    assert other.tables[0].columns == ["latent", "score", "label", "why"]


def test_every_part_of_a_query_can_be_typed(llama, sae, index, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second = [f"zzzzzz qqqqq {i}" for i in range(14)], [f"hello there {i} ok" for i in range(14)]
    (tmp_path / "a.txt").write_text("\n".join(first))
    (tmp_path / "b c.txt").write_text("\n".join(second))
    vector = torch.randn(32, generator=torch.Generator().manual_seed(3))
    save_file({"v": vector}, tmp_path / "v.safetensors")

    embedder = Embedder(llama.model.model, llama.tokenizer)
    typed = Typed(Bench(llama, sae, "tiny/sae", index=index, embedder=embedder))
    word = index.labels(7)[0].text.split()[0]
    config = steer.ContrastConfig(fdr=1.0)
    parts = {
        word: {"words": word},
        f"meaning={word}": {"meaning": word},
        "promotes=#5": {"promotes": 5},
        "suppresses=a": {"suppresses": "a"},
        "prompt=": {"prompt": PromptQuery(conversation(PROMPT), "last", "mean", 3)},
        "'contrast=a.txt,b c.txt' fdr=1": {"contrast": ContrastQuery(first, second, "last", "mean", 3, config)},
        "like=5": {"like": 5},
        "direction=v.safetensors": {"direction": vector},
        "'means=a.txt,b c.txt'": {"means": MeansQuery(first, second)},
        "attribute=a,b on=a.txt steps=2": {"attribution": AttributionQuery(first, "a", "b", 2)},
        "by=density": {"by": "density"},
    }
    typed(PROMPT)
    assert {name for part in parts.values() for name in part} == set(PARTS_OF_A_QUERY)
    for line, part in parts.items():
        counted = " part=last pool=mean reply_tokens=3" if line.startswith(("prompt=", "'contrast=")) else ""
        typed(f"/search {line}{counted} limit=4 where=density<1 weight=words=2")
        query = Query(**part, limit=4, filters=("density<1",), weights={"words": 2.0})
        hits = index.search(query, llama, sae, embedder=embedder).hits
        assert hits
        assert [int(row[0]) for row in typed.tables[0].rows] == [hit.latent for hit in hits]
        assert [row[1] for row in typed.tables[0].rows] == [f"{hit.score:.4f}" for hit in hits]
    typed("/search attribute=a,b limit=4")
    asked = Query(attribution=AttributionQuery([conversation(PROMPT)], "a", "b"), limit=4)
    assert [int(row[0]) for row in typed.tables[0].rows] == [hit.latent for hit in index.search(asked, llama, sae).hits]
    assert replay(typed.session.recipe(typed.bench), typed.bench, Console(file=StringIO()), "r.json") == []


def test_searches_read_the_sae_where_the_session_does(llama, index):
    """``--layer`` names the site of an SAE that does not say it, or says another."""
    saying, silent = (random_sae(site=site) for site in ("1.resid_post", None))
    found = []
    for sae in (random_sae(site="0.resid_post"), saying, silent):
        typed = Typed(Bench(llama, sae, "tiny/sae", Site(0)))
        typed(PROMPT, "/search prompt=", f"/search attribute=a,b prompt='{PROMPT}'")
        found.append(typed.tables[0].rows)
    assert found[0] == found[1] == found[2]
    index.info.provenance["sae"]["site"] = "1.resid_post"
    with pytest.raises(DataError, match=r"read 1\.resid_post, but here they read 0\.resid_post"):
        Bench(llama, saying, "tiny/sae", Site(0), index)


def test_contrast_finds_what_one_set_has(typed, tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(f"zzzzzz qqqqq {i}" for i in range(14)))
    (tmp_path / "b.txt").write_text("\n".join(f"hello there {i} ok" for i in range(14)))
    typed(f"/contrast {tmp_path / 'a.txt'} {tmp_path / 'b.txt'} limit=3")
    assert 1 <= len(typed.tables[0].rows) <= 3
    assert "q " in typed.tables[0].rows[0][-1]
    assert set(typed.session.steps[0].files) == {str(tmp_path / "a.txt"), str(tmp_path / "b.txt")}
    with pytest.raises(DataError, match="twice"):
        typed(f"/contrast {tmp_path / 'a.txt'} {tmp_path / 'a.txt'}")


def test_an_sae_that_does_not_fit_is_refused(llama):
    with pytest.raises(PlanError, match="width 16"):
        Bench(llama, random_sae(d_in=16), "x")
    with pytest.raises(SiteError, match="Layer 7"):
        Bench(llama, random_sae(site="7.resid_post"), "x")


def test_help_names_every_command_and_how_it_is_typed(typed):
    typed("/help")
    names = [row[0] for row in typed.tables[0].rows]
    assert {"/prompt", "/ask", "/clamp", "/diff", "/undo", "/save", "/quit"} <= set(names)
    for name in names:
        typed(f"/help {name}")
        assert typed.lines[0].startswith(name)
    assert typed.session.steps == ()


def test_a_prompt_that_begins_with_a_slash(typed):
    typed("//etc is a folder")
    assert typed.state.prompt == "/etc is a folder"


def test_the_state_is_shown(typed):
    typed("/clamp 3=9", "/system be kind", "hi", "/state")
    rows = [tuple(row) for row in typed.tables[0].rows]
    assert ("steering", "set: 3 = 9 (sae)") in rows
    assert ("system", "be kind") in rows
    assert ("prompt", "hi") in rows


def test_the_embedded_model_is_steered(embedded):
    bench = Bench(embedded, random_sae(d_in=embedded.d_model, d_sae=300, k=8), "some/sae")
    typed = Typed(bench)
    typed(SHORT, "/clamp 262=60", "/diff How do I bake bread?")
    assert typed.replies[0] != typed.replies[1]
    assert "".join(typed.strips[0].tokens) == embedded.tokenizer.decode(typed.replies[1])
    assert all(float(row[2]) >= 0 for row in typed.tables[0].rows)


def test_the_plan_of_a_session_is_what_json_keeps(typed):
    typed("/clamp 3=9")
    data = json.loads(json.dumps(typed.state.plan.data()))
    assert steer.SteeringPlan(**data) == typed.state.plan
    assert State() == copy.deepcopy(State())
