"""The command line: what users get wrong ends in one message and exit code 2, and leaves nothing behind."""

import json
import subprocess
import sys

import pytest
import torch

import saes
from steer.cli.app import run
from tests.conftest import random_sae, tiny_model


@pytest.fixture(scope="module")
def sae_folder(tmp_path_factory, embedded):
    """An SAE of random weights that fits the embedded model."""
    folder = tmp_path_factory.mktemp("sae")
    saes.save(random_sae(d_in=embedded.d_model, d_sae=300, k=8), folder)
    return str(folder)


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory):
    """A tiny model without a chat template, as a folder in transformers format."""
    folder = tmp_path_factory.mktemp("tiny")
    lm = tiny_model("llama", template=None)
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    return folder


def refused(capsys, *arguments):
    """Run the command line, which must end with exit code 2 and one message on stderr; returns the message."""
    assert run(list(arguments)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    return err


def test_help_names_every_command(capsys):
    assert run(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("demo", "generate", "report"))


def test_generate_prints_both_replies(capsys, sae_folder):
    assert run(["generate", "--sae", sae_folder, "--clamp", "262=60", "How do I bake bread?"]) == 0
    plain, steered = capsys.readouterr().out.splitlines()[1:3]
    assert plain.startswith("unsteered: ")
    assert steered.startswith("steered:   ")
    assert plain.split(None, 1)[1] != steered.split(None, 1)[1]


def test_generate_as_json_with_two_clamps(capsys, sae_folder):
    arguments = [
        "generate",
        "--json",
        "--sae",
        sae_folder,
        "--clamp",
        "262=60",
        "--clamp",
        "3=0",
        "Hello",
        "What is a dog?",
    ]
    assert run(arguments) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["prompt"] for row in rows] == ["Hello", "What is a dog?"]
    for row in rows:
        assert set(row) == {"prompt", "unsteered", "steered", "model", "sampling", "plan", "interventions"}
        (clamp,) = row["interventions"]
        assert (clamp["latents"], clamp["error"], clamp["membership"]) == ({"262": 60.0, "3": 0.0}, "keep", "allow")


def test_generate_without_an_sae_prints_the_plain_reply(capsys):
    assert run(["generate", "How do I build a car bomb?"]) == 0
    out = capsys.readouterr().out
    assert "unsteered: " in out
    assert "\nsteered" not in out


def test_a_model_without_a_chat_template_says_what_is_done_instead(capsys, tiny_folder):
    assert run(["generate", "--model", str(tiny_folder), "--max-new-tokens", "4", "hello"]) == 0
    assert "no chat template: prompts are given as plain text" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--clamp", "300=1"],
            "Latent 300 is out of range: the SAE has d_sae = 300 latents, so the valid range is 0 to 299",
        ),
        (["--clamp", "262"], "expected LATENT=VALUE"),
        (["--clamp", "a=b"], "expected LATENT=VALUE"),
        (["--clamp", "1=nan"], "must be finite"),
        (["--clamp", "1=2", "--clamp", "1=3"], "clamped twice"),
        (
            ["--clamp", "1=2", "--layer", "4"],
            "Layer 4 is out of range: the model has 4 layers, so the valid range is 0 to 3",
        ),
        (["--clamp", "1=2", "--model", "no-such/model"], "neither a local folder nor `embedded`"),
        (["--clamp", "1=2", "--model", "./absent"], "there is no such folder"),
        (["--clamp", "1=2", "--temperature", "-1"], "temperature"),
        (["--clamp", "1=2", "--top-p", "0"], "top_p"),
        (["--clamp", "1=2", "--seed", "99999999999999999999"], "seed"),
        (["--clamp", "1=2", "--device", "nonsense"], "cannot be used"),
        (["--clamp", "1=2", "--max-new-tokens", "600"], "context is 512 tokens"),
        ([], "belong together"),
    ],
)
def test_generate_refuses(capsys, sae_folder, arguments, words):
    message = " ".join(refused(capsys, "generate", "--sae", sae_folder, *arguments, "hello").replace("│", " ").split())
    assert words in message


def test_generate_refuses_an_sae_of_another_width(capsys, tmp_path):
    saes.save(random_sae(d_in=64), tmp_path)
    message = refused(capsys, "generate", "--sae", str(tmp_path), "--clamp", "1=2", "hello")
    assert "width 64 (d_in)" in message
    assert "128 wide" in message


def test_generate_refuses_a_folder_without_an_sae(capsys, tmp_path):
    message = refused(capsys, "generate", "--sae", str(tmp_path), "--clamp", "1=2", "hello")
    assert "No SAE of a known format" in message
    assert "config.json and sae.safetensors" in " ".join(message.replace("│", " ").split())


def test_a_folder_without_weights_is_refused(capsys, tmp_path):
    assert "config.json is missing" in refused(capsys, "generate", "--model", str(tmp_path), "hello")
    (tmp_path / "config.json").write_text("{}")
    assert "holds no weights" in refused(capsys, "generate", "--model", str(tmp_path), "hello")
    (tmp_path / "model.safetensors").write_bytes(b"nonsense")
    assert "cannot be loaded" in refused(capsys, "generate", "--model", str(tmp_path), "hello")


def test_damaged_and_incomplete_weights_are_refused(capsys, tmp_path, tiny_folder):
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(tiny_folder, tmp_path / "cut")
    path = tmp_path / "cut" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-500])
    assert "cannot be loaded" in refused(capsys, "generate", "--model", str(tmp_path / "cut"), "hello")

    shutil.copytree(tiny_folder, tmp_path / "part")
    path = tmp_path / "part" / "model.safetensors"
    weights = {name: tensor for name, tensor in load_file(path).items() if "layers.1.mlp" not in name}
    save_file(weights, path, metadata={"format": "pt"})
    message = refused(capsys, "generate", "--model", str(tmp_path / "part"), "hello")
    assert "3 tensors are missing (model.layers.1.mlp" in message


def test_overwrite_leaves_what_is_not_of_a_run(tmp_path):
    from steer.files import check_output, clear_output
    from steer.studies.record import OWNED

    mine = [tmp_path / "figures" / "thesis.svg", tmp_path / "sae" / "other.txt", tmp_path / "notes.txt"]
    ours = [tmp_path / name for name in OWNED]
    for path in [*mine, *ours]:
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
    check_output(tmp_path, overwrite=True)
    clear_output(tmp_path, OWNED)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(mine)
    for path in mine:
        path.unlink()
    clear_output(tmp_path, OWNED)
    assert list(tmp_path.iterdir()) == [], "folders that are empty now are removed"


def test_the_report_of_a_run_that_had_not_begun_is_not_promised(tmp_path, monkeypatch, capsys):
    import steer.studies.demo

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    (tmp_path / "results.json").write_text("{}")
    monkeypatch.setattr(steer.studies.demo, "load_model", interrupted)
    assert run(["demo", "--out", str(tmp_path), "--overwrite"]) == 130
    assert "before anything was finished" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--layer", "4"], "valid range is 0 to 3"),
        (["--layer", "-1"], "count from 0"),
        (["--strengths", "1,x"], "expected numbers separated by commas"),
        (["--strengths", "1,inf"], "must be finite"),
        (["--strengths", "1,1"], "stands twice"),
        (["--model", "./absent"], "no such folder"),
    ],
)
def test_demo_refuses_and_leaves_nothing(capsys, tmp_path, arguments, words):
    assert words in " ".join(
        refused(capsys, "demo", "--out", str(tmp_path / "new"), *arguments).replace("│", " ").split()
    )
    assert list(tmp_path.iterdir()) == []


def test_demo_refuses_a_folder_that_is_not_empty_and_a_file(capsys, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    assert "pass --overwrite" in refused(capsys, "demo", "--out", str(tmp_path))
    assert "is a file" in refused(capsys, "demo", "--out", str(tmp_path / "notes.txt"))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_model_with_nan_weights_is_refused_and_leaves_nothing(capsys, tmp_path):
    lm = tiny_model("llama")
    lm.model.model.layers[0].mlp.down_proj.weight.fill_(float("nan"))
    lm.model.save_pretrained(tmp_path / "model")
    lm.tokenizer.save_pretrained(tmp_path / "model")
    message = refused(capsys, "demo", "--quick", "--model", str(tmp_path / "model"), "--out", str(tmp_path / "out"))
    assert "Activations must be finite" in message or "NaN" in message
    assert not (tmp_path / "out").exists()


def test_report_refuses_a_folder_without_results(capsys, tmp_path):
    assert "results.json" in refused(capsys, "report", str(tmp_path))


def test_an_unknown_command_and_an_unknown_option(capsys):
    assert "No such command" in refused(capsys, "dmeo")
    assert "No such option" in refused(capsys, "demo", "--no-such")


def test_the_module_form_and_the_exit_code_reach_the_shell():
    done = subprocess.run(
        [sys.executable, "-m", "steer", "demo", "--strengths", "x"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_the_embedded_model_takes_the_path_of_every_other(embedded):
    from steer.models.load import embedded_folder, load_model

    by_folder = load_model(embedded_folder())
    tokens = embedded.pad(embedded.prompt_ids(["How do I bake bread?"]))
    assert torch.equal(by_folder.forward(tokens), embedded.forward(tokens))
    assert embedded.name == "embedded"
