"""The report: hostile text stays harmless, nothing is loaded, unfinished runs are written up, figures match the data.

Every figure of the fixture is synthetic: a logistic curve in the strength, rounded to counts. No model is run.
"""

import base64
import dataclasses
import hashlib
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from jsonschema import validate
from matplotlib.collections import LineCollection, PolyCollection

from steer.errors import DataError
from steer.evals.sets import GROUPS, SETS
from steer.evals.stats import wilson
from steer.studies.comparisons import choose_comparisons
from steer.studies.config import quick_config
from steer.studies.figures import candidates, dose_response, tradeoff, tradeoff_by_set
from steer.studies.headline import best_point, headline
from steer.studies.paper import LIGHT, png
from steer.studies.report import read_folder, report_page, write_report
from steer.studies.results import parse_results
from steer.studies.study import Study
from steer.studies.study import read_study as read_parsed
from steer.studies.text import percent, visible
from tests.steer.results_schema import SCHEMA, STAGES

STRENGTHS = (2.0, 4.0, 6.0, 8.0, 10.0, 12.0)
RATES: dict[str, tuple[float, float, float]] = {  # unsteered, where the chosen latent tends to, and the control
    "unsafe_seen": (0.97, 1.0, 0.96),
    "unsafe_unseen": (0.34, 0.98, 0.36),
    "jailbroken": (0.22, 0.99, 0.21),
    "multi_turn": (0.18, 0.93, 0.2),
    "safe": (0.01, 0.24, 0.01),
    "looks_unsafe": (0.12, 0.61, 0.13),
    "arithmetic": (0.87, 0.55, 0.7),
    "multiple_choice": (0.81, 0.6, 0.74),
    "myths": (0.78, 0.7, 0.75),
    "concepts": (0.95, 0.72, 0.9),
}
DEV = ("jailbroken", "looks_unsafe", "safe", "unsafe_unseen")
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\u2028\u202eevil\ud800 $x$ {{ 7*7 }} \x00"


def read_study(results: dict[str, Any]) -> Study:
    return read_parsed(parse_results(results))


def synthetic_rate(name: str, arm: str, strength: float, n: int) -> float:
    """A made-up rate: from the unsteered one to the arm's final one along a logistic curve in the strength."""
    start, end, control_end = RATES[name]
    final = {"none": start, "sae": end, "control": control_end, "direction": end * 0.95 + 0.02}[arm]
    middle = 9.0 if SETS[name].better == "lower" or SETS[name].metric == "correct" else 6.0
    share = 0.0 if arm == "none" else 1 / (1 + math.exp(-(strength - middle) / 1.1))
    return round(n * min(1.0, start + (final - start) * share)) / n


def synthetic_points(n: int, arms: tuple[str, ...]) -> list[dict[str, Any]]:
    keys = [(arm, s) for arm in arms for s in ((0.0,) if arm == "none" else STRENGTHS)]
    points = []
    for arm, strength in keys:
        sets = {}
        for name, one in SETS.items():
            count = round(n * synthetic_rate(name, arm, strength, n))
            low, high = wilson(count, n)
            broken = max(0, round(n * (strength - 9) / 60)) if arm == "sae" else 0
            sets[name] = {
                "n": n, one.metric: count, "rate": count / n, "low": low, "high": high, "incoherent": broken
            }  # fmt: skip
        points.append({"arm": arm, "strength": strength, "sets": sets, "groups": synthetic_groups(sets)})
    return points


def synthetic_groups(sets: dict[str, Any]) -> dict[str, Any]:
    """Each group's sets together, as if every two prompts were about one thing and went together."""
    groups = {}
    for group in GROUPS:
        members = [name for name, one in SETS.items() if one.group == group]
        n, count = (sum(sets[name][key] for name in members) for key in ("n", SETS[members[0]].metric))
        low, high = wilson(count / 2, n / 2)
        groups[group] = {"sets": members, "n": n, "about": n // 2, "rate": count / n, "low": low, "high": high}
    return groups


def synthetic_results(n: int = 200, arms: tuple[str, ...] = ("none", "sae", "control", "direction")) -> dict[str, Any]:
    settings = quick_config(strengths=STRENGTHS, dev_prompts=24).model_dump(mode="json")
    return {
        "schema": 1,
        "complete": True,
        "model": {"name": "embedded", "layers": 4, "d_model": 128, "parameters": 1_100_000, "chat_template": True},
        "settings": settings | {
            "quick": False, "threads": 1, "operation": "set", "error": "keep", "decoding": "greedy",
            "positions": "prompt and generated tokens", "topk_policy": "allow k + 1",
            "archetypal_reply": "I'm sorry, I can't help with that.",
        },
        "sets": {name: {**dataclasses.asdict(one), "n": n} for name, one in SETS.items()},
        "points": synthetic_points(n, arms),
        "versions": {"saesteer": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"},
        "sae": {
            "d_in": 128, "d_sae": 1024, "k": 16, "site": "1.resid_post", "seed": 0, "tokens": 401_408,
            "fvu": 0.0149, "l0": 15.97,
            "dead_fraction": 0.031, "loss_recovered": 0.987, "loss_plain": 1.214, "loss_spliced": 1.268,
            "loss_zeroed": 6.1, "measured_on_tokens": 20_000,
        },
        "compared": [
            synthetic_candidate(0) | {"seed": 0, "fvu": 0.0149}, synthetic_candidate(7) | {"seed": 1, "fvu": 0.0153}
        ],
        "candidates": [synthetic_candidate(i) for i in range(22)],
        "plain_dev": dict.fromkeys(DEV, 0.25),
        "controls": [
            {"latent": 91 + 8 * i, "strength": 8.0, "by_set": dict.fromkeys(DEV, 0.25) | {"safe": 0.25 + moved},
             "moved": moved}
            for i, moved in enumerate((0.03125, 0.0625, 0.125, 0.1875, 0.25, 0.375, 0.5, 0.65625))
        ],
        "chosen": 262,
        "control": 91,
        "seconds": dict.fromkeys(STAGES, 11.5),
        "peak_memory_mib": 934.2,
    }  # fmt: skip


def synthetic_candidate(place: int) -> dict[str, Any]:
    """Six finalists, at their best strength, then others."""
    finalist, unsafe = place < 6, max(0.05, 0.96 - 0.055 * place)
    prompts = 48 if finalist else 24
    return {
        "latent": 262 + 37 * place, "tokens_active": 14 - place // 2, "max_activation": 9.1 - 0.31 * place,
        "strength": 8.0 if finalist else 5.0, "refusal_dev": unsafe, "weakest_dev": unsafe - 0.04,
        "safe_refusal_dev": max(0.01, 0.12 - 0.01 * (place % 5)), "by_set": dict.fromkeys(DEV, unsafe),
        "n_unsafe": prompts, "n_safe": prompts, "finalist": finalist,
    }  # fmt: skip


def synthetic_completions(n: int = 40, text: str = "") -> list[dict[str, Any]]:
    """Prompt i of a set counts as refused (right) while i is below the rate; `text` is appended to every string."""
    rows = []
    for point in synthetic_points(n, ("none", "sae", "control", "direction")):
        for name, one in SETS.items():
            for i in range(n):
                value = i < point["sets"][name][one.metric]
                verdict = {"refused": ("compliance", "refusal"), "correct": ("wrong", "correct")}[one.metric][value]
                reply = f"Synthetic reply {i}: first, take the thing, and then do what was asked with it."
                if verdict == "refusal":
                    reply = "I'm sorry, I can't help with that."
                turns = [{"role": "user", "content": f"Synthetic prompt {i} of {one.title}: how is it done?{text}"}]
                if name == "multi_turn":
                    turns.insert(0, {"role": "user", "content": "Hello, I like chemistry."})
                    turns.insert(1, {"role": "assistant", "content": "So do I."})
                rows.append({
                    "arm": point["arm"], "strength": point["strength"], "set": name, "id": f"{name}-{i:03d}",
                    "messages": turns, "reply": reply + text, "verdict": verdict, "value": value,
                })  # fmt: skip
    return rows


def write_study(folder: Path, results: dict[str, Any], completions: list[dict[str, Any]] | None = None) -> Path:
    """Write the three input files of a report, as the demo would."""
    (folder / "sae").mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    lines = "".join(json.dumps(row) + "\n" for row in completions or [])
    (folder / "completions.jsonl").write_text(lines, encoding="utf-8")
    curve = [
        {"tokens": 2048 * i, "fvu": 0.9 * math.exp(-i / 20) + 0.015, "l0": 16.0 - 6 * math.exp(-i / 9),
         "dead_fraction": 0.2 * math.exp(-i / 60) * (i > 30), "loss": 1 / (i + 1), "seconds": 0.16 * i}
        for i in range(0, 196, 5)
    ]  # fmt: skip
    (folder / "sae" / "training.jsonl").write_text("".join(json.dumps(m) + "\n" for m in curve), encoding="utf-8")
    return folder


class Page(HTMLParser):
    """The elements of a page, its script, and the text that a reader sees."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def render(folder: Path, results: dict[str, Any], completions: list[dict[str, Any]] | None = None) -> Page:
    return Page(write_report(write_study(folder, results, completions)).read_text(encoding="utf-8"))


def undrawn(folder: Path) -> Page:
    """The page of a study's folder without its figures, which take longer than all else."""
    return Page(report_page(*read_folder(folder), drawings={}))


@pytest.fixture
def light_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images for dark paper, which differ in colours from those for light paper, are left empty."""
    monkeypatch.setattr("steer.studies.report.png", lambda figure, theme: b"" if theme.dark else png(figure, theme))


def pooled_percent(results: dict[str, Any], names: tuple[str, ...], arm: str, strength: float) -> str:
    """Computed apart from the library: counts over prompts of the sets together."""
    sets = next(p["sets"] for p in results["points"] if (p["arm"], p["strength"]) == (arm, strength))
    count = sum(sets[name].get("refused", sets[name].get("correct")) for name in names)
    return f"{100 * count / sum(sets[name]['n'] for name in names):.1f}%"


@pytest.fixture(scope="module")
def study_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_study(tmp_path_factory.mktemp("study"), synthetic_results(), synthetic_completions())
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def page(study_folder: Path) -> Page:
    return Page((study_folder / "report.html").read_text(encoding="utf-8"))


def test_the_fixture_is_what_a_run_writes() -> None:
    validate(synthetic_results(), SCHEMA)


def test_headline_figures_are_those_of_the_data() -> None:
    results = synthetic_results()
    study = read_study(results)
    best = best_point(study, "sae")
    assert best is not None
    harmful = ("unsafe_seen", "unsafe_unseen", "jailbroken", "multi_turn")
    ability = ("arithmetic", "multiple_choice", "myths", "concepts")
    for arm, sentence in zip(("sae", "control"), headline(study), strict=False):
        for names in (harmful, ("safe", "looks_unsafe"), ability):
            before = pooled_percent(results, names, "none", 0.0)
            after = pooled_percent(results, names, arm, best.strength)
            assert before in sentence
            assert f"{'stayed at' if before == after else 'to'} {after}" in sentence
    assert "latent 262 clamped to 8," in headline(study)[0]
    assert "latent 91, clamped to the same 8," in headline(study)[1]
    assert "refusals of harmful requests rose" in headline(study)[0]
    assert "tasks done right fell" in headline(study)[0]


def test_headline_does_not_hide_a_latent_that_does_harm() -> None:
    results = synthetic_results()
    for point in results["points"]:
        if point["arm"] == "sae":
            for name in ("unsafe_seen", "unsafe_unseen", "jailbroken", "multi_turn"):
                point["sets"][name] |= {"refused": 0, "rate": 0.0, "low": 0.0, "high": 0.02}
    assert "refusals of harmful requests fell from 42.8% to 0.0%" in headline(read_study(results))[0]


def test_the_best_point_takes_the_weaker_strength_on_a_tie() -> None:
    results = synthetic_results()
    same = next(p for p in results["points"] if p["arm"] == "sae" and p["strength"] == 8.0)["sets"]
    for point in results["points"]:
        if point["arm"] == "sae":
            point["sets"] = same
    best = best_point(read_study(results), "sae")
    assert best is not None
    assert best.strength == min(STRENGTHS)


def test_a_point_whose_cost_is_unknown_is_never_the_best() -> None:
    results = synthetic_results()
    for point in results["points"]:
        if point["arm"] == "sae" and point["strength"] > 4:
            del point["sets"]["myths"], point["groups"]["ability"]
    best = best_point(read_study(results), "sae")
    assert best is not None
    assert best.strength == 4.0


def test_every_set_arm_and_candidate_appears(page: Page) -> None:
    for one in SETS.values():
        assert one.title in page.text
    for label in ("Unsteered", "Chosen latent 262", "Control latent 91", "Refusal direction"):
        assert label in page.text
    for strength in STRENGTHS:
        assert f"norm {strength:g}" in page.text
    for candidate in synthetic_results()["candidates"][:15]:
        assert str(candidate["latent"]) in page.text
    assert "not complete" not in page.text


def test_every_point_is_in_the_table_with_count_and_interval(page: Page) -> None:
    text = " ".join(page.text.split())
    for point in synthetic_results()["points"]:
        for name, one in SETS.items():
            cell = point["sets"][name]
            assert f"{percent(cell['rate'])}" in text
            assert f"{100 * cell['low']:.1f}–{100 * cell['high']:.1f} {cell[one.metric]} / {cell['n']}" in text


def test_sets_and_groups_have_their_own_intervals_and_other_unions_none() -> None:
    """Sets share objects, so Wilson's interval over the prompts of several would be too narrow."""
    study = read_study(synthetic_results())
    for point in study.points:
        for one in study.sets:
            alone = point.pooled((one,))
            assert alone is not None
            assert alone.interval == wilson(alone.count, alone.n)
        together = point.pooled(study.group("harmful"))
        assert together is not None
        low, high = together.interval or (math.nan, math.nan)
        alone_low, alone_high = wilson(together.count, together.n)
        assert low <= alone_low <= alone_high <= high
        assert high - low > 1.2 * (alone_high - alone_low)
        assert (everything := point.pooled(study.sets)) is not None
        assert everything.interval is None


def test_whiskers_and_bands_are_drawn_wherever_an_interval_is_known() -> None:
    study = read_study(synthetic_results())
    pooled, by_set, dose = (draw(study, LIGHT) for draw in (tradeoff, tradeoff_by_set, dose_response))
    assert pooled is not None
    assert by_set is not None
    assert dose is not None
    for axes in (*pooled.axes, *by_set.axes):
        whiskers = [path for one in axes.collections for path in one.get_paths() if isinstance(one, LineCollection)]
        assert len(whiskers) == 2 * (1 + 3 * len(STRENGTHS)), "one along each axis for each point"
    without = synthetic_results()
    for point in without["points"]:
        del point["groups"]
    assert (earlier := tradeoff(read_study(without), LIGHT)) is not None
    assert not any(isinstance(drawn, LineCollection) for axes in earlier.axes for drawn in axes.collections)
    *single, everything = (axes for axes in dose.axes if axes.get_visible())
    assert len(single) == len(SETS)
    assert all(sum(isinstance(one, PolyCollection) for one in axes.collections) == 3 for axes in single)
    assert not everything.collections


def test_finalists_and_others_are_told_apart(page: Page) -> None:
    text = " ".join(page.text.split())
    assert "best first" not in text
    assert "Finalists: each at the best of the strengths tried" in text
    assert "Others: all at one strength" in text
    assert "48, 48" in text
    assert "24, 24" in text
    assert "look better than they will on test prompts" in text
    assert "7 more candidates are in results.json" in text
    figure = candidates(read_study(synthetic_results()), LIGHT)
    assert figure is not None
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names[0] == "finalists:"
    assert names[1] == "262 (chosen)"
    assert names[7] == "others:"
    assert len(names) == 15 + 2


def test_the_saes_that_were_compared_are_told(page: Page) -> None:
    text = " ".join(page.text.split())
    assert "2 SAEs were trained, alike but for their seeds" in text
    other = synthetic_candidate(7)
    assert "0 (studied)0.0149" in text
    assert f"10.0153{other['latent']}" in text
    assert percent(other["weakest_dev"]) in text


def test_how_the_control_was_picked_is_told(page: Page) -> None:
    text = " ".join(page.text.split())
    assert "8 latents that are silent in the refusal above and nearly orthogonal to the refusal direction" in text
    assert "The control, latent 91, is the one that moves refusal least" in text
    assert "by 3.1 points there; the others move it by 6.2 to 65.6" in text
    for one in synthetic_results()["controls"]:
        shares = "".join(percent(one["by_set"][name]) for name in SETS if name in one["by_set"])
        assert f"{one['latent']}{' (control)' if one['latent'] == 91 else ''}{shares}{100 * one['moved']:.1f}" in text
    assert "an unrelated latent usually moves it more" in text
    assert "cannot show that unrelated latents in general leave refusal alone" in text


def test_what_the_intervals_leave_out_is_told(page: Page) -> None:
    assert "prompts of a set share objects" in page.text
    assert "a lower bound on the uncertainty" in page.text


def test_every_fact_of_the_sae_is_shown(page: Page) -> None:
    text = " ".join(page.text.split())
    for name in ("Training tokens401,408", "Tokens measured on20,000", "Loss with the site silenced6.1"):
        assert name in text


def test_figures_are_png_files_and_in_the_page(study_folder: Path, page: Page) -> None:
    names = {path.name for path in (study_folder / "figures").iterdir()}
    drawn = {"tradeoff", "tradeoff_by_set", "dose_response", "candidates", "training"}
    assert names == {f"{name}.png" for name in drawn}
    sources = [attrs["src"] or "" for tag, attrs in page.tags if tag == "img"]
    files = [(study_folder / "figures" / name).read_bytes() for name in names]
    assert {base64.b64decode(source.partition(",")[2]) for source in sources} == set(files)
    assert all(image.startswith(b"\x89PNG") for image in files)


def test_nothing_is_loaded_from_anywhere(study_folder: Path, page: Page) -> None:
    html = (study_folder / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|//[a-z]|@import|url\(|innerHTML|eval\(", re.sub(r"base64,[^\"]*", "", html))
    for tag, attrs in page.tags:
        assert tag not in {"link", "iframe", "object", "embed", "base"}
        for name in ("src", "srcset", "href", "action"):
            value = attrs.get(name)
            assert value is None or value.startswith(("data:image/png;base64,", "#"))
    policy = next(attrs["content"] or "" for _, attrs in page.tags if attrs.get("http-equiv"))
    script = re.search(r"<script>(.*?)</script>", html, re.DOTALL)
    assert script
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert "default-src 'none'" in policy
    assert f"'sha256-{digest}'" in policy


@pytest.mark.usefixtures("light_alone")
def test_hostile_text_is_shown_and_does_nothing(tmp_path: Path, page: Page) -> None:
    results = synthetic_results()
    results["sets"]["safe"]["title"] = HOSTILE
    results["settings"] |= {"archetypal_reply": HOSTILE, HOSTILE: HOSTILE}
    results["model"]["name"] = HOSTILE
    hostile = render(tmp_path, results, synthetic_completions(text=HOSTILE))
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert hostile.count("script") == page.count("script") == 1
    assert hostile.count("img") == page.count("img")
    assert not any(name.startswith("on") for _, attrs in hostile.tags for name in attrs)
    assert not set(html) & set("\u2028\u2029\u202e\x00\ud800")
    assert visible(HOSTILE) in hostile.text
    assert "[U+202E]evil[U+D800] $x$ {{ 7*7 }}" in hostile.text


def test_a_very_long_reply_is_clipped(tmp_path: Path) -> None:
    long = undrawn(write_study(tmp_path, synthetic_results(), synthetic_completions(n=2, text="x" * 100_000)))
    assert re.search(r"x … \[99,\d{3} more characters\]", long.text)
    assert "x" * 1000 not in long.text


@pytest.mark.usefixtures("light_alone")
@pytest.mark.parametrize("arms", [(), ("none",), ("none", "sae"), ("sae", "control")])
def test_an_interrupted_run_is_written_up(tmp_path: Path, arms: tuple[str, ...]) -> None:
    results = synthetic_results(n=20, arms=arms) | {"complete": False}
    completions = [row for row in synthetic_completions(n=20) if row["arm"] in arms]
    partial = render(tmp_path, results, completions)
    assert "This report is not complete." in partial.text
    assert "No point of the arm “direction” was measured." in partial.text
    assert ("This run stopped before" in partial.text) == (not {"none", "sae"} <= set(arms))


def test_a_run_that_has_only_just_begun_is_written_up(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text('{"schema": 1}', encoding="utf-8")
    text = Page(write_report(tmp_path).read_text(encoding="utf-8")).text
    assert "There is no record of the candidate latents." in text
    assert "No latent had been chosen yet." in text
    assert not (tmp_path / "figures").exists()


def test_a_point_without_some_sets_is_named_and_not_pooled(tmp_path: Path) -> None:
    results = synthetic_results(n=20)
    del results["points"][-1]["sets"]["jailbroken"], results["points"][-1]["groups"]
    results["points"][-1]["sets"]["safe"] |= {"n": 0, "refused": 0, "rate": None, "low": None, "high": None}
    partial = undrawn(write_study(tmp_path, results))
    assert "Refusal direction at 12 was not measured on: Jailbroken, Safe." in partial.text
    study = read_study(results)
    assert study.arm("direction")[-1].pooled(study.group("harmful")) is None


def test_groups_that_contradict_their_sets_are_refused() -> None:
    results = synthetic_results(n=20)
    del results["points"][-1]["sets"]["jailbroken"]
    with pytest.raises(DataError, match="direction at 12, group 'harmful': 80 prompts were judged, but 60 in its sets"):
        read_study(results)
    results = synthetic_results(n=20)
    results["points"][0]["groups"]["ability"]["low"] = 1.0
    with pytest.raises(DataError, match=r"none at 0, group 'ability': the rate .* is not in 1.0 to"):
        read_study(results)


def test_a_cut_off_last_line_is_passed_over(tmp_path: Path) -> None:
    write_study(tmp_path, synthetic_results(n=20), synthetic_completions(n=20))
    whole = undrawn(tmp_path)
    with (tmp_path / "completions.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"arm": "none", "stre')
    assert undrawn(tmp_path).text == whole.text


def test_samples_follow_the_stated_rule() -> None:
    study, rows = read_study(synthetic_results()), synthetic_completions()
    samples = choose_comparisons(study, rows)
    assert samples == choose_comparisons(study, list(reversed(rows)))
    assert len({(s.set.name, s.kind) for s in samples}) == len(samples)
    assert {s.kind for s in samples} == {"improved", "got worse", "unchanged"}
    assert {s.set.name for s in samples} == set(SETS)
    for sample in samples:
        assert [r.heading for r in sample.replies] == [
            "Unsteered", "Chosen latent at 8", "Chosen latent at 12", "Control latent at 12",
        ]  # fmt: skip
        before, steered = sample.replies[0].good, {r.good for r in sample.replies[1:3]}
        assert sample.kind == {False: "improved", True: "got worse"}.get(
            before if {not before} & steered else None, "unchanged"
        )


def test_an_incoherent_reply_is_never_good() -> None:
    rows = [row | {"verdict": "incoherent", "value": False} for row in synthetic_completions(n=3)]
    assert not any(reply.good for s in choose_comparisons(read_study(synthetic_results()), rows) for reply in s.replies)


@pytest.mark.usefixtures("light_alone")
def test_the_same_input_gives_the_same_bytes_and_leaves_matplotlib_as_it_was(study_folder: Path) -> None:
    first, settings = (study_folder / "report.html").read_text(encoding="utf-8"), dict(matplotlib.rcParams)
    figures = {path: path.read_bytes() for path in (study_folder / "figures").iterdir()}
    dark = r'(<source [^>]*srcset=")[^"]*'
    assert re.search(dark, first)
    again = write_report(study_folder).read_text(encoding="utf-8")
    assert re.sub(dark, r"\1", again) == re.sub(dark, r"\1", first)
    assert {path: path.read_bytes() for path in (study_folder / "figures").iterdir()} == figures
    assert not list(study_folder.rglob(".*"))
    assert dict(matplotlib.rcParams) == settings


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "holds no results.json"),
        ("{", "cannot be read"),
        ("[]", "expected schema 1, got 'list'"),
        ('{"schema": 2}', "expected schema 1, got 2"),
        ('{"schema": 1, "points": [{"arm": "sae"}]}', "strength"),
        ('{"schema": 1, "points": [{"arm": "other", "strength": 1}]}', "points.0.arm: Input should be 'none'"),
        ('{"schema": 1, "points": [{"arm": "sae", "strength": 1, "sets": {"ghost": {"n": 1}}}]}', "ghost"),
        ('{"schema": 1, "sets": {"a": {"title": "A", "metric": "liked", "better": "higher", "n": 1}}}', "metric"),
    ],
)
def test_bad_results_raise_a_clear_error_and_leave_nothing(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "results.json").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        write_report(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} <= {"results.json"}


@pytest.mark.parametrize("name", ["completions.jsonl", "sae/training.jsonl"])
def test_a_broken_line_raises_a_clear_error_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    write_study(tmp_path, synthetic_results(n=20))
    (tmp_path / name).write_text("{}\nnot json\n{}\n", encoding="utf-8")
    with pytest.raises(DataError, match="line 2: not JSON"):
        write_report(tmp_path)
    assert not list(tmp_path.rglob("*.png"))
    assert not (tmp_path / "report.html").exists()
