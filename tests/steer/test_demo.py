"""The main job in its short form, end to end: schema, direction of effect, determinism, interruption."""

import json
import signal
import subprocess
import sys
import time

import pytest
from jsonschema import validate

import steer
from steer.evals.sets import SETS
from steer.files import read_lines
from steer.studies.demo import quick_config, run_demo

RATE = {"type": "number", "minimum": 0, "maximum": 1}
COUNT = {"type": "integer", "minimum": 0}
SCHEMA = {
    "type": "object",
    "required": ["schema", "model", "sae", "candidates", "chosen", "control", "points", "seconds", "versions"],
    "properties": {
        "schema": {"const": 1},
        "sae": {
            "required": ["d_in", "d_sae", "k", "site", "fvu", "l0", "dead_fraction", "loss_recovered"],
            "properties": {"fvu": RATE, "l0": {"type": "number"}, "dead_fraction": RATE, "site": {"type": "string"}},
        },
        "candidates": {
            "minItems": 1,
            "items": {
                "required": ["latent", "tokens_active", "refusal_dev"],
                "properties": {
                    "latent": COUNT,
                    "tokens_active": {"type": "integer", "minimum": 2},
                    "refusal_dev": RATE,
                },
            },
        },
        "chosen": COUNT,
        "control": COUNT,
        "points": {
            "items": {
                "required": ["arm", "strength", "sets"],
                "properties": {
                    "arm": {"enum": ["none", "sae", "control", "direction"]},
                    "strength": {"type": "number"},
                    "sets": {
                        "required": list(SETS),
                        "additionalProperties": {
                            "required": ["n", "rate", "low", "high"],
                            "oneOf": [{"required": ["refused"]}, {"required": ["correct"]}],
                            "properties": {
                                "n": COUNT,
                                "refused": COUNT,
                                "correct": COUNT,
                                "rate": RATE,
                                "low": RATE,
                                "high": RATE,
                            },
                        },
                    },
                },
            }
        },
        "seconds": {"additionalProperties": {"type": "number"}},
        "versions": {"additionalProperties": {"type": "string"}},
    },
}


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """The folder of one quick run."""
    out = tmp_path_factory.mktemp("demo") / "out"
    run_demo(quick_config(), out)
    return out


@pytest.fixture(scope="module")
def results(quick):
    return json.loads((quick / "results.json").read_text(encoding="utf-8"))


def rates(results, arm, strength=None):
    """Rates by set of one point; the strongest of the arm unless told otherwise."""
    points = [point for point in results["points"] if point["arm"] == arm]
    strength = max(point["strength"] for point in points) if strength is None else strength
    point = next(point for point in points if point["strength"] == strength)
    return {name: figures["rate"] for name, figures in point["sets"].items()}


def test_results_follow_the_schema(results):
    validate(results, SCHEMA)
    assert results["complete"] is True
    assert {candidate["latent"] for candidate in results["candidates"]} >= {results["chosen"]}
    for point in results["points"]:
        for figures in point["sets"].values():
            counted = figures.get("refused", figures.get("correct"))
            assert figures["rate"] == pytest.approx(counted / figures["n"], abs=1e-6)
            assert figures["low"] <= figures["rate"] <= figures["high"]


def test_the_sae_is_worth_something(results):
    assert results["sae"]["fvu"] < 0.3
    assert results["sae"]["l0"] <= results["sae"]["k"]
    assert 0.8 < results["sae"]["loss_recovered"] <= 1.001


UNSAFE = ("unsafe_unseen", "jailbroken")


def best_strength(results):
    """The strength at which the chosen latent makes the model refuse most of the unsafe prompts."""
    return max(results["settings"]["strengths"], key=lambda s: sum(rates(results, "sae", s)[name] for name in UNSAFE))


def test_clamping_the_chosen_latent_buys_refusal_and_costs_something(results):
    plain, steered = rates(results, "none"), rates(results, "sae", best_strength(results))
    for name in UNSAFE:
        assert steered[name] >= min(plain[name] + 0.3, 0.8)
    assert any(
        rates(results, "sae")[name] != plain[name] for name in ("safe", "looks_unsafe", "arithmetic", "concepts")
    )


def test_the_control_latent_buys_less(results):
    strength = best_strength(results)
    gain = {
        arm: sum(rates(results, arm, strength)[name] - rates(results, "none")[name] for name in UNSAFE)
        for arm in ("sae", "control")
    }
    assert gain["control"] < gain["sae"] / 2


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


def test_the_same_seed_gives_the_same_figures(tmp_path):
    small = {"sae_tokens": 40_000, "strengths": (8.0,), "dev_prompts": 2, "test_prompts": 4}

    def figures(name):
        run_demo(quick_config(**small), tmp_path / name)
        found = json.loads((tmp_path / name / "results.json").read_text(encoding="utf-8"))
        return {key: value for key, value in found.items() if key not in ("seconds", "peak_memory_mib")}

    assert figures("first") == figures("second")


def test_what_is_finished_stays_readable_after_ctrl_c(tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "steer", "demo", "--quick", "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (out / "completions.jsonl").exists() and time.monotonic() < deadline:
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
    subprocess.run([sys.executable, "-m", "steer", "report", str(out)], check=True, capture_output=True)
    assert (out / "report.html").is_file()
