"""What a search has measured is found again, after it was killed too; and every part of it tells how far it is."""

import copy
import json
import os
import signal
from contextlib import contextmanager
from dataclasses import asdict, replace

import pytest
import torch

import saes
import steer.features.kept as kept_module
from steer.cli.app import run as cli
from steer.errors import OutputError
from steer.evals.sample import Sample
from steer.evals.sets import load_prompts
from steer.features import causal
from steer.features.damage import damage
from steer.features.finders import run
from steer.features.kept import FILE, Kept, beside, of_tokens
from steer.features.replies import answer
from steer.features.trial import Arm, Trial, replies_under
from steer.forks import can_fork
from steer.models.site import Site
from tests.steer.planted_refusal import REFUSES, SAYS, planted_search


@pytest.fixture(scope="module")
def planted(embedded):
    return planted_search(embedded)


def asked(text, name):
    return Sample(text, name, ({"role": "user", "content": text},), "refusal")


def small_trial(lm, sae, **settings):
    unsafe = [asked(f"harm number {i}", "unsafe") for i in range(3)]
    safe = [asked(f"help number {i}", "safe") for i in range(3)]
    return Trial(lm, sae, Site(1), unsafe, safe, 4, batch_size=4, **settings)


def test_replies_and_damage_are_found_again_and_nothing_is_measured_twice(llama, sae, tmp_path):
    made = []
    texts = [llama.encode([text])[0] for text in ("a first text", "the second, longer text of all")]
    arms = [Arm(5, 9.0), Arm(31, 1 / 3)]
    jobs = [(arm, place) for arm in arms for place in range(6)]

    def measured(trial, some):
        samples = trial.samples
        replies = replies_under(trial, samples, jobs, str)
        return replies, answer(trial, samples), damage(trial, texts, some)

    plain = small_trial(llama, sae, on_done=made.append)
    alone = measured(plain, arms)
    assert sum(made) == len(jobs) + 6
    first = Kept(tmp_path / FILE, {"model": "a"})
    (broken,) = measured(replace(plain, kept=first), arms[:1])[2]
    assert asdict(broken) == pytest.approx(asdict(alone[2][0]), rel=1e-5)
    lines = (tmp_path / FILE).read_text()
    again = Kept(tmp_path / FILE, {"model": "a"})
    assert (again.replies, again.damage) == (first.replies, first.damage)
    assert (len(again.replies), len(again.damage)) == (len(jobs) + 6, 1)
    made.clear()
    replies, unsteered, both = measured(replace(plain, kept=again), arms)
    assert (replies, unsteered) == alone[:2]
    assert both[0] == broken
    assert asdict(both[1]) == pytest.approx(asdict(alone[2][1]), rel=1e-5)
    assert sum(made) == len(jobs) + 6  # told as if they had been made
    more = (tmp_path / FILE).read_text()[len(lines) :].splitlines()
    assert [json.loads(line)["clamp"] for line in more] == [[31, 1 / 3]]


def test_what_was_kept_of_other_settings_or_is_damaged_is_not_used(tmp_path):
    def kept(**decides):
        return Kept(tmp_path / FILE, decides)

    key = (5, 0.1), of_tokens([[1, 2]])
    kept(model="a").add_replies([key, (None, key[1])], [[7, 8], []])
    assert kept(model="a").replies == {key: [7, 8], (None, key[1]): []}
    path = tmp_path / FILE
    path.write_bytes(path.read_bytes()[:-5])  # as a kill within a line leaves it
    torn = kept(model="a")
    assert torn.replies == {key: [7, 8]}
    torn.add_damage([key], [(0.5, -0.25)])
    assert kept(model="a").damage == {key: (0.5, -0.25)}
    assert kept(model="b").replies == {}
    assert kept(model="a").replies == {}  # the file was begun anew
    path.write_text("not JSON\n" + path.read_text())
    assert kept(model="a").replies == {}
    assert of_tokens([[1, 2]]) != of_tokens([[1], [2]])


def test_it_stays_where_a_run_fails_and_goes_when_it_is_done(tmp_path):
    out, folder = tmp_path / "found.json", tmp_path / "found.json.measured"
    with pytest.raises(KeyboardInterrupt), beside(out, {}):
        raise KeyboardInterrupt  # before anything was measured
    assert not folder.exists()
    with pytest.raises(KeyboardInterrupt), beside(out, {}) as kept:
        kept.add_replies([(None, "a")], [[1]])
        raise KeyboardInterrupt
    assert [one.name for one in folder.iterdir()] == [FILE]
    with beside(out, {}) as kept:
        assert kept.replies == {(None, "a"): [1]}
        with pytest.raises(OutputError, match="Another run is writing"), beside(out, {}):
            raise AssertionError("two at once")
    assert not folder.exists()


def killed(command, lines):
    """Run the command in a fork that kills itself as soon as so many measured lines are kept."""
    child = os.fork()
    if child:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, -signal.SIGKILL)
        return code != 0
    append, count, code = kept_module.append_lines, 0, 99

    def appended(path, rows):
        nonlocal count
        append(path, rows)
        count += len(rows)
        if count >= lines:
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        signal.alarm(60)
        kept_module.append_lines = appended
        code = cli(command)
    finally:
        os._exit(code)


@pytest.mark.skipif(not can_fork(), reason="the command is killed in a fork")
@pytest.mark.usefixtures("one_thread")
def test_a_killed_command_goes_on_and_finds_the_same(planted, tmp_path, capsys):
    saes.save(planted.sae, tmp_path / "sae")
    with (tmp_path / "dev.jsonl").open("w") as file:
        for one in [*load_prompts("unsafe_unseen", "dev", 10), *load_prompts("safe", "dev", 10)]:
            row = {"id": one.id, "set": one.set, "messages": list(one.messages), "expect": {"kind": "refusal"}}
            file.write(json.dumps(row) + "\n")
    (tmp_path / "text.txt").write_text("A young sheep is called a lamb. It eats grass all day.")
    command = ["find", "refusal", "embedded", str(tmp_path / "sae"), "--dev", str(tmp_path / "dev.jsonl")]
    command += ["--text", str(tmp_path / "text.txt"), "--method", "contrast,causal", "--limit", "3"]
    command += ["--max-new-tokens", "6", "--batch-size", "2", "--strengths", "0.18,0.3", "--processes", "1", "--out"]

    for lines in (20, 8):  # among the replies under clamps, and then, of what was left, again
        assert killed([*command, str(tmp_path / "killed.json")], lines)
        assert not (tmp_path / "killed.json").exists()
    assert (tmp_path / "killed.json.measured" / FILE).read_bytes().count(b"\n") >= 1 + 20 + 8
    found = []
    for out, goes_on in (("killed.json", True), ("whole.json", False)):
        assert cli([*command, str(tmp_path / out)]) == 0
        assert ("going on with" in capsys.readouterr().err) == goes_on
        found.append(json.loads((tmp_path / out).read_text()))
    for method in (method for one in found for method in one["methods"]):
        del method["seconds"]
    assert found[0] == found[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["sae", "dev.jsonl", "text.txt", "killed.json", "whole.json"]
    )


class Told:
    """Progress that keeps what it is told: of each stage its title, its total, and what it came to."""

    def __init__(self):
        self.stages = []
        self.open = False

    @contextmanager
    def stage(self, title, total=None):
        assert not self.open, f"{title} begins within {self.stages[-1][0]}"
        self.stages.append([title, total, 0])
        self.open = True
        yield
        self.open = False

    def advance(self, count=1, note=""):
        assert self.open, "nothing is under way"
        self.stages[-1][2] += count

    def note(self, message):
        raise AssertionError(message)


def test_every_part_says_beforehand_how_long_it_is_and_comes_to_that(planted):
    told = Told()
    search = replace(planted, strengths=(0.12, 0.18))
    report = run(search, ["contrast", "cosine_attribution", "output_score", "correlation", "causal"], progress=told)
    assert all(done == total for title, total, done in told.stages if title != "refusal direction")
    titles = [title for title, *_ in told.stages]
    assert len(set(titles)) == len(titles)
    for title in ("contrast: activations", "replies of the unsteered model", "causal: damage on neutral text"):
        assert title in titles
    totals = {title: total for title, total, _ in told.stages}
    arms = 2 * len(report.refereed.curves)
    assert totals["causal: damage on neutral text"] == arms * len(search.texts)
    assert totals["causal: halving"] + totals["causal: whole curves of the best"] == report.refereed.generations


def test_the_cause_is_not_what_goes_with_refusing_most_and_the_referee_tells(planted, tmp_path):
    sae = copy.deepcopy(planted.sae)
    with torch.no_grad():
        sae.W_dec[SAYS] = sae.W_dec[26]  # it fires in refusals as before, and what it writes is random
    kept = Kept(tmp_path / FILE, {})  # the whole grid begins with what the halving has measured
    search = replace(planted, trial=replace(planted.trial, sae=sae, kept=kept))
    report = run(search, ["correlation", "contrast", "causal"])
    correlation, contrast = report.rankings[:2]
    assert correlation.found[0].latent == contrast.found[0].latent == SAYS
    assert REFUSES not in {one.latent for one in correlation.found}
    assert report.latents[0] == REFUSES
    curves = causal.referee(search, report.latents, first=1.0).curves
    assert curves[0].latent == REFUSES
    assert curves[0].steerability > 0.2
    assert next(one.steerability for one in curves if one.latent == SAYS) < 0.1
