"""Reports and comparisons by one judge: the run's own, or another that judged all runs anew; calibrations beside."""

import csv
import json
import re

import pytest

from steer.cli.app import run as steer
from steer.errors import DataError
from steer.evals.compare import compare
from steer.evals.rejudge import anew, mark_of, rejudge
from steer.evals.run_folder import RunFolder, clear
from steer.evals.task import Completion
from steer.files import write_json
from steer.judges.prefix import Prefix
from steer.reports.calibrations import read_calibrations
from steer.reports.report import write_report
from steer.reports.runs import read_runs
from tests.steer.report_runs import C, F, questions, requests, rows_of, run_folder

SAID = ["I cannot help with that.", "Sure, here is how.", "I must decline.", "No, that is a myth."]
"""A refusal to both, to none, to the rules alone, to the prefix list alone."""


def run_of(path, name, verdicts):
    """A run whose replies and verdicts of the rules are as given."""
    task = requests("asked", [("unsafe", "")] * len(SAID))
    maths = questions("maths", ["a", "b"])
    run_folder(path, name, [(task, verdicts), (maths, [1, 0])])
    (path / "asked" / "completions.jsonl").unlink()
    RunFolder(path).add_completions(
        "asked", [Completion(one.id, text) for one, text in zip(task.samples, SAID, strict=True)]
    )
    return path


@pytest.fixture
def two(tmp_path):
    return [run_of(tmp_path / "a", "first", [F, C, F, C]), run_of(tmp_path / "b", "second", [F, C, F, C])]


def text_of(page):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page.read_text()))


def test_runs_judged_by_different_judges_are_neither_compared_nor_reported(two, tmp_path):
    about = json.loads((two[1] / "asked" / "task.json").read_text())
    about["settings"]["judge"] = Prefix().settings()
    write_json(two[1] / "asked" / "task.json", about)
    for act in (lambda: compare(two), lambda: write_report(two, tmp_path / "r.html")):
        with pytest.raises(DataError, match=r"asked was judged in one way .* \(judge differs\).* steer rejudge"):
            act()
    assert not (tmp_path / "r.html").exists()
    for run in two:
        rejudge(run, Prefix())
    write_report(two, tmp_path / "r.html", judge="prefix")
    assert compare(two, "prefix")["rows"][0]["base"] == 0.5


def test_verdicts_of_a_run_that_was_judged_anew_are_in_the_report(two, tmp_path):
    rejudge(two[0], Prefix())
    page = write_report(two[:1], tmp_path / "r.html", judge="prefix")
    tasks = rows_of(tmp_path / "r_files" / "tables" / "unsplit_tasks.csv")
    assert [(row["task"], row["value"]) for row in tasks] == [("asked", "0.5"), ("maths", "0.5")]
    (verdicts,) = rows_of(tmp_path / "r_files" / "tables" / "unsplit_verdicts.csv")
    assert (verdicts["full refusal"], verdicts["answered"]) == ("0.5", "0.5")
    assert "Judged anew by steer rejudge: 1. first." in text_of(page)
    assert '"judge": "prefix"' in rows_of(tmp_path / "r_files" / "tables" / "unsplit_judges.csv")[0]["judge"]
    run = read_runs(two[:1], "prefix")[0]
    refused = [one for one, score in run.tasks["asked"].scores.items() if score.verdict == F]
    assert refused == ["asked-0", "asked-3"]
    (own,) = read_runs(two[:1])
    assert [one for one, score in own.tasks["asked"].scores.items() if score.verdict == F] == ["asked-0", "asked-2"]


def test_flips_and_pairs_are_by_the_judge_that_is_named(two, tmp_path):
    other = run_of(tmp_path / "c", "third", [F, C, C, C])  # as the rules found it at another time
    assert compare([two[0], other])["rows"][0]["lost"] == 1
    for run in (two[0], other):
        rejudge(run, Prefix())
    assert compare([two[0], other], "prefix")["rows"][0]["lost"] == 0
    page = write_report([two[0], other], tmp_path / "r.html", judge="prefix")
    assert page.exists()
    assert not (tmp_path / "r_files" / "tables" / "unsplit_flipped.csv").exists()


def test_a_judge_is_found_by_its_name(two):
    assert anew(two[0], "rules") == RunFolder(two[0])  # whose verdicts are the run's own
    with pytest.raises(
        DataError,
        match=r"was not judged by prefix\. Its own judge is rules\. Judge it: steer rejudge .* --judge prefix",
    ):
        anew(two[0], "prefix")
    rejudge(two[0], Prefix())
    assert anew(two[0], "prefix") == anew(two[0], mark_of(Prefix())) == RunFolder(two[0], mark_of(Prefix()))
    with pytest.raises(DataError, match="judged anew by prefix-"):
        anew(two[0], "pre")
    (two[0] / "results.prefix-2.json").write_text("{}")
    (two[0] / "asked" / "task.prefix-2.json").write_text("{}")
    with pytest.raises(DataError, match=r"by several of the name prefix: prefix-.*, prefix-2\. Give the whole of one"):
        anew(two[0], "prefix")
    assert anew(two[0], mark_of(Prefix())).mark == mark_of(Prefix())


def test_a_run_that_was_not_judged_to_the_end_was_not_judged(two):
    rejudge(two[0], Prefix())
    mark = mark_of(Prefix())
    for left in (f"results.{mark}.json", f"asked/task.{mark}.json"):  # the latter is missing where it is of old
        (two[0] / left).rename(two[0] / "away")
        with pytest.raises(DataError, match="was not judged by prefix"):
            anew(two[0], "prefix")
        (two[0] / "away").rename(two[0] / left)


def test_what_another_judge_left_goes_with_the_run(two):
    rejudge(two[0], Prefix())
    assert list(two[0].glob("*/*prefix*"))
    clear(two[0])
    assert not list(two[0].rglob("*.json*"))


def test_labels_drawn_by_another_judge_are_not_used(two, tmp_path):
    rejudge(two[0], Prefix())
    rows = [{"id": f"asked/asked-{i}", "label": label} for i, label in enumerate([F, C, F, C])]
    (two[0] / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "people labelled 4 of 4" in text_of(write_report(two[:1], tmp_path / "own.html"))
    told = text_of(write_report(two[:1], tmp_path / "anew.html", judge="prefix"))
    assert "people labelled" not in told
    assert "were drawn by the verdicts of its own judge" in told


def labels(path):
    """A file of labels in the form of XSTest."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "prompt", "completion", "final_label", "model"])
        for i, (text, label) in enumerate(zip(SAID, ["2_full_refusal", "1_full_compliance"] * 2, strict=True)):
            rows.writerow([i, "What?", text, label, "some-model"])
    return path


def test_a_calibration_stands_beside_the_judge(two, tmp_path, capsys):
    given = labels(tmp_path / "labels.csv")
    for judge in ("rules", "prefix"):
        assert steer(["judge", "calibrate", "--judge", judge, "--labels", str(given), "--json"]) == 0
        (tmp_path / f"{judge}.json").write_text(capsys.readouterr().out)
    page = tmp_path / "r.html"
    files = [part for judge in ("rules", "prefix") for part in ("--calibration", str(tmp_path / f"{judge}.json"))]
    assert steer(["report", *map(str, two), "--out", str(page), *files]) == 0
    rules, prefix = rows_of(tmp_path / "r_files" / "tables" / "unsplit_calibration.csv")
    assert (rules["tasks here"], rules["labelled replies of"], rules["replies"]) == ("asked", "some-model", "4")
    assert float(rules["kappa, full refusal"]) == json.loads((tmp_path / "rules.json").read_text())["kappa"] == 1.0
    assert prefix["tasks here"] == "none: another judge, or with other settings"
    assert float(prefix["kappa, full refusal"]) == 0.0
    assert "not how often it is wrong about these runs" in text_of(page)


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"judge": "x", "version": "1", "models": {}, "settings": {}, "full": {}}']
)
def test_a_calibration_that_is_none_is_named(two, tmp_path, text, capsys):
    (tmp_path / "c.json").write_text(text)
    files = ["--out", str(tmp_path / "r.html"), "--calibration", str(tmp_path / "c.json")]
    assert steer(["report", *map(str, two), *files]) == 2
    assert "c.json" in capsys.readouterr().err
    assert not (tmp_path / "r.html").exists()


def test_figures_of_a_calibration_that_cannot_be_are_refused(tmp_path, capsys):
    given = labels(tmp_path / "labels.csv")
    assert steer(["judge", "calibrate", "--judge", "rules", "--labels", str(given), "--json"]) == 0
    right = json.loads(capsys.readouterr().out)
    full = {**right["full"], "precision": {**right["full"]["precision"], "rate": 7}}
    for changed in ({"full": full}, {"unscored": -1}, {"unscored": 99}, {"models": "abc"}):
        (tmp_path / "c.json").write_text(json.dumps({**right, **changed}))
        with pytest.raises(DataError, match=r"c\.json is no calibration of a judge"):
            read_calibrations([tmp_path / "c.json"])
    (tmp_path / "c.json").write_text(json.dumps(right))
    assert len(read_calibrations([tmp_path / "c.json"])) == 1
