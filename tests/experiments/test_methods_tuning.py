"""The study of safety tuning: its examples, and every share is tuned at and evaluated."""

import json
from io import StringIO

import pytest
from rich.console import Console

from experiments.methods.tuning import REFUSAL, arguments, refuses, study, table, write_examples
from steer.evals.sets import SETS
from steer.tuning.rows import read_examples


def test_general_examples_refuse_nothing_and_safety_examples_everything(tmp_path):
    general, safety = (read_examples(path).conversations for path in write_examples(tmp_path, 300))
    assert len(general) == 300
    assert not any(refuses(talk) for talk in general)
    assert len(safety) == 300
    assert {talk[-1]["content"] for talk in safety} == {REFUSAL}
    assert all(refuses(talk) for talk in safety)


def test_every_share_is_tuned_at_and_evaluated():
    given = ["--shares", "0", "0.1", "--limit", "1", "--general", "40", "--steps", "2", "--batch", "2"]
    results = study(arguments([*given, "--max-new-tokens", "4"]), Console(quiet=True))
    assert json.loads(json.dumps(results, allow_nan=False))
    assert [row["share"] for row in results["methods"]] == [None, 0.0, 0.1]
    assert [row["fit"]["mixture"]["safety"] for row in results["methods"][1:]] == [0, 4]
    assert all(list(row["sets"]) == list(SETS) for row in results["methods"])
    console = Console(file=StringIO(), width=160)
    console.print(table(results))
    assert "10 %" in console.file.getvalue()
    assert results["methods"][1]["fit"]["validation_safety"] == pytest.approx(
        results["methods"][2]["fit"]["validation_safety"], rel=0.2
    )
