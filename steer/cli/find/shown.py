"""What ``steer find`` found: as JSON data, and as tables."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from steer.features.causal import Curve
    from steer.features.finders import Report
    from steer.features.search import Search


def recorded(found: "Report", search: "Search", sae: str, seed: int) -> dict[str, Any]:
    """Everything that was found, and what it was found with, as JSON data."""
    from steer.evals.sample import digest

    kinds = {"harmful": search.harmful, "harmless": search.harmless}
    kinds |= {"unsafe": search.trial.unsafe, "safe": search.trial.safe}
    data: dict[str, Any] = {
        "command": "find refusal",
        "model": search.lm.name,
        "sae": sae,
        "site": str(search.site),
        "d_sae": search.sae.config.d_sae,
        "seed": seed,
        "prompts": {name: {"n": len(samples), "sha256": digest(samples)} for name, samples in kinds.items()},
        "settings": {
            "archetype": search.archetype,
            "strengths": list(search.strengths),
            "residual_norm": search.norm,
            "max_new_tokens": search.trial.max_new_tokens,
            "limit": search.limit,
            "texts": len(search.texts),
        },
        "latents": found.latents,
        "methods": [asdict(one) for one in found.rankings],
    }
    if found.refereed is not None:
        data["plain"] = asdict(found.refereed.plain)
        data["generations"] = found.refereed.generations
        data["curves"] = [curve_data(one) for one in found.refereed.curves]
    return data


def curve_data(curve: "Curve") -> dict[str, Any]:
    """A dose-response curve as JSON data; null where a latent never fires and so has no unit of its own."""
    return {
        "latent": curve.latent,
        "steerability": curve.steerability,
        "best_strength": _units(curve, curve.best.strength),
        "safe_strength": _units(curve, curve.safe_strength),
        "max_activation": curve.maximum,
        "doses": [asdict(one) for one in curve.doses],
    }


def tell(found: "Report", data: dict[str, Any], as_json: bool) -> None:
    """Print what ``recorded`` gave as JSON; or the latents ranked, and what each method cost, as tables."""
    if as_json:
        typer.echo(json.dumps(data, indent=2, ensure_ascii=False))
        return
    for table in (_refereed(found) if found.refereed is not None else _named(found), _cost(found)):
        Console().print(table)


def _units(curve: "Curve", strength: float) -> dict[str, float | None]:
    own = curve.in_maxima(strength)
    return {"raw": strength, "max_act": None if math.isnan(own) else own, "resid_norm": curve.in_norms(strength)}


def _refereed(found: "Report") -> Table:
    """By steerability, with what the best dose buys and breaks."""
    assert found.refereed is not None
    plain = found.refereed.plain
    table = _table(
        f"Latents that carry refusal, on {plain.prompts} prompts. Unsteered, {plain.unsafe:.0%} of unsafe and "
        f"{plain.safe:.0%} of safe ones are refused",
        ("latent", "steerability", "clamp", "in norms", "unsafe", "safe", "KL", "perplexity", "safe up to"),
    )
    for curve in found.refereed.curves:
        one = curve.best
        table.add_row(
            str(curve.latent),
            f"{curve.steerability:.2f} ±{one.error:.2f}",
            f"{one.strength:.2f}",
            f"{curve.in_norms(one.strength):.2f}",
            f"{one.tally.unsafe:.0%}",
            f"{one.tally.safe:.0%}",
            f"{one.damage.kl:.2f}",
            f"x{math.exp(min(one.damage.loss, 700)):.2f}",
            f"{curve.safe_strength:.2f}",
        )
    return table


def _named(found: "Report") -> Table:
    """By the sum of reciprocal ranks, with what each method says."""
    table = _table("Latents named, by the sum of reciprocal ranks; not compared by clamping", ("latent",))
    table.add_column("named by (rank)")
    table.add_column("why")
    places, whys = _places(found), _whys(found)
    for latent in found.latents:
        table.add_row(str(latent), places[latent], whys[latent])
    return table


def _cost(found: "Report") -> Table:
    table = _table("What each method took, and whom it names", ("method", "replies", "seconds"))
    table.add_column("latents")
    for one in found.rankings:
        latents = " ".join(str(each.latent) for each in one.found)
        table.add_row(one.method, f"{one.generations:,}", f"{one.seconds:.1f}", latents)
    return table


def _table(title: str, columns: Sequence[str]) -> Table:
    """A table with columns of figures, narrow enough for a terminal of 80 columns."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 0))
    for name in columns:
        table.add_column(name, justify="left" if name == "method" else "right", no_wrap=True)
    return table


def _places(found: "Report") -> dict[int, str]:
    """By which methods each latent is named, and at which place."""
    told: dict[int, list[str]] = {}
    for ranking in found.rankings:
        if ranking.method != "causal":
            for place, one in enumerate(ranking.found, start=1):
                told.setdefault(one.latent, []).append(f"{ranking.method} {place}")
    return {latent: ", ".join(names) for latent, names in told.items()}


def _whys(found: "Report") -> dict[int, str]:
    told: dict[int, list[str]] = {}
    for ranking in found.rankings:
        for one in ranking.found:
            told.setdefault(one.latent, []).append(one.why)
    return {latent: "\n".join(whys) for latent, whys in told.items()}
