"""``steer sae eval``: its figures, and what it refuses."""

import dataclasses
import json

import pytest

import saes
from saes import SAEConfig
from steer.cli.app import run
from tests.conftest import random_sae, tiny_model
from tests.steer.test_cli import refused


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    lm = tiny_model("llama")
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def sae_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sae")
    saes.save(random_sae(), folder)
    return str(folder)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n\n".join(f"A text of its own, number {number}." for number in range(30)))
    return str(path)


def test_the_table_names_what_is_measured(capsys, sae_folder, tiny_folder, text):
    assert (
        run(["sae", "eval", sae_folder, "--model", tiny_folder, "--text", text, "--tokens", "300", "--no-probes"]) == 0
    )
    out, err = capsys.readouterr()
    for words in ("global", "sparsify", "dictionary_learning", "SAEBench legacy", "zero ablation", "KL(", "300 tokens"):
        assert words in out
    assert "was trained on the model 'tiny'" in err


def test_json_on_stdout_and_in_a_file(capsys, sae_folder, tiny_folder, text, tmp_path):
    out = tmp_path / "found.json"
    arguments = ["--model", tiny_folder, "--text", text, "--tokens", "300", "--json", "--out", str(out)]
    assert run(["sae", "eval", sae_folder, *arguments]) == 0
    found = json.loads(capsys.readouterr().out)
    assert json.loads(out.read_text()) == found
    assert found["version"] == 1
    assert found["tokens"] == sum(found["activations"]["l0_counts"]) == 300
    assert found["positions"]["tokens"][0] == 0
    assert len(found["positions"]["input"]) == len(found["positions"]["reconstruction"])
    assert set(found["loss"]["intervals"]) > {"plain", "spliced", "recovered", "kl"}
    density = found["latents"]["density"]
    assert sum(density["latents"]) + density["never"] == found["latents"]["d_sae"] == 96
    assert len(found["sparse_probing"]["tasks"]) > 20
    assert found["absorption"]["prompt_classes"]["concepts_tried"] > 10
    assert "first_letter" in found["absorption"]


def test_what_is_there_is_replaced_only_when_asked(capsys, sae_folder, tiny_folder, text, tmp_path):
    out, link = tmp_path / "found.json", tmp_path / "link.json"
    out.write_text("mine")
    link.symlink_to(out)
    given = ["sae", "eval", sae_folder, "--no-probes", "--model", tiny_folder, "--text", text, "--tokens", "200"]
    for path in (out, link, text, "/dev/null"):
        words = refused(capsys, *given, "--out", str(path))
        assert "--out is there already" in words or "--out names a file" in words
    assert out.read_text() == "mine"
    assert run([*given, "--out", str(link), "--overwrite"]) == 0
    assert json.loads(out.read_text())["tokens"] == 200
    assert link.is_symlink()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--tokens", "100000"], "is too short: 100,000 tokens are asked for"),
        (["--tokens", "0"], "tokens"),
        (["--text", "absent.jsonl"], "no such file"),
        (["--model", "embedded"], "width 32, but embedded has width 128"),
        (["--site", "7.resid_post"], "out of range"),
        (["--site", "nonsense"], "nonsense"),
        (["--out", "no/such/folder.json"], "--out names a file"),
    ],
)
def test_what_is_refused(capsys, sae_folder, tiny_folder, text, change, words):
    arguments = {"--model": tiny_folder, "--text": text, "--tokens": "200"} | dict([change])
    given = [part for pair in arguments.items() for part in pair]
    assert words in " ".join(refused(capsys, "sae", "eval", sae_folder, "--no-probes", *given).split())


def test_empty_text_and_no_sae_are_refused(capsys, sae_folder, tiny_folder, tmp_path):
    empty = tmp_path / "empty.txt"
    empty.write_text("\n")
    message = refused(capsys, "sae", "eval", sae_folder, "--model", tiny_folder, "--text", str(empty))
    assert "too short" in message
    message = refused(capsys, "sae", "eval", str(tmp_path / "absent"), "--model", tiny_folder)
    assert "absent" in message


def test_an_sae_without_a_site_needs_one(capsys, tiny_folder, text, tmp_path):
    saes.save(random_sae(site=None), tmp_path / "sae")
    arguments = ["sae", "eval", str(tmp_path / "sae"), "--model", tiny_folder, "--text", text, "--tokens", "100"]
    assert "give --site" in " ".join(refused(capsys, *arguments).split())
    assert run([*arguments, "--no-probes", "--site", "1.resid_post"]) == 0


def test_a_transcoder_is_measured_where_it_writes(capsys, tiny_folder, text, tmp_path):
    config = SAEConfig(32, 96, 4, site="0.resid_post", site_out="1.mlp_out", subtract_b_dec=False)
    sae = saes.SAE(config)
    saes.save(sae, tmp_path / "coder")
    sae.config = dataclasses.replace(config, site_out=None)
    saes.save(sae, tmp_path / "unsaid")
    given = ["--model", tiny_folder, "--text", text, "--tokens", "200", "--no-probes"]
    assert run(["sae", "eval", str(tmp_path / "coder"), *given]) == 0
    assert "at 0.resid_post to 1.mlp_out" in " ".join(capsys.readouterr().out.split())
    found = []
    for name, more in (("coder", []), ("unsaid", ["--site-out", "1.mlp_out"])):
        assert run(["sae", "eval", str(tmp_path / name), *given, *more, "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0]["site_out"] == "1.mlp_out"
    assert found[0]["loss"] == found[1]["loss"]
    assert run(["sae", "eval", str(tmp_path / "coder"), *given, "--site-out", "1.resid_post"]) == 0
    assert "was trained to write at 1.mlp_out, and is measured at 1.resid_post" in " ".join(
        capsys.readouterr().err.split()
    )


def test_an_autoencoder_that_centres_its_input_writes_nowhere_else(capsys, sae_folder, tiny_folder, text):
    given = ["--model", tiny_folder, "--text", text, "--tokens", "200", "--site-out", "1.mlp_out"]
    assert "which writes where it reads: leave --site-out out" in refused(capsys, "sae", "eval", sae_folder, *given)
