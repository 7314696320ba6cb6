"""What is told of long work where there is no terminal: plain lines, now and then, on stderr."""

import pytest

from steer.cli import console
from steer.cli.console import Terminal, how_far


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is set."""

    class Clock:
        now = 100.0

    monkeypatch.setattr(console.time, "perf_counter", lambda: Clock.now)
    return Clock


def test_a_stage_tells_a_line_every_half_minute_in_which_it_moves_on(clock, capsys):
    terminal = Terminal()
    with terminal.stage("training [all]", total=1000):
        for seconds in range(1, 91):
            clock.now = 100.0 + seconds
            terminal.advance(200 if seconds == 1 else 5, f"FVU {seconds}")  # a run that goes on begins with a leap
        clock.now = 200.0
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "training [all] ...",
        "training [all]: 345 of 1,000 (34 %), 5/s, 2.2 minutes left  FVU 30",
        "training [all]: 495 of 1,000 (50 %), 5/s, 101.0 seconds left  FVU 60",
        "training [all]: 645 of 1,000 (64 %), 5/s, 71.0 seconds left  FVU 90",
        "✓ training [all] 100.0 s",
    ]


def test_a_long_line_stays_one_and_a_short_stage_has_none_between(clock, capsys):
    terminal = Terminal(every_seconds=0)
    with terminal.stage("reading"):
        terminal.advance(7, "word " * 60)
    assert capsys.readouterr().err.splitlines()[1] == "reading: 7  " + "word " * 60
    with Terminal().stage("reading"):
        Terminal().advance()
        clock.now += 29
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_a_rate_that_is_not_known_is_left_out():
    assert how_far("x", 5, 10, 0.0) == "x: 5 of 10 (50 %)"
    assert how_far("x", 5, None, 2.0, "note") == "x: 5, 2/s  note"
