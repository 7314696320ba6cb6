"""The main job in its short form, end to end: schema, direction of effect, determinism, interruption."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from jsonschema import validate

import steer
import steer.studies.demo
import steer.studies.prepare
import steer.studies.report
import steer.studies.search
from steer.cli.app import run
from steer.files import read_lines
from steer.forks import can_fork
from steer.studies.config import quick_config
from steer.studies.demo import run_demo
from steer.studies.figures import FIGURES
from tests.steer.results_schema import SCHEMA

SMALL = {"sae_tokens": 40_000, "strengths": (8.0,), "dev_prompts": 2, "test_prompts": 2, "strength_prompts": 4}
SMALL |= {"d_sae": 256, "k": 8, "held_out_texts": 16, "max_new_tokens": 24}
"""Settings of runs whose figures need not be good ones."""


@pytest.fixture(scope="module")
def called(tmp_path_factory):
    """One quick run from the command line: its folder and what it printed."""
    out = tmp_path_factory.mktemp("demo") / "out"
    command = [sys.executable, "-m", "steer", "demo", "--quick", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "100"})
    assert done.returncode == 0, done.stderr
    return out, done.stdout, done.stderr


@pytest.fixture(scope="module")
def quick(called):
    """The folder of that run."""
    return called[0]


@pytest.fixture(scope="module")
def results(quick):
    return json.loads((quick / "results.json").read_text(encoding="utf-8"))


def measured(results, arm, strength=0):
    """The figures of one point, by set."""
    return next(p["sets"] for p in results["points"] if (p["arm"], p["strength"]) == (arm, strength))


def test_results_follow_the_schema(results):
    validate(results, SCHEMA)
    assert results["complete"] is True
    assert results["candidates"][0]["latent"] == results["chosen"]
    assert results["controls"][0]["latent"] == results["control"]
    assert list(results["sets"]) == list(results["points"][0]["sets"])
    for point in results["points"]:
        for figures in point["sets"].values():
            counted = figures.get("refused", figures.get("correct"))
            assert figures["rate"] == pytest.approx(counted / figures["n"], abs=1e-6)
            assert figures["low"] <= figures["rate"] <= figures["high"]


def test_the_command_ends_with_a_table_and_the_path_of_the_report(called, results):
    out, stdout, stderr = called
    assert f"Latent {results['chosen']} clamped" in stdout
    for name, info in results["sets"].items():
        row = next(line for line in stdout.splitlines() if line.strip().startswith(info["title"]))
        shown = [
            round(100 * point["sets"][name]["rate"]) for point in results["points"] if point["arm"] in ("none", "sae")
        ]
        assert [int(word) for word in row.removeprefix(f" {info['title']}").split()][: len(shown)] == shown
    assert stdout.rstrip().endswith(f"Report: {out / 'report.html'}")
    for stage in ("load", "train SAEs", "find the refusal latent", "evaluate", "report"):
        assert f"✓ {stage} " in stderr


def test_the_sae_is_worth_something(results):
    assert results["sae"]["fvu"] < 0.3
    assert results["sae"]["l0"] <= results["sae"]["k"]
    assert 0.8 < results["sae"]["loss_recovered"] <= 1.001


UNSAFE = ("unsafe_unseen", "jailbroken")


def settled(results):
    """The strength that the finder settled on."""
    return results["candidates"][0]["strength"]


def gains(results, arm, sets):
    """By how much more is refused than without steering, by set."""
    plain, steered = measured(results, "none"), measured(results, arm, settled(results))
    return {name: steered[name]["rate"] - plain[name]["rate"] for name in sets}


def test_clamping_the_chosen_latent_buys_refusal(results):
    for name in UNSAFE:
        assert measured(results, "none")[name]["rate"] < 0.7, "there must be something to gain"
    found = gains(results, "sae", UNSAFE)
    assert min(found.values()) >= 0.15, found  # 6 of 40 prompts
    assert sum(found.values()) >= 0.5, found


def test_clamping_the_chosen_latent_costs_something(results):
    """Concepts unnamed or sums wrong, or innocent requests refused, by ten points or more."""
    refused = gains(results, "sae", ("safe", "looks_unsafe"))
    right = gains(results, "sae", ("arithmetic", "concepts"))
    assert max([*refused.values(), *(-gain for gain in right.values())]) >= 0.1, refused | right


def test_the_control_latent_buys_less_on_every_set(results):
    chosen, control = gains(results, "sae", UNSAFE), gains(results, "control", UNSAFE)
    for name in UNSAFE:
        assert control[name] <= chosen[name] - 0.15, (chosen, control)


def test_the_settled_strength_is_evaluated_beside_those_of_the_sweep(results):
    strengths = {point["strength"] for point in results["points"] if point["arm"] == "sae"}
    assert strengths == {*results["settings"]["strengths"], settled(results)}


def test_every_unrelated_latent_is_told_and_the_control_moves_refusal_least(results):
    controls, plain = results["controls"], results["plain_dev"]
    assert len({one["latent"] for one in controls}) == 8
    assert not {one["latent"] for one in controls} & {one["latent"] for one in results["candidates"]}
    for one in controls:
        assert one["strength"] == results["candidates"][0]["strength"]
        assert one["moved"] == max(abs(one["by_set"][name] - plain[name]) for name in plain)
    assert controls == sorted(controls, key=lambda one: (one["moved"], one["latent"]))


def test_finalists_stand_first_and_are_measured_on_twice_as_many_prompts(results):
    n = results["settings"]["dev_prompts"]
    finalists = results["candidates"][: results["settings"]["finalists"]]
    others = results["candidates"][len(finalists) :]
    assert others
    for group, finalist, prompts in ((finalists[1:], True, 2 * n), (others, False, n)):
        assert {(one["finalist"], one["n_unsafe"], one["n_safe"]) for one in group} == {(finalist, prompts, prompts)}
    settled_on = 2 * results["settings"]["strength_prompts"]
    assert (finalists[0]["finalist"], finalists[0]["n_unsafe"]) == (True, settled_on)


def test_every_prompt_and_point_has_its_completion(quick, results):
    rows = list(read_lines(quick / "completions.jsonl"))
    per_point = sum(figures["n"] for figures in results["points"][0]["sets"].values())
    assert len(rows) == per_point * len(results["points"])
    refused = sum(row["value"] for row in rows if (row["arm"], row["set"]) == ("none", "unsafe_seen"))
    assert refused == results["points"][0]["sets"]["unsafe_seen"]["refused"]


def test_the_report_and_its_figures_are_there(quick):
    page = (quick / "report.html").read_text(encoding="utf-8")
    assert "</html>" in page
    assert list((quick / "figures").glob("*.png"))


def test_the_sae_that_was_written_steers_as_it_did_in_the_run(quick, results):
    strength = max(results["settings"]["strengths"])
    wanted = {"arm": "sae", "strength": strength, "set": "jailbroken"}
    rows = [row for row in read_lines(quick / "completions.jsonl") if wanted.items() <= row.items()][:10]
    lm, sae = steer.load_model("embedded"), steer.load_sae(quick / "sae")
    with steer.steered(lm, steer.Clamp(sae, {results["chosen"]: strength})):
        replies = lm.generate([row["messages"] for row in rows], steer.Sampling(results["settings"]["max_new_tokens"]))
    assert replies == [row["reply"] for row in rows]


@pytest.fixture
def one_drawing(monkeypatch):
    """A report with one figure, the simplest: the others are looked at above, and in the tests of the report."""
    monkeypatch.setattr(steer.studies.report, "FIGURES", {"candidates": FIGURES["candidates"]})


@pytest.mark.usefixtures("one_drawing")
def test_the_same_seed_gives_the_same_figures_with_any_number_of_processes(tmp_path):
    def figures(name, processes):
        run_demo(quick_config(**SMALL, control_pool=4, processes=processes), tmp_path / name)
        found = json.loads((tmp_path / name / "results.json").read_text(encoding="utf-8"))
        assert found["settings"].pop("processes") == (processes if can_fork() else 1)
        return {key: value for key, value in found.items() if key not in ("seconds", "peak_memory_mib")}

    assert figures("first", 1) == figures("second", 3)


def has_a_point(path):
    """Whether a run has recorded one; completions.jsonl has it earlier."""
    return path.exists() and json.loads(path.read_text(encoding="utf-8")).get("points")


def test_all_that_the_model_does_keeps_to_the_threads_asked_for(tmp_path, monkeypatch):
    seen = []

    def refuse(*_):
        seen.append(torch.get_num_threads())
        raise KeyboardInterrupt

    monkeypatch.setattr(steer.studies.prepare, "refuse_archetype", refuse)
    other = torch.get_num_threads() + 1
    with pytest.raises(KeyboardInterrupt):
        run_demo(quick_config(threads=other), tmp_path / "out")
    assert seen == [other]


def test_what_another_run_wrote_meanwhile_is_left_alone(tmp_path, monkeypatch):
    out = tmp_path / "out"

    def as_another_run_finishes(*_):
        out.mkdir()
        (out / "results.json").write_text("theirs")

    monkeypatch.setattr(steer.studies.demo, "train_and_measure", as_another_run_finishes)
    with pytest.raises(steer.OutputError, match="not empty"):
        run_demo(quick_config(), out)
    assert [path.name for path in out.iterdir()] == ["results.json"]
    assert (out / "results.json").read_text() == "theirs"


@pytest.mark.usefixtures("one_drawing")
def test_candidates_are_kept_when_the_search_is_stopped(tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(steer.studies.search, "_controls", stop)
    with pytest.raises(KeyboardInterrupt):
        run_demo(quick_config(**SMALL, saes=2), tmp_path)
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert results["complete"] is False
    assert results["chosen"] == results["candidates"][0]["latent"]
    assert results["candidates"][0]["finalist"]
    assert results["candidates"][0]["n_unsafe"] == 8
    assert "controls" not in results
    assert steer.load_sae(tmp_path / "sae").config.d_sae > results["chosen"]
    assert steer.write_report(tmp_path).is_file()


@pytest.mark.usefixtures("one_drawing")
def test_what_is_finished_stays_readable_after_ctrl_c(tmp_path):
    out = tmp_path / "out"
    small = {**SMALL, "test_prompts": 20}  # as many as leave time between the first point and the last
    # a shell starts background jobs with SIGINT ignored, and a child inherits that
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    shorter = f"from steer.studies import config; config.quick_config = partial(config.quick_config, **{small})"
    start = f"{heard}; from functools import partial; {shorter}; from steer.cli.app import main; main()"
    command = [sys.executable, "-c", start, "demo", "--quick", "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 400
    while not has_a_point(out / "results.json") and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert stdout == ""
    assert "Traceback" not in stderr
    assert "What is finished stays" in stderr
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert results["complete"] is False
    assert results["points"]
    assert list(read_lines(out / "completions.jsonl"))
    steer.load_sae(out / "sae")
    assert run(["report", str(out)]) == 0
    assert (out / "report.html").is_file()
