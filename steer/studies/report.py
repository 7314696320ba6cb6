"""The report of a study: one self-contained HTML file, written from the files of the output folder alone.

``write_report`` reads ``results.json``, ``completions.jsonl`` and ``sae/training.jsonl`` and nothing else, so that a
report can be written again at any time, and after an interrupted run from whatever is finished. The words and the
layout are in ``report_template.html``; what is computed from the data is in ``headline`` and ``comparisons``; the
drawings are in ``figures``.
"""

from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from steer.evals.sets import GROUPS
from steer.files import read_lines, remove, write_bytes, write_text
from steer.forks import forked
from steer.studies.comparisons import Comparison, choose_comparisons
from steer.studies.figures import FIGURES
from steer.studies.headline import WORDS, best_point, headline, same_strength
from steer.studies.page import render_page
from steer.studies.paper import DARK, LIGHT, Theme, data_uri, png
from steer.studies.results import Results, read_results
from steer.studies.study import ARMS, TOP_CANDIDATES, MeasuredSet, Share, Study, read_study
from steer.studies.text import clip, number, percent


def write_report(folder: Path, processes: int = 1) -> Path:
    """Write ``report.html`` and ``figures/*.png`` into ``folder`` from the files there; returns the page's path.

    ``processes`` draw figures side by side.

    Raises:
        DataError: ``results.json`` is missing, unreadable, of another schema, or contradicts itself; or
            ``completions.jsonl`` or ``sae/training.jsonl`` is unreadable or has a line, other than a last, cut-off
            one, that is not JSON.
        OutputError: the folder cannot be written to.
    """
    results, study, comparisons = read_folder(folder)
    drawings = _draw(study, folder / "figures", processes)
    page = folder / "report.html"
    write_text(page, report_page(results, study, comparisons, drawings))
    return page


def read_folder(folder: Path) -> tuple[Results, Study, list[Comparison]]:
    """What a report is made of, from the files in the folder; DataError as ``write_report``."""
    results = read_results(folder / "results.json")
    study = read_study(results, list(read_lines(folder / "sae" / "training.jsonl", missing_ok=True)))
    return results, study, choose_comparisons(study, read_lines(folder / "completions.jsonl", missing_ok=True))


def report_page(
    results: Results, study: Study, comparisons: Sequence[Comparison], drawings: Mapping[str, Mapping[str, str]]
) -> str:
    """The page. ``drawings``: figures by name, for ``light`` and ``dark`` paper, as data URIs; others are left out."""
    template = resources.files("steer.studies").joinpath("report_template.html")
    filters: dict[str, Callable[..., Any]] = {"percent": percent, "figure": number, "clip": clip}
    filters["better_or_worse"] = better_or_worse
    return render_page(template, _context(results, study, comparisons, drawings), filters)


def _missing(results: Results, study: Study, comparisons: Sequence[Comparison]) -> list[str]:
    """What an interrupted run lacks, one sentence each."""
    lacks = ["The run did not finish."] if results.complete is False else []
    lacks += [f"No point of the arm “{arm}” was measured." for arm in ARMS if not study.arm(arm)]
    for point in study.points:
        if absent := [s.title for s in study.sets if s.name not in point.rates]:
            where = f"{study.label(point.arm)} at {point.strength:g}"
            lacks.append(f"{where} was not measured on: {', '.join(absent)}.")
    if study.arm("sae") and study.arm("control"):
        undone = {p.strength for p in study.arm("sae")} ^ {p.strength for p in study.arm("control")}
        lacks += [f"Only one of latent and control was measured at strength {s:g}." for s in sorted(undone)]
    parts: dict[str, Any] = {
        "prompt sets": study.sets,
        "candidate latents": study.candidates,
        "SAE's training": study.training,
    }
    parts |= {"SAE's quality": results.sae, "replies shown side by side": comparisons}
    lacks += [f"There is no record of the {what}." for what, found in parts.items() if not found]
    if study.chosen is None:
        lacks.append("No latent had been chosen yet.")
    return lacks


def _draw(study: Study, folder: Path, processes: int) -> dict[str, dict[str, str]]:
    """Write each figure as a PNG; returns it by name as data URIs for light and for dark paper."""

    def image(job: tuple[str, Theme]) -> bytes | None:
        name, theme = job
        figure = FIGURES[name](study, theme)
        return None if figure is None else png(figure, theme)

    jobs = [(name, theme) for name in FIGURES for theme in (LIGHT, DARK)]
    drawings: dict[str, dict[str, str]] = {}
    for (name, theme), made in zip(jobs, forked(image, jobs, processes), strict=True):
        if made is None:
            remove(folder / f"{name}.png")  # of an earlier report
            continue
        if not theme.dark:
            write_bytes(folder / f"{name}.png", made)
        drawings.setdefault(name, {})["dark" if theme.dark else "light"] = data_uri(made)
    return drawings


def _context(
    results: Results, study: Study, comparisons: Sequence[Comparison], drawings: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything the template names."""
    best = best_point(study, "sae")
    control = best and same_strength(study, "control", best)
    glance = [study.unsteered, best, control, best_point(study, "direction")] if best else []
    settings = results.settings
    return {
        "model": results.model,
        "sae": results.sae,
        "seconds": results.seconds,
        "versions": results.versions,
        "study": study,
        "headline": headline(study),
        "missing": _missing(results, study, comparisons),
        "best": best,
        "glance": [point for point in glance if point],
        "groups": [(WORDS[group][0], study.group(group)) for group in GROUPS if study.group(group)],
        "points": [point for arm in ARMS for point in study.arm(arm)],
        "figures": drawings,
        "candidates": study.top_candidates,
        "hidden_candidates": max(0, len(study.candidates) - TOP_CANDIDATES),
        "compared": results.compared if len(results.compared) > 1 else [],
        "control_sets": [s for s in study.sets if any(s.name in one.by_set for one in study.controls)],
        "plain_dev": results.plain_dev,
        "comparisons": comparisons,
        "settings": settings,
        "archetype": settings.get("archetype"),
        "peak_memory_mib": results.peak_memory_mib,
    }


def better_or_worse(rate: Share, base: Share | None, prompt_set: MeasuredSet) -> str:
    """``better`` or ``worse`` where the interval of ``rate`` does not overlap the one of ``base``, else empty."""
    if base is None or rate.interval is None or base.interval is None:
        return ""
    (low, high), (base_low, base_high) = rate.interval, base.interval
    if low <= base_high and base_low <= high:
        return ""
    return "better" if (rate.value > base.value) == (prompt_set.better == "higher") else "worse"
