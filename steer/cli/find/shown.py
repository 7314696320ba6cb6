"""What ``steer find`` found: as JSON data, and as tables."""

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

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


def tables(found: "Report", search: "Search") -> list[Table]:
    """The latents ranked; and what each method cost."""
    ranked = _refereed(found) if found.refereed is not None else _named(found)
    return [ranked, _cost(found)]


def _units(curve: "Curve", strength: float) -> dict[str, float | None]:
    own = curve.in_maxima(strength)
    return {"raw": strength, "max_act": None if math.isnan(own) else own, "resid_norm": curve.in_norms(strength)}


def _refereed(found: "Report") -> Table:
    """By steerability, with what the best dose buys and breaks."""
    assert found.refereed is not None
    plain = found.refereed.plain
    table = Table(
        title="Latents that carry refusal; unsteered, "
        f"{plain.unsafe:.0%} of unsafe and {plain.safe:.0%} of safe prompts are refused",
        title_justify="left",
    )
    for name in ("", "latent", "steerability", "clamp", "norms", "own max", "unsafe", "safe", "KL", "perplexity"):
        table.add_column(name, justify="right")
    for name in ("repeats", "safe up to", "prompts"):
        table.add_column(name, justify="right")
    table.add_column("named by (rank)")
    places = _places(found)
    for rank, curve in enumerate(found.refereed.curves, start=1):
        one = curve.best
        table.add_row(
            str(rank),
            str(curve.latent),
            f"{curve.steerability:.3f}",
            f"{one.strength:.2f}",
            f"{curve.in_norms(one.strength):.2f}",
            f"{curve.in_maxima(one.strength):.1f}" if curve.maximum > 0 else "-",
            f"{one.tally.unsafe:.0%}",
            f"{one.tally.safe:.0%}",
            f"{one.damage.kl:.2f}",
            f"x{math.exp(min(one.damage.loss, 700)):.2f}",
            f"{one.tally.repetition:.2f}",
            f"{curve.safe_strength:.2f}",
            str(one.tally.prompts),
            places.get(curve.latent, ""),
        )
    return table


def _named(found: "Report") -> Table:
    """By the mean of reciprocal ranks, with what each method says."""
    table = Table(title="Latents named, by the mean of reciprocal ranks; not compared by clamping", title_justify="left")
    table.add_column("", justify="right")
    table.add_column("latent", justify="right")
    table.add_column("named by (rank)")
    table.add_column("why")
    places, whys = _places(found), _whys(found)
    for rank, latent in enumerate(found.latents, start=1):
        table.add_row(str(rank), str(latent), places[latent], whys[latent])
    return table


def _cost(found: "Report") -> Table:
    table = Table(title="What each method took", title_justify="left")
    table.add_column("method")
    for name in ("replies", "seconds", "first"):
        table.add_column(name, justify="right")
    for one in found.rankings:
        first = str(one.found[0].latent) if one.found else "-"
        table.add_row(one.method, f"{one.generations:,}", f"{one.seconds:.1f}", first)
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
