"""``steer train`` started by torchrun: the losses of one process, gone on with by another number, told once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import saes
from steer.cli.app import run
from tests.steer.training_data import small, write_model, write_text

ROOT = Path(__file__).parents[2]
LAUNCHER = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "steer")


def launched(arguments):
    """The command on two processes, over gloo; what they print together."""
    return subprocess.run(
        [sys.executable, *LAUNCHER, *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def lines(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_two_processes_have_the_losses_of_one_and_print_once(tmp_path):
    """They share the batches, and are stopped; then the same command goes on with one process."""
    model, text = write_model(tmp_path / "model"), write_text(tmp_path / "a.jsonl")
    same = {"d_sae": "64,48", "dead_after_tokens": 64}
    assert run(small(model, text, tmp_path / "one", **same)) == 0

    given = small(model, text, tmp_path / "two", **same)
    done = launched([*given, "--stop-after-steps", "10", "--json"])
    assert done.returncode == 0, done.stderr
    stopped = json.loads(done.stdout)
    assert (stopped["done"], stopped["tokens"]) == (False, 320)
    assert done.stderr.count("stopped after 320 tokens") == 1
    assert run(given) == 0

    one, two = lines(tmp_path / "one"), lines(tmp_path / "two")
    assert any(line["dead_fraction"] for line in one), "AuxK takes part"
    assert [line["tokens"] for line in two] == [line["tokens"] for line in one]
    for name in ("loss", "fvu", "l0", "dead_fraction"):
        assert [line[name] for line in two] == pytest.approx([line[name] for line in one], rel=1e-5), name
    whole, shared = (saes.load(tmp_path / run / "sae-d64") for run in ("one", "two"))
    assert torch.allclose(shared.W_dec, whole.W_dec, atol=1e-4)
    summaries = [
        json.loads((tmp_path / run / "sae-d64" / "config.json").read_text())["training"] for run in ("one", "two")
    ]
    assert summaries[1]["about"]["text"] == summaries[0]["about"]["text"]
    assert summaries[1]["fvu"] == pytest.approx(summaries[0]["fvu"], rel=1e-5)


def test_shards_need_torchrun(capsys, tmp_path):
    assert run(["train", "--total-tokens", "64", "--out", str(tmp_path / "run"), "--latent-shards", "2"]) == 2
    assert "latent_shards must divide the number of processes: got 2 shards on 1 processes" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
