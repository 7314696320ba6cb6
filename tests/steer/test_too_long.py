"""Prompts of capability tasks that do not fit into the model's context: conversations are unscored, texts told of."""

import pytest

from steer.errors import TooLongError
from steer.evals.likeliest import score_choice
from steer.evals.run import run_tasks
from steer.evals.run_folder import RunFolder
from steer.evals.sample import Sample
from steer.evals.task import Completion, Metric, Score, Task
from steer.models.chat import raw_text
from steer.progress import Silent
from steer.reports.notes import notes
from steer.responders.prompted import Unsteered
from tests.steer.report_runs import part_of


class Noted(Silent):
    """Keeps what it is told."""

    def __init__(self):
        self.notes = []

    def note(self, message):
        self.notes.append(message)


def questions(*conversations):
    """A task of choices, " B" being right."""
    samples = tuple(
        Sample(str(i), "mine", tuple(one), "choice", {"choices": [" A", " B", " C C C"], "answer": 1})
        for i, one in enumerate(conversations)
    )

    def score(samples, completions) -> list[Score]:
        return [score_choice(one, made.logprobs) for one, made in zip(samples, completions, strict=True)]

    return Task("mine", samples, score, (Metric("acc", "accuracy", "higher"),))


def chat(words):
    return [{"role": "user", "content": "word " * words + "Which?"}]


def test_a_conversation_that_does_not_fit_is_unscored_and_never_cut(embedded, tmp_path):
    room = embedded.context - len(embedded.prompt_ids([chat(0)])[0])
    each = len(embedded.prompt_ids([chat(1)])[0]) - len(embedded.prompt_ids([chat(0)])[0])
    assert each >= 1
    nearly = chat(room // each)  # the prompt fits, and with the longest option it does not
    while len(embedded.prompt_ids([nearly])[0]) < embedded.context:
        nearly[0]["content"] += "?"
    task = questions(chat(3), chat(600), nearly)
    found = run_tasks(embedded, [task], tmp_path)["tasks"]["mine"]
    assert (found["n"], found["done"], found["unscored"]) == (3, 3, 2)
    assert found["metrics"]["acc"]["n"] == 1
    made = RunFolder(tmp_path).completions("mine")
    assert "context is 512" in made["1"].failed
    assert "context is 512" in made["2"].failed
    alone = run_tasks(embedded, [questions(chat(3))], tmp_path / "alone")["tasks"]["mine"]
    assert alone["metrics"]["acc"]["value"] == found["metrics"]["acc"]["value"]
    with pytest.raises(TooLongError, match="Shorten the conversation"):
        Unsteered(embedded).choice_logprobs([chat(600)], [[" A"]])


def test_texts_that_lose_their_beginning_are_counted_and_told_of(embedded, tmp_path):
    progress = Noted()
    long = raw_text("word " * 600 + "Which?\nAnswer:")
    task = questions(raw_text("Which?\nAnswer:"), long)
    found = run_tasks(embedded, [task], tmp_path / "run", progress=progress)["tasks"]["mine"]
    assert (found["unscored"], found["cut"]) == (0, 1)
    assert progress.notes == [
        "mine: 1 of 2 texts are longer than the model's context of 512 tokens; their beginnings are left out, "
        "as lm-eval leaves them out"
    ]
    made = RunFolder(tmp_path / "run").completions("mine")
    longest = len(embedded.encode([" C C C"])[0])
    assert made["1"].cut == len(embedded.prompt_ids([long])[0]) + longest - embedded.context - 1
    assert made["0"] == Completion("0", made["0"].text, made["0"].logprobs)
    assert "left out, since the model's context is shorter: run 1: 1." in " ".join(notes(part_of([tmp_path / "run"])))
    short = run_tasks(embedded, [questions(raw_text("Which?\nAnswer:"))], tmp_path / "short")["tasks"]["mine"]
    assert "cut" not in short
