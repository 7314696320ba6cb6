"""Labels from and to Neuronpedia's export files, and what is taken off them."""

import gzip
import json

import pytest

from steer.errors import DataError
from steer.index.labels import Label
from steer.index.leaks import clean_label
from steer.index.neuronpedia import read_labels, write_labels
from steer.index.read import FeatureIndex
from steer.index.synthetic import synthetic_index


def row(index, description, **more):
    own = {"modelId": "gpt2-small", "layer": "6-res-jb", "index": str(index), "description": description}
    return own | {"explanationModelName": "gpt-4o-mini", "typeName": "oai_token-act-pair"} | more


def write(path, rows):
    data = "".join(json.dumps(one) + "\n" for one in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.fixture
def index(tmp_path):
    folder = synthetic_index(tmp_path / "a", 50, examples=4, window=8, tokens=600, vocabulary=90, labels=False)
    return FeatureIndex.open(folder)


def test_labels_go_in_and_come_out_in_the_same_form(index, tmp_path):
    rows = [
        row(
            3,
            "phrases of refusal",
            scores=[{"explanationScoreTypeName": "eleuther_fuzz", "value": 0.75}],
            embedding=[1.0],
        ),
        row(3, "phrases of refusal", explanationModelName="claude"),
        row(9, "Explanation: words about weather", authorId="someone"),
        row(4, None),
    ]
    given = read_labels([write(tmp_path / "batch-0.jsonl.gz", rows[:2]), write(tmp_path / "batch-1.jsonl", rows[2:])])
    assert (len(given.labels), given.empty, given.cleaned) == (3, 1, 1)
    assert index.add_labels(given.labels) == 3
    assert index.add_labels(given.labels) == 0
    first, second = index.labels(3)
    assert (first.text, first.made_by, first.kind) == ("phrases of refusal", "gpt-4o-mini", "oai_token-act-pair")
    assert first.scores == {"eleuther_fuzz": 0.75}
    assert "embedding" not in first.more
    assert second.made_by == "claude"
    assert index.labels(9)[0].text == "words about weather"
    assert index.labels(9)[0].raw == "Explanation: words about weather"
    assert index.words("weather")[0][0] == 9
    out = tmp_path / "out.jsonl.gz"
    assert write_labels(index, out) == 3
    lines = [json.loads(line) for line in gzip.decompress(out.read_bytes()).splitlines()]
    named = {"modelId", "layer", "index", "description", "explanationModelName", "typeName"}
    assert all(named <= set(line) for line in lines)
    assert (lines[0]["modelId"], lines[0]["layer"], lines[0]["index"]) == ("gpt2-small", "6-res-jb", "3")
    again = read_labels([out])
    assert list(again.labels) == list(index.all_labels())
    write_labels(index, tmp_path / "again.jsonl.gz")
    assert (tmp_path / "again.jsonl.gz").read_bytes() == out.read_bytes()
    write_labels(index, out, "m", "1-res")
    assert {one.more["layer"] for one in read_labels([out]).labels} == {"1-res"}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([["a list"]], "JSON object"),
        ([row("x1", "text")], "index"),
        ([row(1, {"text": "?"})], "description"),
        ([row(1, "a"), row(2, "b", layer="7-res-jb")], "--layer"),
        ([row(1, "  ")], "no labels"),
    ],
)
def test_other_files_are_refused_with_the_line(tmp_path, rows, said):
    with pytest.raises(DataError, match=said):
        read_labels([write(tmp_path / "a.jsonl", rows)])
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"index": 1}\n' * 50)[:-9])
    with pytest.raises(DataError, match=r"a\.jsonl\.gz"):
        read_labels([path])
    with pytest.raises(DataError, match="no such file"):
        read_labels([tmp_path / "none.jsonl"])


def test_odd_values_in_a_file_cost_nothing_but_themselves(index, tmp_path):
    scores = [{"value": float("nan")}, {"value": 10**400}, {"value": 0.5, "explanationScoreTypeName": "fuzz"}]
    odd = row(
        3, "half \ud83d", explanationModelName="x\udc00", modelId=["a"], layer={}, scores=scores, more=float("nan")
    )
    assert index.add_labels(read_labels([write(tmp_path / "odd.jsonl", [odd])]).labels) == 1
    label = index.labels(3)[0]
    assert (label.text, label.made_by) == ("half \\ud83d", "x\\udc00")
    assert (dict(label.scores), "more" in label.more) == ({"fuzz": 0.5}, False)
    assert write_labels(index, tmp_path / "out.jsonl") == 1
    json.loads((tmp_path / "out.jsonl").read_text(), parse_constant=pytest.fail)
    with pytest.raises(DataError, match="line 1: expected a number as index"):
        read_labels([write(tmp_path / "long.jsonl", [row("9" * 5000, "x")])])


def test_one_of_several_layers_is_taken_by_its_name(tmp_path):
    path = write(tmp_path / "a.jsonl", [row(1, "a"), row(2, "b", layer="7-res-jb")])
    assert [label.latent for label in read_labels([path], layer="7-res-jb").labels] == [2]


def test_a_label_out_of_range_adds_nothing(index, tmp_path):
    given = read_labels([write(tmp_path / "a.jsonl", [row(1, "fine"), row(50, "too far")])])
    with pytest.raises(DataError, match="50 latents"):
        index.add_labels(given.labels)
    assert index.labels(1) == []


def test_an_index_without_labels_exports_nothing(index, tmp_path):
    with pytest.raises(DataError, match="no labels"):
        write_labels(index, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()
    index.add_labels([Label(0, "by hand", "me")])
    write_labels(index, tmp_path / "out.jsonl")
    line = json.loads((tmp_path / "out.jsonl").read_text())
    assert (line["modelId"], line["layer"], line["typeName"]) == ("unknown", "unknown", None)


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("Explanation: words about weather", "words about weather"),
        ("**Explanation:** words about weather", "words about weather"),
        ("Final explanation: words about weather", "words about weather"),
        ("Explanation of neuron 4 behavior: words about weather", "words about weather"),
        ("## Method 2: top tokens\nExplanation: words about weather", "words about weather"),
        ("<think>The tokens are rain and snow.\nSo</think>\n\nwords about weather", "words about weather"),
        ("Let me see</think> words about weather", "words about weather"),
        ("Sure! Here is the explanation: words about weather", "words about weather"),
        ("Here's a short label: words about weather", "words about weather"),
        ("Based on the top activating tokens, words about weather", "words about weather"),
        ("The main thing this neuron does is find words about weather", "words about weather"),
        ("this feature activates on words about weather", "words about weather"),
        ("This latent fires when words about weather", "words about weather"),
        ("```\nwords about weather\n```", "words about weather"),
        ('"words about weather"', "words about weather"),
        ("Neuron 3: words about weather", "words about weather"),
        ("words\n  about weather ", "words about weather"),
        ("<think>no end", ""),
        ("# only a heading", ""),
        ("words: explanation of terms", "words: explanation of terms"),
        ("sure signs of agreement", "sure signs of agreement"),
        ("answers to questions", "answers to questions"),
        ("C# code and headings", "C# code and headings"),
        ('"yes" and "no"', '"yes" and "no"'),
        ("the feature film industry", "the feature film industry"),
        ("based on a true story", "based on a true story"),
    ],
)
def test_what_an_explainer_says_around_a_label_is_taken_off_and_nothing_else(raw, clean):
    assert clean_label(raw) == clean
    assert clean_label(clean) == clean
