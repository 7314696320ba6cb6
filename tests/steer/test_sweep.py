"""A sweep: cells equal separate runs, are kept as they finish, and are measured once."""

import json
import shutil
import signal

import pytest
import torch

import saes
import steer.sweeps.cells
from steer.errors import DataError, OutputError
from steer.evals.runner import evaluate
from steer.evals.stats import wilson
from steer.files import claimed
from steer.forks import can_fork
from steer.models.load import load_model
from steer.steering.direction_edits import DirectionEdit
from steer.steering.latents import Clamp, LatentEdit
from steer.steering.steered import steered
from steer.sweeps.arms import PlanArm
from steer.sweeps.engines import Local
from steer.sweeps.sweep import plan_sweep, run_sweep
from steer.sweeps.tasks import load_tasks
from tests.conftest import random_sae
from tests.steer.sweep_data import HERE, ROWS, Counted, cells, contents, killed, make_study_folder, study_of
from tests.steer.test_plans import classifier_model

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_study_folder(tmp_path_factory.mktemp("study"))


def test_every_cell_holds_what_a_run_of_its_own_gives(folder, tmp_path):
    arms = [
        {"latents": [3]},
        {"latents": [40, 7], "operation": "add", "weights": [1.0, 0.5], "window": {"phase": "generated"}},
        {"direction": "difference", "site": "2.resid_post", "name": "direct"},
    ]
    study = study_of(folder, arm=arms, strengths=[0.0, 4.0, 9.0, 20.0])
    run_sweep(study, tmp_path / "out", HERE)
    found = cells(tmp_path / "out")
    assert len(found) == (1 + 3 * 4) * 3

    lm = load_model(folder / "model")
    sae = steer.load_sae(folder / "sae")
    vector = steer.refusal_direction(
        lm, "2.resid_post", *([one.messages for one in task.samples] for task in load_tasks(study)[:2])
    )
    window = steer.Window("generated")
    ways = {
        "unsteered": lambda value: [],
        "latent 3": lambda value: [Clamp(sae, {3: value})],
        "latents 40+7 add": lambda value: [LatentEdit(sae, {40: value, 7: value / 2}, operation="add", window=window)],
        "direct": lambda value: [DirectionEdit("2.resid_post", vector, value)],
    }
    replies = set()
    for (arm, strength, task, _), (head, rows) in found.items():
        samples = next(one.samples for one in load_tasks(study) if one.name == task)
        with steered(lm, *ways[arm](strength)):
            alone = evaluate(lm, samples, study.max_new_tokens)
        assert [row["reply"] for row in rows] == [result.reply for result in alone], (arm, strength, task)
        assert [row["verdict"] for row in rows] == [result.score.verdict for result in alone]
        assert head["successes"] == sum(result.score.value for result in alone)
        assert (head["low"], head["high"]) == wilson(head["successes"], head["n"])
        replies.update((task, row["id"], row["reply"]) for row in rows)
    assert len(replies) > 2 * ROWS, "steering changes replies"


def test_a_plan_is_an_arm_and_replies_as_it_does_by_itself(folder, tmp_path):
    lm = load_model(folder / "model")
    plan = steer.SteeringPlan(
        saes={"one": {"source": str(folder / "sae")}},
        system="Be kind.",
        vectors={"push": torch.ones(32)},
        edits=[
            {"kind": "latents", "sae": "one", "values": {"3": 14.0, "7": 5.0}, "operation": "at_least"},
            {
                "kind": "direction", "site": "2.resid_post", "direction": "push", "strength": 9.0,
                "window": {"phase": "generated"},
                "gate": {"kind": "latents", "sae": "one", "latents": [3, 40], "threshold": 0.0, "pool": "share"},
            },
        ],
    )  # fmt: skip
    steer.write_plan(plan, folder / "plan.toml")
    study = study_of(folder, arm=[{"plan": str(folder / "plan.toml")}], sae=None, strengths=None)
    found = run_sweep(study, tmp_path / "out", HERE)
    assert list(found["best"]) == [], "a plan has no strengths"
    bound = plan.bind(lm)
    for (arm, _, task, _), (head, rows) in cells(tmp_path / "out").items():
        samples = next(one.samples for one in load_tasks(study) if one.name == task)
        responder = steer.Steered(lm, bound.interventions, system=plan.system) if arm == "plan" else lm
        assert [row["reply"] for row in rows] == [one.reply for one in evaluate(responder, samples, 8)], (arm, task)
        assert arm in ("plan", "unsteered")
        assert (head["decides"]["steering"]["steering"] or {}).get("plan") == (plan.digest if arm == "plan" else None)


def test_a_second_run_measures_nothing_and_another_strength_only_its_own_cells(folder, tmp_path, monkeypatch):
    out, counted = tmp_path / "out", Counted(monkeypatch)
    first = run_sweep(study_of(folder), out, HERE)
    assert counted.rows == 3 * ROWS  # unsteered and two strengths
    assert first["cells"] == {"computed": 9, "found": 0}
    before = contents(out)

    counted.rows = 0
    again = run_sweep(study_of(folder), out, HERE)
    assert counted.rows == 0
    assert again["cells"] == {"computed": 0, "found": 9}
    assert again["points"] == first["points"]

    more = run_sweep(study_of(folder, strengths=[4.0, 9.0, 14.0]), out, HERE)
    assert counted.rows == ROWS
    assert more["cells"] == {"computed": 3, "found": 9}
    assert before.items() <= contents(out).items()
    assert [point["strength"] for point in more["points"]] == [0.0, 4.0, 9.0, 14.0]


@pytest.mark.parametrize(
    ("change", "rows"),
    [
        ({"max_new_tokens": 6}, 3 * 10),  # scoring choices does not depend on it
        ({"arm": [{"latents": [3], "window": {"phase": "generated"}}]}, 2 * ROWS),
        ({"arm": [{"latents": [3], "name": "another name"}]}, 0),
        ({"limit": 4}, 3 * 4),  # the other tasks have no more
        ({"batch_rows": 3}, 0),
    ],
)
def test_what_decides_a_result_tells_cells_apart_and_nothing_else_does(folder, tmp_path, monkeypatch, change, rows):
    run_sweep(study_of(folder), tmp_path / "out", HERE)
    counted = Counted(monkeypatch)
    run_sweep(study_of(folder, **change), tmp_path / "out", HERE)
    assert counted.rows == rows


def test_another_judge_or_model_makes_other_cells(folder, tmp_path, monkeypatch):
    run_sweep(study_of(folder), tmp_path / "out", HERE)
    assert plan_sweep(study_of(folder), tmp_path / "out").finished == 9
    monkeypatch.setattr(steer.sweeps.bench, "of_judges", lambda: "another")
    assert plan_sweep(study_of(folder), tmp_path / "out").finished == 0
    monkeypatch.undo()
    assert plan_sweep(study_of(folder, dtype="bfloat16"), tmp_path / "out").finished == 0


def test_settings_of_the_model_that_are_no_weights_tell_cells_apart(folder, tmp_path):
    shutil.copytree(folder / "model", tmp_path / "model")
    study = study_of(folder, model=str(tmp_path / "model"))
    run_sweep(study_of(folder), tmp_path / "out", HERE)
    assert plan_sweep(study, tmp_path / "out").finished == 9, "wherever it is"
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config["rms_norm_eps"] = 0.1
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    assert plan_sweep(study, tmp_path / "out").finished == 0


def test_another_classifier_of_the_same_name_makes_other_cells(folder, tmp_path):
    gate = {"kind": "text", "classifier": str(tmp_path / "classifier")}
    edit = {"kind": "direction", "site": "1.resid_post", "direction": "push", "strength": 9.0, "gate": gate}
    steer.write_plan(steer.SteeringPlan(vectors={"push": torch.ones(32)}, edits=[edit]), tmp_path / "plan.json")
    study = study_of(folder, arm=[{"plan": str(tmp_path / "plan.json")}], sae=None, strengths=None)
    model = classifier_model(tmp_path / "classifier").model
    run_sweep(study, tmp_path / "out", HERE)
    assert plan_sweep(study, tmp_path / "out").finished == 6
    with torch.no_grad():
        model.score.weight.add_(1.0)
    model.save_pretrained(tmp_path / "classifier")
    assert plan_sweep(study, tmp_path / "out").finished == 3, "those of the unsteered model"


@pytest.mark.parametrize("exchanged", ["sae", "classifier"])
def test_a_worker_with_other_files_of_a_plan_refuses_to_work(folder, tmp_path, exchanged):
    """The plan has no digest of its SAE, and cells are named by what the study was begun with."""
    sae, lm = random_sae(), load_model(folder / "model")
    saes.save(sae, tmp_path / "sae")
    model = classifier_model(tmp_path / "classifier").model
    edit = {
        "kind": "latents", "sae": "one", "values": {"3": 9.0}, "gate": {"kind": "text", "classifier": "classifier"}
    }  # fmt: skip
    plan = steer.SteeringPlan(saes={"one": {"source": "sae"}}, edits=[edit])
    arm = PlanArm.read(str(steer.write_plan(plan, tmp_path / "plan.json")), lm, lambda _: None)
    sent = arm.ready(None)
    assert sent.bound is None
    assert sent.ready(lm).settings(None) == arm.settings(None)
    with torch.no_grad():
        if exchanged == "sae":
            sae.b_enc[5] += 1.0
            saes.save(sae, tmp_path / "sae")
        else:
            model.score.weight.add_(1.0)
            model.save_pretrained(tmp_path / "classifier")
    with pytest.raises(DataError, match="not the one that the study was begun with"):
        sent.ready(lm)


def test_replies_depend_neither_on_batches_nor_on_processes(folder, tmp_path):
    sampled = {"temperature": 0.8, "seeds": [0, 5], "max_new_tokens": 5}
    run_sweep(study_of(folder, **sampled), tmp_path / "one", HERE)
    run_sweep(study_of(folder, **sampled, batch_rows=3), tmp_path / "small", HERE)
    run_sweep(study_of(folder, **sampled), tmp_path / "two", Local(2))
    assert contents(tmp_path / "one") == contents(tmp_path / "small") == contents(tmp_path / "two")
    found = cells(tmp_path / "one")
    first, other = (found["latent 3", 4.0, "bad", seed][1] for seed in (0, 5))
    assert [row["reply"] for row in first] != [row["reply"] for row in other]


def test_seeds_are_pooled_where_something_is_drawn(folder, tmp_path):
    found = run_sweep(study_of(folder, temperature=0.8, seeds=[0, 5]), tmp_path / "out", HERE)
    tasks = found["points"][0]["tasks"]
    assert {name: task["n"] for name, task in tasks.items()} == {"bad": 12, "good": 8, "choice": 3}


def test_a_damaged_cell_is_measured_again(folder, tmp_path, monkeypatch):
    out = tmp_path / "out"
    run_sweep(study_of(folder), out, HERE)
    before = contents(out)
    first, second, third, fourth, fifth = sorted((out / "cells").iterdir())[:5]
    first.write_bytes(first.read_bytes()[:-40])
    second.write_text("")
    third.write_bytes(first.read_bytes())
    head, row, *rest = fourth.read_text().splitlines()
    changed = json.loads(row)
    fourth.write_text("\n".join([head, json.dumps({**changed, "value": not changed["value"]}), *rest]))
    head, row, *rest = fifth.read_text().splitlines()
    fifth.write_text("\n".join([head, json.dumps({**json.loads(row), "value": "yes"}), *rest]))
    counted = Counted(monkeypatch)
    assert run_sweep(study_of(folder), out, HERE)["cells"]["computed"] == 5
    assert 0 < counted.rows < 5 * ROWS
    assert contents(out) == before


@pytest.mark.skipif(not can_fork(), reason="the sweep is killed in a fork")
@pytest.mark.parametrize(("moment", "kept"), [("before", 3), ("after", 4)])
def test_a_killed_sweep_goes_on_where_it_was(folder, tmp_path, monkeypatch, moment, kept):
    study, out = study_of(folder), tmp_path / "out"
    assert killed(study, out, 4, moment) == -signal.SIGKILL
    assert len(cells(out)) == kept
    assert len(contents(out)) == kept + (moment == "before")
    before = {name: data for name, data in contents(out).items() if not name.startswith(".")}
    counted = Counted(monkeypatch)
    found = run_sweep(study, out, HERE)
    assert found["cells"] == {"computed": 9 - kept, "found": kept}
    assert counted.rows < 3 * ROWS
    run_sweep(study, tmp_path / "whole", HERE)
    whole = contents(tmp_path / "whole")
    assert before.items() <= whole.items()
    assert contents(out) == whole, "and what was half-written is gone"


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda out: (out / "cells").write_text(""), "cells is a file where a folder is needed"),
        (lambda out: (out / "summary.json").mkdir(), "summary.json is a folder where a file is needed"),
        (lambda out: (out / "frontier.png").mkdir(), "frontier.png is a folder where a file is needed"),
    ],
)
def test_a_folder_that_cannot_be_written_to_is_said_before_anything_is_generated(folder, tmp_path, spoil, words):
    (tmp_path / "resolved.json").write_text("{}")
    spoil(tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(OutputError, match=words):
        run_sweep(study_of(folder), tmp_path, HERE)
    assert sorted(tmp_path.iterdir()) == before


def test_what_a_kill_leaves_half_written_is_no_obstacle_and_goes(folder, tmp_path):
    left = [f".{name}.123" for name in ("resolved.json", "summary.json", "frontier.png")]
    (tmp_path / left[0]).write_text("{")
    plan_sweep(study_of(folder), tmp_path)
    for name in left:
        (tmp_path / name).write_text("{")
    (tmp_path / "resolved.json").write_text("{}")
    run_sweep(study_of(folder), tmp_path, HERE)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_two_sweeps_do_not_write_to_one_folder(folder, tmp_path, monkeypatch):
    counted = Counted(monkeypatch)
    with claimed(tmp_path), pytest.raises(OutputError, match="Another run is writing"):
        run_sweep(study_of(folder), tmp_path, HERE)
    assert counted.rows == 0
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("")
    with pytest.raises(OutputError, match="holds no sweep"):
        run_sweep(study_of(folder), tmp_path / "out", HERE)


def test_the_folder_says_what_was_measured_and_how_it_came_out(folder, tmp_path):
    out = tmp_path / "out"
    found = run_sweep(study_of(folder, controls=True, system_prompt="Be kind."), out, HERE)
    assert json.loads((out / "summary.json").read_text()) == found
    assert (out / "frontier.png").read_bytes().startswith(b"\x89PNG")
    resolved = json.loads((out / "resolved.json").read_text())
    assert resolved["study"]["batch_rows"] == 256
    assert resolved["study"]["strengths"] == [4.0, 14.0]
    assert [arm["name"] for arm in resolved["arms"]] == [
        "unsteered",
        "latent 3",
        "unrelated to latent 3",
        "dense direction",
        "system prompt",
    ]
    assert resolved["arms"][1]["steering"]["operation"] == "set"
    assert {"model", "sae", "judges", "dtype"} == resolved["digests"].keys()
    assert len(found["points"]) == 1 + 3 * 2 + 1
    for point in found["points"]:
        for task in point["tasks"].values():
            assert task["rate"] == pytest.approx(task["successes"] / task["n"], abs=1e-6)
            assert task["low"] <= task["rate"] <= task["high"]
        assert point["safety"] == point["groups"]["refused"]["rate"]


def test_a_study_without_prompts_to_be_refused_has_no_frontier(folder, tmp_path):
    found = run_sweep(study_of(folder, tasks=[str(folder / "choice.jsonl")]), tmp_path / "out", HERE)
    assert [point["safety"] for point in found["points"]] == [None] * 3
    assert not (tmp_path / "out" / "frontier.png").exists()
