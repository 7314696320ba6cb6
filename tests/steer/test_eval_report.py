"""The report of evaluations: its page and files, that it escapes and parts splits, and what it refuses."""

import json
import re
from html.parser import HTMLParser

import pytest

from steer.cli.app import run as steer
from steer.errors import DataError, OutputError
from steer.evals.compare import compare
from steer.evals.run import run_tasks
from steer.evals.tasks.options import TaskOptions
from steer.evals.tasks.registry import tasks_of
from steer.judges.rules import Rules
from steer.reports.report import write_report
from tests.steer.report_runs import (
    NASTY,
    C,
    F,
    requests,
    rows_of,
    run_folder,
    two_runs,
)


@pytest.fixture
def two(tmp_path):
    """A plain run and a steered one, on sets without a split."""
    return two_runs(tmp_path)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The runs with their report, to look at."""
    folder = tmp_path_factory.mktemp("report")
    runs = two_runs(folder)
    return runs, write_report(runs, folder / "r.html")


class Page(HTMLParser):
    """Tags and text of a page, scripts and styles apart."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.inside = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = tag if tag in ("script", "style") else ""

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        if not self.inside:
            self.text.append(data)


def test_the_paired_table_is_that_of_compare(written):
    two, page = written
    rows = rows_of(page.with_name("r_files") / "tables" / "unsplit_paired.csv")
    expected = {(row["task"], row["title"]): row for row in compare(two)["rows"] if row["main"]}
    assert len(rows) == len(expected) == 3
    for row in rows:
        one = expected[row["task"], row["figure"]]
        assert float(row["p (Holm)"]) == one["p_holm"]
        assert float(row["difference"]) == one["difference"]
        assert row["95 % interval, low"] == ("" if one["low"] is None else repr(one["low"]))
        assert (int(row["unscored, first run"]), int(row["unscored, this run"])) == tuple(one["unscored"])


def test_a_run_without_labels_is_called_not_calibrated(written):
    assert "Not calibrated on these runs: 1. unsteered" in written[1].read_text()


def test_the_page_escapes_all_and_reaches_for_nothing(written):
    text = written[1].read_text(encoding="utf-8")
    page = Page(text)
    assert [tag for tag, _ in page.tags if tag == "script"] == ["script"], "the page's own"
    assert "alert('x')" in "".join(page.text)
    assert "\u202e" not in text
    assert "[U+202E]" in text
    links = [value for _, attrs in page.tags for name, value in attrs.items() if name in ("src", "href", "srcset")]
    assert links
    assert all(one.startswith(("data:image/png;base64,", "#")) for one in links)
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    policy = next(attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    assert {"filter", "sample"} <= {attrs.get("class") for _, attrs in page.tags}
    assert any(tag == "details" and not attrs for tag, attrs in page.tags), "long replies are folded"
    assert "http://" not in text.replace("http-equiv", "")


def test_figures_and_tables_lie_beside_the_page(written):
    two, page = written
    folder = page.with_name("r_files")
    names = {path.name for path in (folder / "figures").iterdir()}
    stems = {
        "unsplit_frontier",
        "unsplit_tasks",
        "unsplit_verdicts",
        "unsplit_mixed_by_type",
        "unsplit_maths_by_subject",
    }
    assert names == {f"{stem}.{ending}" for stem in stems for ending in ("png", "pdf")}
    for path in (folder / "figures").iterdir():
        assert path.read_bytes().startswith(b"\x89PNG" if path.suffix == ".png" else b"%PDF")
    flipped = rows_of(folder / "tables" / "unsplit_flipped.csv")
    assert len(flipped) == 6
    assert flipped[0]["this run"] == f"{NASTY} {NASTY}" + "long " * 100
    tasks = rows_of(folder / "tables" / "unsplit_tasks.csv")
    refused = next(row for row in tasks if row["run"].startswith("2.") and row["figure"] == "safe refused")
    assert float(refused["value"]) == 2 / 5
    assert refused["if unscored counted as 0, as 1, high"] == repr(3 / 6)
    assert {row["split"] for row in tasks} == {"sets without a split"}
    (folder / "figures" / "dev_old.png").write_bytes(b"of an earlier report")
    (folder / "figures" / "mine.png").write_bytes(b"somebody's")
    write_report(two, page)
    assert names | {"mine.png"} == {path.name for path in (folder / "figures").iterdir()}


def test_dev_is_never_called_a_result_and_never_mixed(tmp_path):
    def made(name, *splits):
        tasks = [(requests(f"r_{s}", [("safe", ""), ("unsafe", "")] * 4, s), [C, F, F, F] * 2) for s in splits]
        return run_folder(tmp_path / name, name, tasks)

    write_report([made("a", "dev"), made("b", "dev")], tmp_path / "dev.html")
    text = "".join(Page((tmp_path / "dev.html").read_text()).text)
    assert "Development figures" in text
    assert "Not for reporting" in text
    assert "result" not in text.lower().replace("nowhere called results", "")
    write_report([made("c", "test", "dev"), made("d", "test", "dev")], tmp_path / "both.html")
    text = (tmp_path / "both.html").read_text()
    titles = re.findall(r"<h3[^>]*>(.*?)</h3>", text)
    assert titles
    assert all(title.endswith((", test split", ", dev split")) for title in titles)
    assert "Some tasks are on the dev split" in text
    tables = tmp_path / "both_files" / "tables"
    assert {row["task"] for row in rows_of(tables / "test_tasks.csv")} == {"r_test"}
    assert {row["task"] for row in rows_of(tables / "dev_tasks.csv")} == {"r_dev"}
    assert {row["task"] for row in rows_of(tables / "test_paired_all.csv")} == {"r_test"}
    alone = compare([made("e", "test"), made("f", "test")])
    holm = {row["p (Holm)"] for row in rows_of(tables / "test_paired.csv")}
    assert holm == {repr(row["p_holm"]) for row in alone["rows"] if row["main"]}, "a family is of one split"


def test_one_task_on_dev_and_on_test_is_refused(tmp_path, capsys):
    kinds = [("safe", ""), ("unsafe", "")]
    runs = [run_folder(tmp_path / s, s, [(requests("same", kinds, s), [C, F])]) for s in ("dev", "test")]
    assert steer(["report", *map(str, runs), "--out", str(tmp_path / "r.html")]) == 2
    told = capsys.readouterr().err
    assert "same is of dev split" in told
    assert "test split" in told
    assert not (tmp_path / "r.html").exists()


def change_split(path, split):
    about = json.loads(path.read_text())
    path.write_text(json.dumps({**about, "settings": {**about["settings"], "split": split}}))


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (lambda path: (path / "run.json").unlink(), "holds no run"),
        (lambda path: (path / "results.json").unlink(), "did not finish"),
        (lambda path: (path / "results.json").write_text("[]"), "expected a JSON object"),
        (lambda path: (path / "results.json").write_text('{"tasks": {}}'), "no finished task"),
        (lambda path: (path / "results.json").write_text('{"tasks": {"mixed": {"n": 8}}}'), "damaged"),
        (lambda path: (path / "results.json").write_text('{"tasks": 3}'), "damaged"),
        (lambda path: (path / "run.json").write_text("{}"), "names no responder"),
        (lambda path: change_split(path / "mixed" / "task.json", "train"), "'split' is missing or wrong"),
        (lambda path: change_split(path / "mixed" / "task.json", "dev"), "the figures are of the split ''"),
        (lambda path: (path / "mixed" / "samples.jsonl").unlink(), "No prompts"),
        (
            lambda path: (path / "mixed" / "scores.jsonl").write_text('{"sample": "x", "figures": {"a": "b"}}\n'),
            "damaged",
        ),
        (
            lambda path: (path / "mixed" / "scores.jsonl").write_text('{"sample": "x", "judgement": {"a": 1}}\n'),
            "damaged",
        ),
        (lambda path: (path / "mixed" / "completions.jsonl").write_text('{"sample": "x", "text": 3}\n'), "damaged"),
    ],
)
def test_damaged_folders_are_named(two, harm, told, tmp_path, capsys):
    harm(two[1])
    assert steer(["report", str(two[0]), str(two[1]), "--out", str(tmp_path / "r.html")]) == 2
    said = capsys.readouterr().err
    assert told in said
    assert str(two[1]) in said
    assert "Traceback" not in said


def test_what_a_report_cannot_be_made_of(two, tmp_path, capsys):
    with pytest.raises(DataError, match="given twice"):
        write_report([two[0], two[0]], tmp_path / "r.html")
    with pytest.raises(DataError, match="at least one"):
        write_report([], tmp_path / "r.html")
    with pytest.raises(OutputError, match="name that ends in"):
        write_report(two, tmp_path / "r.pdf")
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        write_report(two, tmp_path / "folder.html")
    for folders in ([str(tmp_path / "nothing")], [str(two[0]), str(tmp_path / "nothing")]):
        assert steer(["report", *folders]) == 2
        assert str(tmp_path / "nothing") in capsys.readouterr().err
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "results.json").write_text('{"schema": 1}')
    assert steer(["report", str(tmp_path / "demo"), "--out", str(tmp_path / "r.html")]) == 2, (
        "it has a place of its own"
    )
    assert "--out is for runs" in " ".join(capsys.readouterr().err.split())
    assert steer(["report", str(tmp_path / "demo"), str(two[0])]) == 2, "a demo among evaluations"
    assert "holds no run of `steer eval`" in capsys.readouterr().err


def test_the_command_reports_a_run_of_steer_eval(embedded, tmp_path, capsys):
    tasks = tasks_of(["safe"], TaskOptions(Rules(), limit=2))
    run_tasks(embedded, tasks, tmp_path / "run")
    assert steer(["report", str(tmp_path / "run")]) == 0
    assert "report.html" in capsys.readouterr().out
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Results on the test split" in page
    assert "Samples that flipped" not in page, "there is nothing to compare with"
    run_tasks(embedded, tasks, tmp_path / "run")  # the report does not stand in the way of going on
