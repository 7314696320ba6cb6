"""Labels by a model: what it is asked, how explanations are scored, and what leaked."""

import copy
import json
import re

import numpy as np
import pytest

from steer.activations.sources.opened import open_source
from steer.cli.app import run
from steer.errors import DataError, ModelError
from steer.evals.stats import Rate
from steer.index.build import build_index
from steer.index.config import IndexConfig
from steer.index.explain import _EXPLAIN, ExplainConfig, _marked, explain
from steer.index.leaks import clean_label
from steer.judges.completions import Endpoint
from steer.judges.endpoint import EndpointWriter
from steer.judges.generative import ModelWriter
from steer.models.chat import Message
from steer.models.lens import Lens
from steer.models.site import Site
from steer.plans.plan import Sampling
from steer.steering.direction_edits import AddDirection
from steer.steering.steered import steered
from tests.conftest import random_sae, tiny_model
from tests.steer.judge_server import fails, says, serving


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """An index of a random SAE on texts of which some hold the letter q."""
    folder = tmp_path_factory.mktemp("explained")
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("abcdefgh qrst"), 24)) for _ in range(60)]
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    lm, sae = tiny_model("llama"), random_sae()
    config = IndexConfig(examples=12, window=12)
    source = open_source(str(folder / "texts.jsonl"))
    return build_index(lm, sae, source, folder / "index", config, Site(1))


def firing(index, least=9):
    """A latent with many windows."""
    return next(latent for latent in range(index.d_sae) if len(index.card(latent).windows) >= least)


def writer(server):
    return EndpointWriter(Endpoint(server.url, "explainer"))


def excerpt(body):
    return body["messages"][-1]["content"].rpartition("\n\n")[2]


def explained_by(index, answer, config=None, latents=None):
    with serving(answer) as server:
        found = explain(index, latents or [firing(index)], writer(server), config)
        return found, server.prompts


def test_an_explainer_that_knows_scores_full_marks_on_windows_it_has_not_seen(index):
    latent = firing(index)
    found, prompts = explained_by(index, by_peak(index, latent))
    (one,) = found
    assert one.label.text == "the letter q"
    assert (one.label.made_by, one.label.kind, one.label.raw) == ("explainer", "explained", None)
    for test in ("detection", "fuzzing"):
        assert one.tests[test].rate == 1.0, test
        assert one.label.scores[test] == 1.0
        assert one.label.scores[f"{test}_low"] < 1.0
        assert one.label.scores[f"{test}_n"] == one.tests[test].n >= 4
    shown, asked = prompts[0], prompts[1:]
    assert shown.count("Excerpt") >= 4
    seen = set(re.findall(r"Excerpt \d+: (.*)", shown.replace("<<", "").replace(">>", "")))
    assert not seen & {text.rpartition("\n\n")[2].replace("<<", "").replace(">>", "") for text in asked}
    assert index.add_labels([one.label]) == 1
    assert index.labels(latent)[0] == one.label
    assert index.words("letter", 5)[0][0] == latent


def by_peak(index, latent, label="the letter q"):
    """Answers rightly: which excerpts are windows of the latent, and whether the strongest token is marked."""
    pieces = index.renderer.pieces
    texts = {}
    for window in index.card(latent).windows:
        parts = pieces(window.token_ids.tolist())
        before = "".join(parts[: window.peak])
        texts["".join(parts)] = (len(before), len(before) + len(parts[window.peak]))

    def answer(body, number):
        asked = body["messages"][-1]["content"]
        if "one short phrase" in asked:
            return says(label)
        text = excerpt(body)
        plain = text.replace("<<", "").replace(">>", "")
        if "somewhere" in asked:
            return says("<think>no, or</think> Yes." if plain in texts else "No.")
        inside, at, marked = False, 0, set()
        for part in re.split("(<<|>>)", text):
            if part in ("<<", ">>"):
                inside = part == "<<"
                continue
            marked |= set(range(at, at + len(part))) if inside else set()
            at += len(part)
        return says("yes" if marked & set(range(*texts[plain])) else "no")

    return answer


def test_one_that_always_says_yes_is_no_better_than_chance(index):
    def answer(body, number):
        return says("anything" if "one short phrase" in body["messages"][-1]["content"] else "yes")

    (one,), _ = explained_by(index, answer)
    assert one.tests["detection"].rate == 0.5
    assert one.tests["fuzzing"].rate == pytest.approx(0.5, abs=0.2)


def test_answers_that_are_neither_are_not_counted_as_wrong(index):
    def answer(body, number):
        return says("anything" if "one short phrase" in body["messages"][-1]["content"] else "perhaps")

    (one,), prompts = explained_by(index, answer)
    assert one.tests == {}
    assert one.unread == len(prompts) - 1
    assert one.label.scores == {}


@pytest.mark.parametrize(
    ("text", "label", "problem"),
    [
        ("Explanation: words of harm", "words of harm", "taken off"),
        ("<think>what is it</think>words of harm", "words of harm", "taken off"),
        ("<think>what is it, and on and on", None, "empty but for"),
        ("Let me think: the tokens are all verbs", None, "reasoning leaked"),
        ("x" * 300, None, "reasoning leaked"),
    ],
)
def test_what_leaks_into_an_explanation_is_taken_off_or_refused(index, text, label, problem):
    def answer(body, number):
        return says(text if "one short phrase" in body["messages"][-1]["content"] else "yes")

    (one,), prompts = explained_by(index, answer)
    assert (one.label.text if one.label else None) == label
    assert problem in one.problem
    if label is None:
        assert len(prompts) == 1
    else:
        assert one.label.raw == text


def test_a_latent_that_never_fires_is_not_asked_about(index):
    silent = [latent for latent in range(index.d_sae) if not index.card(latent).windows]
    few = silent or [min(range(index.d_sae), key=lambda latent: len(index.card(latent).windows))]
    if len(index.card(few[0]).windows) >= 3:
        pytest.skip("every latent of the random SAE fires")
    found, prompts = explained_by(index, lambda body, number: says("x"), latents=few[:1])
    assert prompts == []
    assert "windows" in found[0].problem


@pytest.fixture(scope="module")
def of_embedded(embedded, tmp_path_factory):
    """A copy of the embedded model, and an index of it that two latents of a random SAE have many windows in."""
    folder = tmp_path_factory.mktemp("explained-here")
    words = ("bread", "lock", "river", "letter", "garden", "story")
    texts = [f"How do I find a {words[i % 6]} near the {words[i // 6]}?" for i in range(36)]
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    sae, source = random_sae(d_in=128, d_sae=80, k=4), open_source(str(folder / "texts.jsonl"))
    config = IndexConfig(examples=9, window=12)
    return copy.deepcopy(embedded), build_index(embedded, sae, source, folder / "index", config, Site(1))


def test_a_model_here_explains_what_it_is_shown_and_answers_the_tests(of_embedded):
    """The embedded model, steered to say Yes, which no test should reward: labels, who made them, scores with n."""
    lm, index = of_embedded
    latents = [latent for latent in range(index.d_sae) if len(index.card(latent).windows) == 9][:2]
    config = ExplainConfig(explanation_tokens=10)
    (token,) = lm.encode([" Yes"])[0]
    yes = AddDirection(f"{lm.n_layers - 1}.resid_post", Lens.of(lm).raising(token), 400.0)
    with steered(lm, yes):
        found = explain(index, latents, ModelWriter(lm), config)
        assert explain(index, latents[:1], ModelWriter(lm, batch_size=1), config) == found[:1]
    for one in found:
        assert one.label.text.split() == ["Yes"] * 10
        assert (one.label.made_by, one.label.kind, one.unread) == ("embedded", "explained", 0)
        assert one.problem == "the explanation was cut off at 10 tokens"
        assert one.label.more["explainer"]["decoding"] == "greedy"
        assert one.tests["detection"] == Rate(3, 6)  # three windows are held out, as many are of other latents
        assert one.tests["fuzzing"].rate == pytest.approx(0.5, abs=0.2)
        for test, rate in one.tests.items():
            told = [one.label.scores[f"{test}{part}"] for part in ("", "_low", "_high", "_n")]
            assert told == [rate.rate, *rate.interval, rate.n]
    assert index.add_labels(one.label for one in found) == 2
    assert index.labels(latents[0]) == [found[0].label]


def test_the_command_with_a_model_here_writes_what_that_model_says(of_embedded, capsys):
    lm, index = of_embedded
    latent = next(latent for latent in range(index.d_sae) if len(index.card(latent).windows) == 9)
    arguments = ["index", "explain", str(index.folder), "--latents", str(latent), "--model", "embedded"]
    assert run([*arguments, "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    shown = [window for place, window in enumerate(index.card(latent).windows) if place % 3 != 2]
    excerpts = [_marked(window, ExplainConfig(), index.renderer.pieces) for window in shown]
    listed = "\n\n".join(f"Excerpt {number}: {text}" for number, text in enumerate(excerpts, start=1))
    (reply,) = lm.generate([[Message(role="user", content=_EXPLAIN + listed)]], Sampling(60))
    assert told["label"] == clean_label(reply)
    assert told["made_by"] == "embedded"
    assert index.labels(latent)[-1].text == told["label"]
    answers = told["unread"] + sum(int(told["scores"].get(f"{test}_n", 0)) for test in ("detection", "fuzzing"))
    assert answers >= 9
    assert not told["unread"] or f"{told['unread']} of {answers} answers were neither yes nor no" in told["problem"]


def test_failures_are_told(index):
    with pytest.raises(ModelError), serving(lambda body, number: fails(401)) as server:
        explain(index, [firing(index)], writer(server))
    with pytest.raises(DataError, match="firing_frac"):
        ExplainConfig(firing_frac=1.0)


def test_the_command_keeps_labels_and_tells_scores(index, capsys):
    latent = firing(index)
    arguments = ["index", "explain", str(index.folder), "--latents", f"{latent}, {latent}", "--model", "explainer"]
    before = index.labels(latent)
    with serving(by_peak(index, latent, "the letter s")) as server:
        assert run([*arguments, "--url", server.url, "--dry-run", "--json"]) == 0
        assert index.labels(latent) == before
        told = json.loads(capsys.readouterr().out)
        assert [(one["latent"], one["label"], one["scores"]["detection"]) for one in told] == [
            (latent, "the letter s", 1)
        ]
        assert run([*arguments, "--url", server.url]) == 0
    assert f"{latent}: the letter s" in capsys.readouterr().out
    assert index.labels(latent)[-1].text == "the letter s"
    assert run([*arguments[:3], "--latents", "a", "--model", "x"]) == 2
    assert run([*arguments[:3], "--latents", "1", "--model", "no/such-folder-or-model"]) == 2
    assert "Traceback" not in capsys.readouterr().err
