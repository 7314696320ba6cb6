"""``/clamp``, ``/unclamp`` and ``/plan``: what is done to the model."""

from dataclasses import replace
from pathlib import Path

from steer.errors import DataError, PlanError
from steer.explore.bench import Bench
from steer.explore.clamps import FORM, clamped, parse, sae_name, without
from steer.explore.command import Command, Outcome, words_of
from steer.explore.kept_files import expanded
from steer.explore.shown import Line, Shown
from steer.explore.state import State
from steer.plans.edits import EditSpec, LatentEditSpec
from steer.plans.files import SUFFIXES, read_plan, vectors_file
from steer.plans.plan import SteeringPlan


def clamp(state: State, arguments: str, bench: Bench) -> Outcome:
    """Add edits of latents to the plan; one that is there already is replaced.

    Raises:
        DataError: an edit has another form, or is in units that need an index.
        PlanError: a latent is out of range, or the plan sets it in another way.
    """
    typed = [parse(word) for word in words_of(arguments)]
    if not typed:
        raise DataError(f"/clamp needs at least one edit: {FORM}.")
    latents = [one.latent for one in typed]
    if twice := [latent for latent in latents if latents.count(latent) > 1]:
        raise DataError(f"Latent {twice[0]} is given twice. Give it once.")
    plan, name = state.plan, sae_name(state.plan, bench.sae_digest)
    for one in typed:
        bench.latent(str(one.latent))
        maximum = _maximum(bench, one.latent) if one.unit == "max_activation" else None
        plan = clamped(plan, one, name, bench.sae_spec, maximum)
    return _bound(state, plan, bench)


def unclamp(state: State, arguments: str, bench: Bench) -> Outcome:
    """Take edits of latents out of the plan; without latents, all edits of any kind.

    Raises:
        DataError: there is nothing to take out.
    """
    words = words_of(arguments)
    name, latents = sae_name(state.plan, bench.sae_digest), [bench.latent(word) for word in words]
    edited = edited_latents(state.plan, bench)
    if missing := [latent for latent in latents if latent not in edited]:
        raise DataError(f"Latent {missing[0]} is not edited. Edited are: {', '.join(map(str, edited)) or 'none'}.")
    if not state.plan.edits:
        raise DataError("Nothing is done to the model, so nothing can be taken off.")
    return _bound(state, without(state.plan, name, latents if words else None), bench)


def plan(state: State, arguments: str, bench: Bench) -> Outcome:
    """Take a plan from a file, in the place of what was done before; its sampling too, where it says any.

    Raises:
        DataError: no file is given, or it cannot be read.
        PlanError: it is no plan, or for another model.
        CheckpointError, SaesError: an SAE of it is not to be had.
    """
    words = words_of(arguments)
    if len(words) != 1:
        raise DataError(f"/plan needs one file, .json or .toml; got {len(words)}.")
    given = _read(words[0], bench)
    notes: list[str] = []
    given.model.check(bench.lm, notes.append)
    sampling = state.sampling if given.sampling is None else given.sampling.sampling()
    outcome = _bound(replace(state, sampling=sampling), given, bench)
    return replace(outcome, shown=(*(Line(f"note: {note}") for note in notes), *outcome.shown))


def _read(name: str, bench: Bench) -> SteeringPlan:
    """A plan and its vectors; what its relative paths start from stays the folder of the file."""
    path, copy = expanded(name), f"plan{Path(name).suffix}"
    if path.suffix not in SUFFIXES:
        raise PlanError(f"A plan is a file that ends in {' or '.join(SUFFIXES)}, got {name}.")
    copies = {name: copy}
    with bench.files.copied(copies) as folder:
        try:
            vectors = vectors_file(folder / copy)
        except PlanError as error:
            raise PlanError(str(error).replace(str(folder / copy), name)) from error
    if vectors is not None:
        copies[str(Path(name).with_name(vectors))] = vectors
    with bench.files.copied(copies) as folder:
        try:
            return read_plan(folder / copy).model_copy(update={"folder": path.parent.resolve()})
        except PlanError as error:
            raise PlanError(str(error).replace(str(folder / copy), name)) from error


def _bound(state: State, plan: SteeringPlan, bench: Bench) -> Outcome:
    """The state with a plan that fits the model, and what it does."""
    bench.bind(plan)
    notes: tuple[Shown, ...] = tuple(Line(f"note: {note}") for note in dict.fromkeys(bench.notes))
    return Outcome(replace(state, plan=plan), (*notes, *(Line(text) for text in described(plan))))


def described(plan: SteeringPlan) -> list[str]:
    """What a plan does, a line for each edit."""
    return [_described(edit) for edit in plan.edits] or ["Nothing is done to the model."]


def _described(edit: EditSpec) -> str:
    gate = "" if edit.gate is None else f", behind a gate ({edit.gate.kind})"
    set_fields = edit.window.model_dump(exclude_defaults=True)
    window = f", on {', '.join(f'{name} {value}' for name, value in set_fields.items())}" if set_fields else ""
    if isinstance(edit, LatentEditSpec):
        unit = {"raw": "", "max_activation": " x max", "residual_norm": " x norm"}[edit.unit]
        values = ", ".join(
            f"{latent}" if edit.operation == "ablate" else f"{latent} = {value:g}{unit}"
            for latent, value in edit.values.items()
        )
        return f"{edit.operation}: {values} ({edit.sae}{window}{gate})"
    what = edit.direction if edit.kind == "direction" else edit.matrix
    operation = edit.operation if edit.kind == "direction" else "null space"
    return f"{operation}: {what} x {edit.strength:g} at {edit.site}{window}{gate}"


def edited_latents(plan: SteeringPlan, bench: Bench) -> list[int]:
    """Latents of the session's SAE that a plan edits, by their numbers."""
    name = sae_name(plan, bench.sae_digest)
    own = [edit for edit in plan.edits if isinstance(edit, LatentEditSpec) and edit.sae == name]
    return sorted({latent for edit in own for latent in edit.values})


def _maximum(bench: Bench, latent: int) -> float:
    if "max" not in bench.columns:
        raise DataError("Values in multiples of the largest activation need an index: start with --index DIR.")
    largest = float(bench.columns["max"][latent])
    if not largest > 0:
        raise DataError(f"Latent {latent} never fired in the index's text, so its largest activation is not known.")
    return largest


CLAMP = Command(
    "clamp", "LATENT=[OPERATION:]VALUE[max|norm] ...", "edit latents, such as 262=10 or 15=scale:0.5", clamp, "latent"
)
UNCLAMP = Command("unclamp", "[LATENT ...]", "take edits off; without latents, all", unclamp, "clamped")
PLAN = Command("plan", "FILE", "steer by a plan, .json or .toml, in the place of what was set", plan, "file")
