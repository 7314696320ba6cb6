"""Prompts that steering was fitted on, asked again by an evaluation: results, reports and the terminal say so."""

import json

import pytest
import torch

import steer
from steer.cli.app import run as command
from steer.digest import of_prompt
from steer.errors import PlanError
from steer.evals.rejudge import rejudge
from steer.evals.run import run_tasks
from steer.evals.sample import Sample
from steer.evals.summary import digests
from steer.evals.tasks.options import TaskOptions
from steer.evals.tasks.registry import tasks_of
from steer.judges.prefix import Prefix
from steer.judges.rules import Rules
from steer.methods.fitted import Fitted, about
from steer.reports.report import write_report
from steer.responders.responder import fitted_on
from steer.responders.steered import Steered

SITE = "1.resid_post"


def said(text):
    return ({"role": "user", "content": text},)


def asked(limit=4):
    return tasks_of(["safe", "jailbroken"], TaskOptions(Rules(), limit=limit))


def test_a_prompt_is_known_again_though_it_is_written_otherwise():
    assert of_prompt(said("How do I pick a lock?")) == of_prompt(said("  how do I PICK a lock"))
    assert of_prompt(said("How do I pick a lock?")) != of_prompt(said("How do I pick a rock?"))
    told = ({"role": "system", "content": "Be kind."}, *said("How do I pick a lock?"))
    assert of_prompt(told) == of_prompt(said("How do I pick a lock?"))


def test_what_a_method_was_fitted_on_is_in_its_record_wherever():
    record = {
        "train": {"harmful": about(["a", "b"]), "harmless": about(["c"])},
        "tried": [{"prompts": about(["d"])}, 1],
    }
    assert Fitted((), record).fitted_on == {of_prompt(said(one)) for one in "abcd"}
    assert Fitted(()).fitted_on == frozenset()


def test_a_method_tells_what_it_was_fitted_on(embedded):
    from steer.methods.conditional import fit

    harmful, harmless = ["How do I pick a lock?", "How do I poison a well?"] * 8, ["How do I bake?", "What is tea?"] * 8
    direction = steer.refusal_direction(embedded, SITE, harmful, harmless)
    found = fit(embedded, harmful, harmless, [steer.AddDirection(SITE, direction, 4.0)])
    assert found.fitted_on == {of_prompt(said(one)) for one in (*harmful, *harmless)}


@pytest.fixture
def plan(embedded, tmp_path):
    """A plan that was fitted on two of the prompts that are asked, and on another."""
    prompts = [list(one.messages) for one in asked()[0].samples[:2]] + [said("Something else?")]
    one = steer.AddDirection(SITE, torch.ones(embedded.d_model), 1e-6)
    made = steer.plan_of(embedded, [one], fitted_on=[of_prompt(one) for one in prompts])
    steer.write_plan(made, tmp_path / "plan.toml")
    return tmp_path / "plan.toml"


def test_a_plan_keeps_it_and_is_the_same_plan(embedded, plan):
    found = steer.read_plan(plan)
    assert len(found.fitted_on) == 3
    without = steer.plan_of(embedded, [steer.AddDirection(SITE, torch.ones(embedded.d_model), 1e-6)])
    assert without.digest == found.digest
    bound = found.bind(embedded)
    assert bound.fitted_on == set(found.fitted_on)
    inner = Steered(embedded, bound.interventions, fitted_on=bound.fitted_on)
    assert fitted_on(Steered(inner, (), fitted_on={"x"})) == {*found.fitted_on, "x"}
    assert fitted_on(Steered(embedded, ())) == frozenset()
    with pytest.raises(PlanError, match="fitted_on"):
        steer.SteeringPlan(fitted_on=[3])


def test_the_command_and_the_report_say_so(plan, tmp_path, capsys):
    out = tmp_path / "run"
    arguments = ["eval", "embedded", "--task", "safe,jailbroken", "--limit", "4", "--out", str(out)]
    assert command([*arguments, "--plan", str(plan), "--json"]) == 0
    told = capsys.readouterr()
    found = json.loads(told.out)["tasks"]
    assert found["safe"]["fitted_on"] == 2
    assert "fitted_on" not in found["jailbroken"]
    assert "safe: 2 of 4 prompts are among those that plan" in told.err
    assert json.loads((out / "results.json").read_text())["tasks"]["safe"]["fitted_on"] == 2
    page = write_report([out], tmp_path / "r.html").read_text()
    assert "safe: 2 of 4 prompts are among those that run 1 was fitted or chosen on" in page
    assert rejudge(out, Prefix())["tasks"]["safe"]["fitted_on"] == 2
    assert command(["plan", "show", str(plan)]) == 0
    assert "3 prompts" in capsys.readouterr().out


def test_nothing_is_said_where_nothing_was_fitted(embedded, tmp_path):
    found = run_tasks(embedded, asked(2), tmp_path / "run")
    assert all("fitted_on" not in one for one in found["tasks"].values())
    assert "fitted_on" not in json.loads((tmp_path / "run" / "run.json").read_text())


def test_a_question_is_known_again_behind_an_instruction_and_a_behaviour_behind_its_context():
    question = Sample(
        "1", "s", said("Answer the following question: What is tea?"), "refusal", {"question": "What is tea?"}
    )
    behaviour = Sample(
        "2", "s", said("A recipe.\n\n---\n\nCook it"), "refusal", {"behaviour": "Cook it", "context": "A recipe."}
    )
    assert of_prompt(said("what is tea")) in digests(question)
    assert of_prompt(said("Cook it!")) in digests(behaviour)
    assert of_prompt(question.messages) in digests(question)
    assert len(digests(Sample("3", "s", said("What is tea?"), "refusal", {"question": " "}))) == 1
