"""Arms of a sweep that answer in a way of their own: self-contrastive decoding, and tuned models."""

import json
import signal

import pytest
from safetensors.torch import load_file, save_file

from steer.cli.app import run
from steer.errors import DataError, ModelError, PlanError
from steer.evals.runner import evaluate
from steer.forks import can_fork
from steer.models.decode import Sampling
from steer.models.load import load_model
from steer.progress import Silent
from steer.responders.self_contrastive import SelfContrastive
from steer.responders.tuned import Tuned
from steer.sweeps.bench import load_for, prepare
from steer.sweeps.engines import Local
from steer.sweeps.sweep import plan_sweep, run_sweep
from steer.sweeps.tasks import load_tasks
from steer.tuning.adapter import digest_of
from steer.tuning.adapter_files import CONFIG, WEIGHTS, load_adapter
from tests.steer.sweep_data import (
    HERE,
    ROWS,
    Counted,
    cells,
    contents,
    killed,
    make_adapter,
    make_study_folder,
    samples,
    study_of,
    write_lines,
)

pytestmark = pytest.mark.usefixtures("one_thread")
CONTRAST = {"self_contrastive": {"safety": "Be safe."}, "strengths": [1.5, 3.0]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = make_study_folder(tmp_path_factory.mktemp("study"))
    make_adapter(found)
    return found


def study(folder, *arms, **more):
    return study_of(folder, **{"arm": list(arms), "sae": None, "strengths": None, **more})


def test_every_cell_holds_what_its_responder_gives(folder, tmp_path):
    texts = {"safety": "No.", "plain": "Be free.", "placement": "system"}
    asked = study(
        folder,
        CONTRAST,
        {"self_contrastive": texts, "name": "other texts"},
        {"adapter": str(folder / "run"), "strengths": [0.0, 0.5, 1.0]},
    )
    found = run_sweep(asked, tmp_path / "out", HERE)
    assert found["best"].keys() == {"self-contrastive", "other texts", "adapter run"}
    lm = load_model(folder / "model")
    responders = {
        ("unsteered", 0.0): lm,
        ("self-contrastive", 1.5): SelfContrastive(lm, 1.5, "Be safe."),
        ("self-contrastive", 3.0): SelfContrastive(lm, 3.0, "Be safe."),
        ("other texts", 2.5): SelfContrastive(lm, **texts),
        ("adapter run", 0.0): lm,
        ("adapter run", 0.5): Tuned(lm, folder / "run", scale=0.5),
        ("adapter run", 1.0): Tuned(lm, folder / "run"),
    }
    measured = cells(tmp_path / "out")
    assert len(measured) == len(responders) * 3
    replies = {}
    for (arm, strength, task, _), (_, rows) in measured.items():
        of_task = next(one.samples for one in load_tasks(asked) if one.name == task)
        alone = evaluate(responders[arm, strength], of_task, asked.max_new_tokens)
        assert [row["reply"] for row in rows] == [result.reply for result in alone], (arm, strength, task)
        assert [row["verdict"] for row in rows] == [result.score.verdict for result in alone]
        replies[arm, strength, task] = [row["reply"] for row in rows]
    of_bad = {tuple(replies[arm, strength, "bad"]) for arm, strength in responders}
    assert len(of_bad) == len(responders) - 1, "all are different, but the adapter at 0 from the model"


def test_drawn_replies_are_those_of_the_prompts_own_numbers(folder, tmp_path):
    drawn = {"temperature": 0.9, "seeds": [7], "max_new_tokens": 5, "batch_rows": 3}
    asked = study(folder, CONTRAST, {"adapter": str(folder / "run")}, **drawn)
    run_sweep(asked, tmp_path / "out", HERE)
    lm = load_model(folder / "model")
    for arm, strength, responder in (
        ("self-contrastive", 3.0, SelfContrastive(lm, 3.0, "Be safe.")),
        ("adapter run", 1.0, Tuned(lm, folder / "run")),
    ):
        prompts = [one.messages for one in load_tasks(asked)[0].samples]
        rows = cells(tmp_path / "out")[arm, strength, "bad", 7][1]
        assert [row["reply"] for row in rows] == responder.reply(prompts, Sampling(5, 0.9, seed=7))


def test_cells_are_kept_and_told_apart_by_what_decides_them(folder, tmp_path, monkeypatch):
    out, adapter = tmp_path / "out", {"adapter": str(folder / "run")}
    first = run_sweep(study(folder, CONTRAST, adapter), out, HERE)
    assert first["cells"] == {"computed": 12, "found": 0}
    counted, before = Counted(monkeypatch), contents(out)
    again = run_sweep(study(folder, CONTRAST, adapter, batch_rows=2), out, HERE)
    assert (counted.rows, again["cells"], again["points"]) == (0, {"computed": 0, "found": 12}, first["points"])

    def missing(*arms):
        planned = plan_sweep(study(folder, *arms), out)
        return planned.cells - planned.finished

    assert missing({**CONTRAST, "strengths": [1.5, 2.0, 3.0]}, adapter) == 3, "one more alpha"
    assert missing({**CONTRAST, "self_contrastive": {"safety": "Be safe!"}}) == 6
    assert missing({**CONTRAST, "name": "another"}, {"adapter": str(folder / "run" / "adapter")}) == 0
    make_adapter(tmp_path, folder / "model", seed=2)
    assert missing({"adapter": str(tmp_path / "run")}) == 3, "other weights"
    assert missing({**adapter, "strengths": [0.5]}) == 3
    assert contents(out) == before


def test_one_damaged_cell_is_measured_again_by_itself(folder, tmp_path, monkeypatch):
    out, asked = tmp_path / "out", study(folder, CONTRAST, {"adapter": str(folder / "run")})
    run_sweep(asked, out, HERE)
    before = contents(out)
    spoilt = [path for path in (out / "cells").iterdir() if json.loads(path.open().readline())["task"] == "bad"]
    for path in spoilt:
        path.write_text("")
    counted = Counted(monkeypatch)
    found = run_sweep(asked, out, Local(2))
    assert found["cells"] == {"computed": 4, "found": 8}
    assert contents(out) == before
    assert counted.rows == 0, "two processes were asked, so that nothing was counted in this one"


@pytest.mark.skipif(not can_fork(), reason="the sweep is killed in a fork")
def test_a_killed_sweep_goes_on_where_it_was(folder, tmp_path, monkeypatch):
    asked, out = study(folder, CONTRAST, {"adapter": str(folder / "run")}), tmp_path / "out"
    assert killed(asked, out, 7, "after") == -signal.SIGKILL
    assert len(cells(out)) == 7
    counted = Counted(monkeypatch)
    assert run_sweep(asked, out, HERE)["cells"] == {"computed": 12 - 7, "found": 7}
    assert counted.rows > 0
    run_sweep(asked, tmp_path / "whole", HERE)
    assert contents(out) == contents(tmp_path / "whole")


def test_halving_makes_no_reply_twice(folder, tmp_path, monkeypatch):
    counted = Counted(monkeypatch)
    arm = {**CONTRAST, "strengths": [0.0, 1.5, 2.0, 3.0]}
    found = run_sweep(study(folder, arm, halving={"first": 0.5, "least": 2}), tmp_path / "out", HERE)
    left = 4 - len(found["dropped"].get("self-contrastive", []))
    first, rest = 3 + 2, (6 + 4) - (3 + 2)  # prompts to be answered in writing, of the first round and after it
    assert counted.rows == ROWS + 2 * (4 * first + left * rest), "the unsteered model, and two contexts for each reply"
    run_sweep(study(folder, arm), tmp_path / "whole", HERE)
    whole, kept = contents(tmp_path / "whole"), contents(tmp_path / "out")
    assert len(whole.keys() & kept.keys()) == (1 + left) * 3
    assert all(kept[name] == data for name, data in whole.items() if name in kept), "rounds make no difference"


def test_the_resolved_file_says_what_was_run(folder, tmp_path):
    run_sweep(study(folder, CONTRAST, {"adapter": str(folder / "run")}), tmp_path, HERE)
    resolved = json.loads((tmp_path / "resolved.json").read_text())
    contrast, tuned = resolved["arms"][1:]
    assert contrast["strengths"] == [1.5, 3.0]
    assert contrast["steering"] == {
        "kind": "self-contrastive",
        "safety": "Be safe.",
        "plain": "",
        "placement": "inline",
    }
    lm = load_model(folder / "model")
    digest = digest_of(load_adapter(lm, folder / "run"))
    assert tuned["steering"] == {"kind": "tuned", "adapter": digest}
    assert tuned["strengths"] == [1.0]
    short = study(folder, {"self_contrastive": True})
    assert short.arm[0].contrast.safety == SelfContrastive.safety


@pytest.mark.parametrize(
    ("arm", "error", "message"),
    [
        ({"adapter": "nowhere"}, ModelError, "nowhere holds no adapter"),
        ({"adapter": "of_another"}, ModelError, "is one of another, and the model is"),
        ({"adapter": "of_another", "another_name": True, "strengths": [1e7]}, ModelError, "scale must be a finite"),
        ({"adapter": "wide", "another_name": True}, ModelError, "is not one of"),
        ({"self_contrastive": {"safety": "x"}, "strengths": [1e19]}, PlanError, "alpha must be a finite number"),
        ({"self_contrastive": True}, DataError, "with the instruction 'You are a helpful"),
        ({"self_contrastive": {"safety": " "}}, PlanError, "An instruction must be a text"),
        ({"self_contrastive": {"safety": "Be safe. " * 12}}, DataError, "with the instruction 'Be safe"),
        ({"self_contrastive": {"safety": "x", "plain": "Be free. " * 12}}, DataError, "with the instruction 'Be free"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_generated(
    folder, tmp_path, monkeypatch, capsys, arm, error, message
):
    make_adapter(tmp_path, folder / "model", run="of_another")
    changed(tmp_path / "of_another", lambda config: config.update(base_model_name_or_path="another"))
    make_adapter(tmp_path, folder / "model", run="wide")
    tensors = load_file(tmp_path / "wide" / "adapter" / WEIGHTS)
    wide = {name: tensor.repeat(1, 2) for name, tensor in tensors.items()}
    save_file(wide, tmp_path / "wide" / "adapter" / WEIGHTS)
    monkeypatch.chdir(tmp_path)
    counted = Counted(monkeypatch)
    with pytest.raises(error, match=message):
        prepare(study(folder, arm), Silent(), load_for)
    assert counted.rows == 0
    if "self_contrastive" in arm:
        return
    fields = "".join(f"{name} = {json.dumps(value)}\n" for name, value in arm.items())
    head = f"model = {json.dumps(str(folder / 'model'))}\ntasks = [{json.dumps(str(folder / 'choice.jsonl'))}]\n"
    (tmp_path / "study.toml").write_text(f"{head}controls = false\n[[arm]]\n{fields}")
    assert run(["sweep", "study.toml"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert message in " ".join(shown.err.split())
    assert "Traceback" not in shown.err
    assert not (tmp_path / "sweep").exists()


def changed(folder, change):
    path = folder / "adapter" / CONFIG
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def test_an_adapter_beside_the_study_is_found_and_measured_by_the_command(folder, tmp_path, monkeypatch, capsys):
    write_lines(folder / "two.jsonl", samples("two", ["hello", "why?"]))
    (folder / "tuned.toml").write_text(
        'model = "model"\nmax_new_tokens = 4\ncontrols = false\ntasks = [{file = "two.jsonl", better = "higher"}]\n'
        '[[arm]]\nadapter = "run"\n[[arm]]\nself_contrastive = {safety = "Be safe."}\nstrengths = [2]\n'
    )
    monkeypatch.chdir(tmp_path)
    assert run(["sweep", str(folder / "tuned.toml"), "--out", "out", "--jobs", "1"]) == 0
    assert "Cells: 3 measured" in capsys.readouterr().out
    assert {arm for arm, *_ in cells(tmp_path / "out")} == {"unsteered", "adapter run", "self-contrastive"}


def test_a_worker_that_finds_another_adapter_refuses(folder, tmp_path):
    make_adapter(tmp_path, folder / "model")
    bench = prepare(study(folder, {"adapter": str(tmp_path / "run")}), Silent(), load_for)
    sent = bench.arms["adapter run"].bound(None)
    assert sent.doing.adapter is None
    other = load_model(folder / "model")
    assert sent.bound(other).doing.adapter.lm is other
    make_adapter(tmp_path, folder / "model", seed=2)
    with pytest.raises(DataError, match="is not the one that the study was begun with"):
        sent.bound(other)
