"""``FeatureIndex``: cards, columns, words, notes; what is damaged; several processes at once."""

import json
import os
import signal
import sqlite3
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import torch

import steer.index.labels as labels_module
import steer.index.user as user_module
import steer.index.words as words_module
from steer.errors import DataError, IndexMismatchError, OutputError
from steer.index.info import read_info, write_info
from steer.index.labels import BUILT_WITHOUT_FTS5, NO_FTS5, Label
from steer.index.layout import Sizes, bytes_per_latent, index_bytes, position_names
from steer.index.read import FeatureIndex
from steer.index.synthetic import synthetic_index
from steer.search.direction import Directions, along
from tests.conftest import random_sae

D_SAE = 120


def make(folder, **given):
    return synthetic_index(folder, D_SAE, examples=9, window=16, tokens=4000, vocabulary=300, shard_latents=50, **given)


@pytest.fixture
def index(tmp_path):
    return FeatureIndex.open(make(tmp_path / "a"))


def test_a_card_holds_what_the_arrays_do(index):
    live = int(np.flatnonzero([index.card(i).fires for i in range(D_SAE)])[60])  # in the second of three files
    card = index.card(live)
    assert card.latent == live
    assert len(card.windows) == 9
    tokens = np.load(index.folder / "corpus" / "tokens.npy")
    for window in card.windows:
        assert window.token_ids.tolist() == tokens[window.offset : window.offset + 16].tolist()
        assert window.document == window.offset // 256
    assert card.windows[0].activations.max() <= card.windows[0].max * 1.001
    assert card.columns["density"] == pytest.approx(float(index.columns["density"][live]))
    assert card.labels[0].made_by == "synthetic"
    told = card.to_json(index.renderer.pieces)
    assert told["windows"][0]["texts"] == [f" t{token}" for token in card.windows[0].token_ids]
    assert len(told["histogram"]["edges"]) == len(told["histogram"]["counts"]) + 1


@pytest.mark.parametrize("latent", [-1, D_SAE, 1.5, True])
def test_a_latent_that_is_none_is_refused(index, latent):
    with pytest.raises((DataError, TypeError, Exception), match=r"out of range|whole number|Type-check"):
        index.card(latent)


def test_columns_are_added_replaced_and_seen_by_who_reads_already(index):
    other = FeatureIndex.open(index.folder)
    values = np.linspace(0, 1, D_SAE)
    values[3] = np.nan
    index.add_column("steer_gain", values, {"by": "the finder", "seed": 0})
    assert np.allclose(other.columns["steer_gain"], values, equal_nan=True)
    assert other.columns.made_by("steer_gain") == {"by": "the finder", "seed": 0}
    assert "steer_gain" in set(other.columns)
    assert other.card(3).to_json()["columns"]["steer_gain"] is None
    index.add_column("steer_gain", np.zeros(D_SAE), {"by": "again"})
    assert not other.columns["steer_gain"].any()
    with pytest.raises(DataError, match="120 latents"):
        index.columns.add("other", np.zeros(5), {})
    for name in ("../evil", "Upper", "", "a" * 80):
        with pytest.raises(DataError, match="name"):
            index.columns.add(name, np.zeros(D_SAE), {})
    with pytest.raises(KeyError):
        index.columns["../../corpus/tokens"]
    assert "other" not in index.columns


def test_words_that_are_no_text_or_too_many_are_no_defect(index):
    assert index.words("\ud800") == []
    assert index.words("\0") == []
    assert index.words("w1\0") == index.words("w1")
    with pytest.raises(DataError, match="at most 10,000 characters"):
        index.words("x" * 10_001)


def test_a_column_of_no_numbers_is_refused(index):
    np.save(index.folder / "columns" / "max.npy", np.full(D_SAE, "x"))
    with pytest.raises(DataError, match=r"max\.npy holds <U1 of shape"):
        index.card(0)


def test_words_are_found_in_labels_before_tokens_with_their_stems(index):
    assert index.add_labels([Label(7, "refusal of harmful requests", "a person")]) == 1
    assert index.words("refusals")[0][0] == 7
    assert index.words("harmful refusing")[0][0] == 7
    word = index.labels(20)[0].text.split()[0]
    found = index.words(word, 500)
    assert 20 in [latent for latent, _ in found]
    assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)
    assert index.words("harmful", 1) == index.words("harmful", 50)[:1]
    assert index.words('"; DROP TABLE labels; -- * NEAR(') == []
    assert index.words("   ") == []


def test_words_of_scripts_without_spaces_are_found_as_parts(index):
    index.add_labels([Label(9, "拒绝有害的请求", "a person"), Label(10, "100% sure_thing", "a person")])
    assert index.words("有害")[0][0] == 9
    assert [latent for latent, _ in index.words("0%")] == [10]  # a sign of LIKE's own stands for itself


@pytest.fixture
def no_fts5(monkeypatch):
    """SQLite as it is without FTS5."""
    for module in (words_module, labels_module):
        monkeypatch.setattr(module, "tokenizer_available", lambda *tokenizer: False)
    return monkeypatch


def test_without_fts5_words_are_looked_for_as_parts_with_a_note(tmp_path, no_fts5):
    notes = []
    index = FeatureIndex.open(make(tmp_path / "a"), note=notes.append)
    index.add_labels([Label(7, "refusal of harmful requests", "me")])
    assert index.words("harmful refus")[0] == (7, 4.0)
    assert set(notes) == {NO_FTS5}
    no_fts5.undo()
    again = FeatureIndex.open(index.folder, note=notes.append)  # an index made without can be read with
    assert again.words("refus")[0][0] == 7
    assert notes[-1] == BUILT_WITHOUT_FTS5  # not that this SQLite lacks it


def test_parts_are_the_same_by_trigrams_as_by_looking_at_all(index, monkeypatch):
    index.add_labels([Label(5, "Überholt: ShanTor", "me"), Label(6, 'a "quoted" part', "me")])
    queries = ("hanto", "HANTO", "ntor imgr", "berhol", "te", "100", "zzzzz", "quot", "uoted par", "imgra hanto ntor")
    fast = [index.words(query, 500) for query in queries]
    assert len(fast[0]) > 5
    assert [fast[3][0][0], fast[7][0][0]] == [5, 6]
    monkeypatch.setattr(words_module, "tokenizer_available", lambda tokenizer: tokenizer != "trigram")
    assert fast == [index.words(query, 500) for query in queries]
    for query, every in zip(queries, fast, strict=True):
        assert len(index.words(query, 3)) == min(3, len(every))


def test_common_words_count_where_all_words_of_a_query_stand_together(index, monkeypatch):
    monkeypatch.setattr(words_module, "_RANKED_ROWS", 30)
    index.add_labels([Label(i, f"common {'seldom ' * (i % 4 == 0)}{'filler ' * (i % 7)}", "me") for i in range(100)])
    index.add_labels([Label(101, "common seldom single", "me"), Label(102, "single", "me")])
    assert {latent for latent, _ in index.words("common single")} == {101, 102}
    both = {latent for latent, _ in index.words("common seldom", 26)}
    assert both == {*range(0, 100, 4), 101}
    assert len(index.words("common", 10)) == 10


def test_half_of_a_surrogate_pair_is_stored_and_sought_as_it_is_escaped(index):
    index.add_labels([Label(7, "half \ud800 pair", "me", scores={"\ud801": 1.0})])
    assert index.labels(7)[-1].text == r"half \ud800 pair"
    assert index.words("\ud800")[0][0] == 7
    index.add_note(7, "a \ud800")
    index.tag(7, "\ud800")
    assert index.user.tagged("\ud800") == [7]
    index.user.untag(7, "\ud800")
    assert index.user.tags() == []


def test_labels_are_added_once_all_or_none(index):
    new = [Label(1, "one", "me", kind="hand", scores={"fuzz": 0.5}, more={"layer": "1"}), Label(2, "two", "me")]
    assert index.add_labels(new) == 2
    assert index.add_labels([*new, Label(3, "three", "me")]) == 1
    assert index.labels(1)[-1] == new[0]
    for bad in (Label(D_SAE, "far", "me"), Label(4, " ", "me"), Label(4, "text", "")):
        with pytest.raises(DataError):
            index.add_labels([Label(5, "five", "me"), bad])
    assert [label.text for label in index.labels(5) if label.made_by == "me"] == []
    assert index.labelled()[[1, 2, 3]].all()


def test_promoting_and_suppressing_are_in_order(index):
    ids = np.concatenate([np.load(path) for path in sorted(index.folder.glob("latents/logit_id.*"))])
    values = np.concatenate([np.load(path) for path in sorted(index.folder.glob("latents/logit_v.*"))])
    token = int(ids[3, 0])
    for part, found, sign in (
        (slice(0, 20), index.promoting(token, 999), -1),
        (slice(20, 40), index.suppressing(token, 999), 1),
    ):
        rows, places = np.nonzero(ids[:, part] == token)
        assert sorted(latent for latent, _ in found) == sorted(rows.tolist())
        assert [v for _, v in found] == sorted(
            values[:, part][rows, places].astype(float).tolist(), key=lambda v: sign * v
        )
    assert len(index.promoting(token, 1)) == 1
    with pytest.raises(DataError, match="300 tokens"):
        index.promoting(300)


def test_notes_tags_and_lists(index):
    note = index.add_note(3, "fires on refusals")
    index.add_note(3, "also on sorry")
    index.tag(3, "refusal")
    index.tag(3, "refusal")
    assert [one.text for one in index.notes(3)] == ["fires on refusals", "also on sorry"]
    assert index.card(3).tags == ("refusal",)
    assert index.user.tagged("refusal") == [3]
    index.user.add_to_list("mine", [5, 3])
    index.user.add_to_list("mine", [9, 5])
    assert index.user.listed("mine") == [5, 3, 9]
    assert index.user.lists() == ["mine"]
    index.user.remove_note(note.id)
    index.user.untag(3, "refusal")
    index.user.remove_list("mine")
    assert (len(index.notes(3)), index.user.tags(), index.user.lists()) == (1, [], [])
    for work in (lambda: index.add_note(D_SAE, "x"), lambda: index.add_note(1, " "), lambda: index.tag(1, "")):
        with pytest.raises(DataError):
            work()


def test_notes_may_lie_elsewhere(index, tmp_path):
    mine = FeatureIndex.open(index.folder, user=tmp_path / "mine.sqlite")
    mine.add_note(1, "mine alone")
    assert index.notes(1) == []
    assert not (index.folder / "user.sqlite").exists()
    with pytest.raises(OutputError, match="cannot be written"):
        FeatureIndex.open(index.folder, user=tmp_path / "no" / "mine.sqlite").add_note(1, "x")


def test_notes_that_another_process_holds_are_to_be_tried_again(index, monkeypatch):
    monkeypatch.setattr(user_module, "_PATIENCE_S", 0.05)
    index.add_note(3, "mine")
    with closing(sqlite3.connect(index.user.path, isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode = DELETE")
        other.execute("BEGIN EXCLUSIVE")
        for error, work in ((DataError, lambda: index.notes(3)), (OutputError, lambda: index.add_note(3, "x"))):
            with pytest.raises(error, match=r"Another process is writing to .*user\.sqlite.* try again"):
                work()
        other.execute("ROLLBACK")
    assert [note.text for note in index.notes(3)] == ["mine"]
    index.user.path.write_bytes(b"no database" * 100)
    with pytest.raises(DataError, match="Move it away"):
        index.notes(3)


def test_two_processes_read_while_a_third_adds_notes(index):
    def work(writes):
        own = FeatureIndex.open(index.folder)
        for number in range(40):
            if writes:
                own.add_note(number, f"note {number}")
                own.tag(number, "seen")
            else:
                assert len(own.card(number).notes) <= 1
                own.words("ba")

    children = []
    for writes in (True, False, False):
        child = os.fork()
        if child == 0:  # only files and SQLite from here on: nothing that threads of the parent may hold
            code = 1
            try:
                signal.alarm(60)
                work(writes)
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0, 0]
    assert len(index.user.notes()) == 40


@pytest.mark.parametrize("name", ["latents/ex_act.00000050.npy", "corpus/tokens.npy", "latents/hist.00000000.npy"])
def test_a_truncated_or_missing_file_is_named(index, name):
    path = index.folder / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    with pytest.raises(DataError, match=f"{path.name}.*cut off"):
        FeatureIndex.open(index.folder)
    path.unlink()
    with pytest.raises(DataError, match=path.name):
        FeatureIndex.open(index.folder)


def test_a_folder_of_something_else_or_of_another_version_is_refused(index, tmp_path):
    with pytest.raises(DataError, match="steer index build"):
        FeatureIndex.open(tmp_path / "nothing")
    (index.folder / "meta.sqlite").write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match=r"meta\.sqlite"):
        index.words("a")
    write_info(index.folder, replace(read_info(index.folder), version=2))
    with pytest.raises(DataError, match="version 2"):
        FeatureIndex.open(index.folder)
    (index.folder / "index.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        FeatureIndex.open(index.folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("d_sae", 10**12),  # its files alone would fill the memory
        ("d_sae", 1000),
        ("position_counts", []),
        ("role_counts", [1, 2, 3]),
        ("histogram_top", float("nan")),
        ("files", {}),
        ("provenance", {"rendering": 5}),
        ("provenance", {"sae": "x"}),
        ("provenance", {"model": None}),
    ],
)
def test_an_edited_index_json_is_refused_with_the_field(index, name, value):
    path = index.folder / "index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    with pytest.raises(DataError, match=r"index\.json, [a-z_.]+: ") as told:
        FeatureIndex.open(index.folder)
    assert "Build the index again" in str(told.value)


def test_digests_are_compared_where_model_or_sae_are_given(tmp_path, llama, tiny):
    sae = random_sae(d_sae=D_SAE)
    folder = make(tmp_path / "a", sae=sae, lm=llama)
    assert FeatureIndex.open(folder, sae, llama).info.vocabulary == llama.vocabulary
    with pytest.raises(IndexMismatchError, match="another SAE"):
        FeatureIndex.open(folder, random_sae(d_sae=D_SAE, seed=9))
    with pytest.raises(IndexMismatchError, match="another model"):
        FeatureIndex.open(folder, lm=tiny("qwen3"))


def test_cosines_with_a_direction_are_those_of_torch_in_double():
    decoder = torch.randn(700, 24, generator=torch.Generator().manual_seed(0))
    decoder[5] = 0
    direction = torch.randn(24, generator=torch.Generator().manual_seed(1))
    expected = torch.nn.functional.cosine_similarity(decoder.double(), direction.double()[None], dim=-1)
    assert torch.allclose(along(decoder, direction).double(), expected, atol=1e-6)
    for ready in (Directions.of(decoder), Directions.of(decoder.half()), Directions.of(decoder.bfloat16())):
        for seed in range(20):
            other = torch.randn(24, generator=torch.Generator().manual_seed(100 + seed))
            allowed = np.arange(700) % 5 != seed % 5
            exact = along(ready.decoder, other).numpy()
            wanted = np.argsort(-np.where(allowed, exact, -2.0), kind="stable")[:7]
            latents, cosines = ready.nearest(other, 7, allowed)
            assert latents.tolist() == wanted.tolist()
            assert cosines.tolist() == pytest.approx(exact[wanted].tolist(), abs=1e-6)
        assert len(ready.nearest(direction, 700)[0]) == int((along(ready.decoder, direction) > 0).sum())
    for bad in (torch.zeros(24), torch.full((24,), float("nan")), torch.ones(7)):
        with pytest.raises(DataError):
            along(decoder, bad)


def test_sizes_are_those_that_the_formula_says(index):
    for n, w in ((45, 64), (20, 32), (2, 2)):
        assert bytes_per_latent(Sizes(1, n, w)) == n * (w + 11) + 4 + 256 + 64 + 20 + 240 + 384
    sizes = Sizes(131_072, 45, 64)
    assert index_bytes(sizes, 10_000_000, 50_000) < 800e6
    stored = sum(path.stat().st_size for path in index.folder.glob("latents/*.npy"))
    headers = 128 * len(list(index.folder.glob("latents/*.npy")))
    assert stored - headers == D_SAE * bytes_per_latent(index.info.sizes)


def test_classes_of_positions_are_named_by_what_they_hold():
    from steer.index.chunks import Corpus
    from steer.index.counts import position_classes

    nothing = np.zeros(40_000, dtype=np.uint8)
    corpus = Corpus(nothing, nothing, nothing, np.array([0, 20_000]), np.array([0]))
    names = [position_names()[number] for number in position_classes(corpus)]
    assert names[:9] == ["0", "1", "2-3", "2-3", "4-7", "4-7", "4-7", "4-7", "8-15"]
    assert names[16_383] == "8192-16383"
    assert names[16_384] == names[19_999] == "16384-"
    assert names[20_000] == "0"
