"""SIGTERM, which schedulers send before they kill: commands put in order what they hold, as after Ctrl-C."""

import os
import signal
import time
from contextlib import suppress

import pytest

import saes
import steer.checkpoints.convert
import steer.cli.app
import steer.forks
import steer.studies.demo
from steer.cli.app import run
from steer.files import LOCK, claimed
from steer.forks import forked
from tests.conftest import random_sae


def asleep(out):
    """Work that tells which process does it, and is not done by itself."""
    (out / f"{os.getpid()}.pid").touch()
    if len(list(out.glob("*.pid"))) == 2:
        with suppress(FileExistsError):
            (out / "told").touch(exist_ok=False)  # by one of them
            os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(60)


def test_sigterm_puts_everything_in_order_as_ctrl_c_does(capsys, monkeypatch, tmp_path):
    """A demo that holds its folder, and shares work with two processes, is told to end."""
    out = tmp_path / "out"

    def told_to_end(config, out, *_):
        with claimed(out):
            (out / "results.json").write_text("{}")
            assert (out / LOCK).exists()
            list(forked(asleep, [out, out], processes=2))

    monkeypatch.setattr(steer.studies.demo, "run_demo", told_to_end)
    monkeypatch.setattr(steer.forks, "_has_threads", lambda: False)
    assert run(["demo", "--out", str(out)]) == 143
    assert "What is finished stays" in " ".join(capsys.readouterr().err.split())
    processes = [int(path.stem) for path in out.glob("*.pid")]
    assert len(processes) == 2
    for process in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)
    assert not (out / LOCK).exists()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_conversion_that_is_told_to_end_leaves_nothing(monkeypatch, tmp_path):
    saes.save(random_sae(), tmp_path / "sae")
    monkeypatch.setattr(steer.checkpoints.convert, "probe", lambda _: os.kill(os.getpid(), signal.SIGTERM))
    assert run(["sae", "convert", str(tmp_path / "sae"), str(tmp_path / "new"), "--to", "saelens"]) == 143
    assert [path.name for path in tmp_path.iterdir()] == ["sae"]


@pytest.mark.parametrize("of", ["somebody else", "torchrun"])
def test_sigterm_that_is_not_ours_is_left_alone(monkeypatch, of):
    """Another's handler stays; torchrun ends with it those processes that wait for one that is gone."""
    seen, before = [], signal.getsignal(signal.SIGTERM)
    theirs = signal.SIG_IGN if of == "somebody else" else signal.SIG_DFL
    if of == "torchrun":
        monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setattr(steer.cli.app, "_run", lambda _: seen.append(signal.getsignal(signal.SIGTERM)) or 0)
    signal.signal(signal.SIGTERM, theirs)
    try:
        assert run([]) == 0
        assert seen == [theirs]
        assert signal.getsignal(signal.SIGTERM) == theirs
    finally:
        signal.signal(signal.SIGTERM, before)
