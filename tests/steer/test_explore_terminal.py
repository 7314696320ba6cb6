"""``steer explore`` on a real terminal: typed, completed, stopped, killed and gone on with."""

import fcntl
import os
import pty
import signal
import struct
import sys
import termios
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console

import saes
from steer.cli.app import run
from steer.explore.about_session import ABOUT_SESSION
from steer.explore.bench import Bench
from steer.explore.completion import offers
from steer.explore.loop import Loop, opened
from steer.explore.recipe import read_recipe
from tests.conftest import random_sae
from tests.steer.explore_data import Typed

pexpect = pytest.importorskip("pexpect")
fdpexpect = pytest.importorskip("pexpect.fdpexpect")
ROOT = Path(__file__).parents[2]
LIMIT_S = 60
READY = "\x1b[?2004h"  # the prompt takes what is pasted
GROWING = "\x1b[2m"  # a reply as far as it goes is faint


@pytest.fixture
def sae_folder(tmp_path, embedded):
    saes.save(random_sae(d_in=embedded.d_model, d_sae=300, k=8), tmp_path / "sae")
    return str(tmp_path / "sae")


def environment(tmp_path):
    env = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "XDG_CONFIG_HOME")}
    return env | {
        "HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
        "TERM": "xterm-256color",
        "PROMPT_TOOLKIT_NO_CPR": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }


def started(tmp_path, *arguments, code="from steer.cli.app import main; main()"):
    """A process of its own, which imports everything first."""
    return pexpect.spawn(
        sys.executable, ["-c", code, "explore", *arguments], env=environment(tmp_path), cwd=str(tmp_path),
        encoding="utf-8", timeout=LIMIT_S, dimensions=(50, 140),
        # tests that are started behind `&` have SIGINT ignored, and so would what they start
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


@pytest.fixture
def forked(tmp_path):
    """Runs ``steer explore`` on a terminal in a fork of this process, which has imported everything already."""
    pids = []

    def begin(*arguments):
        pid, terminal = pty.fork()
        if not pid:
            try:
                _in_fork(tmp_path, arguments)
            finally:
                os._exit(99)
        pids.append(pid)
        child = fdpexpect.fdspawn(terminal, encoding="utf-8", timeout=LIMIT_S)
        child.pid = pid
        child.exit_code = lambda: os.waitstatus_to_exitcode(os.waitpid(pids.pop(), 0)[1])
        return child

    yield begin
    for pid in pids:  # a test has failed
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _in_fork(tmp_path, arguments):
    signal.alarm(2 * LIMIT_S)
    fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("4H", 50, 140, 0, 0))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)  # those of the parent are not in the fork
    os.environ.clear()
    os.environ.update(environment(tmp_path))
    os.chdir(tmp_path)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w", buffering=1), open(2, "w", buffering=1)  # noqa: SIM115
    code = run(["explore", *arguments])
    sys.stdout.flush()
    os._exit(code)


def test_a_session_from_start_to_end_and_on(sae_folder, tmp_path, forked):
    child = forked("embedded", sae_folder)
    child.expect_exact("300 latents at 1.resid_post")
    child.expect_exact(READY)
    child.send("How do I bake bread?\r")
    child.expect_exact("Strongest latents of each token")
    child.expect_exact("48;5;")  # tokens are coloured
    child.expect_exact("Latents by share of")
    child.expect_exact(READY)
    child.send("/cla\t")
    child.expect_exact("mp")
    child.send(" 262=60\r")
    child.expect_exact("set: 262 = 60 (sae)")
    child.expect_exact(READY)
    child.send("/nope\r")
    child.expect_exact("No command is called /nope")
    child.expect_exact(READY)
    child.send("half typed\x03")  # Ctrl-C gives the line up
    child.expect_exact(READY)
    child.send("/set max_new_tokens=480 use_cache=false\r")  # a reply of some seconds
    child.expect_exact("top=10")
    child.expect_exact(READY)
    child.send("/ask\r")
    child.expect_exact(GROWING)
    child.send("\x03")  # and stops a reply
    child.expect_exact("not part of the recipe")
    child.expect_exact(READY)
    child.send("\x1b[A\x1b[A\r")  # the line before the last, from the history
    child.expect_exact("top=10")
    child.expect_exact(READY)
    child.send("\x04")  # Ctrl-D
    child.expect_exact("the session is kept in")
    child.expect(pexpect.EOF)
    assert child.exit_code() == 0
    folder = tmp_path / ".config" / "steer" / "explore"
    (kept,) = (folder / "sessions").iterdir()
    typed = ["How do I bake bread?", "/clamp 262=60", *["/set max_new_tokens=480 use_cache=false"] * 2]
    assert [step.line for step in read_recipe(kept).steps] == typed
    assert (folder / "history").stat().st_mode & 0o777 == 0o600

    child = forked("embedded", sae_folder, "--session", str(kept))
    child.expect_exact("4 commands were run")
    child.expect_exact(READY)
    os.kill(child.pid, signal.SIGTERM)
    child.expect(pexpect.EOF)
    assert child.exit_code() == 143
    assert [step.line for step in read_recipe(kept).steps] == typed


def test_a_home_that_cannot_be_written_to(sae_folder, tmp_path, forked):
    kept = tmp_path / ".config" / "steer" / "explore"
    kept.mkdir(parents=True)
    (kept / "sessions").write_text("no folder")
    (kept / "history").mkdir()
    child = forked("embedded", sae_folder)
    child.expect_exact("the session is not kept")
    child.expect_exact("lines are not remembered")
    child.expect_exact(READY)
    child.send("/set max_new_tokens=3\r")
    child.expect_exact(READY)
    child.send("/ask hi\r")
    child.expect_exact("unsteered")
    child.expect_exact(READY)
    child.send("/more and?\r")
    child.expect_exact("unsteered")
    child.expect_exact(READY)
    child.send("/quit\r")
    child.expect(pexpect.EOF)
    assert child.exit_code() == 0


def test_a_kill_loses_the_command_that_runs_and_no_more(llama, sae, tmp_path, monkeypatch):
    bench, console = Bench(llama, sae, "tiny/sae"), Console(file=StringIO())
    loop = Loop(bench, opened(None, bench), console, console, tmp_path / "s.json")
    monkeypatch.setattr("steer.explore.replies.text_of", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    child = os.fork()
    if not child:
        try:
            signal.alarm(LIMIT_S)
            torch.set_num_threads(1)  # those of the parent are not in the fork
            for line in ("hi", "/clamp 3=9", "/set max_new_tokens=9", "/ask"):
                loop.do(line)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    session = opened(tmp_path / "s.json", bench)
    assert [step.line for step in session.steps] == ["hi", "/clamp 3=9", "/set max_new_tokens=9"]
    assert session.state.sampling.max_new_tokens == 9


def test_without_prompt_toolkit_a_terminal_is_told_what_to_install(tmp_path):
    code = "import sys; sys.modules['prompt_toolkit'] = None\nfrom steer.cli.app import main; main()"
    child = started(tmp_path, "embedded", "nowhere", code=code)
    child.expect_exact("pip install 'saesteer[explore]'")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 2


@pytest.fixture
def completed(llama, sae, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plans").mkdir()
    (tmp_path / "plan.toml").write_text("")
    (tmp_path / "my files").mkdir()
    (tmp_path / "my files" / "a'b.txt").write_text("")
    (tmp_path / ".hidden").write_text("")
    typed = Typed(Bench(llama, sae, "tiny/sae"))
    typed("/clamp 12=1 31=2")

    def texts(line, latents=(5, 57, 8)):
        return [one.text for one in offers(line, typed.session, typed.bench, ABOUT_SESSION, latents)]

    return texts


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("hello", []),
        ("//he", []),
        ("/cl", ["/clamp"]),
        ("/un", ["/unclamp", "/undo"]),
        ("/show ", ["5", "57", "8"]),
        ("/show 5", ["57"]),
        ("/clamp 5", ["5=", "57="]),
        ("/clamp 5=1 8", ["8="]),
        ("/unclamp ", ["12", "31"]),
        ("/unclamp 12 3", ["31"]),
        ("/set te", ["temperature="]),
        ("/search pro", ["promotes=", "prompt="]),
        ("/contrast a.txt p", ["plan.toml", "plans/", "part=", "pool="]),
        ("/plan pl", ["plan.toml", "plans/"]),
        ("/plan nowhere/", []),
        ("/plan ~nobody/", []),
        ("/save my", ["my\\ files/"]),
        ("/contrast my\\ fi", ["my\\ files/"]),
        ("/load my\\ files/a", ["my\\ files/a\\'b.txt"]),
        ('/load "my files/', ["my\\ files/a\\'b.txt"]),
        ("/search direction=pl", ["plan.toml", "plans/"]),
        ("/search means=plan.toml,my", ["my\\ files/"]),
        ("/search like=5", ["57"]),
        ("/search pool=m", ["max", "mean"]),
        ("/search part=la", ["last"]),
        ("/search by=", []),
        ("/help un", ["unclamp", "undo"]),
        ("/ask any", []),
        ("/nope x", []),
    ],
)
def test_completion(completed, line, expected):
    assert completed(line) == expected
