"""``steer train`` on several processes: the losses of one, gone on with by another number, told once."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import saes
from steer.cli.app import run
from steer.models.model import LanguageModel
from tests.steer.processes import commands
from tests.steer.training_data import SMALL, small, write_model, write_text

ROOT = Path(__file__).parents[2]
LAUNCHER = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "steer")
FIGURES = ("loss", "fvu", "l0", "dead_fraction")

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the processes are forks")


def launched(arguments):
    """The command on two processes, over gloo; what they print together."""
    return subprocess.run(
        [sys.executable, *LAUNCHER, *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def lines(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def assert_same_curves(folder, expected):
    found, whole = lines(folder), lines(expected)
    assert [line["tokens"] for line in found] == [line["tokens"] for line in whole]
    for name in FIGURES:
        assert [line[name] for line in found] == pytest.approx([line[name] for line in whole], rel=1e-5), name


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A model, a text, and what one process makes of them, some latents dead."""
    folder = tmp_path_factory.mktemp("data")
    model, text = write_model(folder / "model"), write_text(folder / "a.jsonl")
    assert run(small(model, text, folder / "one", d_sae="64,48", dead_after_tokens=64)) == 0
    assert any(line["dead_fraction"] for line in lines(folder / "one")), "AuxK takes part"
    return folder


def command(data, out, **more):
    return small(data / "model", data / "a.jsonl", out, d_sae="64,48", dead_after_tokens=64, **more)


def test_torchrun_starts_it_and_it_prints_once(data, tmp_path):
    """They share the batches, and are stopped; then the same command goes on with one process."""
    given = command(data, tmp_path / "two")
    done = launched([*given, "--stop-after-steps", "10", "--json"])
    assert done.returncode == 0, done.stderr
    stopped = json.loads(done.stdout)
    assert (stopped["done"], stopped["tokens"]) == (False, 320)
    assert done.stderr.count("stopped after 320 tokens") == 1
    assert run(given) == 0
    assert_same_curves(tmp_path / "two", data / "one")
    whole, shared = (saes.load(folder / "sae-d64") for folder in (data / "one", tmp_path / "two"))
    assert torch.allclose(shared.W_dec, whole.W_dec, atol=1e-4)
    summaries = [
        json.loads((folder / "sae-d64" / "config.json").read_text())["training"]
        for folder in (data / "one", tmp_path / "two")
    ]
    assert summaries[1]["about"]["text"] == summaries[0]["about"]["text"]
    assert summaries[1]["fvu"] == pytest.approx(summaries[0]["fvu"], rel=1e-5)


@pytest.mark.parametrize(("shards", "ahead"), [(1, 2), (2, 0)])
def test_a_killed_process_ends_all_and_any_number_goes_on(data, tmp_path, shards, ahead):
    """Batches are shared, or latents divided; then one process goes on, and two do in a copy of the folder, exactly."""
    folder, many = tmp_path / "run", ["--latent-shards", str(shards)] if shards > 1 else []
    given = command(data, folder, ahead=ahead, save_every_steps=2)

    def reached():
        log = folder / "log.jsonl"
        return log.exists() and log.read_bytes().count(b"\n") >= 4

    first, second = commands(2, tmp_path / "killed", [*given, *many], kill=1, until=reached)
    assert (first.code, second.code) == (2, -9)
    assert "Another process of this run is gone" in first.err
    assert "The last good checkpoint is" in first.err
    assert "Traceback" not in first.err
    assert lines(folder)[-1]["tokens"] < SMALL["total_tokens"]

    shutil.copytree(folder, tmp_path / "copy")
    assert run(given) == 0
    assert_same_curves(folder, data / "one")
    given[given.index("--out") + 1] = str(tmp_path / "copy")
    assert [one.code for one in commands(2, tmp_path / "again", [*given, *many])] == [0, 0]
    assert_same_curves(tmp_path / "copy", data / "one")
    given[given.index("--out") + 1] = str(tmp_path / "whole")
    assert [one.code for one in commands(2, tmp_path / "never killed", [*given, *many])] == [0, 0]
    whole, copy = (saes.load(tmp_path / one / "sae-d64") for one in ("whole", "copy"))
    assert torch.equal(whole.W_dec, copy.W_dec)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"nonsense": 3}, "No such option"),
        ({"lr": "nan"}, "Input should be a finite number"),
        ({"config": "missing.toml"}, "missing.toml cannot be read as TOML"),
        ({"k": 65}, "k must not exceed d_sae: got k = 65 with d_sae = 64"),
        ({"batch_tokens": 33}, "batch_tokens must be a multiple of the number of processes"),
        ({"latent_shards": 3}, "latent_shards must divide the number of processes"),
        ({"text": "missing.jsonl"}, "missing.jsonl"),
        ({"site": "7.resid_post"}, "7"),
        ({"total_tokens": 32 * 10_000}, "The activations ended early"),
        ({"lr": 1e30, "optimiser": "signum"}, "The loss became"),
    ],
)
def test_a_mistake_is_told_by_the_first_process_alone(data, tmp_path, more, words):
    text = data / more.get("text", "a.jsonl")
    given = small(data / "model", text, tmp_path / "run", **{name: one for name, one in more.items() if name != "text"})
    ended = commands(2, tmp_path / "said", given)
    assert [one.code for one in ended] == [2, 2], ended
    assert words in " ".join(ended[0].err.replace("│", " ").split())
    assert ended[1].err == ""
    assert all(one.out == "" and "Traceback" not in one.err for one in ended)


def test_what_one_process_alone_meets_it_tells(data, tmp_path, monkeypatch):
    """An error that is not exchanged, as of a machine that lacks something."""

    def broken(*_, **__):
        raise saes.FormatError("this machine is broken") if os.environ["RANK"] == "1" else SystemExit(0)

    monkeypatch.setattr(saes.World, "from_env", broken)
    assert commands(2, tmp_path / "said", command(data, tmp_path / "run"))[1].err == "steer: this machine is broken\n"


def test_shards_need_torchrun(capsys, tmp_path):
    assert run(["train", "--total-tokens", "64", "--out", str(tmp_path / "run"), "--latent-shards", "2"]) == 2
    assert "latent_shards must divide the number of processes: got 2 shards on 1 processes" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_dry_run_tells_what_each_process_holds(capsys, data, tmp_path):
    def estimated(*more):
        assert run([*command(data, tmp_path / "run"), "--dry-run", "--json", *more]) == 0
        found = json.loads(capsys.readouterr().out)
        return found, {part["name"]: part["bytes"] for part in found["parts"]}

    one, parts = estimated()
    shared, of_two = estimated("--ranks", "2")
    divided, of_shard = estimated("--latent-shards", "2")
    assert [(found["ranks"], found["latent_shards"]) for found in (one, shared, divided)] == [(1, 1), (2, 1), (2, 2)]
    assert of_two["sae-d64: weights"] == parts["sae-d64: weights"] == 4 * (2 * 32 * 64 + 64 + 32)
    assert of_shard["sae-d64: weights"] == 4 * (2 * 32 * 32 + 32 + 32)
    assert of_two["sae-d64: pre-activations"] == of_shard["sae-d64: pre-activations"] == 4 * 1.25 * 16 * 64
    assert parts["sae-d64: AuxK"] > of_two["sae-d64: AuxK"]
    assert parts["ring"] == of_two["ring"] == of_shard["ring"]
    assert divided["bytes"] < shared["bytes"]
    assert divided["files"] == one["files"]
    assert run([*command(data, tmp_path / "run"), "--ranks", "2"]) == 2
    assert "--ranks goes with --dry-run" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


def test_each_process_runs_the_model_on_its_share_of_the_text(data, tmp_path, monkeypatch):
    read = LanguageModel.activations

    def counted(lm, tokens, sites):
        with (tmp_path / os.environ.get("RANK", "alone")).open("a") as file:
            file.write(f"{int(tokens.mask.sum())}\n")
        return read(lm, tokens, sites)

    monkeypatch.setattr(LanguageModel, "activations", counted)
    assert run(command(data, tmp_path / "one")) == 0
    assert [one.code for one in commands(2, tmp_path / "said", command(data, tmp_path / "two"))] == [0, 0]
    whole, *shares = (sum(map(int, (tmp_path / who).read_text().split())) for who in ("alone", "0", "1"))
    assert sum(shares) == whole
    assert max(shares) < 0.6 * whole
