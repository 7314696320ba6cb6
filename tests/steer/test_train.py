"""``steer train``: what it trains, keeps and tells; killed and gone on with; its estimate; its log elsewhere."""

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

import saes
from steer.activations.batch import StreamConfig
from steer.activations.manifest import read_manifest
from steer.activations.policy import TokenPolicy
from steer.activations.reading import Reading
from steer.activations.resumable import ActivationStream
from steer.activations.shards import ShardConfig, write_shards
from steer.activations.sources.opened import open_source
from steer.cli.app import run
from steer.models.load import load_model
from steer.training.config import KEEPING, TrainingConfig
from tests.saes.test_run import as_of_an_earlier_release
from tests.steer.training_data import SMALL, options, small, write_model, write_text

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("text") / "a.jsonl")


def trained(capsys, *arguments):
    """What the command says as JSON."""
    assert run([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def named(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_it_trains_what_the_library_trains(capsys, model, text, tmp_path):
    """The same weights as from ``saes.fit`` on a stream that is opened by hand."""
    result = trained(capsys, *small(model, text, tmp_path / "run"))
    lm = load_model(str(model))
    reading = Reading("1.resid_post", TokenPolicy(), forward_tokens=400)
    stream = ActivationStream(lm, open_source(text), reading, StreamConfig(32, 96, ahead=0, endless=False))
    train = saes.TrainConfig(32 * 20, 32, lr=0.01, measure_every_steps=4)
    expected = saes.fit(saes.SAEConfig(32, 64, 4, site="1.resid_post"), stream, train)
    sae = saes.load(tmp_path / "run" / "sae")
    assert all(torch.equal(tensor, sae.state_dict()[name]) for name, tensor in expected.state_dict().items())

    assert (sae.config.model, sae.config.site) == (str(model), "1.resid_post")
    assert sae.config.token_policy.startswith("form packed, context_size 128, roles all, exclude_first true")
    assert sae.config.input_scale == expected.config.input_scale != 1
    summary = json.loads((tmp_path / "run" / "sae" / "config.json").read_text())["training"]
    (told,) = result["saes"]
    assert {name: summary[name] for name in ("fvu", "l0", "dead_fraction", "tokens")} == {
        name: told[name] for name in ("fvu", "l0", "dead_fraction", "tokens")
    }
    assert summary["about"]["text"] == [str(text)]
    assert (told["folder"], told["tokens"], told["l0"]) == (str(tmp_path / "run" / "sae"), 640, 4)
    assert result["done"]
    assert told["tokens_per_second"] == pytest.approx(640 / told["seconds"])


def test_lists_train_every_combination_on_one_reading(capsys, model, text, tmp_path):
    lists = {"site": "0.resid_post,1.resid_post", "k": "4,8", "seed": "0,1"}
    result = trained(capsys, *small(model, text, tmp_path / "run", **lists))
    assert len(result["saes"]) == 8
    names = [Path(one["folder"]).name for one in result["saes"]]
    assert names[:2] == ["sae-0.resid_post-k4-seed0", "sae-0.resid_post-k4-seed1"]
    one = saes.load(tmp_path / "run" / "sae-1.resid_post-k8-seed1")
    assert (one.config.site, one.config.k) == ("1.resid_post", 8)
    alone = {"site": "1.resid_post", "k": "8", "seed": "1"}
    trained(capsys, *small(model, text, tmp_path / "alone", **alone))
    assert torch.equal(saes.load(tmp_path / "alone" / "sae").W_dec, one.W_dec)


@pytest.mark.parametrize(
    ("more", "check"),
    [
        ({"activation": "batch_topk", "prefixes": "8,16"}, lambda c: c.prefixes == (8, 16, 64) and c.k == 4),
        ({"activation": "jumprelu", "k": None}, lambda c: c.k is None),
        ({"site_out": "2.mlp_out", "skip": True}, lambda c: c.site_out == "2.mlp_out" and not c.subtract_b_dec),
        ({"k": None, "d_sae": None, "input_norm": "layer_norm"}, lambda c: (c.k, c.d_sae) == (32, 256)),
        ({"site": None, "optimiser": "signum"}, lambda c: c.site == "1.resid_post"),
        ({"form": "documents", "exclude_special": True}, lambda c: "exclude_special true" in c.token_policy),
    ],
)
def test_kinds_of_saes(capsys, model, text, tmp_path, more, check):
    trained(capsys, *small(model, text, tmp_path / "run", **more))
    assert check(saes.load(tmp_path / "run" / "sae").config)


def test_stored_activations_need_no_model_and_tell_whose_they_are(capsys, model, text, tmp_path):
    lm = load_model(str(model))
    reading = Reading(("0.resid_post", "1.resid_post"), TokenPolicy(exclude_special=True), forward_tokens=400)
    write_shards(lm, open_source(text), reading, tmp_path / "acts", ShardConfig(shard_tokens=500))
    given = {**SMALL, "shards": tmp_path / "acts", "out": tmp_path / "run"}
    trained(capsys, "train", *options(**given))
    config = saes.load(tmp_path / "run" / "sae").config
    assert (config.model, config.site) == (str(model), "1.resid_post")
    assert "exclude_special true" in config.token_policy
    trained(capsys, "train", *options(**{**given, "model": model, "site": None, "out": tmp_path / "both"}))
    assert named(tmp_path / "both")[-2:] == ["sae-0.resid_post", "sae-1.resid_post"]

    write_model(tmp_path / "other", other_model())
    for more, words in (
        ({"model": tmp_path / "other"}, "does not fit: weights is"),
        ({"site": "2.resid_post"}, "sites are 0.resid_post, 1.resid_post there, without 2.resid_post"),
        ({"no_exclude_special": True}, "policy does not fit: exclude_special is true there, but false here"),
        ({"total_tokens": 32 * 900, "save_every_steps": 999}, "there were 2,"),
    ):
        assert run(["train", *options(**{**given, "out": tmp_path / "no", **more})]) == 2
        assert words in " ".join(capsys.readouterr().err.split())
        assert not (tmp_path / "no").exists()


def test_activations_are_stored_on_the_way_and_read_the_next_time(capsys, model, text, tmp_path):
    given = {"shards": tmp_path / "acts", "context_size": 40}
    assert run(small(model, text, tmp_path / "dry", **given, dry_run=True)) == 0
    capsys.readouterr()
    assert not (tmp_path / "acts").exists()
    trained(capsys, *small(model, text, tmp_path / "run", **given))
    manifest = read_manifest(tmp_path / "acts")
    assert (manifest.complete, manifest.tokens) == (True, SMALL["total_tokens"])
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "acts").iterdir()}
    trained(capsys, *small(model, text, tmp_path / "again", **given))
    trained(capsys, "train", *options(**{**SMALL, "shards": tmp_path / "acts", "out": tmp_path / "alone"}))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "acts").iterdir()} == before
    ours, *others = (saes.load(tmp_path / name / "sae").state_dict() for name in ("run", "again", "alone"))
    assert all(torch.equal(ours[name], other[name]) for other in others for name in ours)

    write_text(tmp_path / "other.jsonl", 50)
    for more, words in (
        ({"text": tmp_path / "other.jsonl"}, "dataset is"),
        ({"context_size": 50}, "context_size is 40 there, but 50 here"),
        ({"total_tokens": 32 * 30}, "max_tokens is 640 there, but 960 here"),
    ):
        assert run(small(model, **{"text": text, "out": tmp_path / "no", **given, **more})) == 2
        assert words in " ".join(capsys.readouterr().err.split())


def other_model():
    from tests.conftest import tiny_model

    lm = tiny_model("llama")
    with torch.no_grad():
        lm.model.get_input_embeddings().weight.mul_(2)
    return lm


def test_a_run_of_an_earlier_release_says_what_to_ask_for_and_goes_on(capsys, model, text, tmp_path):
    out, lr = tmp_path / "run", 3.2e-3  # of 64 latents, at any length of the run
    trained(capsys, *small(model, text, out, stop_after_steps=7, lr=lr, adam_beta2=0.999))
    as_of_an_earlier_release(out)
    for more, words in (
        ({"lr": None}, "lr is 0.0032 there, but null was asked for"),
        ({"lr": lr}, "adam_beta2 is 0.999 there, but 0.95 was asked for"),
    ):
        assert run(small(model, text, out, **more)) == 2
        assert words in " ".join(capsys.readouterr().err.split())
    assert trained(capsys, *small(model, text, out, lr=lr, adam_beta2=0.999))["done"]


@pytest.mark.parametrize(("activation", "given"), [("topk", {}), ("relu", {"k": None, "adam_beta2": 0.95})])
def test_a_run_of_version_2_goes_on_with_the_numbers_of_its_time(capsys, model, text, tmp_path, activation, given):
    """Its beta2 was 0.95 for all activations, and ``repeat`` was among what is compared."""
    out, given = tmp_path / "run", {"activation": activation, **given}
    trained(capsys, *small(model, text, out, stop_after_steps=5, **{**given, "adam_beta2": 0.95}))
    settings = json.loads((out / "run.json").read_text())
    settings |= {"version": 2, "about": settings["about"] | {"repeat": False}}
    (out / "run.json").write_text(json.dumps(settings))
    if activation == "relu":
        assert run(small(model, text, out, **{**given, "adam_beta2": None})) == 2
        words = "adam_beta2 is 0.95 there, but 0.999 was asked for"
        assert words in " ".join(capsys.readouterr().err.split())
    assert trained(capsys, *small(model, text, out, **given))["done"]
    trained(capsys, *small(model, text, tmp_path / "whole", **given))
    ours, whole = (saes.load(folder / "sae").state_dict() for folder in (out, tmp_path / "whole"))
    assert all(torch.equal(ours[name], whole[name]) for name in ours)


def test_a_selection_that_is_not_to_be_had_is_said_once(capsys, model, text, tmp_path, monkeypatch):
    monkeypatch.setenv("SAES_KERNELS", "eager")
    assert run(small(model, text, tmp_path / "run", selection="proven")) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert told.count("selection proven is not to be had on this machine: the k largest are found by exact.") == 1


def test_the_same_command_goes_on_and_another_is_refused_or_begins_anew(capsys, model, text, tmp_path):
    out = tmp_path / "run"
    assert not trained(capsys, *small(model, text, out, stop_after_steps=7))["done"]
    assert run(small(model, text, out, k="8")) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "holds a run with other settings: k is [4] there, but [8] was asked for" in message
    assert trained(capsys, *small(model, text, out))["done"]
    assert trained(capsys, *small(model, text, out))["done"]  # there is nothing left to do
    trained(capsys, *small(model, text, tmp_path / "whole"))
    log, whole = ((folder / "log.jsonl").read_text().splitlines() for folder in (out, tmp_path / "whole"))
    assert [json.loads(line)["fvu"] for line in log] == [json.loads(line)["fvu"] for line in whole]

    assert run(small(model, tmp_path / "absent.jsonl", out, k="8", overwrite=True)) == 2
    for setting in ({"keep": 0}, {"stop_after_seconds": -1}):
        assert run(small(model, text, out, k="8", overwrite=True, **setting)) == 2
    assert saes.load(out / "sae").config.k == 4, "what cannot begin replaces nothing"
    (out / "checkpoints" / "damaged-step-000000000005").mkdir()  # what use_older sets aside is a run's to remove
    capsys.readouterr()
    trained(capsys, *small(model, text, out, k="8", overwrite=True))
    assert saes.load(out / "sae").config.k == 8
    (out / "mine.txt").write_text("a note")
    assert run(small(model, text, out, overwrite=True)) == 2
    assert "holds more: mine.txt" in capsys.readouterr().err
    assert (out / "sae").exists()


def test_a_config_file_holds_the_same_fields_and_options_come_first(capsys, model, text, tmp_path):
    fields = {name: value for name, value in SMALL.items() if name not in ("d_sae", "k")}
    fields |= {"d_sae": [64, 32], "k": 4, "model": str(model), "text": str(text)}
    (tmp_path / "a.toml").write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in fields.items()))
    trained(capsys, "train", *options(config=tmp_path / "a.toml", out=tmp_path / "run", k="8"))
    assert named(tmp_path / "run") == ["checkpoints", "log.jsonl", "run.json", "sae-d32", "sae-d64"]
    assert saes.load(tmp_path / "run" / "sae-d32").config.k == 8
    again = ["train", *options(config=tmp_path / "run" / "run.json", out=tmp_path / "again", threads=1, ahead=0)]
    trained(capsys, *again)
    assert torch.equal(saes.load(tmp_path / "again" / "sae-d64").W_dec, saes.load(tmp_path / "run" / "sae-d64").W_dec)


def test_killed_or_interrupted_at_any_moment_it_goes_on_to_the_same_bits(tmp_path):
    """In a program of its own, which forks; see ``killed_training.py``. It compares memory with the estimate, too."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.steer.killed_training", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["kills"].count(-9) >= 3
    assert all(found[f"killed-{wanted}"] for wanted in (1, 25))
    assert found["lines"] == 2 * 31
    for how, expected in (("interrupted", 130), ("told to end", 143)):
        code, said = found[how]
        assert code == expected
        assert "The same command goes on from there" in " ".join(said.split())
    assert found["saved"] >= 1
    assert found["unfinished"]
    assert found["continued"]
    for kind, (measured, estimated) in found["memory"].items():
        assert estimated == pytest.approx(measured, rel=0.3), kind


def test_a_dry_run_tells_and_writes_nothing(capsys, model, text, tmp_path):
    given = small(model, text, tmp_path / "run", d_sae="64,128", tensorboard=None)
    assert run([*given, "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(tmp_path.iterdir()) == []
    parts = {part["name"]: part["bytes"] for part in found["parts"]}
    weights = 2 * 32 * 128 + 128 + 32
    assert parts["sae-d128: weights"] == 4 * weights
    assert parts["sae-d128: moments (adam)"] == 8 * weights
    assert parts["ring"] == 96 * 32 * 4
    assert parts["model"] == sum(p.numel() * 4 for p in load_model(str(model)).model.parameters())
    assert found["bytes"] > sum(part["bytes"] for part in found["parts"] if part["at"] == "always")
    assert found["steps"] == 20
    assert len(found["step_seconds"]) == 2
    assert 0 < found["seconds"][0] < found["seconds"][1]
    assert run([*given, "--dry-run"]) == 0
    assert "Nothing was written" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []

    trained(capsys, *given)
    assert {Path(file["path"]).name for file in found["files"]} == set(named(tmp_path / "run"))
    checkpoint = sum(file.stat().st_size for file in (tmp_path / "run" / "checkpoints").rglob("*.safetensors")) / 2
    (told,) = (file["bytes"] for file in found["files"] if file["path"].endswith("checkpoints"))
    assert told / 3 == pytest.approx(checkpoint, rel=0.3)


class Written(list):
    """Stands for TensorBoard's writer: what was written."""

    def __init__(self, folder, purge_step=None):
        self.folder, self.purge_step = folder, purge_step
        written.append(self)

    def add_scalar(self, name, value, step):
        self.append((name, value, step))

    def close(self):
        self.closed = True


written: list[Written] = []


def test_tensorboard_gets_the_lines_of_the_log(capsys, model, text, tmp_path, monkeypatch):
    written.clear()
    fake = types.ModuleType("torch.utils.tensorboard")
    fake.SummaryWriter = Written
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    trained(capsys, *small(model, text, tmp_path / "run", k="4,8", tensorboard=True))
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    for number, writer in enumerate(written):
        assert writer.closed
        assert writer.folder == str(tmp_path / "run" / "tensorboard" / f"sae-k{[4, 8][number]}")
        assert [(name, value, step) for name, value, step in writer if name == "fvu"] == [
            ("fvu", line["fvu"], line["tokens"]) for line in log if line["sae"] == number
        ]
    assert len(written) == 2


class Wandb(types.ModuleType):
    """Stands for Weights & Biases: calls, and a failure at the third line."""

    def __init__(self):
        super().__init__("wandb")
        self.opened, self.lines = [], []

    def init(self, **given):
        self.opened.append(given)
        return self

    def log(self, figures, step):
        if len(self.lines) == 3:
            raise ConnectionError("no network")
        self.lines.append((figures["fvu"], step))

    def finish(self):
        raise AssertionError("it has been left out")


def test_wandb_gets_them_too_and_its_failure_ends_nothing(capsys, model, text, tmp_path, monkeypatch):
    fake = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    out = tmp_path / "run"
    assert run(small(model, text, out, wandb="mine")) == 0
    assert "nothing more is logged to Weights & Biases: ConnectionError: no network" in " ".join(
        capsys.readouterr().err.split()
    )
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert fake.lines == [(line["fvu"], line["tokens"]) for line in log[:3]]
    (given,) = fake.opened
    assert (given["project"], given["dir"], given["config"]["total_tokens"]) == ("mine", str(out), 640)
    assert given["id"] == json.loads((out / "wandb.json").read_text())["id"]


@pytest.mark.parametrize(("option", "module"), [("--tensorboard", "torch.utils.tensorboard"), ("--wandb=x", "wandb")])
def test_a_logger_that_is_not_installed_is_named(capsys, model, text, tmp_path, monkeypatch, option, module):
    monkeypatch.setitem(sys.modules, module, None)
    assert run([*small(model, text, tmp_path / "run"), option]) == 2
    assert "pip install 'saesteer[logging]'" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


def test_options_are_the_fields_of_the_config_with_its_defaults():
    import typer

    from steer.cli.commands import app
    from steer.cli.train.run import CALL

    params = {one.name: one for one in typer.main.get_command(app).commands["train"].params}
    fields = TrainingConfig.model_fields
    assert set(params) == set(fields) | set(CALL)
    assert set(KEEPING) <= set(fields)
    for name, field in fields.items():
        told, default = params[name].show_default, field.get_default()
        if isinstance(default, str | int | float) and not isinstance(default, bool):
            assert told == str(default), name
        assert params[name].rich_help_panel
        assert params[name].help
