"""Run folders with things in them that do not belong there, and states that do not fit."""

import dataclasses
import hashlib
import json
import os
import shutil

import pytest

import saes
from saes import ConfigError, FormatError
from saes.run_claim import locked
from tests.saes.test_run import CONFIG, TRAIN, Stream, fit, same, steps

NEWEST = "checkpoints/step-000000000003"


@pytest.fixture
def begun(tmp_path):
    """A run of three steps."""
    fit(tmp_path / "run", stop_after_steps=3)
    return tmp_path / "run"


def sealed(checkpoint):
    """Make the manifest fit the files, as only somebody who means it does."""
    manifest = checkpoint / "manifest.json"
    data = json.loads(manifest.read_text())
    for name in data["files"]:
        content = (checkpoint / name).read_bytes()
        data["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    data["sha256"] = hashlib.sha256(json.dumps(data["files"], sort_keys=True).encode()).hexdigest()
    manifest.write_text(json.dumps(data))


def with_state(folder, change):
    path = folder / NEWEST / "state.json"
    state = json.loads(path.read_text())
    change(state)
    path.write_text(json.dumps(state))
    sealed(folder / NEWEST)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop("random"), "cannot be read .*'random'"),
        (lambda state: state.update(random=[1, 2]), "cannot be read .*TypeError"),
        (
            lambda state: state.update(random=state["fittings"][0]["training"]["silent_tokens"]),
            "RuntimeError|TypeError",
        ),
        (lambda state: state.pop("fittings"), "cannot be read .*'fittings'"),
        (lambda state: state.update(fittings=3), "cannot be read .*TypeError"),
        (lambda state: state.update(fittings=[]), "cannot be read .*IndexError"),
        (lambda state: state["stream"]["parts"][0].pop("generator"), "The Stream cannot go on from what .*'generator'"),
        (lambda state: state.update(stream=None), "The Stream cannot go on from what .*TypeError"),
        (
            lambda state: state["stream"]["parts"][0].update(generator=5),
            "The Stream cannot go on from what .*TypeError",
        ),
    ],
)
def test_a_state_that_does_not_fit_is_a_format_error(begun, change, words):
    with_state(begun, change)
    with pytest.raises(FormatError, match=words) as caught:
        fit(begun)
    assert NEWEST in str(caught.value)


def test_what_a_stream_says_itself_is_left_as_it_is(begun):
    class MyError(ValueError):
        pass

    class Strict(Stream):
        def restore(self, state):
            raise MyError("another text")

    with pytest.raises(MyError, match="another text"):
        fit(begun, stream=Strict())


@pytest.mark.parametrize(
    ("config", "train", "words"),
    [
        (dataclasses.replace(CONFIG, d_sae=48), TRAIN, "d_sae is 48 there, and 24 here"),
        (CONFIG, dataclasses.replace(TRAIN, optimiser="signum"), "training.optimiser is 'signum' there, and 'adam'"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(begun, tmp_path, config, train, words):
    fit(tmp_path / "other", config, train, stop_after_steps=5)
    shutil.copytree(tmp_path / "other" / "checkpoints", begun / "checkpoints", dirs_exist_ok=True)
    with pytest.raises(FormatError, match=words) as caught:
        fit(begun)
    assert "step-000000000005" in str(caught.value)
    shutil.rmtree(begun / "checkpoints" / "step-000000000005")
    assert same(fit(begun), saes.fit(CONFIG, Stream(), TRAIN))


def test_copies_beside_the_checkpoints_are_left_alone(begun):
    shutil.copytree(begun / NEWEST, begun / "checkpoints" / "step-000000000009.bak")
    (begun / "checkpoints" / "step-notes").mkdir()
    (begun / "checkpoints" / ".tmp-file").write_text("of a killed program")
    (begun / "checkpoints" / ".tmp-link").symlink_to(begun / "sae-0")
    assert same(fit(begun, keep=1), saes.fit(CONFIG, Stream(), TRAIN))
    names = {path.name for path in (begun / "checkpoints").iterdir()}
    assert names == {"step-000000000009.bak", "step-notes", "step-000000000012"}


@pytest.mark.parametrize("name", ["run.json", "log.jsonl", ".lock", "checkpoints"])
def test_a_folder_or_file_in_the_place_of_another_is_refused_before_training(tmp_path, name):
    (tmp_path / "run").mkdir()
    fit(tmp_path / "run", stop_after_steps=1)
    place = tmp_path / "run" / name
    if place.is_dir():
        shutil.rmtree(place)
        place.write_text("a file")
    else:
        place.unlink()
        place.mkdir()
    before = Stream()
    with pytest.raises(FormatError, match=rf"run(/{name.replace('.', '[.]')})? cannot be (written|read)"):
        fit(tmp_path / "run", stream=before)
    assert before.given <= 1


def test_a_file_where_an_sae_is_to_lie_is_refused_before_training(begun):
    (begun / "mine").write_text("a file")
    with pytest.raises(ConfigError, match="mine is a file where a trained SAE is to lie"):
        fit(begun, names=("mine",))


@pytest.mark.parametrize("text", ["[1]", "null", '{"format": "other"}', '"text"'])
def test_settings_of_something_else_are_refused(begun, text):
    (begun / "run.json").write_text(text)
    with pytest.raises(FormatError, match=r"run\.json does not hold the settings of a run"):
        fit(begun)


def test_a_lock_that_is_a_link_leaves_alone_what_it_leads_to(begun, tmp_path):
    (tmp_path / "mine.txt").write_text("a note")
    (begun / ".lock").unlink()
    (begun / ".lock").symlink_to(tmp_path / "mine.txt")
    fit(begun)
    assert (tmp_path / "mine.txt").read_text() == "a note"


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_to_is_refused(begun):
    begun.chmod(0o555)
    try:
        with pytest.raises(FormatError, match=r"cannot be written .*Permission denied"):
            fit(begun)
    finally:
        begun.chmod(0o755)


def test_a_stream_of_another_dtype_does_not_go_on(begun):
    class Half(Stream):
        def __next__(self):
            return {name: x.bfloat16() for name, x in super().__next__().items()}

    with pytest.raises(saes.ShapeError, match=r"got torch.bfloat16 at a, expected torch.float32"):
        fit(begun, stream=Half())
    assert steps(begun) == [3]


def test_a_manifest_of_another_shape_is_refused(begun):
    for files in ([], {"state.json": 3}, {"state.json": {"bytes": "x"}}):
        digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
        (begun / NEWEST / "manifest.json").write_text(json.dumps({"files": files, "sha256": digest}))
        with pytest.raises(FormatError, match=r"manifest\.json has been altered"):
            fit(begun)


def test_a_lock_that_was_removed_before_it_is_had_is_no_lock(tmp_path, monkeypatch):
    """Whoever cleared the folder has removed it, and somebody else may hold a new one."""
    fcntl = pytest.importorskip("fcntl")
    flock, path, calls = fcntl.flock, tmp_path / ".lock", []

    def late(file, how):
        calls.append(file)
        if len(calls) == 1:
            path.unlink()
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with locked(tmp_path) as lock:
        assert len(calls) == 2
        assert os.path.samestat(os.fstat(lock.fileno()), path.stat())
        with pytest.raises(ConfigError, match="Another program is training"):
            locked(tmp_path)


def test_settings_that_an_earlier_release_did_not_have_count_as_their_defaults(begun):
    settings = json.loads((begun / "run.json").read_text())
    del settings["saes"][0]["train"]["auxk_weight"], settings["saes"][0]["config"]["activation"]
    (begun / "run.json").write_text(json.dumps(settings))
    path = begun / NEWEST / "sae-0" / "config.json"
    told = json.loads(path.read_text())
    del told["training"]["auxk_weight"]
    path.write_text(json.dumps(told))
    sealed(begun / NEWEST)
    assert same(fit(begun), saes.fit(CONFIG, Stream(), TRAIN))
    with pytest.raises(ConfigError, match="auxk_weight is"):
        fit(begun, train=dataclasses.replace(TRAIN, auxk_weight=0.5))
