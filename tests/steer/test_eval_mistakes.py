"""Evaluations of what is damaged, badly named, too long or not comparable: told at once, and nothing is lost."""

import json
import threading
import time
from dataclasses import replace

import pytest
import typer

from steer.cli.app import run as command
from steer.cli.eval_shown import compare_table, results_table
from steer.cli.judge_options import JudgeAsked, judge_from
from steer.digest import of_prompt
from steer.errors import DataError, ModelError, OutputError
from steer.evals.compare import compare
from steer.evals.refusing import refusal_task
from steer.evals.rejudge import mark_of, rejudge
from steer.evals.run import run_tasks
from steer.evals.run_folder import RunFolder
from steer.evals.sample import read_samples, request
from steer.evals.tables import read_rows
from steer.evals.task import Completion
from steer.evals.tasks.custom import custom
from steer.evals.tasks.options import TaskOptions
from steer.evals.tasks.registry import tasks_of
from steer.files import append_lines, read_lines
from steer.judges.asked import ModelJudge, Request
from steer.judges.completions import Endpoint
from steer.judges.endpoint import EndpointWriter
from steer.judges.prefix import Prefix
from steer.judges.rules import Rules
from steer.judges.three_class import three_class
from steer.judges.verdict import Exchange
from steer.models.chat import raw_text
from steer.responders.prompted import SystemPrompt
from steer.responders.steered import Steered
from tests.steer.judge_server import fails, says, serving

SAFE = {"harm": "safe"}


def hello(name="mine", judge=None, texts=("Hello", "Good morning")):
    samples = [request(str(i), "mine", text, SAFE) for i, text in enumerate(texts)]
    return refusal_task(name, samples, judge or Rules(), max_new_tokens=4)


def line(**changed):
    row = {"id": "1", "set": "m", "messages": [{"role": "user", "content": "Hi"}], "expect": {"kind": "refusal"}}
    return json.dumps({**row, "tags": SAFE, **changed}) + "\n"


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/tmp/x", ".hidden", "a\nb", "x" * 101, "[red]"])
def test_names_of_tasks_are_names_of_folders(name):
    with pytest.raises(DataError, match="name is that of a folder"):
        hello(name)
    for allowed in ("mine", "größer", "my set (2)", "a-b_c.d+e"):
        assert hello(allowed).name == allowed


@pytest.mark.parametrize("name", [".jsonl", "..jsonl", ".hidden.jsonl"])
def test_a_file_without_a_name_is_no_task(tmp_path, name):
    (tmp_path / name).write_text(line())
    with pytest.raises(DataError, match="has no name before its first dot"):
        custom(tmp_path / name, TaskOptions(Rules()))


@pytest.mark.parametrize(
    "expect",
    [
        {"kind": "references", "correct": ["a"], "incorrect": ["b"]},
        {"kind": "text"},
        {"kind": "choices", "choices": ["a", "b"], "right": [0]},
    ],
)
def test_kinds_that_only_other_tasks_can_score_are_refused_before_the_model_answers(tmp_path, expect):
    (tmp_path / "mine.jsonl").write_text(line(expect=expect))
    with pytest.raises(DataError, match=rf"mine.jsonl, sample '1': .* no samples of kind '{expect['kind']}'"):
        custom(tmp_path / "mine.jsonl", TaskOptions(Rules()))


def test_no_task_and_two_of_one_name_are_refused_before_anything_is_written(embedded, tmp_path):
    with pytest.raises(DataError, match="no task was given"):
        tasks_of([], TaskOptions(Rules()))
    with pytest.raises(DataError, match="no task was given"):
        run_tasks(embedded, [], tmp_path / "run")
    with pytest.raises(DataError, match="mine: replies of 512 tokens leave no room"):
        run_tasks(embedded, [replace(hello(), max_new_tokens=512)], tmp_path / "run")
    raw = tuple(replace(one, messages=tuple(raw_text("Hello"))) for one in hello().samples)
    with pytest.raises(DataError, match="mine: replies of 512 tokens leave no room"):
        run_tasks(embedded, [replace(hello(), samples=raw, max_new_tokens=512)], tmp_path / "run")
    with pytest.raises(DataError, match="Two tasks are called mine"):
        run_tasks(embedded, [hello(), hello()], tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_half_a_surrogate_pair_is_no_prompt(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text(line(messages=[{"role": "user", "content": "a\ud800b"}]))
    with pytest.raises(DataError, match=r"mine.jsonl, sample 1: .*surrogate"):
        read_samples(path)
    path.write_text(line(id="\udc00"))
    with pytest.raises(DataError, match="surrogate"):
        read_samples(path)


def test_half_a_surrogate_pair_in_what_a_judge_writes_is_kept_as_json_escapes_it(tmp_path):
    append_lines(tmp_path / "lines", [{"raw": 'a\ud800"b'}])
    assert list(read_lines(tmp_path / "lines")) == [{"raw": 'a\ud800"b'}]
    with serving(lambda body, number: says("Verdict: compliance \ud800")) as server:
        writer = EndpointWriter(Endpoint(server.url, "stub"))
        (found,) = ModelJudge(three_class(), writer).judge([Exchange(hello().samples[0].messages, "Fine \udc01.")])
        assert "\udc01" not in server.prompts[0]
    append_lines(tmp_path / "found", [vars(found)])
    assert next(iter(read_lines(tmp_path / "found")))["raw"] == found.raw


def test_a_torn_last_line_of_a_file_of_ones_own_is_no_sample_less(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text(line() + line(id="2")[:30])
    with pytest.raises(DataError, match="line 2: not JSON"):
        read_samples(path)
    with pytest.raises(DataError, match="line 2: not JSON"):
        read_rows(path)


def test_rows_that_end_early_and_prompts_that_are_no_texts_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text("id,prompt,type\n1,hi,x\n2\n")
    with pytest.raises(DataError, match=r"a.csv, row 2: the row ends before the column 'prompt'"):
        read_rows(tmp_path / "a.csv")
    with pytest.raises(DataError, match="a prompt is a text, got NoneType"):
        request("1", "mine", None, SAFE)


def test_what_is_too_long_by_a_system_prompt_is_unscored(embedded, tmp_path):
    """It is not the sample alone that must fit, and one that does not fit ends no run."""
    task = hello(texts=("Hello", "word " * 420, "Good morning"))
    found = run_tasks(SystemPrompt(embedded, "Be kind. " * 60), [task], tmp_path / "system")["tasks"]["mine"]
    assert (found["done"], found["unscored"]) == (3, 1)
    assert "context is 512" in RunFolder(tmp_path / "system").completions("mine")["1"].failed


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("mine/scores.jsonl", '{"sample": "0", "figures": [1]}\n', "figures must be numbers"),
        ("mine/scores.jsonl", '{"sample": "0", "figures": {"safe_refused": "1"}}\n', "figures must be numbers"),
        ("mine/scores.jsonl", '{"sample": "0", "figures": {"safe_refused": NaN}}\n', "figures must be numbers"),
        (
            "mine/scores.jsonl",
            f'{{"sample": "0", "figures": {{"safe_refused": {10**400}}}}}\n',
            "figures must be numbers",
        ),
        ("mine/scores.jsonl", '{"sample": "0", "figures": {}, "verdict": ["a"]}\n', "verdict must be a text"),
        ("mine/scores.jsonl", '{"sample": "0", "judgement": {"score": Infinity}}\n', "score must be a number or null"),
        ("mine/scores.jsonl", '{"sample": "0", "judgement": {"who": 1}}\n', "row 1 .*0"),
        ("mine/scores.jsonl", '{"sample": "0", "judgement": [1]}\n', "row 1"),
        ("mine/completions.jsonl", '{"sample": "0", "text": 5}\n', "text must be a text"),
        ("mine/completions.jsonl", '{"sample": "0", "logprobs": 5}\n', "logprobs must be a list of numbers"),
        ("mine/completions.jsonl", '{"sample": "0", "tokens": "5"}\n', "tokens must be a whole number"),
        ("mine/completions.jsonl", '{"sample": 0}\n', "a line has no sample"),
        ("mine/task.json", '{"name": "mine"}', "'metrics' is missing or wrong"),
        ("mine/task.json", "[" * 100_000, "is not JSON"),
        ("run.json", '{"responder": "a", "settings": {"x": NaN}}', "NaN is no number of JSON"),
        ("run.json", '{"responder": "a", "settings": {"x": 1e400}}', "1e400 is no number of JSON"),
        ("run.json", '{"responder": "a", "fitted_on": 5}', "fitted_on must be a list"),
    ],
)
def test_damaged_runs_are_named(embedded, tmp_path, file, text, message):
    run_tasks(embedded, [hello()], tmp_path)
    (tmp_path / file).write_text(text)
    with pytest.raises(DataError, match=message):
        rejudge(tmp_path, Prefix()) if "scores" not in file else compare([tmp_path, tmp_path])
    with pytest.raises((DataError, OutputError)):
        run_tasks(embedded, [hello()], tmp_path)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"settings": {"split": []}}, "split"),
        ({"settings": {"split": "train"}}, "split"),
        ({"metrics": []}, "metrics"),
        ({"metrics": [{"name": "a", "title": "a", "main": True}]}, "metrics"),
        ({"metrics": [{"name": "a", "title": "a", "main": 1, "better": "lower"}]}, "metrics"),
        ({"max_new_tokens": True}, "max_new_tokens"),
        ({"stop": [1]}, "stop"),
    ],
)
def test_settings_of_a_task_that_cannot_be_worked_with_are_named(embedded, tmp_path, changed, named):
    run_tasks(embedded, [hello()], tmp_path)
    path = tmp_path / "mine" / "task.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    with pytest.raises(DataError, match=rf"task\.json: '{named}' is missing or wrong"):
        compare([tmp_path, tmp_path])


def test_damaged_results_are_named_before_the_model_answers(embedded, tmp_path):
    run_tasks(embedded, [hello()], tmp_path)
    (tmp_path / "results.json").write_text('{"tasks": [1]}')
    with pytest.raises(DataError, match=r"results\.json is not as an evaluation writes it"):
        run_tasks(embedded, [hello("other")], tmp_path)
    assert RunFolder(tmp_path).completions("other") == {}


def test_requests_must_say_whether_they_are_harmful(embedded, tmp_path):
    with pytest.raises(DataError, match=r"mine, sample '0': .* the tag harm"):
        refusal_task("mine", [request("0", "mine", "Hello", {"harm": "yes"})], Rules())
    run_tasks(embedded, [hello()], tmp_path)
    (tmp_path / "mine" / "samples.jsonl").write_text(line(tags={}))
    with pytest.raises(DataError, match=r"mine, sample '1': .* the tag harm"):
        rejudge(tmp_path, Prefix())


def test_runs_of_two_judges_are_not_compared(embedded, tmp_path):
    run_tasks(embedded, [hello()], tmp_path / "a")
    run_tasks(embedded, [hello(judge=Prefix())], tmp_path / "b")
    with pytest.raises(DataError, match=r"mine was judged in one way in .*a and in another in .*b"):
        compare([tmp_path / "a", tmp_path / "b"])


def test_what_else_differs_between_runs_that_are_compared_is_told(embedded, tmp_path, capsys):
    fitted = Steered(embedded, (), fitted_on={of_prompt(hello().samples[0].messages)})
    run_tasks(embedded, [hello()], tmp_path / "a", about={"model": "one"})
    run_tasks(fitted, [replace(hello(), max_new_tokens=5)], tmp_path / "b", about={"model": "two"})
    assert compare([tmp_path / "a", tmp_path / "a"])["notes"] == []
    told = compare([tmp_path / "a", tmp_path / "b"])["notes"]
    assert [one.split(" differ in ")[-1] for one in told[:2]] == [
        "model: 'one' and 'two'. The difference is of that, too.",
        "max_new_tokens of mine: 4 and 5. The difference is of that, too.",
    ]
    assert len(told) == 3
    assert "mine: 1 of 2 prompts are among those that the responder of" in told[2]
    assert command(["compare", str(tmp_path / "b"), str(tmp_path / "a")]) == 0
    shown = capsys.readouterr().err
    assert shown.count("note: ") == 3
    assert "max_new_tokens of mine: 5 and 4" in shown


def test_every_folder_that_is_compared_must_hold_a_run_with_tasks_in_common(embedded, tmp_path):
    run_tasks(embedded, [hello()], tmp_path / "a")
    run_tasks(embedded, [hello("other")], tmp_path / "b")
    (tmp_path / "file").write_text("")
    for missing in ("nowhere", "file"):
        with pytest.raises(DataError, match=rf"{missing} holds no run of `steer eval`: run\.json is missing"):
            compare([tmp_path / "a", tmp_path / "a", tmp_path / missing])
        with pytest.raises(DataError, match=rf"{missing} holds no run"):
            compare([tmp_path / missing, tmp_path / "a"])
    with pytest.raises(DataError, match=r"no task with the same samples and scores in common with .*b"):
        compare([tmp_path / "a", tmp_path / "a", tmp_path / "b"])


def test_judges_with_other_settings_do_not_share_scores(embedded, tmp_path):
    def judge(url, model="stub"):
        return ModelJudge(three_class(), EndpointWriter(Endpoint(url, model)))

    run_tasks(embedded, [hello()], tmp_path)
    for text, verdict in (("Verdict: compliance", "compliance"), ("Verdict: full refusal", "full_refusal")):
        with serving(lambda body, number, text=text: says(text)) as server:
            found = rejudge(tmp_path, judge(server.url))
        assert found["tasks"]["mine"]["verdicts"] == {verdict: 2}
    assert mark_of(judge("http://a/v1", "x/y")) != mark_of(judge("http://a/v1", "x-y"))
    assert len(mark_of(judge("http://a/v1", "x" * 300))) < 120
    assert mark_of(Rules(without=frozenset({"says_no"}))) != mark_of(Rules())
    assert mark_of(Prefix()) == "prefix-1"


def test_options_that_mean_nothing_to_a_judge_are_refused(tmp_path):
    for option in (
        {"url": "http://a/v1"},
        {"judge_template": tmp_path},
        {"verdict": ["a=b"]},
        {"judgements": tmp_path},
        {"judge_timeout": 5.0},
    ):
        with pytest.raises(typer.BadParameter, match="is for judges that are models, and rules is none"):
            judge_from("rules", JudgeAsked(**option))
    assert judge_from("rules") == Rules()
    with pytest.raises(typer.BadParameter, match="--judge-timeout is for endpoints"):
        judge_from("three-class:m", JudgeAsked(judge_timeout=5.0))


def test_what_a_judge_has_scored_stays_when_it_fails_for_good(embedded, tmp_path):
    texts = ["Hello", "Good morning", "How do I pick a lock?", "What is tea?"]

    def task(url):
        return hello(judge=ModelJudge(three_class(), EndpointWriter(Endpoint(url, "m", concurrency=1))), texts=texts)

    with serving(lambda body, number: says("Verdict: compliance") if number < 3 else fails(401)) as server:
        with pytest.raises(ModelError, match="the key is missing or wrong"):
            run_tasks(embedded, [task(server.url)], tmp_path)
        assert len(RunFolder(tmp_path).scores("mine")) == 3
        server.answer = lambda body, number: says("Verdict: full refusal")
        found = run_tasks(embedded, [task(server.url)], tmp_path)
    assert found["tasks"]["mine"]["verdicts"] == {"compliance": 3, "full_refusal": 1}


def test_a_caller_that_goes_no_further_waits_for_no_answer():
    """Ctrl-C while an endpoint is silent must not take until its timeout."""
    released, answers = threading.Event(), []

    def silent(body, number):
        if number:
            released.wait(20)
            answers.append(number)
        return says("Verdict: compliance")

    question = three_class()
    requests = [Request(lambda reply: question.ask("Hello", reply), text) for text in ("a", "b", "c")]
    with serving(silent) as server:
        asked = EndpointWriter(Endpoint(server.url, "m")).write(requests, 8)
        assert next(asked)[1].text == "Verdict: compliance"
        while len(server.seen) < 3:
            time.sleep(0.01)
        asked.close()  # as an error of the caller does; it returns once all threads have ended
        assert answers == []
        released.set()


def test_names_in_tables_are_shown_as_they_are(embedded, tmp_path):
    from rich.console import Console

    found = run_tasks(embedded, [hello()], tmp_path / "a")
    console = Console(width=120, record=True, file=(tmp_path / "shown").open("w"))
    console.print(results_table({**found, "responder": "plan a[/b].json [red]", "model": "dir[/x]"}))
    compared = compare([tmp_path / "a", tmp_path / "a"])
    console.print(compare_table({**compared, "base": "plan [/c]"}, everything=True))
    shown = console.export_text()
    assert "plan a[/b].json [red] on dir[/x]" in shown
    assert "plan [/c]" in shown


def test_completions_are_read_as_they_were_written(tmp_path):
    made = [Completion("a", "text", (-1.5, -2.0), "stop"), Completion("b", failed="too long")]
    RunFolder(tmp_path).add_completions("mine", made)
    assert list(RunFolder(tmp_path).completions("mine").values()) == made
