"""``steer train --from-sae``: training that goes on from the weights of SAEs."""

import dataclasses
import json
import shutil

import pytest
import torch

import saes
from steer.cli.app import run
from steer.training.config import TrainingConfig
from steer.training.estimate import estimate
from tests.conftest import random_sae
from tests.steer.training_data import SMALL, small, write_model, write_text

OPEN = {"site": None, "d_sae": None, "k": None}
"""What the SAE says itself."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A model, a text, and the SAE of a run of twenty steps."""
    folder = tmp_path_factory.mktemp("data")
    write_model(folder / "model")
    write_text(folder / "a.jsonl")
    assert run(small(folder / "model", folder / "a.jsonl", folder / "first")) == 0
    saes.save(random_sae(site=None), folder / "placeless")
    saes.save(random_sae(d_in=16), folder / "narrow")
    return folder


def asked(data, out, **more):
    return small(data / "model", data / "a.jsonl", out, **{**OPEN, **more})


def fvus(folder):
    return [json.loads(line)["fvu"] for line in (folder / "log.jsonl").read_text().splitlines()]


def test_it_goes_on_as_the_library_does_and_is_gone_on_with(capsys, data, tmp_path):
    start = str(data / "first" / "sae")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run(asked(data, whole, from_sae=start)) == 0
    assert fvus(whole)[0] < 0.7 * fvus(data / "first")[0]  # of the same batch, before the first step
    assert run(asked(data, parts, from_sae=start, stop_after_steps=7)) == 0
    assert run(asked(data, parts, from_sae=start)) == 0
    one, other = saes.load(whole / "sae"), saes.load(parts / "sae")
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())
    assert (one.config.d_sae, one.config.k, one.config.site) == (64, 4, "1.resid_post")
    settings = json.loads((whole / "run.json").read_text())
    assert settings["about"]["from_sae"] == [start]
    assert not set(settings["about"]) & {"d_sae", "k", "activation"}  # which are not those of this call
    assert json.loads((whole / "sae" / "config.json").read_text())["training"]["about"]["from_sae"] == [start]
    capsys.readouterr()
    assert run(asked(data, parts)) == 2
    assert "holds a run with other settings" in capsys.readouterr().err


def test_the_settings_of_such_a_run_are_those_of_another(data, tmp_path):
    start = str(data / "first" / "sae")
    assert run(asked(data, tmp_path / "one", from_sae=start, stop_after_steps=1)) == 0
    given = ["train", "--config", str(tmp_path / "one" / "run.json"), "--out", str(tmp_path / "two")]
    assert run([*given, "--threads", "1", "--ahead", "0"]) == 0
    assert fvus(tmp_path / "two")[0] == fvus(tmp_path / "one")[0]


def test_several_saes_go_on_where_they_read(data, tmp_path):
    starts = [str(data / "first" / "sae"), str(data / "placeless")]
    given = asked(data, tmp_path / "both", site="1.resid_post", stop_after_steps=2, save_every_steps=2)
    assert run([*given, "--from-sae", starts[0], "--from-sae", starts[1]]) == 0
    kept = sorted((tmp_path / "both" / "checkpoints").glob("step-*"))[-1]
    found = [saes.load(kept / f"sae-{number}").config for number in range(2)]
    assert [one.d_sae for one in found] == [64, random_sae().config.d_sae]
    assert {one.site for one in found} == {"1.resid_post"}


def test_the_estimate_counts_what_it_begins_with(data, tmp_path):
    fields = {**SMALL, **OPEN, "model": str(data / "model"), "out": str(tmp_path / "x")}
    found = estimate(
        TrainingConfig(from_sae=(str(data / "first" / "sae"),), **{**fields, "text": (str(data / "a.jsonl"),)})
    )
    weights = saes.load(data / "first" / "sae").state_dict().values()
    part = next(one for one in found.parts if one.name == "SAEs to go on from")
    assert part.bytes == sum(one.numel() * 4 for one in weights)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("source", "more", "words"),
    [
        ("first/sae", {"k": 8}, "k is 8, but {source} has 4. Training goes on from an SAE as it is: leave k out"),
        ("first/sae", {"d_sae": 128}, "d_sae is 128, but {source} has 64"),
        ("first/sae", {"activation": "relu"}, "activation is relu, but {source} has topk"),
        ("first/sae", {"site": "0.resid_post"}, "site is 0.resid_post, but {source} says 1.resid_post"),
        (
            "first/sae",
            {"site_out": "1.mlp_out"},
            "site_out is 1.mlp_out, but {source} says that it writes what it reads",
        ),
        ("first/sae", {"seed": "0,1"}, "seed draws the weights of new SAEs"),
        ("first/sae", {"b_dec_init": "zero"}, "b_dec_init says where a new SAE begins"),
        ("first/sae", {"batch_tokens": 0}, "batch_tokens must be a whole number"),
        ("placeless", {}, "{source} does not say where in the model it reads"),
        ("narrow", {}, "{source} is an SAE of activations of width 16"),
        ("absent", {}, "No SAE at {source}"),
        ("hub:owner/name", {"offline": True}, "hub:owner/name is read from the hub, and the network is not to be used"),
    ],
)
def test_what_contradicts_the_sae_is_refused_before_anything_is_written(capsys, data, tmp_path, source, more, words):
    source = source if ":" in source else str(data / source)
    given = asked(data, tmp_path / "out", from_sae=source, **more)
    assert run(given) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    told = " ".join(err.replace("│", " ").split())
    assert words.format(source=source) in told
    assert not (tmp_path / "out").exists()


def test_the_same_sae_twice_is_refused(capsys, data, tmp_path):
    source = ["--from-sae", str(data / "placeless")]
    assert run([*asked(data, tmp_path / "out"), *source, *source]) == 2
    assert "from_sae names at least one value, and each once" in " ".join(capsys.readouterr().err.split())


def test_a_run_that_holds_the_source_is_not_overwritten(capsys, data, tmp_path):
    assert run(asked(data, tmp_path / "run", from_sae=data / "first" / "sae", stop_after_steps=2)) == 0
    inside = shutil.copytree(data / "first" / "sae", tmp_path / "run" / "sae")
    capsys.readouterr()
    assert run([*asked(data, tmp_path / "run", from_sae=inside), "--overwrite"]) == 2
    assert "which training is to go on from" in capsys.readouterr().err
    assert (inside / "config.json").is_file()


def test_sites_that_no_sae_reads_are_refused_and_names_of_others_are_settled(capsys, data, tmp_path):
    start = data / "first" / "sae"
    own = json.loads((start / "config.json").read_text())["site"]
    assert run([*asked(data, tmp_path / "out", from_sae=start), "--site", f"{own},0.attn_out"]) == 2
    assert "site names 0.attn_out, where none of the SAEs of from_sae has been" in capsys.readouterr().err
    sae, other = saes.load(start), tmp_path / "other"
    sae.config = dataclasses.replace(sae.config, site="layers.1.mlp")
    saes.save(sae, other)
    assert run(asked(data, tmp_path / "out", from_sae=other)) == 2
    assert "'layers.1.mlp', which is no name that is known here. Give the site that is meant" in capsys.readouterr().err
    assert run([*asked(data, tmp_path / "out", from_sae=other), "--site", own, "--stop-after-steps", "1"]) == 0
