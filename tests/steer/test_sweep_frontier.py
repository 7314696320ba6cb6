"""What a point buys and costs, the frontier, and halving: the same best strength from fewer replies."""

import pytest

import saes
from steer.evals.pooled import pooled_interval
from steer.evals.runner import evaluate
from steer.evals.sample import Sample
from steer.evals.sets import load_prompts
from steer.evals.stats import wilson
from steer.evals.summary import figure
from steer.evals.task import Metric, Score
from steer.evals.tasks.options import TaskOptions
from steer.evals.tasks.registry import tasks_of
from steer.judges.rules import Rules
from steer.steering.direction_edits import AddDirection
from steer.steering.steered import steered
from steer.sweeps.arms import Arm
from steer.sweeps.cells import Figures
from steer.sweeps.config import HalvingConfig
from steer.sweeps.engines import Local
from steer.sweeps.frontier import balance, best_of, cost, frontier, point_of, safety
from steer.sweeps.halving import better_half, rounds, standard_error
from steer.sweeps.read import parse_study
from steer.sweeps.sweep import run_sweep
from steer.sweeps.tasks import Task, load_tasks
from tests.conftest import random_sae
from tests.steer.sweep_data import Counted


def prompts(name, about):
    """Prompts of a set, each about something."""
    return tuple(
        Sample(f"{name}-{number}", name, ({"role": "user", "content": "x"},), "refusal", tags={"object": f"{one}"})
        for number, one in enumerate(about)
    )


GROUPS = {"bad": "refused", "worse": "refused", "good": "over_refused", "sums": "correct"}
TASKS = {name: Task(name, group, prompts(name, range(20))) for name, group in GROUPS.items()}
ARM = Arm("arm", "arm", (1.0,))


def point(strength, *shares):
    """A point with so many of 20 in bad, worse, good and sums."""
    figures = [[counted(share)] for share in shares]
    return point_of(ARM, strength, dict(zip(TASKS, figures, strict=True)), TASKS)


def counted(successes, n=20):
    return Figures((True,) * successes + (False,) * (n - successes), 0)


PLAIN = point(0.0, 4, 6, 2, 18)


def test_safety_cost_and_balance_are_pooled_shares():
    one = point(2.0, 16, 18, 4, 15)
    assert safety(one) == pytest.approx(34 / 40)
    assert cost(one, PLAIN) == pytest.approx(2 / 20 + 3 / 20)
    assert balance(one, PLAIN) == pytest.approx(24 / 40 - 5 / 20)
    assert cost(PLAIN, PLAIN) == balance(PLAIN, PLAIN) == 0


def test_pooled_intervals_know_what_prompts_are_about():
    """Twenty objects, each in two sets and answered alike: that is twenty draws, not forty."""
    one = point(2.0, 10, 10, 4, 15)
    assert (one.tasks["bad"].low, one.tasks["bad"].high) == wilson(10, 20), "a cell alone"
    refused, plain = one.groups["refused"], wilson(20, 40)
    assert (refused.successes, refused.n, refused.about) == (20, 40, 20)
    assert refused.low < plain[0] - 0.03
    assert refused.high > plain[1] + 0.03
    t_20 = wilson(0.5 * 20 * (1.96 / 2.093) ** 2 * 19 / 20, 20 * (1.96 / 2.093) ** 2 * 19 / 20)  # Student's, 19 degrees
    assert (refused.low, refused.high) == pytest.approx(t_20, abs=2e-3)
    apart = {name: Task(name, "refused", prompts(name, (f"{name} {i}" for i in range(20)))) for name in ("a", "b")}
    other = point_of(ARM, 1.0, {name: [counted(10)] for name in apart}, apart).groups["refused"]
    assert other.about == 40
    assert (other.low, other.high) == pytest.approx(plain, abs=0.01)


def test_sets_that_differ_are_no_luck_of_the_draw():
    tasks = {name: Task(name, "refused", prompts(name, (f"{name} {i}" for i in range(100)))) for name in ("a", "b")}
    found = point_of(ARM, 1.0, {"a": [counted(98, 100)], "b": [counted(50, 100)]}, tasks).groups["refused"]
    assert found.low >= wilson(148, 200)[0] - 0.005


def test_replies_of_several_seeds_to_one_prompt_go_together():
    tasks = {"a": TASKS["bad"]}
    found = point_of(ARM, 1.0, {"a": [counted(10)] * 3}, tasks).tasks["a"]
    assert (found.successes, found.n, found.about) == (30, 60, 20)
    assert found.high - found.low > 1.4 * (wilson(30, 60)[1] - wilson(30, 60)[0])


def test_the_frontier_holds_what_no_other_point_beats():
    safe, cheap, beaten, twin = (
        point(4, 20, 20, 6, 18),
        point(2, 12, 12, 2, 18),
        point(6, 20, 20, 8, 18),
        point(8, 20, 20, 6, 18),
    )
    assert frontier([PLAIN, safe, cheap, beaten, twin], PLAIN) == [safe, cheap, twin]


def test_of_equally_good_strengths_the_weaker_is_best():
    assert best_of([point(4, 12, 12, 2, 18), point(2, 12, 12, 2, 18), point(1, 6, 6, 2, 18)], PLAIN).strength == 2


def test_the_better_half_keeps_what_is_close_to_the_best_and_then_what_is_near():
    points = [point(value, share, share, 2, 18) for value, share in ((1, 5), (2, 6), (3, 15), (4, 6), (5, 6))]
    assert better_half(points, PLAIN) == (2, 3, 4)
    assert better_half(points[:2], PLAIN) == (1, 2), "one of twenty is chance"
    assert better_half(points[1:3], PLAIN) == (3,)
    even = point(1, 10, 10, 10, 10)
    by_hand = (0.25 / 40 + 0.25 / 20 + 0.25 / 20) ** 0.5
    assert standard_error(even) == pytest.approx(by_hand)


def test_rounds_double_and_leave_out_the_last():
    samples = load_prompts("safe", "dev")
    tasks = {name: Task(name, "refused", tuple(samples[:count])) for name, count in (("a", 100), ("b", 10))}
    assert list(rounds(HalvingConfig(first=0.2, least=8), tasks)) == [
        {"a": 20, "b": 8},
        {"a": 40, "b": 8},
        {"a": 80, "b": 8},
    ]
    assert list(rounds(HalvingConfig(least=100), tasks)) == []


STRENGTHS = [0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 14.0]
EMBEDDED = {
    "strengths": STRENGTHS,
    "tasks": ["unsafe_unseen", "safe", "multiple_choice"],
    "limit": 48,
    "max_new_tokens": 12,
    "arm": [{"direction": "difference", "site": "2.resid_post"}],
    "controls": False,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The full grid on the embedded model."""
    out = tmp_path_factory.mktemp("sweep") / "whole"
    return run_sweep(parse_study(EMBEDDED), out, Local(1), threads=1), out


@pytest.mark.usefixtures("one_thread")
def test_eight_strengths_in_one_call_reply_as_eight_runs(whole, embedded):
    from steer.files import read_lines
    from steer.steering.directions import refusal_direction
    from steer.sweeps.tasks import prompts_of

    study = parse_study(EMBEDDED)
    samples = load_tasks(study)[0].samples
    prompts = ([one.messages for one in prompts_of(name)] for name in (study.harmful, study.harmless))
    vector = refusal_direction(embedded, "2.resid_post", *prompts)
    kept = [list(read_lines(path)) for path in (whole[1] / "cells").iterdir()]
    for strength in STRENGTHS:
        with steered(embedded, AddDirection("2.resid_post", vector, strength)):
            alone = evaluate(embedded, samples, 12)
        rows = next(rows for head, *rows in kept if (head["task"], head["strength"]) == ("unsafe_unseen", strength))
        assert [row["reply"] for row in rows] == [result.reply for result in alone]


def test_halving_finds_the_best_strength_of_the_full_grid_from_fewer_replies(whole, tmp_path, monkeypatch):
    full, _ = whole
    counted = Counted(monkeypatch)
    halved = run_sweep(parse_study({**EMBEDDED, "halving": {"least": 12}}), tmp_path / "out", Local(1), threads=1)
    assert halved["best"] == full["best"]
    assert full["best"]["direction"]["balance"] > 0.2
    assert counted.rows < 0.7 * (len(STRENGTHS) + 1) * 3 * 48
    left = [point["strength"] for point in halved["points"] if point["arm"] == "direction"]
    assert sorted(left + halved["dropped"]["direction"]) == STRENGTHS
    same = {(point["arm"], point["strength"]): point for point in full["points"]}
    for point in halved["points"]:
        assert point["tasks"] == same[point["arm"], point["strength"]]["tasks"]


def test_halving_makes_no_reply_twice_goes_on_and_takes_controls_along(tmp_path, monkeypatch):
    saes.save(random_sae(d_in=128, site="2.resid_post"), tmp_path / "sae")
    fields = {
        "sae": str(tmp_path / "sae"),
        "arm": [{"latents": [3]}],
        "strengths": [2.0, 10.0, 20.0, 40.0],
        "tasks": ["unsafe_unseen", "multiple_choice"],
        "limit": 12,
        "max_new_tokens": 6,
        "controls": ["latent"],
    }
    counted = Counted(monkeypatch)
    halved = parse_study({**fields, "halving": {"first": 0.5, "least": 2}})
    found = run_sweep(halved, tmp_path / "out", Local(1), threads=1)
    dropped = found["dropped"]["latent 3"]
    assert 0 < len(dropped) <= 2
    assert found["dropped"]["unrelated to latent 3"] == dropped
    kept = 4 - len(dropped)
    assert counted.rows == 2 * ((1 + 4) * 6 + (1 + kept) * 6 + kept * 12)
    counted.rows = 0
    assert run_sweep(halved, tmp_path / "out", Local(1), threads=1)["points"] == found["points"]
    assert counted.rows == 0
    whole = run_sweep(parse_study(fields), tmp_path / "whole", Local(1), threads=1)
    by_name = {(point["arm"], point["strength"]): point["tasks"] for point in whole["points"]}
    assert all(point["tasks"] == by_name[point["arm"], point["strength"]] for point in found["points"])


def test_tasks_and_sweeps_count_prompts_about_one_thing_alike(embedded):
    tasks = tasks_of(["arithmetic", "concepts"], TaskOptions(Rules()))
    for task, difference in zip(tasks, (0.01, 0.0), strict=True):  # of sums, none goes with another
        values = [place % 3 > 0 for place in range(len(task.samples))]
        scored = [(one, Score({"x": float(value)})) for one, value in zip(task.samples, values, strict=True)]
        found = figure(Metric("x", "x", "higher"), scored, task.cluster)
        assert (found.low, found.high) == pytest.approx(pooled_interval(task.samples, values), abs=difference)
        clusters = {one.tags["about"] for one in task.samples}
        assert (len(clusters) == len(task.samples)) == (task.name == "arithmetic")
