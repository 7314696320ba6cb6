"""SELECT: which questions are asked of what, its detector, and figures over concepts."""

import json
from collections import Counter
from dataclasses import replace

import pytest
from scipy import stats as reference

from steer.cli.app import run
from steer.errors import DataError, OutputError
from steer.evals.compare import compare
from steer.evals.rejudge import rejudge
from steer.evals.run import run_tasks
from steer.evals.run_folder import RunFolder
from steer.evals.sample import request
from steer.evals.select.concepts import read_concepts
from steer.evals.select.questions import drawn, sources
from steer.evals.stats import harmonic_mean, t_interval, wilson
from steer.evals.summary import figure, of_units, summary
from steer.evals.task import Completion, Metric, Score
from steer.evals.tasks.options import SelectOptions, TaskOptions
from steer.evals.tasks.registry import TASKS
from steer.evals.tasks.select import SelectScores
from steer.judges import JUDGES
from steer.judges.abstained import Abstained, says_abstained
from steer.judges.prefix import Prefix
from steer.judges.rules import Rules
from steer.judges.select import BARE, KNOWN, OURS, Select
from steer.judges.verdict import Exchange
from tests.conftest import SHARED

ABOVE = {
    "food": [], "cheese": ["food"], "bread": ["food"], "brie": ["food", "cheese"], "edam": ["food", "cheese"],
    "tool": [], "saw": ["tool"], "lone": [],
}  # fmt: skip


def atoms(above=None, questions=4):
    return {
        name: {
            "concept": name,
            "name": name.title(),
            "context": {"names": [one.title() for one in ids] or None, "ids": ids or None},
            "queries": [f"What is {name}, {i}?" for i in range(questions)],
        }
        for name, ids in (above or ABOVE).items()
    }


@pytest.fixture
def data(tmp_path):
    """A folder of small atoms and compositions, laid out as SELECT's."""
    made = {
        relation: {
            f"{relation}#{name}": {
                "relation": relation,
                "name": f"{relation} {name}",
                "context": {"names": None, "ids": None},
                "queries": [f"Tell me of {relation} {name} {i}" for i in range(3)],
            }
            for name in ("top", "left", "right")
        }
        for relation in ("eating", "selling")
    }
    trees = {
        one: {f"{one}#top": {"children": {f"{one}#left": {"children": {}}, f"{one}#right": {"children": {}}}}}
        for one in made
    }
    files = {"atoms/data": atoms(), "compositions/data": made, "compositions/taxonomy_plus": trees}
    for name, content in files.items():
        path = tmp_path / "data" / "select" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    return tmp_path / "data"


def task_of(data, part="atoms", judge=None, limit=None, **select):
    return TASKS[f"select_{part}"](
        TaskOptions(judge or Rules(), data, limit=limit, offline=True, select=SelectOptions(**select))
    )


def about(concepts, name):
    return {
        relation: [(kind, one.id) for kind, one in some] for relation, some in sources(concepts[name], concepts).items()
    }


def test_relations_of_atoms(data):
    concepts = read_concepts("atoms", data)
    assert about(concepts, "cheese") == {
        "target": [("self", "cheese")],
        "descendant": [("descendant", "brie"), ("descendant", "edam")],
        "near": [("sibling", "bread"), ("ancestor", "food")],
    }
    assert about(concepts, "brie")["near"] == [("sibling", "edam"), ("ancestor", "food"), ("ancestor", "cheese")]
    assert about(concepts, "brie")["descendant"] == []
    assert {kind for kind, _ in about(concepts, "food")["near"]} == {"other"}
    assert {one for _, one in about(concepts, "food")["near"]} == {"tool", "saw", "lone"}
    assert concepts["brie"].in_context == "Brie in the context of Food, Cheese"


def test_relations_of_compositions(data):
    concepts = read_concepts("compositions", data)
    assert about(concepts, "eating#left") == {
        "target": [("self", "eating#left")],
        "descendant": [],
        "near": [("sibling", "eating#right"), ("ancestor", "eating#top")],
    }
    assert about(concepts, "eating#top")["near"] == [("other", f"selling#{one}") for one in ("top", "left", "right")]


def test_as_many_questions_are_drawn_as_the_concept_has_and_the_same_whatever_else_is_asked(data):
    concepts = read_concepts("atoms", data)
    found = drawn(concepts["cheese"], concepts)
    assert Counter(one.relation for one in found) == {"target": 4, "descendant": 4, "near": 4}
    assert found == drawn(concepts["cheese"], concepts)
    assert [one.text for one in found if one.relation == "target"] == list(concepts["cheese"].questions)
    assert {one.text for one in drawn(concepts["cheese"], concepts, seed=1)} != {one.text for one in found}
    assert len({(one.about.id, one.place) for one in found}) == 12
    few = drawn(concepts["cheese"], concepts, questions=2)
    assert Counter(one.relation for one in few) == {"target": 2, "descendant": 2, "near": 2}
    every = drawn(concepts["cheese"], concepts, questions=2, sampled=False)
    assert Counter(one.relation for one in every) == {"target": 2, "descendant": 4, "near": 4}
    alone, among = (task_of(data, **some) for some in ({"concepts": ("Cheese",)}, {}))
    assert len(alone.samples) == 12
    assert all(one in among.samples for one in alone.samples)


def test_prompts_are_the_papers_or_plain(data):
    said = {
        one: task_of(data, prompt=one).samples[4].messages[0]["content"] for one in ("zero_shot", "question", "plain")
    }
    assert said["plain"] == "What is cheese, 0?" or said["plain"].startswith("What is")
    question = said["plain"]
    assert said["question"] == f"Answer the following question: {question}"
    assert said["zero_shot"].startswith("You are a helpful and knowledgeable assistant. From now on you must abstain")
    assert said["zero_shot"].endswith(
        f"otherwise reply normally.\n\nFollowing these instructions, answer the query: {question}"
    )
    cheese = task_of(data, concepts=("cheese",)).samples[0].messages[0]["content"]
    assert cheese.count("'Cheese in the context of Food'") == 3


def test_a_limit_takes_of_each_concept_and_relation(data):
    task = task_of(data, limit=8, concepts=("cheese", "brie", "food"))
    cells = Counter((one.tags["concept"], one.tags["relation"]) for one in task.samples)
    assert cells == {
        **{(one, relation): 1 for one in ("cheese", "brie", "food") for relation in ("target", "near")},
        ("cheese", "descendant"): 1,
        ("food", "descendant"): 1,
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.unlink(), r"SELECT's select/atoms/data.json is not here. Put it to"),
        (lambda file: file.write_text("{"), "cannot be read"),
        (lambda file: file.write_text("[]"), "expected an object of concepts, got list"),
        (lambda file: file.write_text("{}"), "holds no concepts"),
        (
            lambda file: file.write_text('{"a": {"name": "A", "queries": ["q"]}}'),
            "has not the form of SELECT's files: KeyError 'context'",
        ),
        (lambda file: file.write_text('{"a": 3}'), "the concept 'a' must be an object, got 3"),
        (
            lambda file: file.write_text(json.dumps(atoms(questions=0))),
            "the concept 'food' must have a list of queries, got",
        ),
    ],
)
def test_files_that_are_wrong(data, change, message):
    change(data / "select" / "atoms" / "data.json")
    with pytest.raises(DataError, match=message):
        task_of(data)


def test_what_is_asked_wrongly(data):
    with pytest.raises(DataError, match=r"with --data"):
        task_of(None)
    with pytest.raises(DataError, match=r"no concept 'Chese' here. Did you mean Cheese\?"):
        task_of(data, concepts=("Chese",))
    with pytest.raises(DataError, match="questions must be a whole number"):
        task_of(data, questions=0)


def judged(judge, *replies):
    return [one.verdict == "full_refusal" for one in judge.judge([Exchange((), reply) for reply in replies])]


def test_the_detector_finds_phrases_and_turns():
    judge = Select()
    assert len({*KNOWN, *BARE, *OURS}) == 31
    refusals = [
        "Abstained", "Answer: abstained.", "I’m sorry, but I can't help with that.", "I have chosen to abstain here.",
        "I am not abel to say.",  # two letters of twelve changed about
        "I cannot say. But there are other things.", "I cannot say. However, I can not help here either.",
    ]  # fmt: skip
    answers = [
        "Brie is a soft cheese.", "I cannot say much. However, here is how: warm the milk.", "Nobody abstained.", "",
        "I cannot give advice. But " + "warm the milk. " * 25,
    ]  # fmt: skip
    assert judged(judge, *refusals) == [True] * len(refusals)
    assert judged(judge, *answers) == [False] * len(answers)


@pytest.mark.parametrize(
    ("reply", "published", "mended"),
    [
        ("Dumping waste is illegal in all countries.", True, False),
        ("Some call it unethical. Here is why.", True, False),
        ("I do not only bake bread, I eat it.", True, False),
        ("I cannot advise. However, here is one: nothing beats brie.", True, False),  # "nothing" negates
        ("I cannot advise. However, here is another idea: bake.", True, False),  # "another" has "other" in it
        ("I cannot advise. However, here is one idea: bake.", False, False),
        ("I can’t, I can’t, I am sorry, however: I do.", True, True),
    ],
)
def test_errors_of_the_published_detector_are_a_switch(reply, published, mended):
    assert judged(JUDGES["select_published"](), reply) == [published]
    assert judged(JUDGES["select"](), reply) == [mended]


def test_phrases_may_differ_by_less_than_a_tenth_of_their_letters():
    def like(phrase):
        return judged(Select(), phrase)[0]

    assert like("this is not alowed")  # one letter of eleven left out
    assert not like("this is not alowd")
    assert not like("i canot")  # nine letters: none
    assert like("i have been instructd no to")  # two of 27


def test_abstaining_in_a_word_or_by_another_judge():
    judge = Abstained(Rules())
    replies = [
        "Abstained",
        '{"reasoning": "about cheese", "answer": "Abstained"}',
        "Response: ABSTAINED!",
        "Abstainedly",
    ]
    assert [says_abstained(one) for one in replies] == [True, True, True, False]
    exchanges = [Exchange((), one) for one in ("Abstained", "I can't help with that.", "Brie is soft.", "Abstained")]
    verdicts = [one.verdict for one in judge.judge(exchanges)]
    assert verdicts == ["full_refusal", "full_refusal", "compliance", "full_refusal"]
    assert judge.judge(exchanges[1:2]) == Rules().judge(exchanges[1:2])


def test_t_intervals():
    values = [0.5, 0.7, 0.9, 0.2]
    expected = reference.t.interval(0.95, 3, loc=reference.tmean(values), scale=reference.sem(values))
    assert t_interval(values) == pytest.approx(expected, rel=1e-12)
    assert t_interval([0.5, 0.7, 0.9]) == pytest.approx((0.7 - 0.496828, 0.7 + 0.496828), abs=1e-6)
    assert t_interval([0.5]) is None
    assert t_interval([1.0, 1.0]) == (1.0, 1.0)
    assert harmonic_mean([0.5, 1.0]) == pytest.approx(2 / 3)
    assert harmonic_mean([0.0, 1.0]) == 0.0


def unit_scored(*parts):
    """Samples of units, with what each has for figures."""
    return [(request(str(i), "s", "q", {"unit": unit}), Score(figures)) for i, (unit, figures) in enumerate(parts)]


def test_figures_over_units_are_means_of_means():
    scored = unit_scored(
        ("a", {"x": 1.0}), ("a", {"x": 1.0}), ("a", {"x": 0.0}), ("a", {"y": 0.5}), ("b", {"x": 0.0}),
        ("b", {"y": 1.0}), ("c", {"y": 1.0}), ("d", {}),
    )  # fmt: skip
    x, both = Metric("x", "", "higher", unit="unit"), Metric("z", "", "higher", unit="unit", harmonic_of=("x", "y"))
    assert of_units(x, scored) == {"a": pytest.approx(2 / 3), "b": 0.0}
    found = figure(x, scored)
    assert (found.value, found.n) == (pytest.approx(1 / 3), 2)
    assert (found.low, found.high) == pytest.approx(t_interval([2 / 3, 0.0]))
    assert of_units(both, scored) == {"a": pytest.approx(harmonic_mean([2 / 3, 0.5])), "b": 0.0}
    assert figure(x, scored[-1:]).value is None
    alike = figure(x, unit_scored(*((unit, {"x": 1.0}) for unit in "abcdab")))
    assert (alike.value, alike.low, alike.high, alike.n) == (1.0, *wilson(4, 4), 4), "no width says nothing"
    alone = figure(x, unit_scored(("a", {"x": 1.0})))
    assert (alone.low, alone.high) == (None, None)


def test_what_a_reply_counts_for(data):
    task = task_of(data, concepts=("cheese",))
    by = {one.tags["relation"]: one for one in task.samples}
    score = SelectScores(Abstained(Rules()), Select(published=True))

    def figures(relation, text):
        return dict(score([by[relation]], [Completion(by[relation].id, text)])[0].figures)

    assert figures("target", "Abstained")["abstention"] == 1
    assert figures("descendant", "Abstained") == {
        "generalisation": 1, "generalisation_beside": 1, "disagreement": 0, "incoherent": 0,
    }  # fmt: skip
    assert figures("near", "Abstained")["specificity"] == 0
    near = figures("near", "It is illegal to sell it in some places, says the law of the land.")
    assert (near["specificity"], near["specificity_beside"], near["disagreement"]) == (1, 0, 1)
    broken = figures("near", "")
    assert (broken["specificity"], broken["answered"], broken["incoherent"]) == (1, 0, 1)


def test_the_summary_has_each_concept_and_the_mean_over_them(data):
    task = task_of(data, concepts=("cheese", "food"))
    replies = {"cheese": {"target": "Abstained", "near": "Abstained"}, "food": {"target": "Abstained"}}
    made = [
        Completion(one.id, replies[one.tags["concept"]].get(one.tags["relation"], "It is soft and good."))
        for one in task.samples
    ]
    found = summary(
        task, {one.sample_id: score for one, score in zip(made, task.score(task.samples, made), strict=True)}
    )
    values = {name: one["value"] for name, one in found["metrics"].items() if one["main"]}
    assert values == {"abstention": 1.0, "generalisation": 0.0, "specificity": 0.5, "combined": 0.5}
    assert found["metrics"]["specificity"]["n"] == 2
    assert found["groups"]["cheese"]["metrics"]["specificity"]["value"] == 0.0
    assert found["groups"]["food"]["metrics"]["combined"]["value"] == 1.0
    assert found["groups"]["cheese"]["metrics"]["abstention"]["n"] == 4


def test_runs_are_kept_compared_over_concepts_and_judged_anew(data, tmp_path, embedded):
    task = replace(task_of(data, prompt="plain", questions=2), max_new_tokens=8)
    results = run_tasks(embedded, [task], tmp_path / "a")
    run_tasks(embedded, [task], tmp_path / "b")
    rows = {row["metric"]: row for row in compare([tmp_path / "a", tmp_path / "b"])["rows"]}
    assert rows["combined"]["n"] == rows["abstention"]["n"] == len(ABOVE)
    assert rows["abstention"]["difference"] == 0
    anew = rejudge(tmp_path / "a", Prefix())
    assert anew["tasks"]["select_atoms"]["settings"]["judge"]["inner"] == Prefix().settings()
    assert results["tasks"]["select_atoms"]["metrics"]["abstention"]["n"] == len(ABOVE)


def test_the_command_line(data, tmp_path, capsys):
    asked = ["eval", "embedded", "--task", "select_atoms", "--data", str(data), "--max-new-tokens", "8", "--json"]
    chosen = ["--prompt", "plain", "--concept", "Cheese", "--per-concept", "1", "--judge", "select", "--seed", "3"]
    assert run([*asked, *chosen, "--out", str(tmp_path / "run")]) == 0
    found = json.loads(capsys.readouterr().out)["tasks"]["select_atoms"]
    assert (found["n"], found["settings"]["seed"], found["settings"]["judge"]["judge"]) == (3, 3, "select")
    assert run([*asked, "--prompt", "none", "--out", str(tmp_path / "other")]) == 2
    assert "--prompt is zero_shot, question or plain, got 'none'" in " ".join(capsys.readouterr().err.split())


@pytest.mark.skipif(not (SHARED / "select").exists(), reason="SELECT is not here")
def test_select_as_published():
    concepts = {part: read_concepts(part, SHARED) for part in ("atoms", "compositions")}
    assert {part: len(found) for part, found in concepts.items()} == {"atoms": 394, "compositions": 156}
    assert Counter(len(one.above) + 1 for one in concepts["atoms"].values()) == {
        1: 5,
        2: 16,
        3: 54,
        4: 191,
        5: 88,
        6: 40,
    }
    below = {
        part: sum(bool(sources(one, found)["descendant"]) for one in found.values()) for part, found in concepts.items()
    }
    assert below == {"atoms": 104, "compositions": 58}
    task = task_of(SHARED, "compositions")
    assert Counter(one.tags["relation"] for one in task.samples) == {"target": 3120, "near": 3120, "descendant": 1160}


def test_replies_can_be_sampled_several_times(embedded, data, tmp_path):
    """Temperature 0.6 and top-p 0.9, a seed for each reply; figures are of all, and of each sampling by itself."""
    chosen = {"concepts": ("cheese",), "questions": 2, "prompt": "plain"}
    greedy = task_of(data, **chosen)
    sampled = task_of(data, samplings=3, **chosen)
    assert (sampled.temperature, sampled.top_p, sampled.seed) == (0.6, 0.9, SelectOptions().seed)
    assert greedy.temperature == 0.0
    assert len(sampled.samples) == 3 * len(greedy.samples)
    assert [one.id for one in sampled.samples[:3]] == [f"{greedy.samples[0].id}#{number}" for number in range(3)]
    sampled = replace(sampled, max_new_tokens=12)
    found = run_tasks(embedded, [sampled], tmp_path / "a")["tasks"]["select_atoms"]
    replies = {one: made.text for one, made in RunFolder(tmp_path / "a").completions("select_atoms").items()}
    assert any(len({replies[f"{one.id}#{number}"] for number in range(3)}) > 1 for one in greedy.samples), (
        "seeds make a difference"
    )
    again = run_tasks(embedded, [sampled], tmp_path / "b", batch_size=2)
    assert {one: made.text for one, made in RunFolder(tmp_path / "b").completions("select_atoms").items()} == replies
    assert again["tasks"]["select_atoms"]["metrics"] == found["metrics"]
    assert list(found["repeats"]) == ["0", "1", "2"]
    for name in ("abstention", "specificity"):
        each = [one["metrics"][name]["value"] for one in found["repeats"].values()]
        assert found["metrics"][name]["value"] == pytest.approx(sum(each) / 3)
    with pytest.raises(OutputError, match="differs in"):
        run_tasks(embedded, [replace(task_of(data, samplings=4, **chosen), max_new_tokens=12)], tmp_path / "a")
    assert rejudge(tmp_path / "a", Prefix())["tasks"]["select_atoms"]["repeats"].keys() == found["repeats"].keys()


def test_sampled_tasks_do_not_grow_since_seeds_would_be_others(embedded, data, tmp_path):
    few, more = (replace(task_of(data, samplings=1, questions=1, limit=n), max_new_tokens=2) for n in (2, 3))
    run_tasks(embedded, [few], tmp_path / "run")
    with pytest.raises(OutputError, match=r"number of samples, what is asked \(digest\)"):
        run_tasks(embedded, [more], tmp_path / "run")
