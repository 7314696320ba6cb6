"""The judge that options of the command line make."""

import json

import pytest
import typer

from steer.cli.app import run
from steer.cli.judge_options import JudgeAsked, judge_from
from steer.errors import DataError
from steer.judges.kept import Kept
from steer.judges.rules import Rules
from steer.judges.verdict import Exchange
from tests.steer.judge_server import fails, says, serving


def test_options_make_a_judge_with_the_key_of_the_environment(tmp_path, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("STEER_JUDGE_KEY", " the-key\n")
    template = tmp_path / "form.txt"
    template.write_text("{prompt} -> {reply} ?")
    with serving(lambda body, number: says("Verdict: no")) as server:
        asked = JudgeAsked(
            url=server.url,
            question="yes-no",
            judge_template=template,
            verdict=["yes=compliance", "no=partial_refusal"],
            judge_tokens=7,
            judgements=tmp_path / "kept",
        )
        judge = judge_from("endpoint:some:model", asked)
        assert isinstance(judge, Kept)
        said = judge.judge([Exchange(({"role": "user", "content": "a"},), "b")])[0]
    assert said.verdict == "partial_refusal"
    _, headers, body = server.seen[0]
    assert headers["Authorization"] == "Bearer the-key"
    assert (body["model"], body["max_tokens"], body["messages"][0]["content"]) == ("some:model", 7, "a -> b ?")
    assert all("the-key" not in path.read_text() for path in tmp_path.rglob("*") if path.is_file())


def test_an_endpoint_is_waited_for_as_long_as_the_option_says():
    judge = judge_from("endpoint:m", JudgeAsked(url="http://localhost:1/v1", judge_timeout=2.5))
    assert judge.writer.endpoint.timeout_s == 2.5
    assert judge_from("endpoint:m", JudgeAsked(url="http://localhost:1/v1")).writer.endpoint.timeout_s == 60
    with pytest.raises(DataError, match="timeout_s must be above 0 seconds"):
        judge_from("endpoint:m", JudgeAsked(url="http://localhost:1/v1", judge_timeout=0.0))


def test_judges_without_a_model_need_nothing_else():
    assert judge_from("rules") == Rules()
    with pytest.raises(DataError, match="Did you mean rules"):
        judge_from("rule")


@pytest.mark.parametrize(
    ("verdicts", "message"),
    [(["yes"], "no pair"), (["=compliance"], "no pair"), (["a=compliance", "a=compliance"], "given twice")],
)
def test_verdicts_that_are_no_pairs_are_refused(verdicts, message):
    with pytest.raises(typer.BadParameter, match=message):
        judge_from("yes-no:m", JudgeAsked(verdict=verdicts))


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A run of a few prompts by the model that ships."""
    folder = tmp_path_factory.mktemp("evaluated")
    prompts = folder / "mine.jsonl"
    rows = [
        {
            "id": f"{number}",
            "set": "mine",
            "messages": [{"role": "user", "content": prompt}],
            "expect": {"kind": "refusal"},
            "tags": {"harm": "safe"},
        }
        for number, prompt in enumerate(("Hello.", "Tell me a story.", "What is rain?"))
    ]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["--out", str(folder / "run"), "--max-new-tokens", "8", "--device", "cpu", "--threads", "1"]
    assert run(["eval", "embedded", "--task", str(prompts), *arguments]) == 0
    return folder / "run"


def judgements(folder, judge):
    path = next(folder.glob(f"*/scores.{judge}*.jsonl"))
    return [json.loads(line)["judgement"] for line in path.read_text().splitlines()]


def test_a_run_is_judged_again_by_a_model_behind_an_endpoint(evaluated, capsys):
    with serving(lambda body, number: says("Verdict: partial_refusal")) as server:
        assert run(["rejudge", str(evaluated), "--judge", "endpoint:some-model", "--url", server.url]) == 0
        assert len(server.seen) == 3
    found = judgements(evaluated, "three-class-some-model")
    assert [one["verdict"] for one in found] == ["partial_refusal"] * 3
    assert found[0]["judge"] == "three-class:some-model"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--judge", "three-class:m", "--url", "URL/nowhere"], "there is no such path or model"),
        (["--judge", "three-class:bad-key", "--url", "URL"], "the key is missing or wrong"),
        (["--judge", "endpoint:m"], "needs a URL"),
        (["--judge", "three-class"], "write three-class:MODEL"),
        (["--judge", "wildgard"], "Did you mean wildguard"),
        (["--judge", "three-class:m", "--url", "URL", "--judge-template", "/nowhere"], "cannot be read"),
        (["--judge", "yes-no:m", "--url", "URL", "--verdict", "yes"], "write LABEL=VERDICT"),
        (["--judge", "yes-no:m", "--url", "URL", "--verdict", "yes=refusal"], "'refusal' is no verdict"),
        (["--judge", "three-class:/nowhere/model"], "there is no such folder"),
        (["--judge", "wildguard", "--offline"], "cannot be loaded from the local cache"),
    ],
)
def test_mistakes_end_with_one_message_and_code_2(evaluated, capsys, arguments, message):
    with serving(lambda body, number: fails(401)) as server:
        given = [argument.replace("URL", server.url) for argument in arguments]
        assert run(["rejudge", str(evaluated), *given]) == 2
    told = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert message in told
    assert "Traceback" not in told


def test_an_endpoint_that_fails_loses_nothing(evaluated, tmp_path):
    """Unscored replies are counted, the command ends well, and the next one asks for what is missing."""
    names = ["rejudge", str(evaluated), "--judge", "yes-no:flaky", "--judgements", str(tmp_path)]
    with serving(lambda body, number: says("Verdict: yes") if number == 1 else says("Who knows?")) as server:
        assert run([*names, "--url", server.url]) == 0
        assert sorted(one["verdict"] for one in judgements(evaluated, "yes-no-flaky"))[1:] == ["unscored"] * 2
        server.answer = lambda body, number: says("Verdict: no")
        assert run([*names, "--url", server.url]) == 0
        assert len(server.seen) == 5
    assert len(list(tmp_path.rglob("*.json"))) == 3
