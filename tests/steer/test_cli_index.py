"""``steer index`` and ``steer show``: what each verb says, and how mistakes end."""

import hashlib
import json
import shutil
import sys
from io import StringIO

import numpy as np
import pytest

import saes
from steer.cli.app import run
from steer.cli.card import visible
from steer.index.info import File, read_info, write_info
from tests.conftest import random_sae
from tests.steer.index_data import write_text


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """An SAE of the embedded model, a text, and an index of it made by the command."""
    root = tmp_path_factory.mktemp("index")
    saes.save(random_sae(d_in=128, d_sae=80, k=4, site="0.resid_post"), root / "sae")
    saes.save(random_sae(d_in=128, d_sae=80, k=4, site="0.resid_post", seed=8), root / "other")
    write_text(root / "a.jsonl", 25)
    command = ["index", "build", "embedded", str(root / "sae"), "--data", str(root / "a.jsonl")]
    assert run([*command, "--out", str(root / "index"), "--examples", "9", "--window", "16", "--json"]) == 0
    return root


def said(capsys, code, *arguments):
    capsys.readouterr()
    assert run([str(one) for one in arguments]) == code
    out = capsys.readouterr()
    return out.out if code != 2 else out.err


def test_building_again_opens_what_is_there_and_another_is_refused(places, capsys):
    command = ("index", "build", "embedded", places / "sae", "--data", places / "a.jsonl", "--out", places / "index")
    found = json.loads(said(capsys, 0, *command, "--examples", 9, "--window", 16, "--json"))
    assert (found["d_sae"], found["documents"]) == (80, 25)
    assert found["bytes"] > 0
    refused = said(capsys, 2, *command, "--examples", 5).replace("\n", " ")
    assert "examples is 9 there" in refused  # the field is named, and the way out
    assert "--overwrite" in refused


def test_an_index_verifies_and_drift_ends_with_1(places, capsys, tmp_path):
    right = ("index", "verify", places / "index", "embedded", places / "sae", "--cards", 80)
    assert "the index holds" in said(capsys, 0, *right)
    folder = tmp_path / "drifted"
    shutil.copytree(places / "index", folder)
    path = folder / "latents" / "ex_act.00000000.npy"
    acts = np.load(path)
    acts[:, :, :] = np.where(acts > 0, 255 - acts // 2, acts)
    path.unlink()
    np.save(path, acts)
    drifted = ("index", "verify", folder, "embedded", places / "sae", "--cards", 80)
    assert "was altered" in said(capsys, 2, *drifted)  # the hash tells before any card is computed
    with_hash(folder, "latents/ex_act.00000000.npy")
    told = said(capsys, 1, *drifted)
    assert "have another activation; at token" in told
    found = json.loads(said(capsys, 1, *drifted, "--json"))
    assert found["differences"]


def with_hash(folder, name):
    """Make the index believe that a file is as it was made."""
    data = (folder / name).read_bytes()
    info = read_info(folder)
    info.files[name] = File(len(data), hashlib.sha256(data).hexdigest())
    write_info(folder, info)


def test_counts_over_the_whole_text_are_verified_where_asked(places, capsys, tmp_path):
    whole = ("embedded", places / "sae", "--cards", 2, "--whole")
    assert "the counts of 80 latents" in said(capsys, 0, "index", "verify", places / "index", *whole)
    live = int(np.load(places / "index" / "columns" / "density.npy").argmax())

    def drifted(name, change):
        folder = tmp_path / f"{name.replace('/', '-')}"
        shutil.copytree(places / "index", folder)
        values = np.load(folder / name)
        change(values)
        np.save(folder / name, values)
        if name.startswith("latents"):
            with_hash(folder, name)
        return folder

    def moved(values):
        values[live] = np.roll(values[live], -4)

    def larger(values):
        values[live] *= 1.3

    folder = drifted("latents/hist.00000000.npy", moved)
    said(capsys, 0, "index", "verify", folder, *whole[:-1])
    assert f"histogram of 1 latents differs, of latent {live}" in said(capsys, 1, "index", "verify", folder, *whole)
    for name in ("mean", "documents"):
        folder = drifted(f"columns/{name}.npy", larger)
        assert f"{name} of 1 latents differs, of latent {live}" in said(capsys, 1, "index", "verify", folder, *whole)
    folder = drifted("columns/density.npy", larger)  # that it does not fit the counts shows at once
    told = json.loads(said(capsys, 1, "index", "verify", folder, *whole[:-1], "--json"))
    assert told["differences"] == ["the column density does not fit the counts that the index holds"]
    (folder / "columns" / "density.npy").unlink()
    assert "density.npy is missing" in said(capsys, 2, "show", folder, live)


def test_another_sae_or_model_ends_with_2_and_one_message(places, capsys):
    told = said(capsys, 2, "index", "verify", places / "index", "embedded", places / "other")
    assert "was built with another SAE" in told
    assert "Traceback" not in told


@pytest.mark.parametrize("stream", ["stdin", "stdout"])
def test_streams_that_are_closed_from_the_start_are_no_defect(places, stream, monkeypatch):
    monkeypatch.setattr(sys, "stdin", StringIO())
    monkeypatch.setattr(sys, stream, None)  # as Python has it after `steer ... >&-`
    assert run(["index", "info", str(places / "index")]) == 0
    assert run(["explore", "embedded", str(places / "sae")]) == 0


def test_info_tells_what_an_index_was_made_of(places, capsys):
    found = json.loads(said(capsys, 0, "index", "info", places / "index", "--json"))
    assert found["provenance"]["policy"]["max_norm_ratio"] == 10.0
    assert found["provenance"]["logit_lens"].startswith("the output embedding times the weight")
    assert "density" in found["columns"]
    assert "80" in said(capsys, 0, "index", "info", places / "index")


def test_labels_are_imported_shown_and_exported(places, capsys, tmp_path):
    row = {"modelId": "m", "layer": "0-res", "index": "7", "description": "Explanation: mats", "typeName": "t"}
    (tmp_path / "labels.jsonl").write_text(json.dumps({**row, "explanationModelName": "somebody"}) + "\n")
    told = said(capsys, 0, "index", "import-labels", places / "index", tmp_path / "labels.jsonl")
    assert "1 labels, 1 of them new; 1 cleaned" in told
    assert "somebody" in said(capsys, 0, "show", places / "index", 7)
    assert "1 labels" in said(capsys, 0, "index", "export-labels", places / "index", tmp_path / "out.jsonl.gz")
    assert "there already" in said(capsys, 2, "index", "export-labels", places / "index", tmp_path / "out.jsonl.gz")
    assert "no such file" in said(capsys, 2, "index", "import-labels", places / "index", tmp_path / "none.jsonl")


def test_a_card_is_drawn_and_given_as_json(places, capsys):
    live = int(np.load(places / "index" / "columns" / "density.npy").argmax())
    told = said(capsys, 0, "show", places / "index", live)
    assert f"latent {live}" in told
    for part in ("density", "activations", "top", "promotes", "suppresses", "fires with", "writes like"):
        assert part in told
    found = json.loads(said(capsys, 0, "show", places / "index", live, "--json"))
    assert "".join(found["windows"][0]["texts"])
    assert len(said(capsys, 0, "show", places / "index", live, "--all")) > len(told)
    of_weights = said(capsys, 0, "show", places / "sae", live, "--model", "embedded")
    assert "promotes" in of_weights
    assert "never active" not in of_weights


def test_a_card_of_a_damaged_index_is_drawn_without_what_is_lost(places, capsys, tmp_path):
    shutil.copytree(places / "index", tmp_path / "index")
    live = int(np.load(places / "index" / "columns" / "density.npy").argmax())
    histogram = tmp_path / "index" / "latents" / "hist.00000000.npy"
    np.save(histogram, np.zeros_like(np.load(histogram)))
    told = said(capsys, 0, "show", tmp_path / "index", live)
    assert " top " in told
    assert "activations" not in told


def test_what_is_not_finite_in_a_damaged_index_is_null(places, capsys, tmp_path):
    def no_json(constant):
        raise AssertionError(f"{constant} is not JSON")

    folder = tmp_path / "index"
    shutil.copytree(places / "index", folder)
    live = int(np.load(folder / "columns" / "density.npy").argmax())
    for name, value in (("ex_max", np.nan), ("ex_scale", np.inf), ("logit_v", np.nan), ("coact_v", -np.inf)):
        path = folder / "latents" / f"{name}.00000000.npy"
        values = np.full_like(np.load(path), value)
        path.unlink()
        np.save(path, values)
    card = json.loads(said(capsys, 0, "show", folder, live, "--json"), parse_constant=no_json)
    assert card["windows"][0]["max"] is None
    assert card["promoted"][0]["logit"] is None
    assert card["coactive"][0]["cosine"] is None
    assert card["columns"]["max"] > 0
    token = f"#{card['promoted'][0]['token']}"
    found = json.loads(said(capsys, 0, "search", folder, "--promotes", token, "--json"), parse_constant=no_json)
    assert found["hits"][0]["reasons"][0]["score"] is None
    made_by = folder / "columns" / "max.json"
    made_by.write_text('{"by": "somebody", "threshold": NaN}', encoding="utf-8")
    info = json.loads(said(capsys, 0, "index", "info", folder, "--json"), parse_constant=no_json)
    assert info["columns"]["max"] == {"by": "somebody", "threshold": None}


def test_a_latent_that_never_fires_says_so(places, capsys):
    density = np.load(places / "index" / "columns" / "density.npy")
    dead = np.flatnonzero(density == 0)
    assert len(dead), "the tiny SAE has dead latents on so little text"
    assert "never active" in said(capsys, 0, "show", places / "index", int(dead[0]))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["show", "{index}", "80"], "out of range"),
        (["show", "{sae}", "80", "--model", "embedded"], "out of range"),
        (["show", "nowhere", "1"], "No SAE at nowhere"),
        (["index", "export-labels", "{index}", "z" * 300], "File name too long"),
        (["index", "info", "{sae}"], "No index at"),
        (["index", "build", "embedded", "{sae}", "--out", "{sae}"], "not empty"),
        (["index", "build", "embedded", "{sae}", "--out", "{file}/x"], "Not a directory"),
        (["index", "build", "embedded", "{sae}", "--out", "new", "--data", "none.jsonl"], "No text"),
        (["index", "build", "embedded", "{sae}", "--out", "new", "--site", "99.resid_post"], "out of range"),
        (["index", "build", "embedded", "{sae}", "--out", "new", "--max-norm-ratio", "0.5"], "above 1"),
    ],
)
def test_mistakes_end_with_2_and_one_message(places, capsys, arguments, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {"index": places / "index", "sae": places / "sae", "file": places / "a.jsonl"}
    err = said(capsys, 2, *(one.format(**given) for one in arguments))
    assert told in " ".join(err.split())
    assert "Traceback" not in err
    assert not (tmp_path / "new").exists() or not any((tmp_path / "new").iterdir())


def test_text_that_would_move_the_cursor_is_shown_as_its_number():
    assert visible("a\x1b[2Jb\n\u202ec\u200d") == "a\\u001b[2Jb⏎\\u202ec\u200d"
