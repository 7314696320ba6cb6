"""``steer report`` on folders that are not what it needs: one message, exit code 2, and no page."""

import json
import os

import pytest

from steer.cli.app import run
from steer.errors import DataError
from steer.studies.results import parse_results
from tests.steer.test_report import light_alone, synthetic_completions, synthetic_results, write_study  # noqa: F401

pytestmark = pytest.mark.usefixtures("light_alone")


def refused(capsys, folder):
    """Ask for the report of a folder, which must be refused in one message; returns the message."""
    assert run(["report", str(folder)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("steer: ")
    assert err.count("\n") == 1
    assert not (folder / "report.html").is_file()
    return err


def changed(path, value):
    """Synthetic results with one value in them replaced."""
    results = synthetic_results(n=20)
    *way, last = path
    inner = results
    for step in way:
        inner = inner[step]
    inner[last] = value
    return results


HUGE = 10**400
SET = ("points", 3, "sets", "safe")


@pytest.mark.parametrize("value", [5, "text", [1], [[]], True, {"a": {"b": 1}}, {"a": [[1]]}], ids=str)
@pytest.mark.parametrize("name", ["settings", "model", "sae", "versions"])
def test_facts_that_are_no_mapping_of_plain_values_are_refused(capsys, tmp_path, name, value):
    write_study(tmp_path, changed([name], value))
    assert name in refused(capsys, tmp_path)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["seconds"], 5),
        (["seconds", "load"], "long"),
        (["seconds", "load"], HUGE),
        (["peak_memory_mib"], [1]),
        (["peak_memory_mib"], HUGE),
        (["chosen"], "262"),
        (["chosen"], -1),
        (["chosen"], HUGE),
        (["control"], 1.5),
        (["complete"], "no"),
        (["sets"], []),
        (["sets", "safe"], None),
        (["sets", "safe", "title"], 5),
        (["sets", "safe", "n"], -3),
        (["sets", "safe", "n"], HUGE),
        (["candidates"], {}),
        (["candidates", 0], 5),
        (["candidates", 0, "latent"], None),
        (["candidates", 0, "refusal_dev"], 1.5),
        (["candidates", 0, "refusal_dev"], "0.5"),
        (["candidates", 0, "max_activation"], HUGE),
        (["points"], 5),
        (["points", 3], None),
        (["points", 3, "arm"], ["sae"]),
        (["points", 3, "strength"], True),
        (["points", 3, "strength"], HUGE),
        (["points", 3, "strength"], 1e300),
        (["points", 3, "sets"], [1]),
        ([*SET], 5),
        (["points", 3, "sets", "unsafe_seen", "n"], 1),
        ([*SET, "n"], HUGE),
        ([*SET, "refused"], 21),
        ([*SET, "refused"], -1),
        ([*SET, "refused"], None),
        ([*SET, "incoherent"], 21),
        ([*SET, "rate"], 0.5),
        ([*SET, "rate"], 2),
        ([*SET, "rate"], None),
        ([*SET, "low"], 0.99),
        ([*SET, "high"], -0.1),
    ],
    ids=str,
)
def test_fields_that_are_wrong_or_impossible_are_refused(capsys, tmp_path, path, value):
    write_study(tmp_path, changed(path, value))
    assert "results.json is not what a report needs" in refused(capsys, tmp_path)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"schema": 1, "settings": {"a": NaN}}', '{"schema": ' + "9" * 5000 + "}", "\ufeff{}", ""]
)
def test_what_is_no_json_is_refused(capsys, tmp_path, text):
    (tmp_path / "results.json").write_text(text, encoding="utf-8")
    assert "cannot be read" in refused(capsys, tmp_path)


def test_bytes_that_are_no_text_are_refused(capsys, tmp_path):
    (tmp_path / "results.json").write_bytes(b'{"schema": 1, "a": "\xff"}')
    assert "cannot be read" in refused(capsys, tmp_path)


def test_a_schema_of_any_kind_is_shown_in_short(capsys, tmp_path):
    (tmp_path / "results.json").write_text(json.dumps({"schema": ["x" * 10_000] * 50}))
    assert len(refused(capsys, tmp_path)) < 500


@pytest.mark.parametrize("name", ["results.json", "completions.jsonl", "sae/training.jsonl"])
def test_input_that_is_a_folder_is_refused(capsys, tmp_path, name):
    write_study(tmp_path, synthetic_results(n=20))
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    assert "cannot be read" in refused(capsys, tmp_path)


@pytest.mark.parametrize("name", ["report.html", "figures/tradeoff.png"])
def test_output_that_is_a_folder_is_refused(capsys, tmp_path, name):
    write_study(tmp_path, synthetic_results(n=20, arms=("none", "sae", "control") if "figures" in name else ()))
    (tmp_path / name).mkdir(parents=True)
    assert "cannot be written" in refused(capsys, tmp_path)
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize("arms", [(), ("none", "sae", "control", "direction")])
def test_a_file_in_the_place_of_the_figures_is_refused(capsys, tmp_path, arms):
    write_study(tmp_path, synthetic_results(n=20, arms=arms))
    (tmp_path / "figures").write_text("")
    assert "cannot be written" in refused(capsys, tmp_path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read and write everything")
@pytest.mark.parametrize(("name", "mode"), [("results.json", 0), ("completions.jsonl", 0), ("sae", 0), (".", 0o500)])
def test_what_is_not_permitted_is_refused(capsys, tmp_path, name, mode):
    folder = write_study(tmp_path / "study", synthetic_results(n=20))
    (folder / name).chmod(mode)
    try:
        refused(capsys, folder)
    finally:
        (folder / name).chmod(0o700)


def test_ill_typed_lines_are_passed_over(capsys, tmp_path):
    """Lines of completions and of the training curve are shown or drawn where they can be, and break nothing."""
    rows = synthetic_completions(n=3)
    odd = [5, None, True, HUGE, [[[]]], {"a": 1}, "text"]
    for place, value in enumerate(odd):
        for key in ("messages", "reply", "verdict", "value", "id", "set", "arm", "strength"):
            rows.append({**rows[place], key: value})
        rows.append({**rows[place], "messages": [value, {"role": value, "content": value}]})
    write_study(tmp_path, synthetic_results(n=20), rows)
    with (tmp_path / "sae" / "training.jsonl").open("a") as file:
        for value in odd:
            file.write(json.dumps({"tokens": value, "fvu": value, "l0": 1, "dead_fraction": value}) + "\n")
    assert run(["report", str(tmp_path)]) == 0, capsys.readouterr().err


def test_the_largest_strengths_can_be_drawn(tmp_path, capsys):
    results = synthetic_results(n=20)
    for point in results["points"]:
        point["strength"] *= 3.4e38 / 12
    write_study(tmp_path, results)
    assert run(["report", str(tmp_path)]) == 0, capsys.readouterr().err


def test_null_stands_for_what_a_run_has_not_reached():
    names = ("sae", "candidates", "chosen", "control", "points", "peak_memory_mib", "model", "settings")
    results = parse_results(dict.fromkeys(names))
    assert results.points == []
    assert results.chosen is None
    with pytest.raises(DataError, match="ghost"):
        parse_results({"points": [{"arm": "sae", "strength": 1, "sets": {"ghost": {"n": 1}}}]})
