"""Run folders: exact resumption, also after a kill; damage, other settings, full disks; the log."""

import dataclasses
import inspect
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import saes
from saes import ConfigError, DivergedError, FormatError, RunConfig, SAEConfig, TrainConfig
from saes.tree import join, split
from tests.saes.killed import CONFIGS, STEPS, TOKENS, TRAINS, Stream

CONFIG = SAEConfig(8, 24, 3, site="a")
TRAIN = TrainConfig(TOKENS * 12, TOKENS, lr=1e-2, measure_every_steps=1)


def fit(folder, config=CONFIG, train=TRAIN, stream=None, **run):
    return saes.fit(config, stream or Stream(), train, run=RunConfig(folder, **run))


def steps(folder: Path) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in sorted((folder / "checkpoints").glob("step-*"))]


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def same(one, other):
    return one.config == other.config and all(
        torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items()
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the program forks")
def test_a_run_killed_at_any_moment_and_gone_on_with_is_the_uninterrupted_one(tmp_path):
    """A real SIGKILL, at calls of the system in the midst of checkpoints and at random; see ``killed.py``."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.saes.killed", str(tmp_path), "23"],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["killed"] >= 8
    assert len(outcome["weights"]) == len(CONFIGS)
    assert [line["tokens"] for line in outcome["log"] if line["sae"] == 0] == [TOKENS, TOKENS * STEPS]


@pytest.mark.parametrize("stop", [{"stop_after_steps": 5}, {"stop_after_seconds": 0.0}])
def test_a_run_stopped_and_gone_on_with_is_the_one_without_a_folder(tmp_path, stop):
    whole = saes.fit(CONFIGS, Stream(), TRAINS)
    calls = 0
    while not (tmp_path / "sae-1").exists():
        parts = fit(tmp_path, CONFIGS, TRAINS, **stop)
        calls += 1
    assert calls == (3 if "stop_after_steps" in stop else STEPS)
    assert all(map(same, whole, parts))
    again = fit(tmp_path, CONFIGS, TRAINS)  # there is nothing left to do
    assert all(map(same, whole, again))
    assert all(same(one, saes.load(tmp_path / f"sae-{number}")) for number, one in enumerate(whole))


def test_every_checkpoint_is_an_sae_for_raw_activations(tmp_path):
    """SAELens' intermediate checkpoints were not folded (#381)."""
    fit(tmp_path, save_every_steps=4, stop_after_steps=8, keep=5)
    short = saes.fit(CONFIG, Stream(), dataclasses.replace(TRAIN, warmup_frac=0, decay_frac=0, total_tokens=TOKENS))
    assert steps(tmp_path) == [4, 8]
    loaded = saes.load(tmp_path / "checkpoints" / "step-000000000008" / "sae-0")
    x = next(Stream())["a"]
    assert saes.measure(loaded, [x])[0].fvu < saes.measure(short, [x])[0].fvu
    assert loaded.config.input_scale == short.config.input_scale
    assert not (tmp_path / "sae-0").exists(), "it is not done yet"


def test_the_newest_few_are_kept_and_time_can_say_when(tmp_path):
    fit(tmp_path / "few", save_every_steps=2, keep=3)
    assert steps(tmp_path / "few") == [8, 10, 12]
    fit(tmp_path / "timed", save_every_steps=None, save_every_seconds=0.0, keep=100)
    assert steps(tmp_path / "timed") == list(range(1, 13))
    fit(tmp_path / "end", save_every_steps=None)
    assert steps(tmp_path / "end") == [12]


def cut(path):
    path.write_bytes(path.read_bytes()[:-5])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["state.safetensors", "state.json", "sae-0/sae.safetensors", "sae-0/config.json"])
@pytest.mark.parametrize(
    ("damage", "words"), [(cut, "has been cut off"), (flip, "has been altered"), (Path.unlink, "cannot be read")]
)
def test_a_damaged_checkpoint_is_refused_by_name_and_an_older_one_used_if_asked(tmp_path, name, damage, words):
    whole = saes.fit(CONFIG, Stream(), TRAIN)
    fit(tmp_path, save_every_steps=3, stop_after_steps=9)
    assert steps(tmp_path) == [6, 9]
    file = tmp_path / "checkpoints" / "step-000000000009" / name
    damage(file)
    with pytest.raises(FormatError, match=words) as caught:
        fit(tmp_path)
    assert str(file) in str(caught.value)
    assert "use_older=True" in str(caught.value)
    assert same(fit(tmp_path, use_older=True), whole)
    assert [line["tokens"] for line in lines(tmp_path)] == [TOKENS * step for step in range(1, 13)]
    assert (tmp_path / "checkpoints" / "damaged-step-000000000009").is_dir()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.write_text("{}"), "manifest.json has been altered or cut off"),
        (lambda path: path.write_text(path.read_text().replace('"bytes": ', '"bytes": 1')), "digest is not that"),
        (Path.unlink, "manifest.json cannot be read"),
    ],
)
def test_a_damaged_manifest_is_refused(tmp_path, damage, words):
    fit(tmp_path, stop_after_steps=2)
    damage(tmp_path / "checkpoints" / "step-000000000002" / "manifest.json")
    with pytest.raises(FormatError, match=words):
        fit(tmp_path)


@pytest.mark.parametrize(
    ("config", "train", "words"),
    [
        (CONFIG, dataclasses.replace(TRAIN, lr=2e-2), r"saes\[0\].train.lr is 0.01 there, and 0.02 was asked"),
        (dataclasses.replace(CONFIG, k=4), TRAIN, r"saes\[0\].config.k is 3 there, and 4 was"),
        ([CONFIG, CONFIG], TRAIN, "saes is "),
    ],
)
def test_other_settings_are_refused_saying_which(tmp_path, config, train, words):
    fit(tmp_path, stop_after_steps=1)
    before = (tmp_path / "log.jsonl").read_bytes()
    with pytest.raises(ConfigError, match=words):
        fit(tmp_path, config, train)
    assert (tmp_path / "log.jsonl").read_bytes() == before


def as_of_an_earlier_release(folder: Path) -> None:
    """Write a run's settings as version 1 did: with the rate by the rule of that time, and no word of beta2."""
    path = folder / "run.json"
    settings = json.loads(path.read_text())
    settings["version"] = 1
    train = settings["saes"][0]["train"]
    train["lr"] = None
    del train["adam_beta2"]
    if "about" in settings:
        settings["about"] |= {"lr": None}
        del settings["about"]["adam_beta2"]
    path.write_text(json.dumps(settings))


def test_a_run_of_an_earlier_release_goes_on_with_its_own_defaults_only(tmp_path):
    config = dataclasses.replace(CONFIG, d_sae=64)  # 2e-4 at 2^14 latents, divided by sqrt(64 / 2^14)
    began = dataclasses.replace(TRAIN, lr=3.2e-3, adam_beta2=0.999)
    whole = saes.fit(config, Stream(), began)
    fit(tmp_path, config, began, stop_after_steps=5)
    as_of_an_earlier_release(tmp_path)
    now = dataclasses.replace(TRAIN, lr=None)
    for asked, words in (
        (now, r"train.lr is 0.0032 there, and None was asked"),
        (dataclasses.replace(now, lr=3.2e-3), r"train.adam_beta2 is 0.999 there, and 0.95 was asked"),
    ):
        with pytest.raises(ConfigError, match=words):
            fit(tmp_path, config, asked)
    assert same(fit(tmp_path, config, began), whole)


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not empty and holds no run"):
        fit(tmp_path)
    with pytest.raises(FormatError, match="cannot be written"):
        fit(tmp_path / "notes.txt")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{")
    with pytest.raises(FormatError, match=r"run\.json cannot be read"):
        fit(tmp_path / "run")
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_stream_that_cannot_say_where_it_stands_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"generator has no methods state\(\) and restore"):
        fit(tmp_path / "run", stream=(x for x in Stream()))
    assert not (tmp_path / "run").exists()

    class Opaque(Stream):
        def state(self):
            return {"generator": [self.generator]}

    with pytest.raises(ConfigError, match=r"state.stream.generator\[0\] is a Generator"):
        fit(tmp_path / "opaque", stream=Opaque(), stop_after_steps=1)


class Spoilt(Stream):
    """Turns to numbers so large that the loss is not finite."""

    def __next__(self):
        batch = super().__next__()
        return {"a": batch["a"] * (2.0**100 if self.given > 8 else 1)}


def test_a_diverging_loss_keeps_the_last_good_checkpoint(tmp_path):
    with pytest.raises(DivergedError, match=r"at step 8 .*The last good checkpoint is .*step-000000000006"):
        fit(tmp_path, stream=Spoilt(), save_every_steps=3)
    assert steps(tmp_path) == [3, 6]
    saes.load(tmp_path / "checkpoints" / "step-000000000006" / "sae-0")


def test_a_checkpoint_that_does_not_fit_on_the_disk_leaves_nothing_of_it(tmp_path):
    """A limit on the size of files stands in for a full disk: the system refuses to write in the same place."""
    fit(tmp_path, save_every_steps=3, stop_after_steps=3)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))  # enough for the log and the settings
    try:
        with pytest.raises(FormatError, match=r"cannot be written .*what was saved before is whole"):
            fit(tmp_path, save_every_steps=3, stop_after_steps=3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert after.keys() == before.keys()
    assert {path for path in after if after[path] != before[path]} == {tmp_path / "log.jsonl"}
    assert same(fit(tmp_path), saes.fit(CONFIG, Stream(), TRAIN))
    assert [line["tokens"] for line in lines(tmp_path)] == [TOKENS * step for step in range(1, 13)]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full here")
def test_a_log_that_cannot_be_written_stops_with_its_name(tmp_path):
    fit(tmp_path, stop_after_steps=1)
    (tmp_path / "log.jsonl").unlink()
    (tmp_path / "log.jsonl").symlink_to("/dev/full")
    with pytest.raises(FormatError, match=r"log\.jsonl cannot be written .*No space left"):
        fit(tmp_path)
    assert steps(tmp_path) == [1]


def test_a_folder_that_is_being_trained_in_is_refused(tmp_path):
    class Nosy(Stream):
        def __next__(self):
            with pytest.raises(ConfigError, match="Another program is training in"):
                fit(tmp_path)
            return super().__next__()

    fit(tmp_path, stream=Nosy(), stop_after_steps=1)
    fit(tmp_path)
    assert steps(tmp_path)[-1] == 12


def test_the_log_has_each_step_once_with_its_figures(tmp_path):
    fit(tmp_path, save_every_steps=5, stop_after_steps=5)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"tokens": 192, "of": "steps that the next call makes again"}\n{"tok')
    records = []
    saes.fit(CONFIG, Stream(), TRAIN, records.append, run=RunConfig(tmp_path))
    found = lines(tmp_path)
    assert [line["tokens"] for line in found] == [TOKENS * step for step in range(1, 13)]
    assert found[5:] == [dataclasses.asdict(record) for record in records]
    wanted = {"tokens", "loss", "fvu", "l0", "dead_fraction", "lr", "k", "tokens_per_second", "memory_mib", "seconds"}
    assert wanted <= found[0].keys()
    seconds = [line["seconds"] for line in found]
    assert seconds == sorted(seconds)


@pytest.mark.parametrize(
    "change", [{"keep": 0}, {"save_every_steps": 0}, {"stop_after_steps": 1.5}, {"save_every_seconds": float("nan")}]
)
def test_run_settings_that_cannot_work(monkeypatch, change):
    monkeypatch.setattr(RunConfig, "__init__", inspect.unwrap(RunConfig.__init__))  # without the tests' type checks
    with pytest.raises(ConfigError, match=f"{next(iter(change))} must be a"):
        RunConfig("run", **change)


def test_states_are_taken_apart_and_put_together():
    shared = torch.arange(6.0).reshape(2, 3)
    tree = {"a": [1, 2.5, None, "text", {"b": shared}], "c": (shared.T, True), "d": torch.tensor(3)}
    data, tensors = split(tree)
    again = join(json.loads(json.dumps(data)), tensors)
    assert torch.equal(again["a"][4]["b"], shared)
    assert torch.equal(again["c"][0], shared.T)
    assert again["c"][1] is True
    assert again["d"] == 3
    assert again["a"][:4] == [1, 2.5, None, "text"]
    storages = [tensor.untyped_storage().data_ptr() for tensor in split([shared, shared[:1]])[1].values()]
    assert len(set(storages)) == 2, "safetensors stores no shared memory"
    with pytest.raises(ConfigError, match=r"state\[0\] is a set"):
        split([{1}])


def test_what_else_decides_is_kept_compared_and_told_with_each_sae(tmp_path):
    fit(tmp_path, about={"text": "a.txt"}, names=("mine",), stop_after_steps=1)
    with pytest.raises(ConfigError, match=r"about\.text is 'a\.txt' there, and 'b\.txt' was asked for"):
        fit(tmp_path, about={"text": "b.txt"})
    fit(tmp_path, about={"text": "a.txt"}, names=("mine",))
    summary = json.loads((tmp_path / "mine" / "config.json").read_text())["training"]
    last = lines(tmp_path)[-1]
    assert summary["about"] == {"text": "a.txt"}
    assert summary["tokens"] == TOKENS * 12
    assert [summary[name] for name in ("fvu", "l0", "dead_fraction")] == [
        last["fvu"],
        last["l0"],
        last["dead_fraction"],
    ]
    assert not (tmp_path / "sae-0").exists()


def test_a_run_stops_and_saves_when_it_is_asked_to(tmp_path):
    answers = iter([False, False, True])
    fit(tmp_path, stop=lambda: next(answers))
    assert steps(tmp_path) == [3]


@pytest.mark.parametrize("names", [("a", "a"), ("../out",), ("",), ("a/b",)])
def test_names_of_folders_that_cannot_be_are_refused(names, tmp_path):
    with pytest.raises(saes.ConfigError, match="names must be different names of folders"):
        saes.RunConfig(tmp_path, names=names)
