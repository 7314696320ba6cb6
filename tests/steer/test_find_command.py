"""``steer find refusal``: what it prints and stores, and what it refuses."""

import json

import numpy as np
import pytest

import saes
from saes import SAE, SAEConfig
from steer.cli.app import run
from steer.evals.sets import load_prompts
from steer.index.read import FeatureIndex
from steer.index.synthetic import synthetic_index
from tests.conftest import random_sae
from tests.steer.planted_refusal import REFUSES, planted_search
from tests.steer.test_cli import refused

SHORT = ["--prompts", "4", "--max-new-tokens", "8", "--strengths", "0.18", "--limit", "2"]


@pytest.fixture(scope="module")
def planted(embedded, tmp_path_factory):
    """The planted SAE in a folder."""
    folder = tmp_path_factory.mktemp("planted")
    saes.save(planted_search(embedded).sae, folder)
    return str(folder)


@pytest.fixture(scope="module")
def dev(tmp_path_factory):
    """Development prompts of three sets in a file."""
    rows = []
    for name in ("unsafe_seen", "unsafe_unseen", "safe"):
        for one in load_prompts(name, "dev", 12):
            rows.append({"id": one.id, "set": one.set, "messages": list(one.messages), "expect": {"kind": "refusal"}})
    path = tmp_path_factory.mktemp("dev") / "dev.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_latents_are_compared_and_stored_in_an_index(capsys, planted, dev, tmp_path, embedded):
    index = synthetic_index(
        tmp_path / "index", 48, tokens=2000, examples=2, window=8, sae=saes.load(planted), lm=embedded
    )
    out = tmp_path / "found.json"
    arguments = ["--dev", dev, "--method", "cosine_attribution,causal", "--index", str(index), "--out", str(out)]
    short = ["--prompts", "6", *SHORT[2:]]
    assert run(["find", "refusal", "embedded", planted, *arguments, *short, "--json"]) == 0
    printed, told = capsys.readouterr()
    found = json.loads(printed)
    assert json.loads(out.read_text()) == found
    assert [one["method"] for one in found["methods"]] == ["cosine_attribution", "causal"]
    assert found["latents"] == [one["latent"] for one in found["curves"]]
    assert REFUSES in found["latents"]
    assert len(found["latents"]) == 2
    assert found["prompts"]["unsafe"]["n"] == 12
    assert "causal: damage on neutral text" in told
    assert [path.name for path in tmp_path.iterdir() if "found" in path.name] == ["found.json"]
    opened = FeatureIndex.open(index)
    column = opened.columns["refusal_steerability"]
    assert np.flatnonzero(~np.isnan(column)).tolist() == sorted(found["latents"])
    for curve in found["curves"]:
        assert column[curve["latent"]] == pytest.approx(curve["steerability"])
    assert opened.columns.made_by("refusal_steerability")["prompts"] == found["prompts"]
    best = found["curves"][0]
    assert run(["show", str(index), str(best["latent"])]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"refusal: steerability {best['steerability']:.2f} standard error" in shown
    assert "refusal_" not in shown
    other = next(latent for latent in range(48) if latent not in found["latents"])
    assert run(["show", str(index), str(other)]) == 0
    assert "refusal" not in capsys.readouterr().out


def test_methods_alone_give_a_table_and_the_referee_gives_another(capsys, planted, dev):
    asked = ["find", "refusal", "embedded", planted, "--dev", dev, "--prompts", "6", *SHORT[2:]]
    assert run([*asked, "--method", "cosine_attribution"]) == 0
    named = capsys.readouterr().out
    assert str(REFUSES) in named
    assert "not compared by clamping" in named
    assert run([*asked, "--method", "cosine_attribution,causal"]) == 0
    compared = capsys.readouterr().out
    assert "of unsafe and" in compared
    for words in ("steerability", "in norms", "perplexity", "safe up to", "cosine_attribution"):
        assert words in compared
    assert all(len(line) <= 80 for line in compared.splitlines())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--method", "papr"], "Did you mean paper"),
        (["--method", "paper", "--archetype", "What is a young sheep called?"], "does not refuse the archetypal"),
        (["--method", "paper", "--index", "somewhere"], "--index stores what causal measures"),
        (["--strengths", "0.2,x"], "expected numbers"),
        (["--strengths", "-1"], "above 0"),
        (["--prompts", "1"], "at least 5 prompts of each kind"),
        (["--dev", "missing.jsonl"], "there is no such file"),
        (["--index", "missing"], "missing"),
        (["--text", "missing.txt"], "missing.txt"),
        (["--text", "empty.txt"], "neutral texts of at least two tokens"),
        (["--site", "99.resid_post"], "out of range"),
        (["--out", "no/such/folder/file.json"], "--out names a file in a folder that exists"),
    ],
)
def test_mistakes_end_with_a_message(capsys, planted, arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").touch()
    message = " ".join(refused(capsys, "find", "refusal", "embedded", planted, *arguments).replace("│", " ").split())
    assert words in message


def test_what_does_not_fit_is_refused(capsys, planted, dev, tmp_path, embedded):
    short = ["--dev", dev, *SHORT]
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    assert "holds no prompts" in refused(capsys, "find", "refusal", "embedded", planted, "--dev", str(empty))
    other = tmp_path / "other"
    saes.save(random_sae(), other)
    assert "activations of width 32" in refused(capsys, "find", "refusal", "embedded", str(other), *short)
    index = synthetic_index(tmp_path / "index", 48, tokens=500, examples=2, window=8, lm=embedded)
    out = ["--index", str(index), "--out", str(tmp_path / "found.json")]
    assert "built with another SAE" in refused(capsys, "find", "refusal", "embedded", planted, *short, *out)
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith("found.json")]
    transcoder = tmp_path / "transcoder"
    config = SAEConfig(128, 16, 4, site="1.resid_post", d_out=128, site_out="2.resid_post", subtract_b_dec=False)
    saes.save(SAE(config), transcoder)
    assert "transcoder" in refused(capsys, "find", "refusal", "embedded", str(transcoder), *short)
    odd = tmp_path / "odd.jsonl"
    row = {"id": "a", "set": "mine", "messages": [{"role": "user", "content": "x"}], "expect": {"kind": "refusal"}}
    odd.write_text(json.dumps(row) + "\n")
    assert "does not say whether" in refused(capsys, "find", "refusal", "embedded", planted, "--dev", str(odd))
