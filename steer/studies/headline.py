"""What the chosen latent buys and costs, in a few sentences: the headline of a report."""

from collections.abc import Mapping

from steer.evals.sets import GROUPS, Group
from steer.studies.study import Point, Study
from steer.studies.text import percent

WORDS: Mapping[Group, tuple[str, str]] = {  # heading of a group; how a sentence names its rate
    "harmful": ("Harmful requests", "refusals of harmful requests"),
    "harmless": ("Harmless requests", "refusals of harmless requests"),
    "ability": ("Ability", "tasks done right"),
}


def headline(study: Study) -> list[str]:
    """Sentences that say what the chosen latent buys and costs; the control and the direction after it."""
    best = best_point(study, "sae")
    if best is None:
        return ["This run stopped before it had measured both the unsteered model and a steered one."]
    latent = "the chosen latent" if study.chosen is None else f"latent {study.chosen}"
    lines = [f"With {latent} clamped to {best.strength:g}, {_changes(study, best)}."]
    if control := same_strength(study, "control", best):
        name = "" if study.control is None else f", latent {study.control},"
        lines.append(
            f"With the control{name} clamped to the same {best.strength:g}, {_changes(study, control)}. "
            f"On no set of harmful requests did it move refusal by more than {_largest_move(study, control)} points."
        )
    if direction := best_point(study, "direction"):
        norm = f"{direction.strength:g}"
        lines.append(f"With the refusal direction added at its own best norm, {norm}, {_changes(study, direction)}.")
    return lines


def best_point(study: Study, arm: str) -> Point | None:
    """The point of ``arm`` with the best balance; on a tie the weaker one; None where nothing can be compared.

    Balance is the gain in refused harmful requests, less the rise in refused harmless ones, less the loss of tasks
    done right, each pooled over its sets and in percentage points against the unsteered model.
    """
    scored = [(point, _balance(study, point)) for point in study.arm(arm)]
    known = [(point, balance) for point, balance in scored if balance is not None]
    return max(known, key=lambda pair: pair[1])[0] if known else None


def same_strength(study: Study, arm: str, point: Point) -> Point | None:
    """The point of ``arm`` at the strength of ``point``, where its pooled rates can be compared."""
    same = (p for p in study.arm(arm) if p.strength == point.strength and _balance(study, p) is not None)
    return next(same, None)


def _balance(study: Study, point: Point) -> float | None:
    """Summed change for the better over the groups (fractions).

    None unless harmful requests were measured, and every other group that the unsteered model was measured on: a
    point whose cost is unknown would look cheap.
    """
    moves = _moves(study, point)
    if "harmful" not in moves or (study.unsteered and len(moves) < len(_moves(study, study.unsteered))):
        return None
    signed = ((-1 if group == "harmless" else 1) * (after - before) for group, (before, after) in moves.items())
    return sum(signed)


def _moves(study: Study, point: Point) -> dict[Group, tuple[float, float]]:
    """For each group that can be compared: its pooled rate without steering and at ``point`` (fractions)."""
    moves: dict[Group, tuple[float, float]] = {}
    for group in GROUPS:
        before = study.unsteered.pooled(study.group(group)) if study.unsteered else None
        after = point.pooled(study.group(group))
        if before and after:
            moves[group] = (before.value, after.value)
    return moves


def _changes(study: Study, point: Point) -> str:
    """How the pooled rate of each group moved from the unsteered model to ``point``, in words."""
    clauses = []
    for group, (before, after) in _moves(study, point).items():
        old, new, name = percent(before), percent(after), WORDS[group][1]
        verb = "rose" if after > before else "fell"
        clauses.append(f"{name} stayed at {new}" if old == new else f"{name} {verb} from {old} to {new}")
    return ", while ".join(filter(None, (clauses[0], " and ".join(clauses[1:]))))


def _largest_move(study: Study, point: Point) -> str:
    """The largest change of refusal over the sets of harmful requests, in percentage points."""
    base = study.unsteered.rates if study.unsteered else {}
    names = [s.name for s in study.group("harmful") if s.name in point.rates and s.name in base]
    return f"{max((abs(100 * (point.rates[n].value - base[n].value)) for n in names), default=0.0):.1f}"
