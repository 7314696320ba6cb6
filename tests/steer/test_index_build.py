"""``build_index``: every figure against the long way, the same bytes after a kill and whatever the blocks."""

import hashlib
import os
import shutil
import signal
import sqlite3
from contextlib import closing, nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch

import steer.index.tables as tables_module
from saes import SAE
from steer.activations.policy import TokenPolicy
from steer.activations.sources.opened import open_source
from steer.errors import DataError, OutputError, PlanError
from steer.forks import can_fork
from steer.index.build import build_index
from steer.index.examples import mixed
from steer.index.neighbours import sampled
from steer.index.read import FeatureIndex
from steer.models.lens import Lens
from steer.models.site import Site
from tests.conftest import D_MODEL, random_sae
from tests.steer.index_data import SMALL, truth, write_text


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("text") / "a.jsonl")


@pytest.fixture(scope="module")
def built(tiny, text, tmp_path_factory):
    """An index of the tiny Llama, the SAE, and what it must say."""
    lm, sae = tiny("llama"), random_sae()
    index = build_index(lm, sae, open_source(text), tmp_path_factory.mktemp("index") / "a", SMALL)
    return index, truth(lm, sae, text, SMALL.policy), lm, sae


def hashes(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_counts_are_those_of_every_token_looked_at_alone(built):
    index, true, _, _ = built
    fires = true.acts > 0
    assert index.info.tokens == len(true.tokens)
    assert index.info.counted == true.counts.sum()
    assert index.info.documents == true.document[-1] + 1
    assert np.allclose(index.columns["density"], fires.sum(0) / true.counts.sum())
    assert np.allclose(index.columns["max"], true.acts.max(0), rtol=1e-4)
    live = fires.any(0)
    with np.errstate(invalid="ignore"):
        assert np.allclose(index.columns["mean"], true.acts.sum(0) / fires.sum(0), rtol=1e-4, equal_nan=True)
    in_documents = [len(np.unique(true.document[fires[:, latent]])) for latent in range(index.d_sae)]
    assert np.allclose(index.columns["documents"], np.array(in_documents) / index.info.documents)
    for latent in np.flatnonzero(live)[:10].tolist():
        card = index.card(latent)
        for role, name in enumerate(("system", "user", "assistant", "template", "text")):
            here = true.counts & (true.roles == role)
            assert card.by_role[name] == pytest.approx(fires[here, latent].mean())
            assert index.columns[f"density_{name}"][latent] == pytest.approx(fires[here, latent].mean())
        for name, low, high in (("1", 1, 1), ("2-3", 2, 3), ("8-15", 8, 15)):
            here = true.counts & (true.place >= low) & (true.place <= high)
            assert card.by_position[name] == pytest.approx(fires[here, latent].mean())
        values = true.acts[fires[:, latent], latent]
        expected, _ = np.histogram(values, bins=card.edges)
        assert card.histogram.sum() == expected.sum() == len(values)
        assert np.abs(card.histogram.astype(int) - expected).sum() <= 2  # one value on an edge by rounding


def test_windows_hold_the_tokens_and_activations_that_are_there(built):
    index, true, _, _ = built
    for latent in range(index.d_sae):
        card = index.card(latent)
        for window in card.windows:
            here = slice(window.offset, window.offset + len(window.token_ids))
            assert window.token_ids.tolist() == true.tokens[here].tolist()
            assert len(set(true.row[here])) == 1
            assert set(true.document[here]) == {window.document}
            step = card.columns["max"] / 255
            assert np.abs(window.activations - true.acts[here, latent]).max() <= step + 1e-4
            assert ((window.activations > 0) == (true.acts[here, latent] > 0)).all()
            assert window.max == pytest.approx(true.acts[here.start + window.peak, latent], rel=1e-4)
            assert window.max >= window.activations.max() - step


def test_examples_are_the_strongest_documents_then_samples_below(built):
    index, true, _, _ = built
    for latent in range(index.d_sae):
        card = index.card(latent)
        documents = [window.document for window in card.windows]
        assert len(documents) == len(set(documents)) <= 9
        best = {d: true.acts[true.document == d, latent].max() for d in np.unique(true.document)}
        fired = sum(value > 0 for value in best.values())
        assert len(documents) == 0 if not fired else documents
        tops = [window for window in card.windows if window.stratum == 0]
        assert [w.max for w in tops] == sorted((w.max for w in tops), reverse=True)
        for window in card.windows:
            assert window.max == pytest.approx(best[window.document], rel=1e-4)
            if 0 < window.stratum < 5:
                ratio = window.max / card.columns["max"]
                assert 2.0**-window.stratum - 1e-6 <= ratio <= 2.0 ** (1 - window.stratum) + 1e-6
        contents = [tuple(window.token_ids.tolist()) for window in tops]
        assert len(tops) < 4 or len(set(contents)) > 1


def test_the_strongest_is_always_kept_and_few_share_a_token(built):
    index, true, _, _ = built
    for latent in np.flatnonzero(index.columns["density"] > 0).tolist():
        assert index.card(latent).windows[0].max == pytest.approx(true.acts[:, latent].max(), rel=1e-4)


def test_few_of_the_strongest_share_their_token_where_there_are_others(built, text, tmp_path):
    _, _, lm, sae = built
    one = build_index(lm, sae, open_source(text), tmp_path / "one", replace(SMALL, per_peak_token=1))
    for latent in range(one.d_sae):
        tops = [window for window in one.card(latent).windows if window.stratum == 0]
        tokens = [int(window.token_ids[window.peak]) for window in tops]
        assert len(set(tokens)) == one.columns["peak_tokens"][latent]
        if len(set(tokens)) < len(tokens):  # then there was no other token in the pool
            assert len(tokens) == SMALL.sizes(1).top or len(set(tokens)) >= 1


def test_neighbours_are_those_of_dense_products(built):
    index, true, _, sae = built
    fires = (true.acts > 0).astype(np.float64)
    both = fires.T @ fires
    counts = np.maximum(np.diag(both), 1)
    cosine = both / np.sqrt(np.outer(counts, counts))
    rows = torch.nn.functional.normalize(sae.W_dec.double(), dim=-1)
    alike = (rows @ rows.T).numpy()
    for latent in range(index.d_sae):
        card = index.card(latent)
        for found, expected in ((card.coactive, cosine[latent]), (card.similar, alike[latent])):
            values = np.sort(np.delete(expected, latent))[::-1][:32]
            if found is card.coactive:
                values = values[values > 0]
            assert np.allclose([value for _, value in found], values, atol=2e-3)
            assert all(abs(expected[other] - value) < 2e-3 for other, value in found)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "qwen3"])
def test_logits_are_what_the_model_adds_per_unit(tiny, family, text, tmp_path):
    """The lens against the model's own head: the norm is taken at a stream of norm one, where its scale is known."""
    lm, sae = tiny(family), random_sae()
    lens = Lens.of(lm)
    norm = {"gpt2": "transformer.ln_f"}.get(family, "model.norm")
    module = lm.model.get_submodule(norm)
    direction = sae.W_dec[:5].double()
    weight = module.weight.double() + (1 if family == "gemma2" else 0)
    centred = direction - direction.mean(-1, keepdim=True) if family == "gpt2" else direction
    expected = (centred * weight) @ lm.model.get_output_embeddings().weight.double().T
    assert torch.allclose(lens.logits(sae.W_dec[:5]).double(), expected, rtol=1e-3, atol=1e-3 * expected.abs().max())
    ids, values = lens.extremes(sae.W_dec[:5], 20, -1)
    assert torch.allclose(
        values[:, :20].double(), expected.topk(20).values, rtol=1e-3, atol=1e-3 * expected.abs().max()
    )
    assert torch.allclose(
        values[:, 20:].double(), -(-expected).topk(20).values, rtol=1e-3, atol=1e-3 * expected.abs().max()
    )
    assert ids.max() < lm.vocabulary


def test_promoting_and_suppressing_find_the_latents_by_token(built):
    index, _, _, _ = built
    card = index.card(7)
    token, value = card.promoted[0]
    assert (7, value) in index.promoting(token, 96)
    found = index.promoting(token, 96)
    assert [v for _, v in found] == sorted((v for _, v in found), reverse=True)
    token, value = card.suppressed[0]
    assert (7, value) in index.suppressing(token, 96)


def contents(folder):
    """Hash of each file, those under temporary names among them, and what the database says."""
    with closing(sqlite3.connect(folder / "meta.sqlite")) as connection:
        words = list(connection.iterdump())
    return {name: digest for name, digest in hashes(folder).items() if name != "meta.sqlite"} | {"words": words}


def killed(build, at, moment):
    """Build in a fork that kills itself where the ``at``-th file is put in its place: before, with the new file beside
    it under its temporary name, or after; or where the first file is removed at the end. False: it came to its end."""
    child = os.fork()
    if child:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, -signal.SIGKILL)
        return code != 0
    replace, remove, count, code = os.replace, shutil.rmtree, 0, 99

    def replaced(source, target):
        nonlocal count
        count += 1
        if moment == "after":
            replace(source, target)
        if count == at:
            os.kill(os.getpid(), signal.SIGKILL)
        if moment != "after":
            replace(source, target)

    def removed(folder):
        os.unlink(next(folder.glob("chunk-*")))
        os.kill(os.getpid(), signal.SIGKILL)

    try:
        signal.alarm(60)
        os.replace, shutil.rmtree = replaced, removed if moment == "end" else remove
        build()
        code = 0
    finally:
        os._exit(code)


@pytest.mark.skipif(not can_fork(), reason="the build is killed in a fork")
@pytest.mark.usefixtures("one_thread")
def test_a_killed_build_goes_on_and_ends_with_the_same_bytes(built, text, tmp_path):
    """Killed as each kind of file is written: states, chunks, the corpus, arrays, columns, words, ``index.json``."""
    whole, _, lm, sae = built
    expected = contents(whole.folder)
    source, written = open_source(text), len(expected) + len(whole.info.files)

    def building(folder):
        return lambda: build_index(lm, sae, source, folder, SMALL)

    for at, moment in ((1, "after"), (5, "before"), (30, "before")):
        assert killed(building(tmp_path / f"{at}"), at, moment)
        assert not (tmp_path / f"{at}" / "index.json").exists()
        building(tmp_path / f"{at}")()
        assert contents(tmp_path / f"{at}") == expected
    assert killed(building(tmp_path / "end"), 0, "end")
    assert (tmp_path / "end" / "building").exists()
    again = tmp_path / "again"  # again and again, and in the last steps, where words and columns are written
    kills = 0
    while killed(building(again), 21 + kills % 4, ("before", "after")[kills % 2]):
        kills += 1
        assert kills < written
    assert kills >= 4
    building(tmp_path / "end")()
    assert contents(tmp_path / "end") == contents(again) == expected


class Stages:
    """A progress that remembers the titles of stages."""

    def __init__(self):
        self.titles = []

    def stage(self, title, total=None):
        self.titles.append(title)
        return nullcontext()

    def advance(self, count=1, note=""):
        pass

    def note(self, message):
        pass


@pytest.mark.skipif(not can_fork(), reason="the build is killed in a fork")
@pytest.mark.usefixtures("one_thread")
def test_a_killed_replacement_goes_on_with_the_same_command(built, text, tmp_path):
    whole, _, lm, sae = built
    folder, source, stages = tmp_path / "b", open_source(text), Stages()
    build_index(lm, sae, source, folder, replace(SMALL, examples=5))
    assert killed(lambda: build_index(lm, sae, source, folder, SMALL, overwrite=True), 30, "after")
    build_index(lm, sae, source, folder, SMALL, overwrite=True, progress=stages)
    assert stages.titles == ["latents", "words and columns"]  # the text is not read again
    assert contents(folder) == contents(whole.folder)


def test_an_index_is_replaced_although_a_killed_run_left_files_in_it(built, text, tmp_path):
    whole, _, lm, sae = built
    folder = tmp_path / "b"
    shutil.copytree(whole.folder, folder)
    for name in ("latents/.hist.00000000.npy.12", ".meta.sqlite.12", ".meta.sqlite.12-journal", ".user.sqlite.12"):
        (folder / name).write_bytes(b"half")
    build_index(lm, sae, open_source(text), folder, replace(SMALL, examples=5), overwrite=True)
    assert [path.name for path in folder.rglob(".*")] == [".user.sqlite.12"]  # a note may be written at any time


def test_the_result_does_not_depend_on_how_latents_are_cut_into_blocks(built, text, tmp_path):
    index, _, lm, sae = built
    again = build_index(lm, sae, open_source(text), tmp_path / "b", replace(SMALL, chunk_hits=40, chunk_tokens=100))
    for name in ("ex_off", "ex_len", "ex_peak", "ex_max", "ex_stratum", "ex_act", "hist", "pos_count", "coact_v"):
        for latent in range(index.d_sae):
            assert np.array_equal(index.array(name).row(latent), again.array(name).row(latent)), name


def test_tokens_stop_the_reading_and_cut_the_last_row(built, text, tmp_path):
    _, _, lm, sae = built
    index = build_index(lm, sae, open_source(text), tmp_path / "b", replace(SMALL, tokens=333))
    true = truth(lm, sae, text, SMALL.policy, tokens=333)
    assert index.info.tokens == 333 == len(true.tokens)
    assert np.allclose(index.columns["density"], (true.acts > 0).sum(0) / true.counts.sum())


@pytest.mark.parametrize("form", ["packed", "chat"])
def test_other_forms_of_rows_count_alike(built, text, tmp_path, form):
    _, _, lm, sae = built
    policy = TokenPolicy(form=form, context_size=50)
    if form == "chat":
        text = tmp_path / "chat.jsonl"
        lines = write_text(tmp_path / "all.jsonl").read_text().splitlines()
        text.write_text("\n".join(line for line in lines if "messages" in line))
    index = build_index(lm, sae, open_source(text), tmp_path / "b", replace(SMALL, policy=policy))
    true = truth(lm, sae, text, policy)
    assert np.allclose(index.columns["density"], (true.acts > 0).sum(0) / true.counts.sum())
    assert index.info.role_counts == tuple(np.bincount(true.roles[true.counts], minlength=5).tolist())
    begins = lm.tokenizer.bos_token_id
    if form == "packed":
        assert (true.tokens == begins).sum() > (true.place[true.tokens == begins] == 0).sum()  # some in mid-row
    for latent in range(index.d_sae):
        for window in index.card(latent).windows:
            assert int(window.token_ids[window.peak]) != begins
            assert (window.activations[window.token_ids == begins] == 0).all()
            assert len(set(true.document[window.offset : window.offset + len(window.token_ids)])) == 1


def test_tokens_of_high_norm_are_left_out_by_the_rule_that_the_index_states(built, text, tmp_path):
    """A token id whose embedding is blown up is a sink: it reaches no count with the rule, and does without."""
    import copy

    lm = copy.deepcopy(built[2])
    sink = lm.encode(["m"])[0][0]
    with torch.no_grad():
        lm.model.get_input_embeddings().weight[sink] *= 1000
    sae = random_sae()
    policy = replace(SMALL.policy, max_norm_ratio=5.0)
    ruled = build_index(lm, sae, open_source(text), tmp_path / "a", replace(SMALL, policy=policy))
    free = build_index(
        lm, sae, open_source(text), tmp_path / "b", replace(SMALL, policy=replace(policy, max_norm_ratio=None))
    )
    assert ruled.provenance["policy"]["max_norm_ratio"] == 5.0
    assert ruled.provenance["median_norm"] > 0
    assert ruled.info.counted < free.info.counted
    peaks = [[int(w.token_ids[w.peak]) for i in range(96) for w in one.card(i).windows] for one in (ruled, free)]
    assert sink not in peaks[0]
    assert sink in peaks[1]


def test_a_latent_that_never_fires_has_an_empty_card(built, text, tmp_path):
    _, _, lm, _ = built
    sae = random_sae()
    with torch.no_grad():
        sae.b_enc[11] = -1e6
    index = build_index(lm, sae, open_source(text), tmp_path / "b", SMALL)
    card = index.card(11)
    assert not card.fires
    assert card.histogram.sum() == 0
    assert card.columns["density"] == 0
    assert np.isnan(card.columns["mean"])
    assert card.to_json()["columns"]["mean"] is None
    assert card.coactive == ()
    assert card.similar


def test_co_activation_of_much_text_is_counted_on_some_of_the_tokens(built, text, tmp_path):
    _, true, lm, sae = built
    few = build_index(lm, sae, open_source(text), tmp_path / "b", replace(SMALL, pairs=5000))
    told = few.provenance["coactivation"]
    one_in = int(told.split("one token in ")[1].split(",")[0])
    assert one_in > 1
    taken = sampled(np.arange(len(true.acts)), one_in)
    fires = (true.acts[taken] > 0).astype(np.float64)
    both = fires.T @ fires
    for latent in np.flatnonzero(fires.any(0))[:5].tolist():
        for other, value in few.card(latent).coactive:
            assert value == pytest.approx(
                both[latent, other] / np.sqrt(both[latent, latent] * both[other, other]), abs=1e-3
            )


def test_no_place_in_rows_of_one_length_is_favoured_by_the_sample():
    places = np.arange(64 * 2000)
    taken = np.bincount(places[sampled(places, 16)] % 64, minlength=64)
    assert np.abs(taken - 2000 / 16).max() < 5 * np.sqrt(2000 / 16)  # every 16th token would take four places alone


def test_hits_that_are_held_for_the_co_activation_are_limited(built, text, tmp_path, monkeypatch):
    _, true, lm, sae = built
    hits = int((true.acts > 0).sum())
    monkeypatch.setattr(tables_module, "_HELD", hits // 3 - 1)
    few = build_index(lm, sae, open_source(text), tmp_path / "b", SMALL)
    assert "one token in 4," in few.provenance["coactivation"]


def test_relu_and_jumprelu_saes_are_indexed_too(built, text, tmp_path):
    from saes import SAEConfig

    lm = built[2]
    sae = SAE(SAEConfig(D_MODEL, 64, None, activation="relu", model="tiny", site="1.resid_post"), seed=2)
    index = build_index(lm, sae.requires_grad_(False), open_source(text), tmp_path / "b", SMALL)
    true = truth(lm, sae, text, SMALL.policy)
    assert np.allclose(index.columns["density"], (true.acts > 0).sum(0) / true.counts.sum(), atol=2e-3)


def test_bad_input_is_refused_and_leaves_nothing_half_written(built, text, tmp_path):
    _, _, lm, sae = built
    source = open_source(text)
    empty = tmp_path / "empty.jsonl"
    empty.write_text('{"text": "a"}\n' * 0 + "\n")
    with pytest.raises(DataError, match="no token that counts"):
        build_index(lm, sae, open_source(empty), tmp_path / "b", SMALL)
    assert not (tmp_path / "b").exists()
    unreadable = tmp_path / "unreadable.jsonl"
    unreadable.write_text('{"messages": [{"role": "tool", "content": "42"}]}\n')
    with pytest.raises(DataError, match="role"):
        build_index(lm, sae, open_source(unreadable), tmp_path / "b", SMALL)
    assert not (tmp_path / "b").exists()
    (tmp_path / "latin.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="UTF-8"):
        build_index(lm, sae, open_source(tmp_path / "latin.txt"), tmp_path / "b", SMALL)
    too_long = replace(SMALL, policy=replace(SMALL.policy, context_size=10**6))
    with pytest.raises(DataError, match="context"):
        build_index(lm, sae, source, tmp_path / "b", too_long)
    assert not (tmp_path / "b").exists()  # so that the same folder serves what was meant
    with pytest.raises(PlanError, match="width"):
        build_index(lm, random_sae(d_in=16), source, tmp_path / "c", SMALL)
    with pytest.raises(PlanError, match="site"):
        build_index(lm, random_sae(site=None), source, tmp_path / "c", SMALL)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "letter.txt").write_text("dear")
    with pytest.raises(OutputError, match="not empty"):
        build_index(lm, sae, source, tmp_path / "d", SMALL)
    with pytest.raises(OutputError, match=r"letter\.txt"):
        build_index(lm, sae, source, tmp_path / "d", SMALL, overwrite=True)
    assert [path.name for path in (tmp_path / "d").iterdir()] == ["letter.txt"]
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError):
        build_index(lm, sae, source, tmp_path / "file" / "index", SMALL)


def test_a_finished_index_is_opened_one_of_something_else_is_refused_or_replaced(built, text, tmp_path):
    _, _, lm, sae = built
    folder, source = tmp_path / "b", open_source(text)
    first = build_index(lm, sae, source, folder, SMALL)
    first.add_note(3, "kept")
    before = hashes(folder)
    build_index(lm, sae, source, folder, SMALL)
    assert hashes(folder) == before
    with pytest.raises(DataError, match="examples"):
        build_index(lm, sae, source, folder, replace(SMALL, examples=5))
    other = build_index(lm, sae, source, folder, replace(SMALL, examples=5), overwrite=True)
    assert other.info.examples == 5
    assert [note.text for note in other.notes(3)] == ["kept"]


def test_an_index_stays_until_what_replaces_it_has_been_read(built, text, tmp_path):
    whole, _, lm, sae = built
    folder, source = tmp_path / "b", open_source(text)
    shutil.copytree(whole.folder, folder)
    (folder / "label_vectors").mkdir()
    before = contents(folder)
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="UTF-8"):
        build_index(lm, sae, open_source(tmp_path / "bad.txt"), folder, SMALL, overwrite=True)
    assert contents(folder) == before
    other = replace(SMALL, examples=5)
    assert killed(lambda: build_index(lm, sae, source, folder, other, overwrite=True), 2, "after")
    assert FeatureIndex.open(folder).info.examples == SMALL.examples
    assert build_index(lm, sae, source, folder, other, overwrite=True).info.examples == 5


def test_a_steered_model_is_refused(built, text, tmp_path):
    _, _, lm, sae = built
    with lm.edited({Site.parse("1.resid_post"): lambda x, _: x}):
        with pytest.raises(DataError, match="steered"):
            build_index(lm, sae, open_source(text), tmp_path / "b", SMALL)
        lm.generate(["x"])


def test_the_numbers_that_draw_lots_are_those_of_splitmix64():
    assert mixed(np.array([0], dtype=np.uint64))[0] == np.uint64(0xE220A8397B1DCDAF)


def test_an_index_opens_with_its_own_model_and_sae_only(built):
    from steer.errors import IndexMismatchError

    index, _, lm, sae = built
    assert FeatureIndex.open(index.folder, sae, lm).sae is sae
    with pytest.raises(IndexMismatchError, match="another SAE"):
        FeatureIndex.open(index.folder, random_sae(seed=4))
    with pytest.raises(IndexMismatchError, match="of 96 latents"):
        FeatureIndex.open(index.folder, random_sae(d_sae=64))
