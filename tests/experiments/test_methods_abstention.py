"""The study of abstaining: nothing learned from is asked, and every technique is fitted and asked."""

import json
from io import StringIO

import pytest
from rich.console import Console

from experiments.embedded_model.requests import REFUSALS
from experiments.methods import abstention
from experiments.methods.abstention import ROWS, TARGETS, arguments, concepts, study, table, task
from steer.errors import DataError
from steer.methods.abstention.concepts import relation
from steer.methods.abstention.replies import is_abstention


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_that_is_learned_from_is_asked(name):
    one = task(name, 20, 0)
    learned = {question for concept in (one.target, *one.others) for question in concept.questions}
    assert not learned & {question.text for question in one.questions}
    known = {concept.name for concept in one.others}
    for question in one.questions:
        how = relation(question.concept, [one.target])
        assert how == {"seen": "descendant", "unseen": "descendant"}.get(question.group, question.group)
        assert (question.concept.name in known) is (question.group not in ("target", "unseen"))
    groups = [question.group for question in one.questions]
    assert groups.count("target") == 2
    assert groups.count("other") == 20
    assert abs(groups.count("seen") - groups.count("unseen")) <= 2


def test_the_tree_is_that_of_the_prompt_sets():
    splits = [{question for one in concepts(split) for question in one.questions} for split in ("train", "dev", "test")]
    assert [len(one) for one in splits] == [1197, 171, 342]
    assert not splits[0] & splits[1] | splits[0] & splits[2] | splits[1] & splits[2]
    with pytest.raises(DataError, match="No concept 'unicorn'"):
        task("unicorn", 20, 0)


def test_the_models_refusals_are_abstentions():
    assert all(map(is_abstention, REFUSALS))


def test_every_technique_is_fitted_and_asked(monkeypatch):
    monkeypatch.setattr(abstention, "STRENGTHS", (1.2,))
    short = ["--epochs", "0.1", "--dpo-epochs", "0.1", "--max-new-tokens", "4", "--below", "0.3", "--limit", "2"]
    results = study(arguments(["--targets", "boat", *short]), Console(quiet=True))
    assert json.loads(json.dumps(results, allow_nan=False))
    assert [row["technique"] for row in results["techniques"]] == [
        "unsteered", "zero-shot", "zero-shot, system", "few-shot + CoT", "gated, CAST", "gated, probe", "SFT",
        "SFT + DPO",
    ]  # fmt: skip
    plain = results["techniques"][0]["rates"]
    assert (plain["target"]["successes"], plain["other"]["successes"], plain["other"]["n"]) == (0, 2, 2)
    assert all(set(row["rates"]) == {*ROWS, "broken"} for row in results["techniques"])
    sft, dpo = (row["concepts"]["boat"]["fit"] for row in results["techniques"][-2:])
    assert sft["mixture"]["safety"] == 5 * sft["questions"]["abstain"]["n"]
    assert dpo["preferences"]["start_sha256"]
    console = Console(file=StringIO(), width=200)
    console.print(table(results))
    assert "SFT + DPO" in console.file.getvalue()
