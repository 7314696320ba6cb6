"""Recipes of ``steer explore``: what they hold, that they give the same again, and what is refused."""

import copy
import json
import os
from dataclasses import replace
from io import StringIO

import pytest
import torch
from rich.console import Console

import saes
import steer
from steer.cli.app import run
from steer.errors import DataError, OutputError
from steer.explore.bench import Bench
from steer.explore.draw import draw
from steer.explore.loop import Loop, claimed_file, opened, replay
from steer.explore.recipe import parse_recipe, read_recipe, recipe_data
from steer.explore.session import begun
from steer.explore.shown import Line, Said, Strip, Table
from steer.explore.text import visible
from steer.index.read import FeatureIndex
from steer.index.synthetic import synthetic_index
from tests.conftest import random_sae
from tests.steer.explore_data import Typed

LINES = ["/set max_new_tokens=6 temperature=0.9 seed=3", "/ask how are you?", "/clamp 3=9", "/diff", "/undo", "/ask"]
LINES += ["/more why?", "/undo"]


@pytest.fixture
def bench(llama, sae):
    return Bench(llama, sae, "tiny/sae")


def plain():
    return Console(file=StringIO(), width=120, highlight=False)


def test_a_recipe_gives_the_same_again(bench, tmp_path):
    typed = Typed(bench)
    typed(*LINES, "/redo", f"/save {tmp_path / 'r.json'}")
    recipe = read_recipe(tmp_path / "r.json")
    assert [step.line for step in recipe.steps] == [*LINES, "/redo"]
    assert recipe.state == typed.state
    assert [len(step.replies) for step in recipe.steps] == [0, 1, 0, 2, 0, 1, 1, 0, 0]
    console = plain()
    assert replay(recipe, bench, console, "r.json") == []
    assert console.file.getvalue().count("> /ask") == 2


def test_what_is_older_than_more_is_read(bench):
    typed = Typed(bench)
    typed("/clamp 3=1")
    data = recipe_data(typed.session.recipe(bench))
    del data["state"]["said"], data["embedder"]
    assert parse_recipe(json.dumps(data).encode(), "r.json").state == typed.state


def test_another_reply_and_another_end_are_told(bench, tmp_path):
    typed = Typed(bench)
    typed(*LINES)
    data = recipe_data(typed.session.recipe(bench))
    data["steps"][1]["replies"][0][0] += 1
    data["state"]["prompt"] = "something else"
    recipe = parse_recipe(json.dumps(data).encode(), "r.json")
    found = replay(recipe, bench, plain(), "r.json")
    assert found == [
        "command 2 (/ask how are you?) gives another reply than it did",
        "the session ends in another state than it did",
    ]


@pytest.mark.parametrize("command", ["save", "quit", "help", "state"])
def test_a_replay_runs_no_command_that_no_session_keeps(bench, tmp_path, command):
    typed = Typed(bench)
    typed("/set top=3")
    data = recipe_data(typed.session.recipe(bench))
    data["steps"].insert(0, {"line": f" /{command} {tmp_path / 'theirs.json'}"})
    with pytest.raises(DataError, match=f"command 1 .*/{command} is no command of a recipe"):
        replay(parse_recipe(json.dumps(data).encode(), "r.json"), bench, plain(), "r.json")
    assert list(tmp_path.iterdir()) == []


def test_files_are_kept_and_read_from_the_recipe(bench, llama, tmp_path):
    direction = torch.randn(32, generator=torch.Generator().manual_seed(1))
    folder = tmp_path / "made"
    steer.write_plan(steer.plan_of(llama, [steer.AddDirection("1.resid_post", direction, 30.0)]), folder / "plan.json")
    typed = Typed(bench)
    typed("/set max_new_tokens=4", f"/plan {folder / 'plan.json'}", "/ask hi")
    expected = typed.replies
    for file in folder.iterdir():
        file.write_text("gone")
    recipe = parse_recipe(json.dumps(recipe_data(typed.session.recipe(bench))).encode(), "r.json")
    assert replay(recipe, bench, plain(), "r.json") == []
    again = Typed(bench)
    (tmp_path / "r.json").write_text(json.dumps(recipe_data(recipe)))
    again(f"/load {tmp_path / 'r.json'}", "/ask")
    assert again.replies == expected
    again("/undo")
    assert again.state == begun(bench).state


def test_a_recipe_of_another_model_sae_or_index_is_refused(bench, llama, sae, tmp_path):
    index = FeatureIndex.open(synthetic_index(tmp_path / "index", 96, 6, 16, tokens=512, sae=sae, lm=llama), sae, llama)
    typed = Typed(Bench(llama, sae, "tiny/sae", index=index))
    typed("/clamp 3=1")
    recipe = typed.session.recipe(typed.bench)
    assert replay(recipe, typed.bench, plain(), "r.json") == []
    with pytest.raises(DataError, match="made with the index"):
        replay(recipe, bench, plain(), "r.json")
    other = Bench(llama, random_sae(seed=4), "other/sae", index=index)
    with pytest.raises(DataError, match="another sae: its digest"):
        replay(recipe, other, plain(), "r.json")
    changed = copy.deepcopy(llama)
    with torch.no_grad():
        changed.model.model.norm.weight[0] += 1
    with pytest.raises(DataError, match="another model: its weights"):
        replay(recipe, Bench(changed, sae, "tiny/sae", index=index), plain(), "r.json")
    moved = Bench(llama, sae, "tiny/sae", steer.Site(0))
    with pytest.raises(DataError, match="its site is"):
        replay(recipe, moved, plain(), "r.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.update(version=2), "version 2 of the format"),
        (lambda data: data.update(format="x"), "no recipe of steer explore"),
        (lambda data: data.pop("steps"), "lacks 'steps'"),
        (lambda data: data["steps"][0].pop("line"), "lacks 'line'"),
        (lambda data: data["steps"][0].update(line=3), "is a text"),
        (lambda data: data["steps"][0].update(files={"a": "0" * 64}), "damaged"),
        (lambda data: data["files"].update({"0" * 64: {"text": "x"}}), "was altered"),
        (lambda data: data["state"]["plan"].update(nope=1), "unknown key 'nope'"),
        (lambda data: data["state"]["sampling"].update(seed=-1), "seed"),
        (lambda data: data["state"].update(top=0), "top"),
        (lambda data: data["state"].update(prompt=[]), "prompt is a text"),
        (lambda data: data["state"].update(said=[{"role": "user"}]), "needs a role"),
        (lambda data: data["state"].update(said="hi"), "what was said is turns"),
        (lambda data: data["state"]["plan"].update(vectors="AAAA"), "damaged"),
        (lambda data: data.update(sae={}), "does not say of the sae"),
        (lambda data: data.update(model=None), "does not say of the model"),
    ],
)
def test_what_is_no_recipe_is_refused(bench, change, message):
    typed = Typed(bench)
    typed("/clamp 3=1")
    data = recipe_data(typed.session.recipe(bench))
    change(data)
    with pytest.raises(DataError, match=message):
        parse_recipe(json.dumps(data).encode(), "r.json")


def test_what_stands_there_is_not_overwritten_unless_it_is_a_recipe(bench, tmp_path):
    typed = Typed(bench)
    typed("/clamp 3=1", f"/save {tmp_path / 'r.json'}", "/clamp 4=1", f"/save {tmp_path / 'r.json'}")
    assert len(read_recipe(tmp_path / "r.json").steps) == 2
    for name in ("other.json", "other.toml"):
        (tmp_path / name).write_text("[]")
        with pytest.raises(OutputError, match="is something else"):
            typed(f"/save {tmp_path / name}")
        assert (tmp_path / name).read_text() == "[]"


def test_what_a_save_says_can_be_typed(bench, tmp_path):
    typed = Typed(bench)
    typed("/clamp 3=1", f"/save '{tmp_path / 'a b.json'}'")
    assert f"`steer explore --replay '{tmp_path / 'a b.json'}'`" in typed.lines[0]


def looped(bench, kept, console=None):
    console = console or plain()
    return Loop(bench, opened(kept, bench), console, console, kept, interactive=True)


def test_each_command_is_kept_and_a_session_goes_on_from_there(bench, tmp_path):
    kept = tmp_path / "s.json"
    loop = looped(bench, kept)
    for count, line in enumerate(LINES, start=1):
        loop.do(line)
        assert len(read_recipe(kept).steps) == count
    loop.do("/nope")
    loop.do("/state")
    assert loop.failed == 1
    assert len(read_recipe(kept).steps) == len(LINES)
    again = looped(bench, kept)
    assert again.session.state == loop.session.state
    again.do("/clamp 4=2")
    again.do("/undo")
    assert replay(read_recipe(kept), bench, plain(), "s.json") == []


def test_two_sessions_do_not_share_a_file(tmp_path):
    with claimed_file(tmp_path / "s.json"):
        with pytest.raises(OutputError, match="Another session"):
            with claimed_file(tmp_path / "s.json"):
                pass
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_reply_shows_what_was_said_and_is_not_in_the_recipe(bench, monkeypatch):
    console = plain()
    loop = looped(bench, None, console)
    loop.do("/set max_new_tokens=20")
    before = loop.session
    pieces = []

    def grown(ids):
        pieces.append(ids)
        if len(pieces) == 5:
            raise KeyboardInterrupt
        return "so far so good"

    monkeypatch.setattr("steer.explore.replies.text_of", lambda bench, state, ids: grown(ids))
    lines = iter(["/ask hi", "/state"])

    def read():
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    loop.converse(read)
    out = console.file.getvalue()
    assert "stopped: so far so good" in out
    assert out.rstrip().endswith("prompt    none")
    assert loop.session == before
    assert bench.lm.attachments == []
    assert bench.watch is None


def test_a_defect_does_not_end_the_session(bench, monkeypatch):
    console = plain()
    loop = looped(bench, None, console)
    monkeypatch.setattr(bench.lm, "prompt_ids", lambda prompts: 1 / 0)
    loop.do("hi")
    assert "ZeroDivisionError" in console.file.getvalue()
    loop.do("/clamp 3=1")
    assert len(loop.session.steps) == 1


HOSTILE = "\x1b[31mred\x07\x9b2J\u202egnp\r\x00"


def test_nothing_in_a_text_steers_the_terminal():
    shown = [
        Line(HOSTILE),
        Said(HOSTILE, HOSTILE + "\nnext", HOSTILE),
        Table(HOSTILE, [HOSTILE], [[HOSTILE + "[bold]x[/bold]"]]),
        Strip(HOSTILE, [HOSTILE, "[red]b\n"], [0, None], [1.0, 0.0], [HOSTILE, ""]),
    ]
    for colours in (None, "truecolor"):
        console = Console(file=StringIO(), width=400, force_terminal=colours is not None, color_system=colours)
        draw(console, shown)
        out = console.file.getvalue()
        if colours is not None:
            out = "".join(part.partition("m")[2] for part in ("m" + out).split("\x1b["))  # its own colours end in m
        assert not set(out) & set("\x1b\x07\x9b\u202e\r\x00")
        assert "\\x1b[31mred\\x07\\x9b2J\\u202egnp\\r\\x00" in out
        assert "[bold]x[/bold]" in out


def drawn(shown, **console):
    out = Console(file=StringIO(), highlight=False, **console)
    draw(out, shown)
    return out.file.getvalue()


def test_without_colours_marks_are_told_in_words(monkeypatch):
    strip = Strip("t", ["日本", "b"], [0, None], [1.0, 0.0], ["7 1.5", ""])
    words = drawn([strip], width=80)
    assert words == f"t\n     0  '日本'{' ' * 14} 7 1.5\n"
    monkeypatch.setenv("NO_COLOR", "1")
    told = drawn([strip], width=80, force_terminal=True, color_system="truecolor")
    assert "7 1.5" in told
    assert "48;2" not in told
    monkeypatch.delenv("NO_COLOR")
    coloured = drawn([strip], width=80, force_terminal=True, color_system="truecolor")
    assert "7 1.5" not in coloured
    both = drawn([replace(strip, spelled=True)], width=80, force_terminal=True, color_system="truecolor")
    assert "7 1.5" in both
    assert both.count("48;2") == 2


def test_in_a_narrow_terminal_remarks_break_between_words_and_numbers_do_not():
    terminal = {"width": 32, "force_terminal": True, "color_system": None}
    remark = "seven words that are wrapped between them"
    assert drawn([Line(remark)], **terminal).split("\n")[0].rstrip() == "seven words that are wrapped"
    assert drawn([Line(remark)], width=32) == f"{remark}\n"
    assert drawn([Said("m", "x" * 40)], **terminal).count("x" * 40) == 1  # the terminal wraps it
    table = Table("", ["latent", "activation", "token"], [["123456", "1234.5678", "a long token " * 3]])
    out = drawn([table], **terminal)
    assert " activation " in out
    assert " 1234.5678 " in out


def test_what_is_visible_stays_what_it_is():
    text = "naïve 日本 👩\u200d🔬 e\u0301 ▁"
    assert visible(text) == text
    assert visible("a\r\nb\tc\u2028", breaks=True) == "a\nb\\tc\\u2028"


def test_colours_are_of_the_strongest_latent():
    strip = Strip("t", ["a", "b"], [0, 1], [1.0, 0.0])
    console = Console(file=StringIO(), force_terminal=True, color_system="truecolor", width=80)
    draw(console, [strip])
    out = console.file.getvalue()
    assert "48;2;255;135;95m" in out
    assert "48;2;215;235;255m" in out


@pytest.fixture
def sae_folder(tmp_path, embedded):
    saes.save(random_sae(d_in=embedded.d_model, d_sae=300, k=8), tmp_path / "sae")
    return str(tmp_path / "sae")


def piped(monkeypatch, text):
    read, write = os.pipe()
    os.write(write, text)
    os.close(write)
    monkeypatch.setattr("sys.stdin", os.fdopen(read, encoding="utf-8"))


def test_lines_are_piped_in_kept_and_replayed(sae_folder, tmp_path, monkeypatch, capsys):
    kept = tmp_path / "s.json"
    piped(monkeypatch, b"How do I bake bread?\n\n/clamp 262=60\n/set max_new_tokens=5\n/diff\n/quit\n/nope\n")
    assert run(["explore", "embedded", sae_folder, "--session", str(kept)]) == 0
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err
    assert "> /diff" in out
    assert "/nope" not in out
    assert run(["explore", "--replay", str(kept)]) == 0
    replayed = capsys.readouterr().out
    assert replayed.splitlines() == out.splitlines()[1:-1]  # the greeting and /quit are not of the recipe
    data = json.loads(kept.read_text())
    data["steps"][3]["replies"][1][0] += 1
    kept.write_text(json.dumps(data))
    assert run(["explore", "--replay", str(kept)]) == 1
    assert "command 4 (/diff) gives another reply" in capsys.readouterr().err
    data["version"] = 7
    kept.write_text(json.dumps(data))
    assert run(["explore", "--replay", str(kept)]) == 2


def test_a_piped_line_that_cannot_be_done(sae_folder, monkeypatch, capsys):
    piped(monkeypatch, b"/clamp 300=1\n\xff\xfe\n/clamp 1=1\n")
    assert run(["explore", "embedded", sae_folder]) == 2
    out, err = capsys.readouterr()
    assert "valid range is 0 to 299" in err
    assert "not valid Unicode" in err
    assert "Traceback" not in err
    assert "set: 1 = 1 (sae)" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a model and an SAE"),
        (["embedded"], "give a model and an SAE"),
        (["--replay", "no.json"], "no.json cannot be read"),
        (["--replay", "a.json", "--session", "b.json"], "leave --session out"),
        (["embedded", "nowhere/sae"], "nowhere"),
    ],
)
def test_mistakes_at_the_command_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["explore", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in " ".join(err.replace("│", " ").split())
