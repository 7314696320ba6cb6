"""Runs of tasks: kept as they go, gone on with, scored, judged anew, compared."""

import json
import os
import signal
from dataclasses import dataclass, field, replace

import pytest

from steer.errors import DataError, ModelError, OutputError
from steer.evals import run_folder
from steer.evals.compare import compare
from steer.evals.refusing import refusal_task
from steer.evals.rejudge import rejudge
from steer.evals.run import run_tasks
from steer.evals.run_folder import RunFolder, cut_torn_line, row_of
from steer.evals.sample import request
from steer.evals.task import Completion, Metric, Score, Task
from steer.evals.tasks.options import TaskOptions
from steer.evals.tasks.registry import tasks_of
from steer.forks import can_fork
from steer.judges.prefix import Prefix
from steer.judges.rules import Rules
from steer.judges.verdict import Judgement
from steer.responders.prompted import SystemPrompt, Unsteered

OPTIONS = TaskOptions(Rules(), limit=6)


@dataclass
class Counting:
    """A responder that counts what it is asked, and lacks memory for more than ``fits`` at once."""

    inner: Unsteered
    fits: int = 10**9
    asked: list[int] = field(default_factory=list)
    name: str = "unsteered"

    @property
    def lm(self):
        return self.inner.lm

    def settings(self):
        return self.inner.settings()

    def reply(self, conversations, sampling):
        if len(conversations) > self.fits:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        self.asked.append(len(conversations))
        return self.inner.reply(conversations, sampling)

    def choice_logprobs(self, conversations, options):
        self.asked.append(len(conversations))
        return self.inner.choice_logprobs(conversations, options)


def tasks(*names, **options):
    return tasks_of(names, replace(OPTIONS, **options))


def test_a_run_is_what_evaluate_finds(embedded, tmp_path):
    from steer.evals.runner import evaluate
    from steer.evals.sets import load_prompts

    names = ("jailbroken", "safe", "arithmetic", "multiple_choice", "myths", "concepts")
    found = run_tasks(embedded, tasks(*names), tmp_path)
    for name in names:
        results = evaluate(embedded, load_prompts(name, limit=6), max_new_tokens=48)
        metrics = found["tasks"][name]["metrics"]
        main = next(one for one in metrics.values() if one["main"])
        assert main["value"] == sum(one.score.value for one in results) / 6, name
        replies = {one.sample_id: one.text for one in RunFolder(tmp_path).completions(name).values()}
        assert replies == {one.sample.id: one.reply for one in results}
    assert json.loads((tmp_path / "results.json").read_text()) == json.loads(json.dumps(found))


def test_nothing_is_done_twice_and_tasks_and_samples_can_be_added(embedded, tmp_path):
    responder = Counting(Unsteered(embedded))
    first = run_tasks(responder, tasks("jailbroken"), tmp_path)
    assert sum(responder.asked) == 6
    again = run_tasks(responder, tasks("jailbroken"), tmp_path)
    assert sum(responder.asked) == 6
    assert again["tasks"] == first["tasks"]
    more = run_tasks(responder, tasks("jailbroken", "safe", limit=9), tmp_path)
    assert sum(responder.asked) == 6 + 3 + 9
    assert [one["n"] for one in more["tasks"].values()] == [9, 9]
    later = run_tasks(responder, tasks("myths"), tmp_path)
    assert set(later["tasks"]) == {"jailbroken", "safe", "myths"}


def test_another_run_in_the_folder_is_refused(embedded, tmp_path):
    run_tasks(embedded, tasks("safe"), tmp_path)
    with pytest.raises(OutputError, match=r"differs in responder, settings: responder, settings: text"):
        run_tasks(SystemPrompt(embedded, "Refuse all."), tasks("safe"), tmp_path)
    with pytest.raises(
        OutputError, match=r"safe/task.json is of another evaluation, which differs in number of samples, what is asked"
    ):
        run_tasks(embedded, tasks("safe", limit=3), tmp_path)
    with pytest.raises(OutputError, match="max_new_tokens"):
        run_tasks(embedded, tasks("safe", max_new_tokens=5), tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("mine")
    with pytest.raises(OutputError, match="holds no run"):
        run_tasks(embedded, tasks("safe"), tmp_path / "other")
    (tmp_path / "safe" / "mine.txt").write_text("mine")
    found = run_tasks(SystemPrompt(embedded, "Refuse all."), tasks("safe"), tmp_path, overwrite=True)
    assert found["responder"] == "system prompt"
    assert (tmp_path / "safe" / "mine.txt").read_text() == "mine"


def test_batches_are_halved_where_memory_does_not_suffice(embedded, tmp_path):
    plain = run_tasks(embedded, tasks("safe"), tmp_path / "plain")
    short = Counting(Unsteered(embedded), fits=2)
    found = run_tasks(short, tasks("safe"), tmp_path / "short")
    assert found["tasks"] == plain["tasks"]
    assert max(short.asked) <= 2
    assert sum(short.asked) == 6
    with pytest.raises(ModelError, match=r"Memory does not suffice for sample 'safe-.*' alone"):
        run_tasks(Counting(Unsteered(embedded), fits=0), tasks("safe"), tmp_path / "none")


def test_other_errors_are_not_taken_for_a_lack_of_memory(embedded, tmp_path):
    class Broken(Counting):
        def reply(self, conversations, sampling):
            raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        run_tasks(Broken(Unsteered(embedded)), tasks("safe"), tmp_path)


def test_a_torn_line_is_taken_off_before_more_is_written(embedded, tmp_path):
    responder = Counting(Unsteered(embedded))
    whole = run_tasks(responder, tasks("safe"), tmp_path)
    for name in ("completions.jsonl", "scores.jsonl"):
        path = tmp_path / "safe" / name
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(lines[:3]) + lines[3][:20])
    assert run_tasks(responder, tasks("safe"), tmp_path)["tasks"] == whole["tasks"]
    assert sum(responder.asked) == 6 + 3
    for name in ("completions.jsonl", "scores.jsonl"):
        rows = [json.loads(line) for line in (tmp_path / "safe" / name).read_text().splitlines()]
        assert len({row["sample"] for row in rows}) == len(rows) == 6


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 200000])
def test_torn_lines_of_every_length(tmp_path, size):
    path = tmp_path / "lines"
    path.write_bytes(b"a\nb\n" + b"x" * size)
    cut_torn_line(path)
    assert path.read_bytes() == b"a\nb\n"
    path.write_bytes(b"x" * size)
    cut_torn_line(path)
    assert path.read_bytes() == b""
    cut_torn_line(tmp_path / "none")


def test_prompts_that_do_not_fit_are_unscored_and_bounded(embedded, tmp_path):
    samples = [request(str(i), "mine", "word " * (900 if i == 2 else 2), {"harm": "safe"}) for i in range(4)]
    found = run_tasks(embedded, [refusal_task("mine", samples, Rules())], tmp_path)["tasks"]["mine"]
    assert (found["n"], found["done"], found["unscored"]) == (4, 4, 1)
    metric = found["metrics"]["safe_refused"]
    assert metric["n"] == 3
    share = metric["value"]
    assert metric["if_unscored"] == [3 * share / 4, (3 * share + 1) / 4]
    assert "context is 512" in RunFolder(tmp_path).scores("mine")["2"].reason


def test_unscored_samples_of_one_kind_do_not_widen_the_bounds_of_the_other(embedded, tmp_path):
    kinds = ["safe", "safe", "unsafe", "unsafe"]
    samples = [request(str(i), "mine", "word " * (900 if i == 3 else 2), {"harm": kinds[i]}) for i in range(4)]
    task = refusal_task("mine", samples, Rules())
    found = run_tasks(embedded, [task], tmp_path)["tasks"]["mine"]["metrics"]
    assert "if_unscored" not in found["safe_refused"]
    share = found["unsafe_refused"]["value"]
    assert found["unsafe_refused"]["if_unscored"] == [share / 2, (share + 1) / 2]
    lines = (tmp_path / "mine" / "scores.jsonl").read_text()
    run_tasks(embedded, [task], tmp_path)  # what cannot be answered is not scored again and again
    assert (tmp_path / "mine" / "scores.jsonl").read_text() == lines


def test_what_a_judge_left_unscored_is_tried_again(embedded, tmp_path):
    class Flaky(Rules):
        fails = True

        def judge(self, exchanges):
            if self.fails:
                return [Judgement("unscored", self.name, self.version, reason="timed out") for _ in exchanges]
            return super().judge(exchanges)

    def task():
        return refusal_task("mine", [request("a", "mine", "Hello", {"harm": "safe"})], Flaky())

    first = run_tasks(embedded, [task()], tmp_path)["tasks"]["mine"]
    assert first["unscored"] == 1
    assert first["metrics"]["safe_refused"]["value"] is None
    Flaky.fails = False
    assert run_tasks(embedded, [task()], tmp_path)["tasks"]["mine"]["unscored"] == 0


def test_completions_are_judged_anew_without_the_model(embedded, tmp_path):
    run_tasks(embedded, tasks("jailbroken", "arithmetic"), tmp_path)
    before = (tmp_path / "jailbroken" / "scores.jsonl").read_bytes()
    found = rejudge(tmp_path, Prefix())
    assert list(found["tasks"]) == ["jailbroken"]
    assert (tmp_path / "jailbroken" / "scores.jsonl").read_bytes() == before
    again = RunFolder(tmp_path, "prefix-1").scores("jailbroken")
    replies = RunFolder(tmp_path).completions("jailbroken")
    from steer.judges.prefix import prefix_of

    assert {one: score.verdict == "full_refusal" for one, score in again.items()} == {
        one: prefix_of(made.text) is not None for one, made in replies.items()
    }
    with pytest.raises(DataError, match="holds no run"):
        rejudge(tmp_path / "nowhere", Prefix())


def test_runs_are_compared_on_the_same_samples(embedded, tmp_path):
    run_tasks(embedded, tasks("jailbroken", "safe"), tmp_path / "a")
    run_tasks(SystemPrompt(embedded, "Refuse."), tasks("jailbroken", "safe", limit=4), tmp_path / "b")
    found = compare([tmp_path / "a", tmp_path / "b"])
    main = [row for row in found["rows"] if row["main"]]
    assert [(row["task"], row["n"]) for row in main] == [("jailbroken", 4), ("safe", 4)]
    assert all(row["p"] <= row["p_holm"] <= 1 for row in main)
    for row in main:
        assert row["difference"] == pytest.approx(row["other"] - row["base"])
    with pytest.raises(DataError, match="At least two"):
        compare([tmp_path / "a"])
    run_tasks(embedded, tasks("myths"), tmp_path / "c")
    with pytest.raises(DataError, match="no task with the same samples"):
        compare([tmp_path / "a", tmp_path / "c"])


def test_logits_that_are_not_finite_are_never_right(embedded, tmp_path):
    (task,) = tasks("multiple_choice")
    made = [Completion(sample.id, "", (float("nan"),) * 4) for sample in task.samples]
    assert all(score.unscored and "not finite" in score.reason for score in task.score(task.samples, made))


def test_samples_of_a_run_are_kept_as_they_were(embedded, tmp_path):
    (task,) = tasks("multi_turn")
    run_tasks(embedded, [task], tmp_path)
    assert [row_of(one) for one in RunFolder(tmp_path).samples("multi_turn")] == [row_of(one) for one in task.samples]


def test_metrics_that_are_no_means_have_bootstrap_intervals(embedded, tmp_path):
    def total(parts):
        return sum(parts) ** 0.5

    def score(samples, completions):
        return [Score({"root": float(len(made.text))}) for made in completions]

    samples = tasks("safe")[0].samples
    task = Task("root", samples, score, (Metric("root", "root", "higher", total),), max_new_tokens=8)
    found = run_tasks(embedded, [task], tmp_path)["tasks"]["root"]["metrics"]["root"]
    assert found["low"] < found["value"] < found["high"]


def killed(run, at, moment):
    """Run something in a fork that is killed as it appends lines for the time ``at``: before, amid the last, after."""
    child = os.fork()
    if child:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        return
    append, left = run_folder.append_lines, at

    def appending(path, rows):
        nonlocal left
        left -= 1
        if left or moment != "before":
            append(path, rows)
        if left == 0:
            if moment == "amid":
                os.truncate(path, path.stat().st_size - 20)
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        run_folder.append_lines = appending
        run()
    finally:
        os._exit(99)


@pytest.mark.skipif(not can_fork(), reason="the run is killed in a fork")
@pytest.mark.usefixtures("one_thread")
def test_killed_at_any_moment_nothing_finished_is_lost_or_repeated(embedded, tmp_path):
    """What is there when SIGKILL comes stays as it is, and the last run ends with every sample once."""
    names, out = ("jailbroken", "safe", "myths"), tmp_path / "out"
    asked = tasks(*names, limit=4, max_new_tokens=8)
    seen: dict[str, dict[str, Completion]] = {name: {} for name in names}
    moments = ((1, "before", 0), (1, "amid", 0), (3, "after", 3), (2, "amid", 4), (6, "after", 10), (4, "before", 12))
    for at, moment, there in (*moments, (1, "amid", 12), (2, "after", 12)):  # the last two of scores
        killed(lambda: run_tasks(embedded, asked, out, batch_size=1), at, moment)
        for name in names:
            found = RunFolder(out).completions(name)
            assert found.items() >= seen[name].items()
            seen[name] = found
        assert sum(map(len, seen.values())) == there
    assert any(RunFolder(out).scores(name) for name in names)
    responder = Counting(Unsteered(embedded))
    found = run_tasks(responder, asked, out, batch_size=1)["tasks"]
    assert responder.asked == []
    for name in names:
        for file in ("completions", "scores"):
            lines = (out / name / f"{file}.jsonl").read_text().splitlines()
            assert len(lines) == len({json.loads(line)["sample"] for line in lines}) == 4
        assert RunFolder(out).completions(name) == seen[name]
    assert run_tasks(embedded, asked, tmp_path / "whole")["tasks"] == found
