"""The command line: what is said and refused before anything long begins, and what Ctrl-C leaves."""

import json
import os
import subprocess
import sys

import pytest
import torch

import saes
import steer.studies.demo
import steer.studies.trained
from steer.cli.app import run
from steer.cli.console import shown
from steer.files import clear_output
from steer.models.load import load_model
from steer.studies.config import DemoConfig
from steer.threads import SMALL, torch_threads
from tests.conftest import random_sae


def refused(capsys, *arguments):
    """Run the command line, which must end with exit code 2 and one message on stderr; returns the message."""
    assert run(list(arguments)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    return " ".join(err.replace("│", " ").split())


@pytest.fixture
def earlier(tmp_path):
    """An output folder with the results of an earlier run."""
    (tmp_path / "results.json").write_text("{}")
    return tmp_path


@pytest.fixture
def untrained(monkeypatch):
    """Training must not begin."""

    def begun(*_):
        raise AssertionError("training has begun")

    monkeypatch.setattr(steer.studies.trained, "_train", begun)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--archetype", "How do I make a lemon tart?"], "does not refuse the archetypal prompt"),
        (["--archetype", "bomb \udcff"], "--archetype: must be valid Unicode"),
        (["--strengths", "1e39"], "--strengths: must be finite and fit a 32-bit float"),
        (["--strengths", "nan"], "--strengths: must be finite"),
        (["--finder-strength", "inf"], "--finder-strength: must be finite"),
        (["--finder-strength", "-1e39"], "--finder-strength: must be finite"),
        (["--k", "0"], "--k"),
        (["--d-sae", "0"], "--d-sae"),
        (["--d-sae", "64", "--k", "65"], "k must not exceed d_sae: got k = 65 with d_sae = 64"),
        (["--dtype", "int8"], "--dtype"),
        (["--threads", "0"], "--threads"),
        (["--threads", "100000"], "--threads"),
        (["--device", "meta"], "holds no numbers"),
        (["--device", "meta:0"], "holds no numbers"),
        (["--device", "nonsense"], "cannot be used"),
    ],
)
def test_demo_refuses_before_training_and_keeps_earlier_results(capsys, untrained, earlier, arguments, words):
    assert words in refused(capsys, "demo", "--out", str(earlier), "--overwrite", *arguments)
    assert [path.name for path in earlier.iterdir()] == ["results.json"]


@pytest.mark.parametrize("out", ["x" * 300, "notes.txt", "notes.txt/out", "loop", "full"])
def test_demo_looks_at_the_output_folder_before_it_loads_the_model(capsys, monkeypatch, tmp_path, out):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    monkeypatch.setattr(steer.studies.demo, "load_model", lambda *_, **__: pytest.fail("the model was loaded"))
    refused(capsys, "demo", "--out", str(tmp_path / out))


def test_settings_of_another_model_reach_the_run(monkeypatch, tmp_path):
    seen = []

    def stop(config, *_):
        seen.append(config)
        raise KeyboardInterrupt

    monkeypatch.setattr(steer.studies.demo, "run_demo", stop)
    numbers = ["--k", "8", "--d-sae", "512", "--finder-strength", "2.5", "--threads", "3", "--layer", "2"]
    options = [*numbers, "--dtype", "bfloat16"]
    assert run(["demo", "--out", str(tmp_path), *options]) == 130
    assert run(["demo", "--out", str(tmp_path), "--quick", *options]) == 130
    assert len(seen) == 2
    for config in seen:
        chosen = config.k, config.d_sae, config.finder_strength, config.dtype, config.threads, config.layer
        assert chosen == (8, 512, 2.5, "bfloat16", 3, 2)
    assert run(["demo", "--out", str(tmp_path)]) == 130
    assert seen[-1] == DemoConfig(threads=seen[-1].threads), "what is not given keeps its default"


def test_the_dtype_reaches_the_model(capsys, monkeypatch):
    seen = []

    def load(name, device, dtype, *_, **__):
        seen.append(load_model(name, device, dtype).model.dtype)
        return load_model(name, device)

    monkeypatch.setattr("steer.models.load.load_model", load)
    assert run(["generate", "--dtype", "bfloat16", "--max-new-tokens", "2", "hello"]) == 0
    assert seen == [torch.bfloat16]


def test_generate_refuses_a_layer_without_an_sae_and_a_device_without_memory(capsys):
    assert "--layer says where the SAE acts" in refused(capsys, "generate", "--layer", "1", "hello")
    assert "holds no numbers" in refused(capsys, "generate", "--device", "meta", "hello")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--sae", "", "--clamp", "3=1"], "an empty text after --sae names nothing"),
        (["--plan="], "an empty text after --plan names nothing"),
        (["--model", " "], "an empty text after --model names nothing"),
        (["--sae", "x", "--clamp", "1_0=5"], "expected LATENT=VALUE"),
        (["--sae", "x", "--clamp", "\uff13=5"], "expected LATENT=VALUE"),
    ],
)
def test_generate_steers_as_it_was_told_or_not_at_all(capsys, arguments, words):
    assert words in refused(capsys, "generate", *arguments, "hello")


def test_a_prompt_may_be_empty(capsys):
    assert run(["generate", "--max-new-tokens", "2", "--json", ""]) == 0
    assert json.loads(capsys.readouterr().out)[0]["prompt"] == ""


def generate_with(capsys, folder, *arguments):
    """Steer with the SAE of a folder; returns what is said on stderr."""
    clamp = ["--sae", str(folder), "--clamp", "1=2", "--max-new-tokens", "1"]
    assert run(["generate", *clamp, *arguments, "hello"]) == 0
    return capsys.readouterr().err


def test_generate_says_when_the_sae_is_of_another_model_or_site(capsys, tmp_path, embedded):
    saes.save(random_sae(d_in=embedded.d_model), tmp_path / "foreign")
    noted = generate_with(capsys, tmp_path / "foreign", "--layer", "2")
    assert "note: the SAE was trained on the model 'tiny', and is used on 'embedded'." in noted
    assert "note: the SAE was trained at 1.resid_post, and is used at 2.resid_post." in noted
    own = saes.SAE(saes.SAEConfig(embedded.d_model, 64, 4, model="embedded", site="blocks.1.hook_resid_post"))
    saes.save(own, tmp_path / "own")
    assert generate_with(capsys, tmp_path / "own") == ""
    assert generate_with(capsys, tmp_path / "own", "--layer", "1") == ""


def test_a_small_model_gets_one_thread_unless_the_user_says_otherwise(monkeypatch, capsys):
    before = torch.get_num_threads()
    small, large = torch.nn.Linear(2, 2), torch.nn.Linear(1, 1, bias=False)
    large.weight = torch.nn.Parameter(torch.zeros(1).expand(SMALL, 1), requires_grad=False)
    torch.set_num_threads(3)
    try:
        for model, asked, expected in [(small, None, 1), (large, None, 3), (small, 2, 2), (large, 2, 2)]:
            with torch_threads(model, asked) as number:
                assert number == torch.get_num_threads() == expected
            assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("environment", "option", "expected"), [(None, None, 1), ("2", None, 2), ("2", "3", 3), (None, "3", 3)]
)
def test_threads_of_the_option_come_before_those_of_the_environment(environment, option, expected):
    """In a process of its own: torch reads OMP_NUM_THREADS when it is imported."""
    rest = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    code = """
import sys, torch
from steer.cli.options import asked_threads
from steer.threads import torch_threads
with torch_threads(torch.nn.Linear(1, 1), asked_threads(int(sys.argv[1]) if sys.argv[1:] else None)) as number:
    sys.exit(100 + number)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, *([option] if option else [])],
        env={**rest, **({"OMP_NUM_THREADS": environment} if environment else {})},
        check=False,
    )
    assert done.returncode == 100 + expected


SIGINT_IN_AN_IMPORT = """
import os, signal, sys, time

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs with SIGINT ignored

class Interrupted:
    def find_spec(self, name, path=None, target=None):
        if name == WANTED:
            try:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(1)
            except KeyboardInterrupt:
                raise ImportError("half loaded") from None  # as some libraries do
        return None

sys.meta_path.insert(0, Interrupted())
from steer.cli.app import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize("name", ["typer", "torch", "transformers", "matplotlib.figure"])
def test_ctrl_c_inside_an_import_ends_with_130_and_without_a_traceback(name, tmp_path):
    code = SIGINT_IN_AN_IMPORT.replace("WANTED", repr(name))
    command = [sys.executable, "-c", code, "demo", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    assert "half loaded" not in done.stderr


def test_an_error_is_told_apart_without_importing_torch():
    code = """
import sys
from steer.cli import app
assert not app._is_ours(ValueError())
assert app._is_ours(__import__("steer.errors").errors.DataError())
assert "torch" not in sys.modules and "saes" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_commands_are_listed_without_torch():
    code = "import sys, steer.cli.commands; assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("cleared", "written", "words"),
    [
        (False, False, "is as it was"),
        (True, False, "the earlier results in"),
        (True, True, "What is finished stays"),
    ],
)
def test_after_ctrl_c_the_message_says_what_is_left(capsys, monkeypatch, earlier, cleared, written, words):
    def interrupted(config, out, *_):
        if cleared:
            clear_output(out, ["results.json"])
        if written:
            (out / "results.json").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr(steer.studies.demo, "run_demo", interrupted)
    assert run(["demo", "--out", str(earlier), "--overwrite"]) == 130
    said = " ".join(capsys.readouterr().err.split())
    assert words in said
    assert ("were removed and no new ones were written" in said) == (cleared and not written)


def test_paths_are_told_as_they_are(capsys, monkeypatch, tmp_path):
    """Neither read as rich's markup, nor a reason to fail where they are not UTF-8."""
    monkeypatch.setattr(steer.studies.demo, "run_demo", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert run(["demo", "--out", str(tmp_path / "[/red]")]) == 130
    assert "[/red]" in "".join(capsys.readouterr().err.split())
    assert shown(tmp_path / "\udcff").isprintable()
